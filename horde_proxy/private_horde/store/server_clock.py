"""The time of a database server, which all hosts of one horde go by.

A host whose clock is wrong, or is set while the horde runs, would otherwise end the jobs and
requests of the others. The server is asked now and then; in between this process counts the seconds
by its monotonic clock, which nobody sets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from horde_proxy.database.errors import DatabaseError

_ASK_SECONDS = 30.0
"""Two clocks differ by some ms after that."""


class ServerClock:
    """The server's Unix time (s). `ask` returns it, and raises DatabaseError. Thread-safe.

    While the server does not answer, time goes on from its last answer. Without one, the first call
    raises DatabaseError.
    """

    def __init__(
        self, ask: Callable[[], float], ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._ticks = ask, ticks
        # (the server's time at 0 of our ticks, the ticks when it was asked), replaced as a whole.
        self._known: tuple[float, float] | None = None
        # Held by the one thread that asks; others go on with what is known. It guards nothing else.
        self._asking = threading.Lock()

    def __call__(self) -> float:
        known, ticks = self._known, self._ticks()
        if known is None:
            # All threads need it: each asks, which happens once.
            known = self._known = self._asked()
        elif ticks - known[1] >= _ASK_SECONDS and self._asking.acquire(blocking=False):
            try:
                known = self._known = self._asked()
            except DatabaseError:
                # Not again with each call.
                known = self._known = known[0], ticks
            finally:
                self._asking.release()
        return known[0] + self._ticks()

    def _asked(self) -> tuple[float, float]:
        before = self._ticks()
        server, after = self._ask(), self._ticks()
        # The answer was given about in the middle.
        return server - (before + after) / 2, after
