"""The limits of a key: requests a minute and at once; tokens, kudos and images a day.

Requests a minute are counted in windows, those at once in places; several processes may share both.
A day's usage comes from the usage recorder, which shares it through the database. There is no other
I/O here.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Protocol

from limits.storage import MovingWindowSupport

from horde_proxy.errors import DailyLimitReached, RateLimited
from horde_proxy.ledger.keys import ClientKey
from horde_proxy.ledger.usage import UsageRecorder
from horde_proxy.windows import CallWindows

_MINUTE = 60
_DAY = 86400
_UNTIL_ONE_ENDS = 5
"""The Retry-After (s) for a key with too many running requests: a guess, for nobody knows."""
_NOTHING_HELD = 0.01
"""Reserved kudos below this are rounding errors of additions and subtractions."""


class DayBudget:
    """The kudos that a key may spend today, for one request, which reserves what it submits."""

    def __init__(self, left: Callable[[], float], hold: Callable[[float], None]) -> None:
        self._left, self._hold = left, hold
        self._held = 0.0

    def left(self) -> float:
        """What is neither spent nor reserved, by any request of the key in this process."""
        return self._left()

    def hold(self, kudos: float) -> None:
        """Reserve so many kudos more."""
        self._held += kudos
        self._hold(kudos)

    def close(self) -> None:
        """Give back what was reserved: the request's usage is counted from now on. Idempotent."""
        held, self._held = self._held, 0.0
        self._hold(-held)


class Places(Protocol):
    """Places that several processes take together; see caching.shared_places."""

    def take(self, name: str, most: int) -> Callable[[], None] | None: ...


class KeyLimits:
    """Admits the requests of keys. Keys without limits are not counted.

    `clock` must be that of `windows`: `now` where several processes share them. `places` counts the
    running requests of all processes; those of this one are counted here, too.
    """

    def __init__(
        self,
        usage: UsageRecorder,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        windows: MovingWindowSupport | None = None,
        places: Places | None = None,
    ) -> None:
        self._usage, self._now, self._places = usage, now, places
        self._started = CallWindows("requests", _MINUTE, clock=clock, storage=windows)
        # Guards the counts of running requests, and the kudos that these reserve. No I/O happens
        # under it.
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._held = defaultdict[str, float](float)

    def budget(self, key: ClientKey) -> DayBudget | None:
        """What a request may still spend of its key's kudos; None for a key without that limit.

        Close it when the request ends.
        """
        if key.kudos_per_day is None:
            return None
        most, name = key.kudos_per_day, key.name

        def left() -> float:
            used = self._usage.used_today(name).kudos
            with self._lock:
                return most - used - self._held.get(name, 0.0)

        return DayBudget(left, lambda kudos: self._hold(name, kudos))

    def _hold(self, name: str, kudos: float) -> None:
        with self._lock:
            self._held[name] += kudos
            if abs(self._held[name]) < _NOTHING_HELD:
                del self._held[name]

    def admit(
        self, key: ClientKey, *, makes_images: bool = False, is_new: bool = True
    ) -> Callable[[], None]:
        """Count a request. Call the returned function when it ends. Raises RateLimited.

        One that is not new was counted for its minute already, and only now begins to run.
        A refused request is not counted. Usage is known only at the end of a request, so requests
        that are running when a daily limit is reached may exceed it.
        """
        # The window of calls comes last, because a call that it has counted cannot be taken back.
        self.check_day(key, images=int(makes_images))
        release = self._acquire(key.name, key.concurrent)
        if key.requests_per_minute is not None and is_new:
            wait = self._started.hit(key.name, key.requests_per_minute)
            if wait:
                release()
                raise _too_many_a_minute(key.requests_per_minute, wait)
        return release

    def check_day(self, key: ClientKey, *, images: int) -> None:
        """Raises DailyLimitReached if the key may have nothing more today, or not so many images.

        Texts, with no `images`, go on when a day's images are used up.
        """
        most_images = key.images_per_day if images else None
        if (key.tokens_per_day, key.kudos_per_day, most_images) == (None, None, None):
            return
        used = self._usage.used_today(key.name)
        if key.tokens_per_day is not None and used.tokens >= key.tokens_per_day:
            raise self._day_is_over(f"{key.tokens_per_day} tokens", f"{used.tokens}")
        if key.kudos_per_day is not None and used.kudos >= key.kudos_per_day:
            raise self._day_is_over(f"{key.kudos_per_day:g} kudos", f"{used.kudos:g}")
        if most_images is not None and used.images + images > most_images:
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
        release_own = self._acquire_own(name, limit)
        if self._places is None:
            return release_own
        release_shared = self._places.take(name, limit)
        if release_shared is None:
            release_own()
            raise _too_many_at_once(limit)

        def release() -> None:
            release_own()
            release_shared()

        return release

    def _acquire_own(self, name: str, limit: int) -> Callable[[], None]:
        """Take a place of this process. The function that releases it, once."""
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
