"""The limits of a key: requests a minute and at once; tokens, kudos and images a day.

Requests are counted in this process. A day's usage comes from the usage recorder, which shares it
through the database. There is no other I/O here.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable

from horde_proxy.errors import DailyLimitReached, RateLimited
from horde_proxy.ledger.keys import ClientKey
from horde_proxy.ledger.usage import UsageRecorder
from horde_proxy.windows import CallWindows

_MINUTE = 60
_DAY = 86400
_UNTIL_ONE_ENDS = 5
"""The Retry-After (s) for a key with too many running requests: a guess, for nobody knows."""


class KeyLimits:
    """Admits the requests of keys. Keys without limits are not counted."""

    def __init__(
        self,
        usage: UsageRecorder,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._usage, self._now = usage, now
        self._started = CallWindows("requests", _MINUTE, clock=clock)
        # Guards the counts of running requests. No I/O happens under it.
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()

    def admit(self, key: ClientKey, *, makes_images: bool = False) -> Callable[[], None]:
        """Count a request. Call the returned function when it ends. Raises RateLimited.

        A refused request is not counted. Usage is known only at the end of a request, so requests
        that are running when a daily limit is reached may exceed it.
        """
        # The window of calls comes last, because a call that it has counted cannot be taken back.
        self._check_day(key, makes_images=makes_images)
        release = self._acquire(key.name, key.concurrent)
        if key.requests_per_minute is not None:
            wait = self._started.hit(key.name, key.requests_per_minute)
            if wait:
                release()
                raise _too_many_a_minute(key.requests_per_minute, wait)
        return release

    def _check_day(self, key: ClientKey, *, makes_images: bool) -> None:
        # Texts go on when a day's images are used up.
        most_images = key.images_per_day if makes_images else None
        if (key.tokens_per_day, key.kudos_per_day, most_images) == (None, None, None):
            return
        used = self._usage.used_today(key.name)
        if key.tokens_per_day is not None and used.tokens >= key.tokens_per_day:
            raise self._day_is_over(f"{key.tokens_per_day} tokens", f"{used.tokens}")
        if key.kudos_per_day is not None and used.kudos >= key.kudos_per_day:
            raise self._day_is_over(f"{key.kudos_per_day:g} kudos", f"{used.kudos:g}")
        if most_images is not None and used.images >= most_images:
            raise self._day_is_over(f"{most_images} images", f"{used.images}")

    def _day_is_over(self, limit: str, used: str) -> DailyLimitReached:
        wait = max(1, math.ceil(_DAY - self._now() % _DAY))
        return DailyLimitReached(
            f"This key may use {limit} a day and has used {used}; the next request is allowed "
            f"at midnight UTC, in {wait} s.",
            retry_after=wait,
        )

    def _acquire(self, name: str, limit: int | None) -> Callable[[], None]:
        """Take one of the key's places for running requests. The function that releases it."""
        if limit is None:
            return _release_nothing
        with self._lock:
            if self._running[name] >= limit:
                raise _too_many_at_once(limit)
            self._running[name] += 1
        # Both the end of the response and an error may call `release`.
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


def _too_many_at_once(limit: int) -> RateLimited:
    return RateLimited(
        f"This key may have {limit} request{'s' * (limit != 1)} at once; the next one "
        "is allowed when one of them has ended.",
        retry_after=_UNTIL_ONE_ENDS,
    )


def _too_many_a_minute(limit: int, wait: int) -> RateLimited:
    return RateLimited(
        f"This key may make {limit} request{'s' * (limit != 1)} a minute; the next one "
        f"in {wait} s.",
        retry_after=wait,
    )


def _release_nothing() -> None:
    """The end of a request that holds no place."""
