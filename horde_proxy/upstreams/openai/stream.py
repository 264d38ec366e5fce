"""A server's answer as chunks or pictures, for a request that was not proxied.

    reader thread     start() -> bytes -> read() -> items -> queue, and at last None or an error
    request thread    takes from the queue; a Waiting whenever nothing came for a while

The reader blocks on the server's socket. The request thread must not: it has to look at its client
and at the clock. `stop` ends the call at the server, which wakes the reader. What the answer
consists of is not known here: of a chat, events.py reads it, and tidy.py makes it legal.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar

from horde_proxy.errors import (
    InvalidRequest,
    ProxyError,
    ServerBug,
    UpstreamFailed,
    UpstreamUnfit,
)
from horde_proxy.upstreams.base import LONGEST_SLEEP, Accepted, Waiting
from horde_proxy.upstreams.beside import start_thread
from horde_proxy.upstreams.openai.errors import refusal_of, server_error
from horde_proxy.upstreams.proxying import ProxyResponse

log = logging.getLogger(__name__)

_BEGAN: Literal["began"] = "began"
T = TypeVar("T")
_QUIET_WAITINGS = 3
"""Waitings after which the client's response begins without a chunk, so that keep-alives can."""


def stream_items(
    accepted: Accepted,
    read: Callable[[ProxyResponse], Iterator[T]],
    start: Callable[[], ProxyResponse],
    stop: Callable[[], object],
) -> Generator[Accepted | Waiting | T, None, None]:
    """`accepted`, Waitings, and what `read` makes of the answer that `start` begins.

    `stop` breaks it off. `accepted` comes with the first item: until then, a failure keeps its
    status.
    """
    arrived: SimpleQueue[Any] = SimpleQueue()
    is_accepted, waitings_left = False, math.inf
    try:
        start_thread(partial(_read, read, start, arrived.put))
        while (item := _next(arrived)) is not None:
            if item is _BEGAN:
                waitings_left = _QUIET_WAITINGS
                continue
            is_waiting = isinstance(item, Waiting)
            waitings_left -= is_waiting
            if not is_accepted and (not is_waiting or waitings_left <= 0):
                is_accepted = True
                yield accepted
            yield item
    finally:
        stop()


def _next(arrived: SimpleQueue[Any]) -> Any:
    """What the reader put next, or a Waiting. Raises the error that ended the answer."""
    try:
        item = arrived.get(timeout=LONGEST_SLEEP)
    except Empty:
        return Waiting("generating")
    if isinstance(item, BaseException):
        raise item
    return item


def _read(
    read: Callable[[ProxyResponse], Iterator[T]],
    start: Callable[[], ProxyResponse],
    put: Callable[[Any], None],
) -> None:
    """Put "began", the items, and at last None or the error that ended the answer."""
    end: BaseException | None = None
    try:
        with closing(start()) as response:
            _check_stream(response)
            put(_BEGAN)
            for item in read(response):
                put(item)
    except ProxyError as exc:
        end = exc
    # The request thread waits for an end, and would wait for ever without this one.
    except Exception as exc:
        log.exception("an answer cannot be read")
        end = ServerBug()
        end.__cause__ = exc
    put(end)


def _check_stream(response: ProxyResponse) -> None:
    """Raises a ProxyError for a response that is no answer, or that begins with an error."""
    error = server_error(response)
    if error is not None:
        raise error
    # Whether it is a stream or a document, the body itself says.
    if response.status < 300:
        return
    message = refusal_of(response)
    # These are about the path or the method, which another server may have.
    if response.status in (404, 405, 501):
        raise UpstreamUnfit(f"it answered with status {response.status}: {message}")
    if 400 <= response.status < 500:
        raise InvalidRequest(message)
    raise UpstreamFailed(f"it answered with status {response.status}: {message}")
