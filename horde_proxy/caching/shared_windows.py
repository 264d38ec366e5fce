"""Windows of calls that several processes count together, in a storage that they share.

    UP    each call counts in the storage; the first that fails makes it DOWN
    DOWN  calls count in this process's memory at once. Every five seconds one background thread
          checks the storage; when it answers, the state is UP

So a storage that hangs costs the callers of that moment SOCKET_SECONDS, once for each outage. The
storage is not asked what it is: a Redis, or a fake in a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from limits.errors import StorageError
from limits.storage import MovingWindowSupport, Storage

from horde_proxy.caching.background import in_background
from horde_proxy.caching.redis import Outage
from horde_proxy.windows import MemoryWindows

T = TypeVar("T")


class WindowStorage(Protocol):
    """A storage of `limits` for fixed and for moving windows. It raises StorageError."""

    def incr(self, key: str, expiry: int, amount: int = 1) -> int: ...
    def get(self, key: str) -> int: ...
    def get_expiry(self, key: str) -> float: ...
    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool: ...
    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]: ...
    def check(self) -> bool: ...
    def clear(self, key: str) -> None: ...
    def reset(self) -> int | None: ...


class SharedWindows(Storage, MovingWindowSupport):
    """A storage of `limits` that falls back to this process's memory. Thread-safe.

    `open_storage` is called at the first use, after a fork. `now` must be the storage's clock (Unix
    s); `what` is for the log: "calls are counted".
    """

    # Storage requires it: errors that it may wrap. None leaves this class.
    base_exceptions = StorageError

    def __init__(
        self,
        open_storage: Callable[[], WindowStorage],
        what: str,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        super().__init__()
        self._open_storage, self._run = open_storage, run
        # Any thread may set it at the first use: of two that are made at once, one is dropped.
        self._storage: WindowStorage | None = None
        self._own = MemoryWindows(now)
        self._outage = Outage(what, clock=clock)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self._ask(lambda storage: storage.incr(key, expiry, amount))

    def get(self, key: str) -> int:
        return self._ask(lambda storage: storage.get(key))

    def get_expiry(self, key: str) -> float:
        return self._ask(lambda storage: storage.get_expiry(key))

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return self._ask(lambda storage: storage.acquire_entry(key, limit, expiry, amount))

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        return self._ask(lambda storage: storage.get_moving_window(key, limit, expiry))

    def check(self) -> bool:
        return self._ask(lambda storage: storage.check())

    def clear(self, key: str) -> None:
        self._own.clear(key)
        self._ask(lambda storage: storage.clear(key))

    def reset(self) -> int | None:
        self._own.reset()
        return self._ask(lambda storage: storage.reset())

    def _ask(self, call: Callable[[WindowStorage], T]) -> T:
        """The answer of the shared storage, or of our own while that one is DOWN."""
        if self._outage.is_down:
            if self._outage.may_call():
                self._look_later()
            return call(self._own)
        try:
            return call(self._shared())
        except StorageError as exc:
            self._outage.failed(exc)
            return call(self._own)

    def _shared(self) -> WindowStorage:
        storage = self._storage = self._storage or self._open_storage()
        return storage

    def _look_later(self) -> None:
        try:
            self._run(self._look)
        except RuntimeError as exc:  # "can't start new thread"
            self._outage.failed(exc)

    def _look(self) -> None:
        try:
            is_up = self._shared().check()
        except StorageError:
            is_up = False
        if is_up:
            self._outage.succeeded()
