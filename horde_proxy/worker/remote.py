"""Backends that are servers: OpenAI's completions, KoboldAI's generate, Ollama's raw generate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from horde_proxy.worker.backend import Backend, BackendError, Payload

_CONNECT = 5.0
_ANSWER = 10.0
_GENERATION = 300.0


@dataclass(frozen=True)
class _Remote:
    """A server at `url`; `name` is advertised, `model` is what the server calls it."""

    url: str
    name: str
    model: str
    max_length: int
    max_context_length: int
    session: requests.Session
    tags = None

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            response = self.session.post(
                self.url + path, json=body, timeout=(_CONNECT, _GENERATION)
            )
            response.raise_for_status()
            return response.json()
        except requests.RequestException as exc:
            raise BackendError(f"the backend at {self.url} failed: {type(exc).__name__}") from exc


class OpenAIServer(_Remote):
    """POST /v1/completions with the raw prompt (llama.cpp, vLLM, LM Studio, TabbyAPI)."""

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        body = _given(
            payload,
            {
                "temperature": "temperature",
                "top_p": "top_p",
                "top_k": "top_k",
                "min_p": "min_p",
                "rep_pen": "repetition_penalty",
                "stop_sequence": "stop",
                "max_length": "max_tokens",
            },
        )
        answer = self._post(
            "/v1/completions",
            {
                **body,
                "model": self.model,
                "prompt": payload["prompt"],
                "repeat_penalty": payload.get("rep_pen", 1.0),
            },
        )
        return _text(answer, "choices", 0, "text")


class KoboldServer(_Remote):
    """POST /api/v1/generate; the payload is passed on as it is, koboldcpp fills placeholders in."""

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        return _text(self._post("/api/v1/generate", dict(payload)), "results", 0, "text")


class OllamaServer(_Remote):
    """POST /api/generate with raw: true, so that Ollama adds no template of its own."""

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        options = _given(
            payload,
            {
                "temperature": "temperature",
                "top_p": "top_p",
                "top_k": "top_k",
                "min_p": "min_p",
                "rep_pen": "repeat_penalty",
                "stop_sequence": "stop",
                "max_length": "num_predict",
                "max_context_length": "num_ctx",
            },
        )
        answer = self._post(
            "/api/generate",
            {
                "model": self.model,
                "prompt": payload["prompt"],
                "raw": True,
                "stream": False,
                "options": options,
            },
        )
        return _text(answer, "response")


def connect(
    url: str,
    *,
    model: str | None = None,
    max_length: int | None = None,
    max_context_length: int | None = None,
    session: requests.Session | None = None,
) -> Backend:
    """The backend at a URL, of the kind that the server says it is.

    `model` is the name to advertise; lengths in tokens override what the server tells. Raises
    BackendError. KoboldCpp is asked first, for it also answers as the other two.
    """
    url, session = url.rstrip("/").removesuffix("/v1"), session or requests.Session()
    for kind, probe in ((KoboldServer, _kobold), (OllamaServer, _ollama), (OpenAIServer, _openai)):
        found = probe(url, session)
        if found:
            return kind(
                url,
                model or found.name,
                found.name,
                max_length or found.max_length,
                max_context_length or found.max_context_length,
                session,
            )
    raise BackendError(
        f"{url} is not a KoboldAI, Ollama or OpenAI-compatible server with a model, or is not up"
    )


@dataclass(frozen=True)
class _Found:
    name: str
    max_length: int = 512
    max_context_length: int = 4096


def _kobold(url: str, session: requests.Session) -> _Found | None:
    name = _get(session, f"{url}/api/v1/model", "result")
    if not isinstance(name, str):
        return None
    length = _get(session, f"{url}/api/v1/config/max_length", "value")
    context = _get(session, f"{url}/api/v1/config/max_context_length", "value")
    return _Found(name, int(length or 512), int(context or 4096))


def _ollama(url: str, session: requests.Session) -> _Found | None:
    if not _get(session, f"{url}/api/version", "version"):
        return None
    name = _get(session, f"{url}/api/tags", "models", 0, "name")
    return _Found(str(name)) if name else None


def _openai(url: str, session: requests.Session) -> _Found | None:
    name = _get(session, f"{url}/v1/models", "data", 0, "id")
    return _Found(str(name)) if name else None


def _get(session: requests.Session, url: str, *path: str | int) -> Any:
    try:
        response = session.get(url, timeout=(_CONNECT, _ANSWER))
        return _dig(response.json(), *path) if response.ok else None
    except (requests.RequestException, BackendError):
        return None


def _dig(found: Any, *path: str | int) -> Any:
    try:
        for step in path:
            found = found[step]
    except (KeyError, IndexError, TypeError) as exc:
        raise BackendError("the backend's answer has another shape than its kind promises") from exc
    return found


def _text(found: Any, *path: str | int) -> str:
    text = _dig(found, *path)
    if not isinstance(text, str):
        raise BackendError("the backend's answer holds no text")
    return text


def _given(payload: Payload, names: dict[str, str]) -> dict[str, Any]:
    return {
        theirs: payload[ours] for ours, theirs in names.items() if payload.get(ours) is not None
    }
