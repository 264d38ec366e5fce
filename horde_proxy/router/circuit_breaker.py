"""The circuit breaker of one endpoint or model: it keeps requests away while that fails.

    up --failed--> cooling, for a cooldown that doubles with each failure in a row
     ^                |  the cooldown is over
     |                v
     +--answered-- probing: one request may try, all others are refused --failed--> cooling

Any thread may call any method. The breaker also counts running requests and measures latencies.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

_REMEMBERED_LATENCIES = 200
"""The last answers, of which `state` shows the median and the 95th percentile."""
_MAX_DOUBLINGS = 30
"""Keeps 2 ** failures small. The longest cooldown is reached long before."""


class CircuitBreaker:
    """The circuit breaker of one endpoint or model. Times are in seconds, on `clock`.

    The first cooldown lasts `cooldown`, and none lasts longer than `longest`. With a cooldown of 0,
    requests are always sent, which suits an endpoint without alternatives. `used_at` is when the
    last request began or ended.
    """

    def __init__(
        self,
        cooldown: float = 1.0,
        longest: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.running, self.used_at = 0, clock()
        self._cooldown, self._longest, self.clock = cooldown, longest, clock
        # Guards changes of `running` and of all fields below; no I/O under it. A single field may
        # be read without it.
        self._lock = threading.Lock()
        self._failures = 0
        self._cools_until = 0.0
        self._failed_at = -math.inf
        self._probe: Attempt | None = None
        self._error: str | None = None
        self._latencies: deque[float] = deque(maxlen=_REMEMBERED_LATENCIES)

    def similar(self) -> CircuitBreaker:
        """A new breaker with the same settings."""
        return CircuitBreaker(self._cooldown, self._longest, self.clock)

    def is_open(self) -> bool:
        """Whether the last outcome of a request was a failure."""
        return self._failures > 0 and self._cooldown > 0

    def has_failed_lately(self) -> bool:
        """Whether the last outcome was a failure, not longer ago than the longest cooldown."""
        return self.is_open() and self.clock() - self._failed_at <= self._longest

    def try_acquire(self) -> Attempt | None:
        """A new attempt; None while no request may be sent, see `reason`."""
        with self._lock:
            # After a failure one request at a time may try whether the endpoint answers again.
            is_probe = self.is_open()
            if is_probe and (self._probe is not None or self.clock() < self._cools_until):
                return None
            self.running += 1
            self.used_at = self.clock()
            attempt = Attempt(self, self.used_at)
            self._probe = attempt if is_probe else None
            return attempt

    def reason(self) -> str:
        """Why no request may be sent now."""
        if self.cooldown_left():
            return f"cooling down for {self.cooldown_left()} s after: {self._error}"
        return f"being tried again after: {self._error}"

    def cooldown_left(self) -> int:
        """Whole seconds until the next attempt; 0 if it may be made now."""
        return math.ceil(self.seconds_left())

    def seconds_left(self) -> float:
        """The exact seconds until the next attempt; 0 if it may be made now."""
        return max(self._cools_until - self.clock(), 0.0) if self._cooldown else 0.0

    def state(self) -> dict[str, Any]:
        """{"state", "retry_in", "last_error", "running", "latency"} as JSON; in seconds."""
        with self._lock:
            latencies = sorted(self._latencies)
        cooling = self.cooldown_left()
        # An endpoint without alternatives never cools down, but it is not up for that.
        failed = "probing" if self._cooldown else "down"
        return {
            "state": "cooling" if cooling else failed if self._failures else "up",
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
        with self._lock:
            self._latencies.append(self.clock() - attempt.began)
            self._failures, self._cools_until = 0, 0.0

    def _failed(self, attempt: Attempt, reason: str, seconds: float | None) -> None:
        with self._lock:
            now, pause, self._error = self.clock(), 0.0, reason
            # Of many requests in one outage, only the first failure counts. The other requests
            # began before that failure, and must not double the cooldown.
            if attempt.began >= self._failed_at:
                doublings = min(self._failures, _MAX_DOUBLINGS)
                pause = min(self._cooldown * 2**doublings, self._longest)
                self._failures, self._failed_at = self._failures + 1, now
            # A server may ask for a longer or shorter pause than ours, but not for less than the
            # first cooldown. A failure that does not count (pause 0) may only prolong a cooldown.
            until = now + max(pause if seconds is None else seconds, pause and self._cooldown)
            self._cools_until = max(self._cools_until, until) if self._cooldown else 0.0

    def _noted(self, reason: str) -> None:
        with self._lock:
            self._error = reason

    def _ended(self, attempt: Attempt) -> None:
        with self._lock:
            self.running -= 1
            self.used_at = self.clock()
            if attempt is self._probe:
                self._probe = None


class Attempt:
    """One request to an endpoint. The caller that acquired it must always `end` it."""

    def __init__(self, breaker: CircuitBreaker, began: float) -> None:
        self.began = began
        self._breaker: CircuitBreaker | None = breaker

    def answered(self) -> None:
        """Record that the endpoint answered. Its failures are forgotten."""
        if self._breaker:
            self._breaker._answered(self)

    def failed(self, reason: str, seconds: float | None = None) -> None:
        """Record that the endpoint failed. `seconds`: the cooldown that it asked for, if any."""
        if self._breaker:
            self._breaker._failed(self, reason, seconds)

    def noted(self, reason: str) -> None:
        """Record an error that is not a failure of this breaker; `state` shows it."""
        if self._breaker:
            self._breaker._noted(reason)

    def end(self) -> None:
        """End the attempt. Idempotent."""
        breaker, self._breaker = self._breaker, None
        if breaker:
            breaker._ended(self)
