"""A server over HTTP: a session for it, its calls, and what its errors mean for jobs.

It knows neither texts nor images. Calls end when their job is cancelled.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import requests

from horde_proxy.json_reading import parse_json
from horde_proxy.printable import without_login
from horde_proxy.response_body import LONGEST_BODY
from horde_proxy.upstreams.openai.native_apis import Ask
from horde_proxy.upstreams.sessions import new_session
from horde_proxy.upstreams.watched_adapter import WatchedAdapter
from horde_proxy.worker.backends import calls
from horde_proxy.worker.backends.base import BackendDown, BackendError, JobRefused

# What servers answer to a job that they cannot do: 400 where the prompt is too long or a value is
# out of range, 413 for its size, 422 (FastAPI) for a field of another type.
_REFUSALS = (400, 413, 422)
# What concerns all jobs: a key that is wrong, a server that still loads (503, llama.cpp) or is full
# (429).
_DOWN = (401, 403, 429, 502, 503, 504)
# No such path (404, 405 where it is for other methods, 501), or a model that is gone (404).
_NO_ROUTE = (404, 405, 501)

MOST_NAMES = 100
"""Names of parameters that are remembered and logged: clients choose them, and servers know 60."""

log = logging.getLogger(__name__)


class NoSuchRoute(BackendDown):
    """The server does not know the path, or the model."""


def new_server_session(api_key: str | None) -> requests.Session:
    """A session for a server, whose calls can be ended from another thread."""
    session = new_session(WatchedAdapter())
    if api_key:
        session.headers["Authorization"] = f"Bearer {api_key}"
    return session


class HttpServer:
    """The server at `url`. `shown_url` is the URL without a login."""

    def __init__(self, url: str, session: requests.Session) -> None:
        self.url, self._session = url, session
        self.shown_url = without_login(url)
        # Guards the names of parameters that were logged. No I/O happens under it.
        self._lock = threading.Lock()
        self._left_out: set[str] = set()

    def read(self, path: str) -> str | None:
        """The text at a path of the server; None after any failure."""
        return calls.read_text(self._session, self.url + path)

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        cancelled: Callable[[], bool],
        *,
        most: int = LONGEST_BODY,
    ) -> Any:
        """The JSON value that the server answers with. Raises BackendError."""
        return self.json_of(self.send(path, cancelled, most=most, json=body))

    def send(
        self,
        path: str,
        cancelled: Callable[[], bool],
        *,
        method: str = "POST",
        most: int = LONGEST_BODY,
        **content: Any,
    ) -> requests.Response:
        """The answer, of at most `most` bytes, to a call with this content. Raises BackendError."""
        url = self.url + path
        try:
            response = calls.send(self._session, method, url, cancelled, most=most, **content)
        except calls.CallCancelled as exc:
            raise BackendError("the call was cancelled", "cancelled by the worker") from exc
        except requests.ReadTimeout as exc:
            raise BackendError(f"the backend at {self.shown_url} took too long") from exc
        except requests.RequestException as exc:
            raise BackendDown(
                f"the backend at {self.shown_url} failed: {type(exc).__name__}"
            ) from exc
        self.check_status(response)
        return response

    def json_of(self, response: requests.Response) -> Any:
        """The JSON value in an answer. Raises BackendError."""
        try:
            return parse_json(response.content)
        # No JSON, or thousands of brackets.
        except (ValueError, RecursionError) as exc:
            raise BackendError(f"the backend at {self.shown_url} sent no JSON") from exc

    def note_left_out(self, unknown: Iterable[str]) -> None:
        """Log the parameters that the server does not know, each once."""
        with self._lock:
            left = MOST_NAMES - len(self._left_out)
            new = [name for name in unknown if name not in self._left_out][:left]
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
