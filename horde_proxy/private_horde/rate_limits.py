"""How often an address or a key may call a route: fixed windows, and the values of rate headers.

This module only counts; the views decide whether to refuse a call. The limits are the real horde's
(flask-limiter, contract: limiter.py and apis/limiter_api.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil

from cachetools import TTLCache
from limits import (
    RateLimitItem,
    RateLimitItemPerHour,
    RateLimitItemPerMinute,
    RateLimitItemPerSecond,
)
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from horde_proxy.windows import MemoryWindows

# For a day after a submit by a trusted account, its address may submit faster.
_TRUST_SECONDS = 86_400.0
_MOST_TRUSTED = 10_000

_BY_ROUTE: Mapping[str, tuple[RateLimitItem, ...]] = {
    "status": (RateLimitItemPerMinute(60),),
    # A status of images makes new links, and `check` tells the rest.
    "image_status": (RateLimitItemPerMinute(10),),
    "check": (RateLimitItemPerSecond(10),),
    "worker": (RateLimitItemPerMinute(30),),
    "modes": (RateLimitItemPerMinute(30),),
    "user": (RateLimitItemPerMinute(60),),
    "transfer": (RateLimitItemPerSecond(1), RateLimitItemPerHour(90)),
    "new_shared_key": (RateLimitItemPerMinute(5),),
    # The real horde has no such route. A class may join from one address within the hour.
    "register": (RateLimitItemPerMinute(10), RateLimitItemPerHour(60)),
    "default": (RateLimitItemPerMinute(90),),
    "worker_queue": (RateLimitItemPerSecond(60),),
}
_ADDRESS_SUBMITS = (RateLimitItemPerSecond(2), RateLimitItemPerMinute(90))
_TRUSTED_ADDRESS_SUBMITS = (RateLimitItemPerSecond(10), RateLimitItemPerMinute(300))
_KEY_SUBMITS = RateLimitItemPerSecond(2)
# The anonymous key is shared by everybody, so it may be used more often than any other.
_WIDE_KEY_SUBMITS = RateLimitItemPerSecond(60)


@dataclass(frozen=True)
class ApiCall:
    """One call of a route. `key` is the digest of its API key; None if it has no key."""

    address: str
    method: str
    path: str
    key: str | None = None
    anonymous: bool = False


@dataclass(frozen=True)
class RateLimitState:
    """The tightest limit of a call. `reset` is in seconds from now.

    str(limit) is the message of a refusal: "2 per 1 second".
    """

    limit: RateLimitItem
    remaining: int
    reset: float
    exceeded: bool

    @property
    def retry_after(self) -> int:
        """Whole seconds until the window ends."""
        return max(0, ceil(self.reset))


class RateLimits:
    """The windows of all callers. Thread-safe.

    `storage` is a storage of the library `limits` with the same clock. Without it, calls are
    counted for this process only, in bounded memory.
    """

    def __init__(self, clock: Callable[[], float], storage: Storage | None = None) -> None:
        self._clock = clock
        self._limiter = FixedWindowRateLimiter(storage or MemoryWindows(clock))
        # Guards the trusted addresses. No I/O happens under it.
        self._lock = threading.Lock()
        self._trusted: TTLCache[str, bool] = TTLCache(_MOST_TRUSTED, _TRUST_SECONDS, clock)

    def hit(self, kind: str, call: ApiCall) -> RateLimitState | None:
        """Count one call. The state of its tightest limit; None for a route without limits."""
        states = [self._count(limit, names) for limit, names in self._limits(kind, call)]
        return min(states, key=lambda state: (not state.exceeded, state.remaining), default=None)

    def trust(self, address: str) -> None:
        """Allow an address more submits for a day, after one by a trusted account."""
        with self._lock:
            self._trusted[address] = True

    def _is_trusted(self, address: str) -> bool:
        with self._lock:
            return address in self._trusted

    def _limits(self, kind: str, call: ApiCall) -> Iterator[tuple[RateLimitItem, tuple[str, ...]]]:
        """The limits of a call, each with the names that identify its window."""
        by_address = (call.address, call.method, call.path)
        if kind == "async":
            trusted = self._is_trusted(call.address)
            limits = _TRUSTED_ADDRESS_SUBMITS if trusted else _ADDRESS_SUBMITS
            yield from ((limit, by_address) for limit in limits)
            if call.key is not None:
                wide = trusted or call.anonymous
                yield _WIDE_KEY_SUBMITS if wide else _KEY_SUBMITS, (call.key, call.path)
        elif kind != "none":
            yield from ((limit, by_address) for limit in _BY_ROUTE[kind])

    def _count(self, limit: RateLimitItem, names: tuple[str, ...]) -> RateLimitState:
        exceeded = not self._limiter.hit(limit, *names)
        window = self._limiter.get_window_stats(limit, *names)
        return RateLimitState(limit, window.remaining, window.reset_time - self._clock(), exceeded)
