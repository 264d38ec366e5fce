"""The base of all model servers: it probes a URL, keeps a session, and checks answers.

A kind of server is a subclass with three methods: `probe` finds the models of the server at a URL,
`generate` completes a prompt, and `current_state` says how busy it is. Which models, and how long
their prompts may be, is offered_model's.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import requests

from horde_proxy.errors import UpstreamFailed
from horde_proxy.json_reading import parse_json
from horde_proxy.printable import without_login
from horde_proxy.upstreams.disconnects import WatchedAdapter
from horde_proxy.upstreams.openai.events import Event, events
from horde_proxy.upstreams.openai.native_apis import Ask
from horde_proxy.upstreams.sessions import new_session
from horde_proxy.worker.backends import calls
from horde_proxy.worker.backends.base import (
    BackendDown,
    BackendError,
    BackendOptions,
    JobRefused,
    Payload,
    ServerState,
)
from horde_proxy.worker.backends.offered_model import (
    ServerModel,
    allowed,
    choose,
    choose_all,
    limits_of,
)
from horde_proxy.worker.backends.samplers import Dialect
from horde_proxy.worker.backends.server_state import Read

# What servers answer to a job that they cannot do: 400 where the prompt is too long or a value is
# out of range, 413 for its size, 422 (FastAPI) for a field of another type.
_REFUSALS = (400, 413, 422)
# What concerns all jobs: a key that is wrong, a server that still loads (503, llama.cpp) or is full
# (429).
_DOWN = (401, 403, 429, 502, 503, 504)
# No such path (404, 405 where it is for other methods, 501), or a model that is gone (404).
_NO_ROUTE = (404, 405, 501)

ReadEvents = Callable[[Iterable[bytes]], Iterator[Event | None]]
"""Reads the pieces of a body as events; None says that the body is complete."""

log = logging.getLogger(__name__)


class NoSuchRoute(BackendDown):
    """The server does not know the path, or the model."""


class ModelServer(ABC):
    """A server at `url`; `name` is advertised to the horde, `model` is the server's own name.

    `label` is the word for this kind of server in messages, `shown_url` the URL without a login.
    """

    label: ClassVar[str]
    tags = None

    def __init__(
        self, url: str, session: requests.Session, model: ServerModel, options: BackendOptions
    ) -> None:
        self.url, self._session, self.model = url, session, model.name
        self.shown_url = without_login(url)
        self.name = options.model or model.name
        self.limits = limits_of(model.facts, options)
        self.max_length, self.max_context_length = self.limits.length, self.limits.context
        # Guards the names of parameters that were logged. No I/O happens under it.
        self._lock = threading.Lock()
        self._left_out: set[str] = set()

    @classmethod
    def open(cls, name: str, options: BackendOptions) -> Self | None:
        """The backend of a URL; None for another name, or if no server of this kind answers.

        Raises BackendError where no model, or more than one, is meant.
        """
        url, session, models = cls._find(name, options)
        if not models:
            return None
        model, reason = choose(models, options.model, without_login(url))
        server = cls(url, session, model, options)
        other_name = f", advertised as {server.name}" if server.name != model.name else ""
        options.report(
            f"{cls.label} server at {server.shown_url}: model {model.name} ({reason}){other_name}"
        )
        options.report(server.limits.description())
        return server

    @classmethod
    def open_all(cls, name: str, options: BackendOptions) -> Sequence[Self]:
        """The backends of the models that `options.models` name; see `open`."""
        url, session, models = cls._find(name, options)
        if not models:
            return ()
        chosen = choose_all(models, options.models, without_login(url))
        servers = [cls(url, session, model, options) for model in chosen]
        for server in servers:
            options.report(f"{cls.label} server at {server.shown_url}: model {server.model}")
            options.report(server.limits.description())
        return servers

    @classmethod
    def _find(
        cls, name: str, options: BackendOptions
    ) -> tuple[str, requests.Session, Sequence[ServerModel]]:
        """(the root of the URL, a session for it, the models there: none for another name)."""
        url, session = name.rstrip("/").removesuffix("/v1"), new_session(WatchedAdapter())
        if options.api_key:
            session.headers["Authorization"] = f"Bearer {options.api_key}"
        models = cls.probe(url, session) if is_url(name) else ()
        return url, session, allowed(models, options.denied_models, without_login(url))

    @classmethod
    @abstractmethod
    def probe(cls, url: str, session: requests.Session) -> Sequence[ServerModel]:
        """The models of the server at a URL; none if no server of this kind answers."""

    @abstractmethod
    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        """The new text. Raises BackendError."""

    @abstractmethod
    def current_state(self, read: Read) -> ServerState | None:
        """What the server says of itself; None if it does not answer."""

    def state(self) -> ServerState:
        """The server's requests at this moment. Raises BackendDown."""
        state = self.current_state(self.read)
        if state is None:
            raise BackendDown(f"the backend at {self.shown_url} does not answer")
        return state

    def slots(self) -> int | None:
        """How many requests the server runs at a time; None where it does not say."""
        return None

    def read(self, path: str) -> str | None:
        """The text at a path of the server; None after any failure."""
        return calls.read_text(self._session, self.url + path)

    def post(self, path: str, body: Mapping[str, Any], cancelled: Callable[[], bool]) -> Any:
        """The JSON value that the server answers with. Raises BackendError."""
        try:
            response = calls.post(self._session, self.url + path, body, cancelled)
        except calls.CallCancelled as exc:
            raise BackendError("the call was cancelled", "cancelled by the worker") from exc
        except requests.ReadTimeout as exc:
            raise BackendError(f"the backend at {self.shown_url} took too long") from exc
        except requests.RequestException as exc:
            raise BackendDown(
                f"the backend at {self.shown_url} failed: {type(exc).__name__}"
            ) from exc
        self.check_status(response)
        try:
            return parse_json(response.content)
        # No JSON, or thousands of brackets.
        except (ValueError, RecursionError) as exc:
            raise BackendError(f"the backend at {self.shown_url} sent no JSON") from exc

    def events(
        self,
        path: str,
        body: Mapping[str, Any],
        cancelled: Callable[[], bool],
        *,
        read: ReadEvents = events,
        check: Callable[[requests.Response], None] | None = None,
    ) -> Iterator[Event | None]:
        """The JSON objects of a stream, as they come; None once it says that it is complete.

        `read` knows the stream's format, `check` raises BackendError for an error's status. Raises
        BackendError.
        """
        try:
            with calls.stream(self._session, self.url + path, body, cancelled) as response:
                (check or self.check_status)(response)
                yield from read(calls.pieces(response))
        except calls.CallCancelled as exc:
            raise BackendError("the call was cancelled", "cancelled by the worker") from exc
        except UpstreamFailed as exc:
            raise BackendError(f"the backend at {self.shown_url} sent no text: {exc}") from exc
        except requests.RequestException as exc:
            raise BackendDown(
                f"the backend at {self.shown_url} failed: {type(exc).__name__}"
            ) from exc

    def broken_off(self) -> BackendError:
        """The error for a text that ended in the middle."""
        return BackendError(f"the backend at {self.shown_url} broke the text off")

    def translated(self, payload: Payload, dialect: Dialect) -> dict[str, Any]:
        """The sampling of a payload in the server's words. What it does not know is logged once."""
        body, unknown = dialect.translated(payload)
        self.note_left_out(unknown)
        return body

    def note_left_out(self, unknown: Iterable[str]) -> None:
        """Log the parameters that the server does not know, each once."""
        with self._lock:
            new = [name for name in unknown if name not in self._left_out]
            self._left_out.update(new)
        for name in new:
            log.warning("the backend at %s does not know %s: it is left out", self.shown_url, name)

    def check_status(self, response: requests.Response) -> None:
        """Raises BackendError for an error's status."""
        status = response.status_code
        if response.ok:
            return
        message = f"the backend at {self.shown_url} answered with status {status}"
        if status in _REFUSALS:
            raise JobRefused(message, f"the backend refuses the job with status {status}")
        if status in _NO_ROUTE:
            raise NoSuchRoute(message)
        raise (BackendDown if status in _DOWN else BackendError)(message)


