"""Servers with OpenAI's completions API: llama.cpp, vLLM, LM Studio, TabbyAPI.

They differ in the names of their samplers and in how they tell what they are doing: `SERVERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from horde_proxy.errors import UpstreamFailed
from horde_proxy.upstreams.openai.events import Event
from horde_proxy.upstreams.openai.model_list import model_objects
from horde_proxy.upstreams.openai.native_apis import ShownModels, kind_of, native_facts
from horde_proxy.worker.backends import samplers, server_state
from horde_proxy.worker.backends.base import (
    BackendOptions,
    ChatUnsupported,
    Payload,
    ServerState,
)
from horde_proxy.worker.backends.chat_server import NO_TOOLS, ChatServer
from horde_proxy.worker.backends.chats import BegunAnswer, begun_answer, with_plain_choice
from horde_proxy.worker.backends.http_server import asking, get, text_at, value_at
from horde_proxy.worker.backends.offered_model import ServerModel
from horde_proxy.worker.backends.samplers import Dialect
from horde_proxy.worker.backends.server_state import Read

_FLAGS = {"continue_final_message": True, "add_generation_prompt": False}
"""vLLM's way to continue the last message, which is llama.cpp's, too."""


def _as_last_message(begun: BegunAnswer, body: dict[str, Any]) -> dict[str, Any] | None:
    """llama.cpp goes on with a message of the assistant that is the last, since 2026 by flags.

    Versions that read the flags go on with mere reasoning, too (common/chat.cpp).
    """
    return {**body, **_FLAGS}


def _as_final_message(begun: BegunAnswer, body: dict[str, Any]) -> dict[str, Any] | None:
    """vLLM and SGLang. A template does not show where an empty content ends."""
    if not begun.content:
        return None
    *messages, last = body["messages"]
    # Its newer versions call the reasoning so.
    last = {**last, "reasoning": begun.reasoning} if begun.reasoning else last
    return {**body, **_FLAGS, "messages": [*messages, last]}


def _as_prefix(begun: BegunAnswer, body: dict[str, Any]) -> dict[str, Any] | None:
    """TabbyAPI writes a prefix of the answer after the template, which may have begun to think."""
    if begun.reasoning or not begun.content:
        return None
    return {**body, "messages": body["messages"][:-1], "response_prefix": begun.content}


def _unchanged(body: dict[str, Any]) -> dict[str, Any]:
    return body


def _not_at_all(begun: BegunAnswer, body: dict[str, Any]) -> dict[str, Any] | None:
    return None


def _kind(model: ServerModel, options: BackendOptions) -> str:
    """The user's word, or the one for what `native_apis` calls "llama.cpp", "vLLM", "LM Studio"."""
    return options.kind or model.server.lower().replace(" ", "-")


@dataclass(frozen=True)
class OpenAIDialect:
    """One server with this API. `state` says what it is doing, `slots` how much at a time.

    `chosen` is the body of a chat with a tool choice that the server reads, `continued` that of a
    chat whose answer has begun; None if it cannot be continued. `shows_prompts`: it has
    llama.cpp's POST /apply-template.
    """

    dialect: Dialect
    state: Callable[[Read], ServerState | None] = server_state.listing_state
    slots: Callable[[Read], int | None] = server_state.unknown_slots
    continued: Callable[[BegunAnswer, dict[str, Any]], dict[str, Any] | None] = _not_at_all
    chosen: Callable[[dict[str, Any]], dict[str, Any]] = _unchanged
    shows_prompts: bool = False


SERVERS: Mapping[str, OpenAIDialect] = {
    "openai": OpenAIDialect(samplers.OPENAI_COMPATIBLE),
    "llama.cpp": OpenAIDialect(
        samplers.LLAMA_CPP,
        server_state.llama_cpp_state,
        server_state.llama_cpp_slots,
        _as_last_message,
        with_plain_choice,
        shows_prompts=True,
    ),
    "vllm": OpenAIDialect(samplers.VLLM, server_state.vllm_state, continued=_as_final_message),
    "tabbyapi": OpenAIDialect(samplers.TABBY_API, continued=_as_prefix),
    # It refuses an object: "Invalid tool_choice type: 'object'. Supported string values: ...".
    "lm-studio": OpenAIDialect(samplers.LM_STUDIO, chosen=with_plain_choice),
}
"""By the words that users write. The first is a server of unknown kind."""


