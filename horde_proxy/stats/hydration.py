"""Keeps the horde's data warm in the background, so that nobody has to wait for a fetch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from horde_proxy.caching.background import in_background
from horde_proxy.errors import ShuttingDown


@dataclass(frozen=True)
class HydrationSchedule:
    """When it is renewed, in seconds: after `delay`, then each `interval`; `jitter` on top."""

    interval: float = 50.0
    delay: float = 5.0
    jitter: float = 5.0


class Hydrator:
    """Calls `touch` in a thread of its own from `start` on, as long as `lead` lets it.

    `sleep` ends the thread by raising ShuttingDown. Without a rhythm it does nothing.
    """

    def __init__(
        self,
        touch: Callable[[], None],
        rhythm: HydrationSchedule | None,
        *,
        lead: Callable[[float], bool] = lambda seconds: True,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] | None = None,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._touch, self._rhythm, self._lead = touch, rhythm, lead
        self._sleep, self._chance, self._run = sleep, chance or Random().random, run
        self._lock = threading.Lock()
        self._is_started = rhythm is None
        self._is_stopped = False

    def start(self) -> None:
        """Begin, unless it has begun; cheap enough for each request."""
        if self._is_started:
            return
        with self._lock:
            if self._is_started:
                return
            self._is_started = True
        self._run(self._hydrate)

    def stop(self) -> None:
        """End at the next turn."""
        self._is_started = self._is_stopped = True

    def _hydrate(self) -> None:
        rhythm = self._rhythm or HydrationSchedule()
        try:
            self._pause(rhythm.delay, rhythm)
            while not self._is_stopped:
                if self._lead(2 * rhythm.interval):
                    self._touch()
                self._pause(rhythm.interval, rhythm)
        except ShuttingDown:
            return

    def _pause(self, seconds: float, rhythm: HydrationSchedule) -> None:
        self._sleep(seconds + rhythm.jitter * self._chance())
