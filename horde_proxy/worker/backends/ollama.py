"""Ollama, through its own API: its OpenAI-compatible API accepts no context length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import requests

from horde_proxy.protocol.models import as_mapping
from horde_proxy.upstreams.openai.events import Event, line_events
from horde_proxy.upstreams.openai.model_list import is_usable_id
from horde_proxy.upstreams.openai.native_apis import ShownModels, native_facts
from horde_proxy.worker.backends.base import BackendOptions, Payload, ServerState
from horde_proxy.worker.backends.chat_server import ChatServer
from horde_proxy.worker.backends.chats import BegunAnswer, request_fields, with_plain_choice
from horde_proxy.worker.backends.http_server import asking, get, text_at, value_at
from horde_proxy.worker.backends.offered_model import ServerModel
from horde_proxy.worker.backends.ollama_chats import as_events, chat_fields
from horde_proxy.worker.backends.samplers import OLLAMA
from horde_proxy.worker.backends.server_state import Read, ollama_state

_BARE_TEMPLATE = "{{ .Prompt }}"


class OllamaServer(ChatServer):
    """POST /api/generate with raw: true, so that Ollama adds no template; /api/chat for chats."""

    label = "Ollama"

    @classmethod
    def probe(cls, url: str, session: requests.Session) -> Sequence[ServerModel]:
        version = as_mapping(get(session, f"{url}/api/version"))
        # A horde-proxy speaks Ollama's API as well, but takes no prompts as they are by it.
        if not version.get("version") or "horde_proxy" in version:
            return ()
        tags = get(session, f"{url}/api/tags", "models")
        names = [
            as_mapping(model).get("name") for model in (tags if isinstance(tags, list) else ())
        ]
        # As Ollama's own GET /v1/models lists them.
        entries = [{"id": name, "owned_by": "library"} for name in names if is_usable_id(name)]
        facts = native_facts(asking(session, url), entries, ShownModels())
        return [ServerModel(name, known) for name, known in facts.items()]

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        body = {**self._body(payload), "stream": False}
        return text_at(self.post("/api/generate", body, cancelled), "response")

    def stream(self, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
        """As `generate`, as the server writes it: a line with `done` is the last."""
        body = {**self._body(payload), "stream": True}
        for line in self.events("/api/generate", body, cancelled, read=line_events):
            yield text_at(line, "response")
            if value_at(line, "done"):
                return
        raise self.broken_off()

    def chats_by_default(self) -> bool:
        """A model that was imported without a template has Ollama's bare one.

        Models with a renderer, such as qwen3-coder, have it, too, and do not use it.
        """
        shown = get(self._session, f"{self.url}/api/show", body={"model": self.model})
        template = str(as_mapping(shown).get("template") or "").strip()
        return template != _BARE_TEMPLATE or bool(as_mapping(shown).get("renderer"))

    @classmethod
    def tells_tools(cls, model: ServerModel, options: BackendOptions) -> bool:
        """Yes, among the capabilities of /api/show: it refuses tools for all other models."""
        return True

    def continues(self, begun: BegunAnswer, payload: Payload) -> bool:
        """It goes on with a last message of the assistant; an empty one is an answer of its own."""
        return bool(begun.content)

    def chat_events(
        self, payload: Payload, cancelled: Callable[[], bool]
    ) -> Iterator[Event | None]:
        """The lines of POST /api/chat, as OpenAI's chunks."""
        chat = with_plain_choice(request_fields(payload))
        fields, unknown = chat_fields(chat, self.model)
        self.note_left_out(unknown)
        body = {
            **fields,
            "model": self.model,
            "stream": True,
            # Otherwise it leaves out the oldest messages of a chat that is too long.
            "truncate": False,
            "options": {**self.translated(payload, OLLAMA), **fields["options"]},
        }
        return as_events(self.call("/api/chat", body, cancelled, line_events))

    def _body(self, payload: Payload) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": payload["prompt"],
            "raw": True,
            "options": self.translated(payload, OLLAMA),
        }

    def current_state(self, read: Read) -> ServerState | None:
        return ollama_state(read)