class OpenAIServer(ChatServer):
    """POST /v1/completions with a raw prompt, /v1/chat/completions with a chat.

    Only for the latter, the server adds its template.
    """

    label = "OpenAI-compatible"

    def __init__(
        self, url: str, session: requests.Session, model: ServerModel, options: BackendOptions
    ) -> None:
        super().__init__(url, session, model, options)
        self._server = SERVERS.get(_kind(model, options), SERVERS["openai"])

    @classmethod
    def probe(cls, url: str, session: requests.Session) -> Sequence[ServerModel]:
        ask = asking(session, url)
        try:
            entries, _ = model_objects(ask("/v1/models", None))
        except UpstreamFailed:
            return ()
        kind = kind_of(entries)
        facts = native_facts(ask, entries, ShownModels())
        server = kind.name if kind else ""
        return [ServerModel(name, known, server) for name, known in facts.items()]

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        answer = self.post("/v1/completions", self._body(payload), cancelled)
        return text_at(answer, "choices", 0, "text")

    def stream(self, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
        """As `generate`, as the server writes it."""
        body = {**self._body(payload), "stream": True}
        is_whole = False
        for event in self.events("/v1/completions", body, cancelled):
            # Some servers end with an event that has the usage, and no choices.
            if event and event.get("choices"):
                yield text_at(event, "choices", 0, "text")
                is_whole = is_whole or bool(value_at(event, "choices", 0).get("finish_reason"))
            is_whole = is_whole or event is None
        if not is_whole:
            raise self.broken_off()

    @classmethod
    def tells_tools(cls, model: ServerModel, options: BackendOptions) -> bool:
        """Only llama.cpp: LM Studio describes tools to models that were not trained for them."""
        return _kind(model, options) == "llama.cpp"

    def continues(self, begun: BegunAnswer, payload: Payload) -> bool:
        """Whether it can; llama.cpp shows whether its template keeps the reasoning."""
        body = self._server.continued(begun, self._chat_body(payload))
        if body is None or not (self._server.shows_prompts and begun.reasoning):
            return body is not None
        prompt = get(self._session, f"{self.url}/apply-template", "prompt", body=body)
        # Older versions leave the reasoning out, or begin it again.
        end = (begun.content or begun.reasoning).strip()
        shown = prompt if isinstance(prompt, str) else ""
        return begun.reasoning.strip() in shown and shown.rstrip().endswith(end)

    def chat_events(
        self, payload: Payload, cancelled: Callable[[], bool]
    ) -> Iterator[Event | None]:
        """The events of POST /v1/chat/completions."""
        body = self._chat_body(payload)
        if self.lacks_tools and body.get("tools") and body.get("tool_choice") != "none":
            raise ChatUnsupported(NO_TOOLS, NO_TOOLS)
        begun = begun_answer(payload)
        if begun is not None:
            body = self._server.continued(begun, body) or body
        return self.call("/v1/chat/completions", body, cancelled)

    def _chat_body(self, payload: Payload) -> dict[str, Any]:
        return self._server.chosen(self.chat_body(payload, self._server.dialect))

    def _body(self, payload: Payload) -> dict[str, Any]:
        return {
            **self.translated(payload, self._server.dialect),
            "model": self.model,
            "prompt": payload["prompt"],
        }

    def current_state(self, read: Read) -> ServerState | None:
        return self._server.state(read)

    def slots(self) -> int | None:
        """The slots of a llama.cpp; other servers do not tell how much they do at a time."""
        return self._server.slots(self.read)
