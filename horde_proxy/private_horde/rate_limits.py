"""How often an address or a key may call a route: fixed windows, and what the rate headers say.

It counts and reports; whether a call is turned away is decided by who asks. The limits are those of
the real horde, section 0.3 of its contract.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

_PRUNE_SECONDS = 60.0
_TRUST_SECONDS = 86_400.0
_UNITS = {1: "second", 60: "minute"}


class Limit(NamedTuple):
    """At most `calls` in `seconds`; its str is what a client is told: "2 per 1 second"."""

    calls: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.calls} per 1 {_UNITS[self.seconds]}"


class Caller(NamedTuple):
    """Who calls what; `key` is the digest of an API key, None without one or for the anonymous."""

    address: str
    method: str
    path: str
    key: bytes | None = None
    anonymous: bool = False


@dataclass(frozen=True)
class RateLimitState:
    """What the tightest limit of a call says. `reset` is in seconds from now."""

    limit: Limit
    remaining: int
    reset: float
    exceeded: bool

    @property
    def retry_after(self) -> int:
        """Whole seconds until the window ends."""
        return max(0, ceil(self.reset))


_LIMITS = {
    "status": Limit(60, 60),
    "worker": Limit(30, 60),
    "modes": Limit(30, 60),
    "default": Limit(90, 60),
}


class Rates:
    """The windows of all callers. Thread-safe; old windows are dropped once a minute."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[Hashable, tuple[float, int]] = {}
        self._trusted: dict[str, float] = {}
        self._next_prune = clock() + _PRUNE_SECONDS

    def hit(self, kind: str, caller: Caller) -> RateLimitState | None:
        """Count one call and return the tightest limit's reading; None for routes without limit."""
        with self._lock:
            now = self._clock()
            self._prune(now)
            readings = [self._count(key, limit, now) for key, limit in self._rules(kind, caller)]
        return min(readings, key=lambda each: (not each.exceeded, each.remaining), default=None)

    def trust(self, address: str) -> None:
        """Allow an address more submits for a day, as after one by a trusted account."""
        with self._lock:
            self._trusted[address] = self._clock() + _TRUST_SECONDS

    def _rules(self, kind: str, caller: Caller) -> Iterator[tuple[Hashable, Limit]]:
        place = (caller.address, caller.method, caller.path)
        if kind == "async":
            trusted = caller.address in self._trusted
            yield (place, 1), Limit(10 if trusted else 2, 1)
            yield (place, 60), Limit(300 if trusted else 90, 60)
            wide = trusted or caller.anonymous
            if caller.key is not None:
                yield (caller.key, caller.path), Limit(60 if wide else 2, 1)
        elif kind == "worker_queue":
            yield place, Limit(60, 1)
        elif kind != "none":
            yield place, _LIMITS[kind]

    def _count(self, key: Hashable, limit: Limit, now: float) -> RateLimitState:
        key = (key, limit.seconds)
        start, count = self._windows.get(key, (now, 0))
        if now >= start + limit.seconds:
            start, count = now, 0
        exceeded = count >= limit.calls
        count += not exceeded
        self._windows[key] = (start, count)
        return RateLimitState(limit, limit.calls - count, start + limit.seconds - now, exceeded)

    def _prune(self, now: float) -> None:
        if now < self._next_prune:
            return
        self._next_prune = now + _PRUNE_SECONDS
        longest = max(limit.seconds for limit in _LIMITS.values())
        self._windows = {k: w for k, w in self._windows.items() if now < w[0] + longest}
        self._trusted = {a: until for a, until in self._trusted.items() if now < until}
