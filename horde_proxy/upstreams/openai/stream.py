"""A server's answer as chunks, for a request that was not proxied.

    reader thread     start() -> bytes -> events -> chunks -> queue, and at last None or an error
    request thread    takes from the queue; a Waiting whenever nothing came for a while

The reader blocks on the server's socket. The request thread must not: it has to look at its client
and at the clock. `stop` ends the call at the server, which wakes the reader. What the answer
consists of is not known here: events.py reads it, tidy.py makes it legal.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import Literal

from horde_proxy.errors import (
    InvalidRequest,
    ProxyError,
    ServerBug,
    Unavailable,
    UpstreamFailed,
)
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.upstreams.base import LONGEST_SLEEP, Accepted, StreamItem, Waiting
from horde_proxy.upstreams.openai.errors import refusal_of, server_error
from horde_proxy.upstreams.openai.events import events
from horde_proxy.upstreams.openai.tidy import ForeignAnswer
from horde_proxy.upstreams.proxying import ProxyResponse

log = logging.getLogger(__name__)

_Arrived = Literal["began"] | Chunk | BaseException | None
_QUIET_WAITINGS = 3
"""Waitings after which the client's response begins without a chunk, so that keep-alives can."""
_THREAD_PAUSE = 5
"""Retry-After (s) when the machine allows no more threads: answers end all the time."""


def stream_items(
    accepted: Accepted,
    answer: ForeignAnswer,
    start: Callable[[], ProxyResponse],
    stop: Callable[[], object],
) -> Generator[StreamItem, None, None]:
    """`accepted`, Waitings and the chunks of the answer that `start` begins and `stop` breaks off.

    `accepted` comes with the first chunk: until then, a failure keeps its status.
    """
    arrived: SimpleQueue[_Arrived] = SimpleQueue()
    reader = threading.Thread(target=_read, args=(answer, start, arrived.put), daemon=True)
    is_accepted, waitings_left = False, math.inf
    try:
        _start(reader)
        while (item := _next(arrived)) is not None:
            if item == "began":
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


def _next(arrived: SimpleQueue[_Arrived]) -> Literal["began"] | StreamItem | None:
    """What the reader put next, or a Waiting. Raises the error that ended the answer."""
    try:
        item = arrived.get(timeout=LONGEST_SLEEP)
    except Empty:
        return Waiting("generating")
    if isinstance(item, BaseException):
        raise item
    return item


def _start(thread: threading.Thread) -> None:
    """Start a thread. Raises Unavailable where the machine allows no more of them."""
    try:
        thread.start()
    except RuntimeError as exc:
        raise Unavailable(
            "This proxy cannot start a thread for the stream: its machine allows no more.",
            retry_after=_THREAD_PAUSE,
        ) from exc


def _read(
    answer: ForeignAnswer, start: Callable[[], ProxyResponse], put: Callable[[_Arrived], None]
) -> None:
    """Put "began", the chunks, and at last None or the error that ended the answer."""
    end: BaseException | None = None
    try:
        with closing(start()) as response:
            _check_stream(response)
            put("began")
            for chunk in answer.chunks(events(response, response.secrets)):
                put(chunk)
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
    # 404 and 405 are about the path, which another server may have.
    if 400 <= response.status < 500 and response.status not in (404, 405):
        raise InvalidRequest(message)
    raise UpstreamFailed(f"it answered with status {response.status}: {message}")
