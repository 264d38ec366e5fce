"""The base of all model servers: it probes a URL, keeps a session, and checks answers.

A kind of server is a subclass with two methods: `probe` finds the model of the server at a URL, and
`generate` completes a prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import requests

from horde_proxy.worker.backends.base import BackendError, BackendOptions, Payload

_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 10.0
# More than the time that a horde gives a job, which is 150 s unless its owner has changed it.
_GENERATION_SECONDS = 300.0


@dataclass(frozen=True)
class ServerModel:
    """The model of a server. The default lengths are for servers that report none."""

    name: str
    max_length: int = 512
    max_context_length: int = 4096


class ModelServer(ABC):
    """A server at `url`; `name` is advertised to the horde, `model` is the server's own name."""

    tags = None

    def __init__(
        self, url: str, session: requests.Session, offered: ServerModel, options: BackendOptions
    ) -> None:
        self.url, self._session, self.model = url, session, offered.name
        self.name = options.model or offered.name
        self.max_length = options.max_length or offered.max_length
        self.max_context_length = options.max_context_length or offered.max_context_length

    @classmethod
    def open(cls, name: str, options: BackendOptions) -> Self | None:
        """The backend of a URL; None for another name, or if no server of this kind answers."""
        if not is_url(name):
            return None
        url, session = name.rstrip("/").removesuffix("/v1"), requests.Session()
        offered = cls.probe(url, session)
        return cls(url, session, offered, options) if offered else None

    @classmethod
    @abstractmethod
    def probe(cls, url: str, session: requests.Session) -> ServerModel | None:
        """The model of the server at a URL; None if no server of this kind answers."""

    @abstractmethod
    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        """The new text. Raises BackendError. A request under way cannot be cancelled."""

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON value that the server answers with. Raises BackendError."""
        timeout = (_CONNECT_SECONDS, _GENERATION_SECONDS)
        try:
            response = self._session.post(self.url + path, json=body, timeout=timeout)
            response.raise_for_status()
            return response.json()
        except requests.RequestException as exc:
            raise BackendError(f"the backend at {self.url} failed: {type(exc).__name__}") from exc


def is_url(name: str) -> bool:
    """Whether the user's name for a backend is a server's URL."""
    return name.startswith(("http://", "https://"))


def get(session: requests.Session, url: str, *path: str | int) -> Any:
    """The value at a path of keys and indexes in the JSON at a URL; None after any failure."""
    try:
        response = session.get(url, timeout=(_CONNECT_SECONDS, _PROBE_SECONDS))
        return _value_at(response.json(), *path) if response.ok else None
    except (requests.RequestException, BackendError):
        return None


def text_at(answer: Any, *path: str | int) -> str:
    """The text at a path in an answer. Raises BackendError."""
    text = _value_at(answer, *path)
    if not isinstance(text, str):
        raise BackendError("the backend's answer contains no text")
    return text


def renamed(payload: Payload, names: Mapping[str, str]) -> dict[str, Any]:
    """The fields that a payload has, under the server's names.

    `names` maps the horde's names to the server's.
    """
    return {
        theirs: payload[ours] for ours, theirs in names.items() if payload.get(ours) is not None
    }


def _value_at(value: Any, *path: str | int) -> Any:
    try:
        for step in path:
            value = value[step]
    except (KeyError, IndexError, TypeError) as exc:
        raise BackendError("the backend's answer has an unexpected shape") from exc
    return value
