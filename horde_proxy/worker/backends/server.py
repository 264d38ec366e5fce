"""The base of all servers of texts: it probes a URL for models, and reads their streams.

A kind of server is a subclass with three methods: `probe` finds the models of the server at a URL,
`generate` completes a prompt, and `current_state` says how busy it is. Which models, and how long
their prompts may be, is offered_model's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import requests

from horde_proxy.errors import UpstreamFailed
from horde_proxy.printable import without_login
from horde_proxy.upstreams.openai.events import Event, events
from horde_proxy.worker.backends import calls
from horde_proxy.worker.backends.base import (
    BackendDown,
    BackendError,
    BackendOptions,
    Payload,
    ServerState,
)
from horde_proxy.worker.backends.http_server import HttpServer, is_url, new_server_session
from horde_proxy.worker.backends.offered_model import (
    ServerModel,
    allowed,
    choose,
    choose_all,
    limits_of,
)
from horde_proxy.worker.backends.samplers import Dialect
from horde_proxy.worker.backends.server_state import Read

ReadEvents = Callable[[Iterable[bytes]], Iterator[Event | None]]
"""Reads the pieces of a body as events; None says that the body is complete."""


class ModelServer(HttpServer, ABC):
    """A server of texts; `name` is advertised to the horde, `model` is the server's own name.

    `label` is the word for this kind of server in messages.
    """

    label: ClassVar[str]
    tags = None

    def __init__(
        self, url: str, session: requests.Session, model: ServerModel, options: BackendOptions
    ) -> None:
        super().__init__(url, session)
        self.model = model.name
        self.name = options.model or model.name
        self.limits = limits_of(model.facts, options)
        self.max_length, self.max_context_length = self.limits.length, self.limits.context

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
        url, session = name.rstrip("/").removesuffix("/v1"), new_server_session(options.api_key)
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
