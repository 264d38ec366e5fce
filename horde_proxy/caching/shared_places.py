"""Places that several processes take together, such as the requests that a key may have at once.

    take --below the limit: one script of Redis counts and adds--> held --release--> gone
                                                                    |  ^
                                        every 20 s, one thread: renewed +   killed: gone after 60 s

While Redis fails, every place is given, and those that are held are noted once it works again: the
caller counts its own process by itself.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from horde_proxy.caching.background import later_in_background
from horde_proxy.caching.redis import RedisCalls

if TYPE_CHECKING:
    from redis import Redis

LEASE_SECONDS = 60
"""For which a place is held without a renewal: what a killed process held is free after that."""
_RENEW_SECONDS = 20.0
"""Between two renewals: two of them may fail."""
# By the clock of Redis, because those of hosts differ. KEYS: a sorted set of holders by the end of
# their leases; ARGV: holder, limit, seconds.
_TAKE = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


class RedisPlaces:
    """The places that this process holds, beside those of others. Thread-safe.

    `connect` is called at the first use, after a fork.
    """

    def __init__(
        self,
        connect: Callable[[], Redis],
        prefix: str,
        *,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        run_later: Callable[[float, Callable[[], None]], None] = later_in_background,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix, self._new_id, self._run_later = prefix, new_id, run_later
        self._call = RedisCalls(connect, "requests at a time are counted", clock=clock)
        # Guards the two fields below. No I/O happens under it.
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}  # the key in Redis of each holder
        self._is_renewing = False

    def take(self, name: str, most: int) -> Callable[[], None] | None:
        """The function that gives the place back; None if `most` are taken already."""
        key, holder = f"{self._prefix}:{name}", self._new_id()
        arguments = (holder, str(most), str(LEASE_SECONDS))
        if not self._call(lambda redis: bool(redis.eval(_TAKE, 1, key, *arguments)), True):
            return None
        with self._lock:
            self._held[holder] = key
            is_first, self._is_renewing = not self._is_renewing, True
        if is_first:
            self._run_later(_RENEW_SECONDS, self._renew)
        return lambda: self._release(holder)

    def _release(self, holder: str) -> None:
        with self._lock:
            key = self._held.pop(holder, None)
        if key is not None:
            self._call(lambda redis: redis.zrem(key, holder), 0)

    def _renew(self) -> None:
        """Prolong what is held, also what was taken while Redis failed."""
        with self._lock:
            held = dict(self._held)
            self._is_renewing = bool(held)
        if not held:
            return
        try:
            self._call(lambda redis: _prolong(redis, held), None)
        finally:
            self._run_later(_RENEW_SECONDS, self._renew)


def _prolong(redis: Redis, held: dict[str, str]) -> None:
    until = int(redis.time()[0]) + LEASE_SECONDS
    pipeline = redis.pipeline(transaction=False)
    for holder, key in held.items():
        # One that is released meanwhile comes back, and is gone with its lease.
        pipeline.zadd(key, {holder: until})
        pipeline.expire(key, LEASE_SECONDS)
    pipeline.execute()
