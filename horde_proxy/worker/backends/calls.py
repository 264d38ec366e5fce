"""Calls to a model server that can be ended from another thread. Knows nothing of models.

    job thread     send() ----> waits in the socket for the server's answer
    watch thread   asks `cancelled` ten times a second; once it is true:
                   shuts the connection down, so that the server notices and stops
    job thread     its read fails; CallCancelled

Each call has its own watch thread, which ends with the call. They share no state but the call's
guard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from horde_proxy.errors import ShuttingDown
from horde_proxy.response_body import LONGEST_BODY, with_body
from horde_proxy.upstreams.disconnects import DisconnectMonitor

_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 10.0
_STATE_SECONDS = 2.0
"""A server that is up says so at once, and nobody waits for its answer for long."""
# More than the time that a horde gives a job, which is 150 s unless its owner has changed it.
_GENERATION_SECONDS = 300.0
_PIECE = 65_536
"""Bytes of a stream that are read at once, at most."""
_WATCH_SECONDS = 0.1
"""How often a call looks whether its text is still needed."""
_LONGEST_STATE = 2_000_000
"""Bytes. vLLM's metrics have about 100 KB."""


class CallCancelled(Exception):
    """The call was ended because its text is not needed any more."""


def send(
    session: requests.Session,
    method: str,
    url: str,
    cancelled: Callable[[], bool],
    *,
    most: int = LONGEST_BODY,
    **content: Any,
) -> requests.Response:
    """The answer to a call with its body, of at most `most` bytes.

    `content` is what requests takes as the call's body. Raises requests' exceptions, and
    CallCancelled.
    """
    timeout = (_CONNECT_SECONDS, _GENERATION_SECONDS)
    try:
        with _cancellable(cancelled):
            response = session.request(method, url, timeout=timeout, stream=True, **content)
            return with_body(response, most)
    # The watch shut the connection down, or did so before there was one.
    except (requests.RequestException, ShuttingDown) as exc:
        if cancelled():
            raise CallCancelled from exc
        raise


@contextmanager
def stream(
    session: requests.Session, url: str, body: Mapping[str, Any], cancelled: Callable[[], bool]
) -> Iterator[requests.Response]:
    """The answer to a POST, whose body is read within this context as it comes.

    Raises requests' exceptions, and CallCancelled.
    """
    timeout = (_CONNECT_SECONDS, _GENERATION_SECONDS)
    try:
        with _cancellable(cancelled):
            response = session.post(url, json=body, timeout=timeout, stream=True)
            with closing(response):
                yield response
    # The watch shut the connection down, or did so before there was one.
    except (requests.RequestException, HTTPError, OSError, ShuttingDown) as exc:
        if cancelled():
            raise CallCancelled from exc
        raise requests.ConnectionError(exc) from exc


def pieces(response: requests.Response) -> Iterator[bytes]:
    """The body of an answer as it comes, without waiting for more."""
    while piece := response.raw.read1(_PIECE, decode_content=True):
        yield piece


def ask(session: requests.Session, url: str, body: Mapping[str, Any] | None) -> requests.Response:
    """The answer to a GET, or to the POST of a body. Raises requests' exceptions."""
    method = "GET" if body is None else "POST"
    timeout = (_CONNECT_SECONDS, _PROBE_SECONDS)
    return with_body(session.request(method, url, json=body, timeout=timeout, stream=True))


def read_text(session: requests.Session, url: str) -> str | None:
    """The text of a URL that is answered at once; None after any failure."""
    try:
        response = session.get(url, timeout=_STATE_SECONDS, stream=True)
        return with_body(response, _LONGEST_STATE).text if response.ok else None
    except requests.RequestException:
        return None


@contextmanager
def _cancellable(cancelled: Callable[[], bool]) -> Iterator[None]:
    """Within this context, the thread's call ends soon after `cancelled` becomes true."""
    monitor, over = DisconnectMonitor(), threading.Event()

    def watch() -> None:
        while not over.wait(_WATCH_SECONDS):
            if cancelled():
                monitor.hang_up_all()

    # Without a client's socket, the guard is ended by hang_up_all only.
    guard = monitor.watch(None)
    with guard, guard.current():
        thread = threading.Thread(target=watch, name="call-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
