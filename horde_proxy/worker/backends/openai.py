"""Servers with OpenAI's completions API: llama.cpp, vLLM, LM Studio, TabbyAPI.

They differ in the names of their samplers and in how they tell what they are doing: `SERVERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from horde_proxy.errors import UpstreamFailed
from horde_proxy.upstreams.openai.model_list import model_objects
from horde_proxy.upstreams.openai.native_apis import ShownModels, kind_of, native_facts
from horde_proxy.worker.backends import samplers, server_state
from horde_proxy.worker.backends.base import BackendOptions, Payload, ServerState
from horde_proxy.worker.backends.offered_model import ServerModel
from horde_proxy.worker.backends.samplers import Dialect
from horde_proxy.worker.backends.server import ModelServer, asking, text_at, value_at
from horde_proxy.worker.backends.server_state import Read


@dataclass(frozen=True)
class OpenAIDialect:
    """One server with this API. `state` says what it is doing, `slots` how much at a time."""

    dialect: Dialect
    state: Callable[[Read], ServerState | None] = server_state.listing_state
    slots: Callable[[Read], int | None] = server_state.unknown_slots


SERVERS: Mapping[str, OpenAIDialect] = {
    "openai": OpenAIDialect(samplers.OPENAI_COMPATIBLE),
    "llama.cpp": OpenAIDialect(
        samplers.LLAMA_CPP, server_state.llama_cpp_state, server_state.llama_cpp_slots
    ),
    "vllm": OpenAIDialect(samplers.VLLM, server_state.vllm_state),
    "tabbyapi": OpenAIDialect(samplers.TABBY_API),
    "lm-studio": OpenAIDialect(samplers.LM_STUDIO),
}
"""By the words that users write. The first is a server of unknown kind."""


class OpenAIServer(ModelServer):
    """POST /v1/completions with the raw prompt: for a chat, the server would add its template."""

    label = "OpenAI-compatible"

    def __init__(
        self, url: str, session: requests.Session, model: ServerModel, options: BackendOptions
    ) -> None:
        super().__init__(url, session, model, options)
        # `native_apis` calls them "llama.cpp", "vLLM", "TabbyAPI" and "LM Studio".
        kind = options.kind or model.server.lower().replace(" ", "-")
        self._server = SERVERS.get(kind, SERVERS["openai"])

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