def is_url(name: str) -> bool:
    """Whether the user's name for a backend is a server's URL."""
    return name.startswith(("http://", "https://"))


def get(
    session: requests.Session, url: str, *path: str | int, body: Mapping[str, Any] | None = None
) -> Any:
    """The value at a path of keys and indexes in the JSON at a URL; None after any failure.

    With a body, it is the answer to a POST.
    """
    try:
        return value_at(_answer(session, url, body), *path)
    except BackendError:
        return None


def asking(session: requests.Session, url: str) -> Ask:
    """How the server at a URL is asked for what it tells of its models."""
    return lambda path, body: _answer(session, url + path, body)


def _answer(session: requests.Session, url: str, body: Mapping[str, Any] | None) -> Any:
    """The JSON that a GET, or the POST of a body, is answered with; None after any failure."""
    try:
        response = calls.ask(session, url, body)
        return parse_json(response.content) if response.ok else None
    # What answers may be no model server at all, and no JSON.
    except (requests.RequestException, ValueError, RecursionError):
        return None


def text_at(answer: Any, *path: str | int) -> str:
    """The text at a path in an answer. Raises BackendError."""
    text = value_at(answer, *path)
    if not isinstance(text, str):
        raise BackendError("the backend's answer contains no text")
    return text


def value_at(value: Any, *path: str | int) -> Any:
    """The value at a path in an answer. Raises BackendError."""
    try:
        for step in path:
            value = value[step]
    except (KeyError, IndexError, TypeError) as exc:
        raise BackendError("the backend's answer has an unexpected shape") from exc
    return value
