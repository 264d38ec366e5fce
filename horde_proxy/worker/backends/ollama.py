"""Ollama, through its own API: its OpenAI-compatible API accepts no context length."""

from __future__ import annotations

from collections.abc import Callable

import requests

from horde_proxy.worker.backends.base import Payload
from horde_proxy.worker.backends.server import ModelServer, ServerModel, get, renamed, text_at

_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "rep_pen": "repeat_penalty",
    "stop_sequence": "stop",
    "max_length": "num_predict",
    "max_context_length": "num_ctx",
}
"""Ollama's names in `options`, by the horde's names."""


class OllamaServer(ModelServer):
    """POST /api/generate with raw: true, so that Ollama does not add its template."""

    @classmethod
    def probe(cls, url: str, session: requests.Session) -> ServerModel | None:
        if not get(session, f"{url}/api/version", "version"):
            return None
        name = get(session, f"{url}/api/tags", "models", 0, "name")
        return ServerModel(str(name)) if name else None

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        body = {
            "model": self.model,
            "prompt": payload["prompt"],
            "raw": True,
            "stream": False,
            "options": renamed(payload, _OPTIONS),
        }
        return text_at(self.post("/api/generate", body), "response")
