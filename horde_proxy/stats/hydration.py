"""Keeps the horde's data fresh in the background, so that no request has to wait for a fetch.

There is one thread for each horde, from the first request on. If several proxies share a Redis,
only the thread of one of them works. It only begins loads, and knows nothing of the data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from horde_proxy.caching.background import in_background
from horde_proxy.caching.lazy_thread import LazyThread
from horde_proxy.errors import ShuttingDown


@dataclass(frozen=True)
class HydrationSchedule:
    """When the data is loaded, in seconds: after `delay`, then every `interval`.

    Up to `jitter` is added to each pause, so that proxies do not all call the horde at once.
    """

    # Requests wait for a document that is older than twice its ttl, and the ttl of the fast ones is
    # 30 s (horde.cache_ttl). So the interval with its jitter stays below 60 s.
    interval: float = 50.0
    delay: float = 5.0
    jitter: float = 5.0


class Hydrator:
    """After `start`, calls `load` in a background thread, whenever `try_lead` allows it.

    `sleep` ends the thread by raising ShuttingDown. Without a schedule, there is no thread.
    """

    def __init__(
        self,
        load: Callable[[], None],
        schedule: HydrationSchedule | None,
        *,
        try_lead: Callable[[float], bool] = lambda seconds: True,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] | None = None,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._load, self._schedule, self._try_lead = load, schedule, try_lead
        # Chance spreads the loads of several proxies; nobody gains by guessing it.
        self._sleep, self._chance = sleep, chance or Random().random  # noqa: S311
        self._thread = LazyThread(self._hydrate, run)
        # One that is stopped is not started any more.
        self._is_stopped = schedule is None

    def start(self) -> None:
        """Start the thread unless it was started before. Cheap enough for every request."""
        if not self._is_stopped:
            self._thread.ensure_started()

    def stop(self) -> None:
        """End the thread after its current pause."""
        self._is_stopped = True

    def _hydrate(self) -> None:
        schedule = self._schedule or HydrationSchedule()
        try:
            self._pause(schedule.delay, schedule)
            while not self._is_stopped:
                # Two intervals, so that a leader stays the leader, and another proxy takes over
                # soon after it has died.
                if self._try_lead(2 * schedule.interval):
                    self._load()
                self._pause(schedule.interval, schedule)
        except ShuttingDown:
            return

    def _pause(self, seconds: float, schedule: HydrationSchedule) -> None:
        self._sleep(seconds + schedule.jitter * self._chance())
