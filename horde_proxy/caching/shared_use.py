"""Which processes use something, by its name, known to all through Redis.

    note(name, 600)       this process used it: for 600 s from now, the others see that
    is_used_elsewhere     whether another process has noted that, and its time has not passed
    claim(name, 600)      True for one process in 600 s: what is to be done is done once

It does not know what is used. While Redis fails, nobody else uses anything, and every claim is
given, as without a Redis.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING

from horde_proxy.caching.redis import RedisCalls

if TYPE_CHECKING:
    from redis import Redis


class RedisUse:
    """The uses of one process, named `process`, beside those of others. Thread-safe.

    `connect` is called at the first use, after a fork. `now` is in Unix seconds, and has to be
    about the same on all hosts.
    """

    def __init__(
        self,
        connect: Callable[[], Redis],
        prefix: str,
        process: str,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix, self._process, self._now = prefix, process, now
        self._call = RedisCalls(connect, "the use of endpoints is noted", clock=clock)

    def note(self, name: str, seconds: float) -> None:
        """Let the others see for so many seconds that this process used it."""
        key, until = self._key("used", name), self._now() + seconds

        def write(redis: Redis) -> None:
            pipeline = redis.pipeline()
            pipeline.zadd(key, {self._process: until})
            # Longer than any entry: those of other processes may have more time left.
            pipeline.expire(key, int(2 * seconds) + 60)
            pipeline.execute()

        self._call(write, None)

    def is_used_elsewhere(self, name: str) -> bool:
        """Whether another process noted a use whose seconds have not passed."""
        key = self._key("used", name)

        def read(redis: Redis) -> bool:
            redis.zremrangebyscore(key, "-inf", self._now())
            return any(member != self._process.encode() for member in redis.zrange(key, 0, -1))

        return self._call(read, False)

    def claim(self, name: str, seconds: float) -> bool:
        """Whether this process is the first one to claim it in so many seconds."""
        key = self._key("claimed", name)
        return self._call(
            lambda redis: bool(redis.set(key, self._process, nx=True, ex=max(1, int(seconds)))),
            True,
        )

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{sha256(name.encode()).hexdigest()[:16]}"
