"""The events of one streamed answer, which several connections read: all see the same bytes.

    the source's thread --take, end, fail--> EventLog --after--> a LogReader for each connection
    a reader's thread   --keep_alive, progress----^

One writer makes all events, since each has a number. A keep-alive that one reader asks for is an
event that all of them see. Events that must not be seen yet are held back until publish().
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from horde_proxy.api.front import EventWriter
from horde_proxy.errors import ProxyError
from horde_proxy.protocol.chunks import Chunk


class EventLog:
    """All events of an answer so far, each as the bytes that clients get. Thread-safe.

    `keeps` is False where nobody reads them: the writer then only folds the answer.
    """

    def __init__(self, writer: EventWriter, *, keeps: bool = True) -> None:
        self.writer, self._keeps = writer, keeps
        # Guards the writer and what follows. No I/O happens under it.
        self._changed = threading.Condition()
        self._events: list[bytes] = []
        self._held: list[bytes] = []
        self._has_begun = self._is_failed = self.is_over = False

    @property
    def is_complete(self) -> bool:
        """Whether the answer has ended as it should."""
        return self.writer.is_complete and not self._is_failed

    @property
    def has_events(self) -> bool:
        """Whether there is an event to be seen."""
        return bool(self._events)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """A context in which nothing is written: the writer's state may be read."""
        with self._changed:
            yield

    def begin(self) -> None:
        """Write the first events, once."""
        with self._changed:
            if not self._has_begun:
                self._has_begun = True
                self._add(self.writer.begin())

    def take(self, chunk: Chunk, *, holds: bool = False) -> None:
        """Write the events of a chunk; `holds` keeps them back, and all that follow."""
        self.begin()
        with self._changed:
            if not self.is_over and not self._is_failed:
                self._add(self.writer.chunk(chunk), holds=holds)

    def end(self) -> None:
        """Write the last event, held back."""
        self.begin()
        with self._changed:
            if not self.is_over and not self._is_failed:
                self._add([self.writer.end()], holds=True)

    def fail(self, error: ProxyError) -> None:
        """Write the event of an error, the last one."""
        self.begin()
        with self._changed:
            if not self.is_over and not self._is_failed:
                self._is_failed = True
                self._add([self.writer.error(error), self.writer.end()])

    def publish(self) -> None:
        """Show what was held back. Nothing follows."""
        with self._changed:
            self._events += self._held
            self._held, self.is_over = [], True
            self._changed.notify_all()

    def keep_alive(self) -> None:
        """Add an event without news, unless the last events are held back already."""
        self._add_unless_held(self.writer.keep_alive)

    def progress(self, text: str) -> None:
        """Add an event that shows a line about the wait."""
        self._add_unless_held(lambda: self.writer.progress(text))

    def after(self, count: int) -> list[bytes]:
        """The events that may be seen, but for the first so many."""
        with self._changed:
            return self._events[count:]

    def all_events(self) -> list[bytes]:
        """All events, also those that are held back."""
        with self._changed:
            return self._events + self._held

    def wait(self, count: int, seconds: float) -> None:
        """Wait for more than so many events, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_over or len(self._events) > count, seconds)

    def _add_unless_held(self, write: Callable[[], bytes]) -> None:
        with self._changed:
            if not self._held and not self.is_over and not self._is_failed:
                self._add([write()])

    def _add(self, events: Iterable[bytes], *, holds: bool = False) -> None:
        """Add what was written. One writing may be several events."""
        # What follows a held event is held as well: readers get the numbers in order.
        target = self._held if holds or self._held else self._events
        for written in events:
            # A blank line ends an event; the JSON within has no line breaks.
            if self._keeps:
                target += [event + b"\n\n" for event in written.split(b"\n\n") if event]
        self._changed.notify_all()


class LogReader:
    """An EventWriter for one connection, which writes what the log has, from a position on.

    `numbers`: each event gets its number as its `id`.
    """

    def __init__(self, log: EventLog, position: int = 0, *, numbers: bool = False) -> None:
        self._log, self._position, self._numbers = log, position, numbers
        self.shows_progress = log.writer.shows_progress

    @property
    def is_open(self) -> bool:
        return self._log.has_events and not self._log.is_over

    @property
    def is_complete(self) -> bool:
        return self._log.is_complete

    def begin(self) -> Iterator[bytes]:
        """The first events, and all that there are already."""
        self._log.begin()
        return self._new()

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """The events since the last call. The log was given the chunk before."""
        return self._new()

    def comment(self, text: str) -> bytes:
        """A comment, which is no event."""
        return self._log.writer.comment(text)

    def keep_alive(self) -> bytes:
        """The events since the last call; if there are none, one without news."""
        return b"".join(self._new()) or self._added(self._log.keep_alive)

    def progress(self, text: str) -> bytes:
        """A line about the wait, and what came before it."""
        return self._added(lambda: self._log.progress(text))

    def error(self, error: ProxyError) -> bytes:
        """The last event."""
        return self._added(lambda: self._log.fail(error))

    def end(self) -> bytes:
        """What is left."""
        return b"".join(self._new())

    def _added(self, add: Callable[[], None]) -> bytes:
        add()
        return b"".join(self._new())

    def _new(self) -> Iterator[bytes]:
        first, events = self._position, self._log.after(self._position)
        self._position += len(events)
        if not self._numbers:
            return iter(events)
        return (numbered(event, first + number) for number, event in enumerate(events))


class NumberedEvents:
    """An EventWriter that numbers the events of another one, for clients that ask for it.

    An event of a chunk gets a line `id: N`, which the client sends as Last-Event-ID to get what
    follows (HTML standard, 9.2.4). Those up to `after` are left out. Keep-alives have no number:
    other readers of the same answer have others.
    """

    def __init__(self, writer: EventWriter, after: int) -> None:
        self._writer, self._after = writer, after
        self._next = 0
        self.shows_progress = writer.shows_progress

    @property
    def is_open(self) -> bool:
        return self._writer.is_open

    @property
    def is_complete(self) -> bool:
        return self._writer.is_complete

    def begin(self) -> Iterator[bytes]:
        """The other's first events."""
        return self._numbered(self._writer.begin())

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """The other's events of a chunk."""
        return self._numbered(self._writer.chunk(chunk))

    def comment(self, text: str) -> bytes:
        """The other's comment."""
        return self._writer.comment(text)

    def keep_alive(self) -> bytes:
        """The other's event without news."""
        return self._writer.keep_alive()

    def progress(self, text: str) -> bytes:
        """The other's line about the wait."""
        return self._writer.progress(text)

    def error(self, error: ProxyError) -> bytes:
        """The other's error."""
        return self._writer.error(error)

    def end(self) -> bytes:
        """The other's end."""
        return self._writer.end()

    def _numbered(self, events: Iterable[bytes]) -> Iterator[bytes]:
        for event in events:
            number, self._next = self._next, self._next + 1
            if number > self._after:
                yield numbered(event, number)


def numbered(event: bytes, number: int) -> bytes:
    """The event with its number, in a line before the others."""
    return b"id: %d\n" % number + event
