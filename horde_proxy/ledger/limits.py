"""What a key may do now: requests a minute and at once, tokens and kudos a day.

Counted in this process; only what a day has used is shared, through the book. No I/O.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from horde_proxy.errors import DailyLimitReached, RateLimited
from horde_proxy.ledger.keys import ClientKey
from horde_proxy.ledger.usage import UsageRecorder

_MINUTE = 60.0
_DAY = 86400
_UNTIL_A_PLACE = 5
"""A guess at when one of a key's requests has ended (s)."""


class KeyLimits:
    """Lets a key's requests in, or not. Keys without limits leave no trace."""

    def __init__(
        self,
        book: UsageRecorder,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._book, self._clock, self._now = book, clock, now
        self._lock = threading.Lock()
        self._starts: dict[str, deque[float]] = {}
        self._running: dict[str, int] = {}

    def admit(self, key: ClientKey) -> Callable[[], None]:
        """What to call at the request's end, once or more often. Raises RateLimited.

        A request that is refused counts for nothing. What one uses is known at its end, so
        requests that run when a day's limit is reached may go beyond it.
        """
        if key.tokens_per_day is not None or key.kudos_per_day is not None:
            self._check_day(key)
        if key.requests_per_minute is None and key.concurrent is None:
            return _nothing
        with self._lock:
            if key.concurrent is not None:
                self._check_running(key.name, key.concurrent)
            if key.requests_per_minute is not None:
                self._count_start(key.name, key.requests_per_minute)
            if key.concurrent is None:
                return _nothing
            self._running[key.name] = self._running.get(key.name, 0) + 1
        return self._release_of(key.name)

    def _check_day(self, key: ClientKey) -> None:
        spent = self._book.spent(key.name)
        if key.tokens_per_day is not None and spent.tokens >= key.tokens_per_day:
            raise self._day_is_over(f"{key.tokens_per_day} tokens", f"{spent.tokens}")
        if key.kudos_per_day is not None and spent.kudos >= key.kudos_per_day:
            raise self._day_is_over(f"{key.kudos_per_day:g} kudos", f"{spent.kudos:g}")

    def _day_is_over(self, limit: str, used: str) -> DailyLimitReached:
        wait = max(1, math.ceil(_DAY - self._now() % _DAY))
        return DailyLimitReached(
            f"This key may use {limit} a day and has used {used}; the next request is allowed "
            f"at midnight UTC, in {wait} s.",
            retry_after=wait,
        )

    def _check_running(self, name: str, limit: int) -> None:
        if self._running.get(name, 0) >= limit:
            raise RateLimited(
                f"This key may have {limit} request{'s' * (limit != 1)} at once; the next one "
                "is allowed when one of them has ended.",
                retry_after=_UNTIL_A_PLACE,
            )

    def _count_start(self, name: str, limit: int) -> None:
        now = self._clock()
        starts = self._starts.setdefault(name, deque())
        while starts and starts[0] <= now - _MINUTE:
            starts.popleft()
        if len(starts) >= limit:
            first = starts[-limit] if limit > 0 else now
            wait = max(1, math.ceil(first + _MINUTE - now))
            raise RateLimited(
                f"This key may make {limit} request{'s' * (limit != 1)} a minute; the next one "
                f"in {wait} s.",
                retry_after=wait,
            )
        starts.append(now)

    def _release_of(self, name: str) -> Callable[[], None]:
        is_held = True

        def release() -> None:
            nonlocal is_held
            with self._lock:
                if is_held:
                    is_held = False
                    self._running[name] -= 1
                    if not self._running[name]:
                        del self._running[name]

        return release


def _nothing() -> None:
    """The end of a request that holds no place."""
