"""Servers with OpenAI's completions API: llama.cpp, vLLM, LM Studio, TabbyAPI."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import requests

from horde_proxy.errors import UpstreamFailed
from horde_proxy.upstreams.openai.model_list import model_objects
from horde_proxy.upstreams.openai.native_apis import ShownModels, native_facts
from horde_proxy.worker.backends.base import Payload
from horde_proxy.worker.backends.offered_model import ServerModel
from horde_proxy.worker.backends.server import ModelServer, asking, renamed, text_at

_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "rep_pen": "repetition_penalty",
    "stop_sequence": "stop",
    "max_length": "max_tokens",
}
"""OpenAI's names in the body, by the horde's names."""


class OpenAIServer(ModelServer):
    """POST /v1/completions with the raw prompt: for a chat, the server would add its template."""

    label = "OpenAI-compatible"

    @classmethod
    def probe(cls, url: str, session: requests.Session) -> Sequence[ServerModel]:
        ask = asking(session, url)
        try:
            entries, _ = model_objects(ask("/v1/models", None))
        except UpstreamFailed:
            return ()
        facts = native_facts(ask, entries, ShownModels())
        return [ServerModel(name, known) for name, known in facts.items()]

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        body = {
            **renamed(payload, _PARAMETERS),
            "model": self.model,
            "prompt": payload["prompt"],
            # llama.cpp's name for the repetition penalty; vLLM and TabbyAPI read the other one.
            "repeat_penalty": payload.get("rep_pen", 1.0),
        }
        return text_at(self.post("/v1/completions", body), "choices", 0, "text")
