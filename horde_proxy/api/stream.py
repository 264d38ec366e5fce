"""A chat's chunks as server-sent events, with keep-alives, that always ends legally."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator

from horde_proxy.api.context import KeepAlive
from horde_proxy.errors import ProxyError, ServerBug, UpstreamFailed
from horde_proxy.protocol import sse
from horde_proxy.protocol.chunks import Chunk, bare_chunk
from horde_proxy.upstreams.base import Accepted, StreamItem, Waiting

CONTENT_TYPE = "text/event-stream; charset=utf-8"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

log = logging.getLogger(__name__)


class EventStream:
    """The bytes of one event stream. `interval` is the seconds of silence before a keep-alive.

    `tells_progress`: what is known while waiting comes as reasoning, for people to read. `bare`
    makes a chunk without news out of the first one.

    A class and not a generator: `close` must reach the upstream even before the first byte.
    """

    def __init__(
        self,
        items: Iterator[StreamItem],
        *,
        include_usage: bool,
        keepalive: KeepAlive,
        interval: float,
        clock: Callable[[], float],
        tells_progress: bool = False,
        bare: Callable[[Chunk], Chunk] = bare_chunk,
    ) -> None:
        self._items = items
        self._bare = bare
        self._tells_progress = tells_progress
        self._told = ""
        self._include_usage = include_usage
        self._keepalive = keepalive
        self._interval = interval
        self._clock = clock
        self._last_sent = clock()
        self._unfinished: set[int] = set()
        self._first: Chunk | None = None
        self._events = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        event = next(self._events)
        self._last_sent = self._clock()
        return event

    def close(self) -> None:
        """Cancel what still runs."""
        self._events.close()
        close = getattr(self._items, "close", None)
        if close:
            close()

    def _run(self) -> Generator[bytes, None, None]:
        try:
            for item in self._items:
                yield from self._event(item)
            if self._unfinished or self._first is None:
                raise UpstreamFailed("The answer broke off.")
        except ProxyError as exc:
            yield sse.event(exc.envelope())
        except Exception:
            log.exception("a stream failed")
            yield sse.event(ServerBug().envelope())
        yield sse.DONE

    def _event(self, item: StreamItem) -> Iterator[bytes]:
        if isinstance(item, Waiting):
            yield from self._keep_alive(item)
        elif not isinstance(item, Accepted):
            yield from self._chunk(item)

    def _chunk(self, chunk: Chunk) -> Iterator[bytes]:
        self._first = self._first or chunk
        for choice in chunk["choices"]:
            self._unfinished.add(choice["index"])
            if choice["finish_reason"]:
                self._unfinished.discard(choice["index"])
        if self._include_usage:
            yield sse.event({**chunk, "usage": None} if chunk["choices"] else chunk)
        elif chunk["choices"]:
            yield sse.event(chunk)

    def _keep_alive(self, waiting: Waiting) -> Iterator[bytes]:
        if self._first is None or not self._unfinished:
            return
        is_due = self._clock() - self._last_sent >= self._interval
        if self._tells_progress and (is_due or waiting.state != self._told):
            self._told = waiting.state
            told = bare_chunk(self._first, {"reasoning_content": _line(waiting)})
            yield from self._chunk(self._of_an_open_choice(told))
        elif is_due and self._keepalive != "off":
            yield sse.comment(_line(waiting).rstrip())
            if self._keepalive == "chunk":
                yield from self._chunk(self._of_an_open_choice(self._bare(self._first)))

    def _of_an_open_choice(self, chunk: Chunk) -> Chunk:
        """The chunk for a choice that goes on: one that has ended must not begin again."""
        [choice] = chunk["choices"]
        return {**chunk, "choices": [{**choice, "index": min(self._unfinished)}]}


def _line(waiting: Waiting) -> str:
    """What is known while waiting, in words."""
    parts = [waiting.state]
    if waiting.queue_position:
        parts.append(f"position {waiting.queue_position}")
    if waiting.seconds:
        parts.append(f"about {waiting.seconds} s")
    return ", ".join(parts) + "\n"
