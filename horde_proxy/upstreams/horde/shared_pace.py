"""The pace of submits that several processes keep together, counted in a storage that they share.

How the threads meet:

    UP    a chat's thread starts a background thread that asks the storage, and waits for it at
          most `patience`; on an error or a time-out the state is DOWN
    DOWN  no chat waits: the local count alone holds. Every five seconds one background thread
          checks the storage; when it answers, the state is UP

So a storage that hangs, in whatever call, costs the chats `patience` once for each outage. The
caller must hold no lock. The storage is not asked what it is: a Redis, or a fake in a test.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from limits import RateLimitItem
from limits.errors import StorageError
from limits.storage import Storage
from limits.strategies import MovingWindowRateLimiter

from horde_proxy.caching.background import in_background
from horde_proxy.caching.redis import SOCKET_SECONDS, Outage

LEAST_PAUSE = 0.02
"""The shortest pause before a chat looks again (s): two clocks may differ by as much."""
_LOST_RACE_SECONDS = 0.25
"""The pause after another process took the last free submit between our look and our hit (s)."""


class SharedPace:
    """Counts submits for all processes. `now` must be the storage's clock (Unix s).

    `storage` is made at the first use, after a fork; it raises StorageError.
    """

    def __init__(
        self,
        storage: Callable[[], Storage],
        *,
        patience: float = SOCKET_SECONDS,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._make_storage, self._patience = storage, patience
        self._now, self._run = now, run
        self._limiter: MovingWindowRateLimiter | None = None
        self._outage = Outage("submits are counted", clock=clock)

    def try_take(self, limits: Sequence[tuple[RateLimitItem, str]]) -> float:
        """Seconds until there is room for a submit; 0 if it is counted now, or the state is DOWN.

        `limits` are those that the submit counts for, each with the name that it is counted under.
        """
        if self._outage.is_down:
            if self._outage.may_call():
                self._start(self._check)
            return 0.0
        pauses: list[float] = []
        done = threading.Event()

        def ask() -> None:
            try:
                pauses.append(self._take(limits))
            except StorageError as exc:
                self._outage.failed(exc)
            finally:
                done.set()

        if self._start(ask) and not done.wait(self._patience):
            self._outage.failed(f"no answer within {self._patience} s")
        return pauses[0] if pauses else 0.0

    def _take(self, limits: Sequence[tuple[RateLimitItem, str]]) -> float:
        limiter = self._limiter = self._limiter or MovingWindowRateLimiter(self._make_storage())
        # Look at all windows before counting in any: a refused hit does not undo earlier ones.
        for item, name in limits:
            stats = limiter.get_window_stats(item, name)
            if stats.remaining < 1:
                return max(stats.reset_time - self._now(), LEAST_PAUSE)
        taken = [limiter.hit(item, name) for item, name in limits]
        return 0.0 if all(taken) else _LOST_RACE_SECONDS

    def _check(self) -> None:
        try:
            storage = self._limiter.storage if self._limiter else self._make_storage()
            is_up = storage.check()
        except StorageError:
            is_up = False
        if is_up:
            self._outage.succeeded()

    def _start(self, call: Callable[[], None]) -> bool:
        """Whether the call was started."""
        try:
            self._run(call)
        except RuntimeError as exc:  # "can't start new thread"
            self._outage.failed(exc)
            return False
        return True
