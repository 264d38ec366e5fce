"""The base of all model servers: it probes a URL, keeps a session, and checks answers.

A kind of server is a subclass with two methods: `probe` finds the models of the server at a URL,
and `generate` completes a prompt. Which model, and how long its prompts may be, is offered_model's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import requests

from horde_proxy.json_reading import parse_json
from horde_proxy.response_body import with_body
from horde_proxy.upstreams.openai.native_apis import Ask
from horde_proxy.upstreams.sessions import new_session
from horde_proxy.worker.backends.base import BackendError, BackendOptions, Payload
from horde_proxy.worker.backends.offered_model import ServerModel, choose, limits_of

_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 10.0
# More than the time that a horde gives a job, which is 150 s unless its owner has changed it.
_GENERATION_SECONDS = 300.0


class ModelServer(ABC):
    """A server at `url`; `name` is advertised to the horde, `model` is the server's own name.

    `label` is the word for this kind of server in messages.
    """

    label: ClassVar[str]
    tags = None

    def __init__(
        self, url: str, session: requests.Session, model: ServerModel, options: BackendOptions
    ) -> None:
        self.url, self._session, self.model = url, session, model.name
        self.name = options.model or model.name
        self.limits = limits_of(model.facts, options)
        self.max_length, self.max_context_length = self.limits.length, self.limits.context

    @classmethod
    def open(cls, name: str, options: BackendOptions) -> Self | None:
        """The backend of a URL; None for another name, or if no server of this kind answers.

        Raises BackendError where no model, or more than one, is meant.
        """
        if not is_url(name):
            return None
        url, session = name.rstrip("/").removesuffix("/v1"), new_session()
        models = cls.probe(url, session)
        if not models:
            return None
        model, reason = choose(models, options.model, url)
        server = cls(url, session, model, options)
        other_name = f", advertised as {server.name}" if server.name != model.name else ""
        options.report(f"{cls.label} server at {url}: model {model.name} ({reason}){other_name}")
        options.report(server.limits.description())
        return server

    @classmethod
    @abstractmethod
    def probe(cls, url: str, session: requests.Session) -> Sequence[ServerModel]:
        """The models of the server at a URL; none if no server of this kind answers."""

    @abstractmethod
    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        """The new text. Raises BackendError. A request under way cannot be cancelled."""

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON value that the server answers with. Raises BackendError."""
        timeout = (_CONNECT_SECONDS, _GENERATION_SECONDS)
        try:
            response = self._session.post(self.url + path, json=body, timeout=timeout, stream=True)
            with_body(response).raise_for_status()
            return parse_json(response.content)
        # ValueError and RecursionError: no JSON, or thousands of brackets.
        except (requests.RequestException, ValueError, RecursionError) as exc:
            raise BackendError(f"the backend at {self.url} failed: {type(exc).__name__}") from exc


def is_url(name: str) -> bool:
    """Whether the user's name for a backend is a server's URL."""
    return name.startswith(("http://", "https://"))


def get(session: requests.Session, url: str, *path: str | int) -> Any:
    """The value at a path of keys and indexes in the JSON at a URL; None after any failure."""
    try:
        return _value_at(_answer(session, url, None), *path)
    except BackendError:
        return None


def asking(session: requests.Session, url: str) -> Ask:
    """How the server at a URL is asked for what it tells of its models."""
    return lambda path, body: _answer(session, url + path, body)


def _answer(session: requests.Session, url: str, body: Mapping[str, Any] | None) -> Any:
    """The JSON that a GET, or the POST of a body, is answered with; None after any failure."""
    method = "GET" if body is None else "POST"
    timeout = (_CONNECT_SECONDS, _PROBE_SECONDS)
    try:
        response = session.request(method, url, json=body, timeout=timeout, stream=True)
        return parse_json(with_body(response).content) if response.ok else None
    # What answers may be no model server at all, and no JSON.
    except (requests.RequestException, ValueError, RecursionError):
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
