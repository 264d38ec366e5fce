"""How an upstream fares: what runs there, how quickly it answers, and whether it is left alone."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

_REMEMBERED = 200


class CircuitBreaker:
    """Of one upstream. Times are seconds of `clock`.

    After a failure it cools for `cooldown`, doubled with each further one up to `longest`; then
    one request probes it, and the others follow once that was answered. 0: it never cools, as
    suits one that has no other beside it.
    """

    def __init__(
        self,
        cooldown: float = 1.0,
        longest: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.running = 0
        self._cooldown, self._longest, self._clock = cooldown, longest, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._cools_until = 0.0
        self._failed_at = -math.inf
        self._probe: Attempt | None = None
        self._error: str | None = None
        self._latencies: deque[float] = deque(maxlen=_REMEMBERED)

    def ask(self) -> Attempt | None:
        """An attempt that may be made now, or None; see `why_not`."""
        with self._lock:
            is_probe = self._failures > 0 and self._cooldown > 0
            if is_probe and (self._probe is not None or self._clock() < self._cools_until):
                return None
            self.running += 1
            attempt = Attempt(self, self._clock())
            self._probe = attempt if is_probe else None
            return attempt

    def why_not(self) -> str:
        """Why it is not asked now."""
        if self.cools_for():
            return f"left alone for {self.cools_for()} s after: {self._error}"
        return f"being tried again after: {self._error}"

    def cools_for(self) -> int:
        """Whole seconds until it may be asked again, 0 for now."""
        left = self._cools_until - self._clock()
        return math.ceil(left) if left > 0 and self._cooldown else 0

    def state(self) -> dict[str, Any]:
        """{"state", "retry_in", "last_error", "running", "latency"} as JSON; seconds."""
        with self._lock:
            latencies = sorted(self._latencies)
        cooling = self.cools_for()
        is_doubtful = self._failures > 0 and self._cooldown > 0
        return {
            "state": "cooling" if cooling else "probing" if is_doubtful else "up",
            "retry_in": cooling or None,
            "last_error": self._error,
            "running": self.running,
            "latency": {
                "count": len(latencies),
                "p50": round(statistics.median(latencies), 4) if latencies else None,
                "p95": round(latencies[int(len(latencies) * 0.95)], 4) if latencies else None,
            },
        }

    def _answered(self, attempt: Attempt) -> None:
        self._latencies.append(self._clock() - attempt.began)
        if self._failures:
            with self._lock:
                self._failures, self._cools_until = 0, 0.0

    def _failed(self, attempt: Attempt, reason: str, seconds: float | None) -> None:
        """What began before the last failure is of the same outage, and makes it no longer."""
        with self._lock:
            now, pause, self._error = self._clock(), 0.0, reason
            if attempt.began >= self._failed_at:
                pause = min(self._cooldown * 2 ** min(self._failures, 30), self._longest)
                self._failures, self._failed_at = self._failures + 1, now
            until = now + max(pause if seconds is None else seconds, pause and self._cooldown)
            self._cools_until = max(self._cools_until, until) if self._cooldown else 0.0

    def _ended(self, attempt: Attempt) -> None:
        with self._lock:
            self.running -= 1
            if attempt is self._probe:
                self._probe = None


class Attempt:
    """One request to an upstream, which `end` ends, whatever became of it."""

    def __init__(self, health: CircuitBreaker, began: float) -> None:
        self.began = began
        self._health: CircuitBreaker | None = health

    def answered(self) -> None:
        """It answers: its failures are forgotten."""
        if self._health:
            self._health._answered(self)

    def failed(self, reason: str, seconds: float | None = None) -> None:
        """It failed, and wants to be left alone for so many seconds (None: for a cooldown)."""
        if self._health:
            self._health._failed(self, reason, seconds)

    def end(self) -> None:
        """Nothing of it runs any more. May be called again."""
        health, self._health = self._health, None
        if health:
            health._ended(self)
