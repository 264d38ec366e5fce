"""Wrong API keys, counted by the address that sent them: slowed first, then refused.

A right key is never counted and always works, also from an address whose wrong keys are refused.
The same wrong key counts once a minute: a program with an old key is told so each time, and only
trying different keys is guessing. Who compares keys is not known here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from limits.storage import MovingWindowSupport

from horde_proxy.key_digest import key_digest
from horde_proxy.windows import CallWindows

MOST_WRONG_KEYS = 10
"""Different wrong keys of one address in a minute; more are refused."""
_FREE = 3
"""So many are answered at once: people mistype, and paste the key of another server."""
_MOMENT = 0.25
"""Seconds that the answers after these wait."""
_MOST_WAITING = 16
"""Threads that wait at a time, at most: beyond that, guesses are only counted. Otherwise guesses
from many addresses would hold the threads that right keys need."""
_MINUTE = 60


class WrongKeys:
    """The wrong keys of the last minute. Thread-safe; the windows bound the memory.

    `storage` counts them for several processes; `clock` must be its clock then.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        storage: MovingWindowSupport | None = None,
    ) -> None:
        self._sleep = sleep
        self._different = CallWindows("wrong keys", _MINUTE, clock=clock, storage=storage)
        self._same = CallWindows("same wrong key", _MINUTE, clock=clock, storage=storage)
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)

    def count(self, address: str, key: str) -> int:
        """Count a wrong key of an address. 0, perhaps after a moment; or the seconds to wait."""
        name = f"{address} {key_digest(key)}"
        if self._same.wait(name, 1):
            return 0
        wait = self._different.hit(address, MOST_WRONG_KEYS)
        # A refused key is not noted: one address would fill the windows of all.
        if wait == 0:
            self._same.hit(name, 1)
            if self._different.wait(address, _FREE + 1):
                self._pause()
        return wait

    def _pause(self) -> None:
        if self._waiting.acquire(blocking=False):
            try:
                self._sleep(_MOMENT)
            finally:
                self._waiting.release()
