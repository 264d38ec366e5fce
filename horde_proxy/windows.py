"""Moving windows of calls: at most N calls in the last S seconds, counted by the library `limits`.

The counts are in this process's memory, unless the caller gives a storage that several processes
share, e.g. the RedisStorage of `limits`.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from cachetools import LRUCache
from limits.storage import MovingWindowSupport, Storage

_MOST_KEYS = 10_000
"""Windows in memory. The least recently used one is dropped first, so that a flood of addresses
or messages cannot fill the memory."""


class CallWindows:
    """Counts calls by name within the last `seconds`. Thread-safe.

    `label` keeps these names apart from those of other windows in a shared storage. `clock` must
    be the storage's clock: time.time if several processes share it.
    """

    def __init__(
        self,
        label: str,
        seconds: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        storage: MovingWindowSupport | None = None,
    ) -> None:
        self._label, self._seconds, self._clock = label, seconds, clock
        self._storage = storage or MemoryWindows(clock)

    def hit(self, name: str, limit: int) -> int:
        """Count a call and return 0; at the limit, count nothing and return the seconds to wait."""
        if self._storage.acquire_entry(self._key(name), limit, self._seconds):
            return 0
        return max(1, self.wait(name, limit))

    def wait(self, name: str, limit: int) -> int:
        """Whole seconds until one more call is allowed, 0 if it is allowed now. Counts nothing."""
        oldest, count = self._storage.get_moving_window(self._key(name), limit, self._seconds)
        if count < limit:
            return 0
        return max(1, math.ceil(oldest + self._seconds - self._clock()))

    def _key(self, name: str) -> str:
        # Unlike the keys that `limits` makes, this one does not contain the limit: when new
        # settings lower a limit, the calls before the change still count.
        return f"{self._label}/{name}"


class MemoryWindows(Storage, MovingWindowSupport):
    """A storage of `limits` for moving and fixed windows, in bounded memory, under a given clock.

    The MemoryStorage of `limits` (5.8) reads the machine's clock, starts a thread for nearly every
    call and keeps an empty list for each key that it ever saw.
    """

    # Storage requires it: errors that it may wrap. Memory raises none of its own.
    base_exceptions = ValueError

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # Guards the windows. No I/O happens under it.
        self._lock = threading.Lock()
        self._calls: LRUCache[str, deque[float]] = LRUCache(_MOST_KEYS)
        self._fixed: LRUCache[str, tuple[float, int]] = LRUCache(_MOST_KEYS)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether `amount` more calls fit within the last `expiry` seconds; counts them if so."""
        with self._lock:
            calls = self._recent(key, expiry)
            if len(calls) + amount > limit:
                return False
            calls.extend([self._clock()] * amount)
            self._calls[key] = calls
            return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """The time of the oldest of the last `limit` calls, and how many there are."""
        with self._lock:
            calls = self._recent(key, expiry)
            if not calls:
                return self._clock(), 0
            return calls[-min(len(calls), max(limit, 1))], len(calls)

    def _recent(self, key: str, expiry: int) -> deque[float]:
        calls = self._calls.get(key) or deque()
        while calls and calls[0] <= self._clock() - expiry:
            calls.popleft()
        return calls

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add `amount` to a fixed window. Its new count. The window starts with its first call."""
        with self._lock:
            end, count = self._window(key)
            self._fixed[key] = (end or self._clock() + expiry, count + amount)
            return count + amount

    def get(self, key: str) -> int:
        """The count of a fixed window."""
        with self._lock:
            return self._window(key)[1]

    def get_expiry(self, key: str) -> float:
        """The time at which a fixed window ends; now if it has not started."""
        with self._lock:
            return self._window(key)[0] or self._clock()

    def _window(self, key: str) -> tuple[float | None, int]:
        """(end, count) of a fixed window; (None, 0) if it has not started, or is over."""
        end, count = self._fixed.get(key, (0.0, 0))
        return (end, count) if self._clock() < end else (None, 0)

    def check(self) -> bool:
        return True

    def clear(self, key: str) -> None:
        with self._lock:
            self._calls.pop(key, None)
            self._fixed.pop(key, None)

    def reset(self) -> int:
        with self._lock:
            count = len(self._calls) + len(self._fixed)
            self._calls.clear()
            self._fixed.clear()
            return count
