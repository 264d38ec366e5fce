"""An answer as server-sent events, with keep-alives, that always ends as its front's API demands.

It knows when to write; what is written is the front's (front.EventWriter).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from horde_proxy.api.context import KeepAlive
from horde_proxy.api.front import EventWriter
from horde_proxy.errors import ProxyError, ServerBug, UpstreamFailed
from horde_proxy.protocol import sse
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.stream_start import StreamStart
from horde_proxy.upstreams.base import StreamItem, Waiting

# nginx buffers answers unless it is told not to, and then no keep-alive reaches the client.
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeepAliveOptions:
    """How a silent stream is kept alive, and after how many seconds of silence."""

    kind: KeepAlive
    interval: float
    clock: Callable[[], float]


class EventStream:
    """The bytes of one event stream.

    A class and not a generator, because a generator that was never started ignores close(): it
    must reach the upstream even before the first byte. With `start`, the response began before
    the request was accepted, and is kept alive from then on.
    """

    def __init__(
        self,
        items: Generator[StreamItem, None, None],
        writer: EventWriter,
        keep_alive: KeepAliveOptions,
        start: StreamStart | None = None,
    ) -> None:
        self._items, self._writer, self._keep_alive = items, writer, keep_alive
        self._start = start
        self._shown_state = ""
        self._last_sent = keep_alive.clock()
        self._events = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        event = next(self._events)
        self._last_sent = self._keep_alive.clock()
        return event

    def close(self) -> None:
        """Cancel what still runs."""
        self._events.close()
        self._items.close()

    def _run(self) -> Generator[bytes, None, None]:
        writer = self._writer
        try:
            yield from writer.begin()
            for item in self._items:
                if isinstance(item, Waiting):
                    yield from self._on_waiting(item)
                elif isinstance(item, dict):
                    yield from self._on_chunk(item)
            if not writer.is_complete:
                raise UpstreamFailed("The answer broke off.")
        except ProxyError as exc:
            yield writer.error(exc)
        # The last guard: the status was sent long ago, so the stream itself has to say it.
        except Exception:
            log.exception("a stream failed")
            yield writer.error(ServerBug())
        if ending := writer.end():
            yield ending

    def _on_chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """The events of a chunk; a keep-alive where it has none, as a thought not to be shown."""
        is_silent = True
        for event in self._writer.chunk(chunk):
            is_silent = False
            yield event
        if is_silent and self._writer.is_open and self._is_due() and self._keep_alive.kind != "off":
            if event := self._writer.keep_alive() or self._writer.comment("generating"):
                yield event

    def _is_due(self) -> bool:
        """Whether the stream has been silent for so long that it needs a keep-alive."""
        return self._keep_alive.clock() - self._last_sent >= self._keep_alive.interval

    def _on_waiting(self, waiting: Waiting) -> Iterator[bytes]:
        kind = self._keep_alive.kind
        is_due = self._is_due()
        if not self._writer.is_open:
            if self._start is not None and is_due and not self._writer.is_complete:
                yield start_events(self._start, kind, waiting)
            return
        if self._writer.shows_progress and (is_due or waiting.state != self._shown_state):
            self._shown_state = waiting.state
            yield self._writer.progress(_line(waiting) + "\n")
        elif is_due and kind != "off":
            if comment := self._writer.comment(_line(waiting)):
                yield comment
            # A front without such an event leaves it at the comment.
            if kind == "chunk" and (event := self._writer.keep_alive()):
                yield event


def start_events(start: StreamStart, kind: KeepAlive, waiting: Waiting) -> bytes:
    """A keep-alive of a stream whose answer has not begun."""
    return sse.comment(_line(waiting)) + (start.keep_alive() if kind == "chunk" else b"")


def _line(waiting: Waiting) -> str:
    """What is known about the wait, for people: "queued, position 3, about 20 s"."""
    parts = [waiting.state]
    if waiting.queue_position:
        parts.append(f"position {waiting.queue_position}")
    if waiting.seconds:
        parts.append(f"about {waiting.seconds} s")
    return ", ".join(parts)
