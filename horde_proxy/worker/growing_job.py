"""One job whose text goes to the horde as it grows.

    writer thread    backend --> pieces --> queue, at last the end or an error
    job thread       takes pieces and sends what came, at most ten times a second; where nothing
                     comes it still calls a few times a second: the answer says whether to go on

What was sent is only a preview: the whole text is submitted as that of any job. A call that fails
costs nothing, since the next one sends the same text again, after the pause of a call without text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol

_SEND_SECONDS = 0.1
"""The least time between two calls: readers notice no more, and the horde has few calls."""
_SILENT_SECONDS = 0.4
"""The time after which a call without text is made: a cancel must reach the backend in a second."""

Pieces = Callable[[Callable[[], bool]], Iterator[str]]
"""Makes a text in pieces. Its argument returns True once nobody needs the text."""


@dataclass(frozen=True)
class Received:
    """The horde's answer: whether the job is cancelled, and how many characters the horde has.

    `failed`: there was no such answer. `refused`: the horde takes no more of the text.
    """

    cancelled: bool
    offset: int
    failed: bool = False
    refused: bool = False


class Send(Protocol):
    """Sends the text from an offset. The same offset comes back where that failed."""

    def __call__(self, offset: int, text: str) -> Received: ...


def in_thread(work: Callable[[], None]) -> None:
    """Run it in a thread of its own, which does not keep the process alive."""
    threading.Thread(target=work, name="job-writer", daemon=True).start()


class GrowingJob:
    """The text of one job. `is_cancelled`: the horde does not need it any more."""

    def __init__(
        self,
        send: Send,
        *,
        is_stopped: Callable[[], bool],
        clock: Callable[[], float],
        start: Callable[[Callable[[], None]], None] = in_thread,
    ) -> None:
        self.is_cancelled = False
        self._send, self._is_stopped, self._clock, self._start = send, is_stopped, clock, start
        self._arrived: SimpleQueue[str | BaseException | None] = SimpleQueue()
        self._text, self._received, self._called = "", 0, clock()
        # What came since the last call: added piece by piece, a long text would be copied as often.
        self._new: list[str] = []
        self._length = 0
        self._has_sent_text = self._has_failed = self._is_refused = False

    def run(self, make: Pieces) -> str:
        """The whole text, or what there is of it once it is cancelled. Raises what `make` raises.

        It waits for the backend to end, so that a backend has no more jobs than threads.
        """
        self._start(lambda: self._write(make))
        while True:
            try:
                piece = self._arrived.get(timeout=max(self._seconds_left(), 0.0))
            except Empty:
                piece = ""
            if isinstance(piece, BaseException):
                # A backend that was told to end may well fail.
                if self.is_cancelled:
                    return self._whole()
                raise piece
            if piece is None:
                return self._whole()
            self.take(piece)

    def take(self, piece: str) -> None:
        """Take a piece, or "" when none came for a while, and make the call that is due."""
        self._new.append(piece)
        self._length += len(piece)
        if self._seconds_left() <= 0:
            self._call()

    def _write(self, make: Pieces) -> None:
        end: BaseException | None = None
        try:
            for piece in make(lambda: self.is_cancelled or self._is_stopped()):
                # The horde refuses a text with a NUL in it.
                self._arrived.put(piece.replace("\0", ""))
        # The job thread raises it: it must never wait for a writer that has ended.
        except Exception as exc:  # noqa: BLE001
            end = exc
        self._arrived.put(end)

    def _whole(self) -> str:
        """The text so far."""
        self._text, self._new = "".join([self._text, *self._new]), []
        return self._text

    def _seconds_left(self) -> float:
        """Seconds until the next call. The first text goes at once, but not after a failure."""
        is_new = self._length > self._received
        is_new = is_new and not self._has_failed and not self._is_refused
        if is_new and not self._has_sent_text:
            return 0.0
        return self._called + (_SEND_SECONDS if is_new else _SILENT_SECONDS) - self._clock()

    def _call(self) -> None:
        # Without text the call still says whether the job is cancelled.
        text = "" if self._is_refused else self._whole()[self._received :]
        self._has_sent_text = self._has_sent_text or bool(text)
        received = self._send(self._received, text)
        # The time after the call: while a slow horde answered, many pieces may have come, and each
        # of them would be due for a call of its own.
        self._called, self._has_failed = self._clock(), received.failed
        self._is_refused = self._is_refused or received.refused
        self._received = min(received.offset, self._length)
        self.is_cancelled = self.is_cancelled or received.cancelled
