"""Short texts by key that several processes share through Redis.

    UP    `get` reads the text and prolongs it in one round trip; the first that fails makes it DOWN
    DOWN  `get` has no answer, at once. Every five seconds one background thread looks whether Redis
          is up again

`put` never waits: a background thread writes. A Redis that hangs costs the callers of that moment
SOCKET_SECONDS, once for each outage.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from horde_proxy.caching.background import in_background
from horde_proxy.caching.redis import Outage

if TYPE_CHECKING:
    from redis import Redis


class RedisTexts:
    """Texts under one prefix, each for `seconds` after its last use. Thread-safe.

    `connect` is called at the first use, after a fork. `what` is for the log: "sessions are kept".
    """

    def __init__(
        self,
        connect: Callable[[], Redis],
        prefix: str,
        what: str,
        *,
        seconds: int,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._connect, self._prefix, self._seconds = connect, prefix, seconds
        self._run = run
        # Any thread may set it at the first use: of two that are made at once, one is dropped.
        self._client: Redis | None = None
        self._outage = Outage(what, clock=clock)

    def get(self, key: str) -> tuple[bool, str | None]:
        """(Whether Redis answered, the text if there is one). The text stays for `seconds` more."""
        if self._outage.is_down:
            if self._outage.may_call():
                self._later(lambda redis: redis.ping())
            return False, None
        results: list[object] = []
        is_up = self._try(lambda redis: results.extend(self._read(redis, key)))
        text = results[0] if results else None
        return is_up, text.decode("utf-8", "replace") if isinstance(text, bytes) else None

    def put(self, key: str, text: str) -> None:
        """Store a text, later. While Redis is DOWN, nothing is stored."""
        if not self._outage.is_down:
            self._later(lambda redis: redis.set(self._key(key), text, ex=self._seconds))

    def _read(self, redis: Redis, key: str) -> list[object]:
        # GETEX would do both, but Redis has it since 6.2 only.
        pipeline = redis.pipeline(transaction=False)
        pipeline.get(self._key(key))
        pipeline.expire(self._key(key), self._seconds)
        return list(pipeline.execute())

    def _later(self, call: Callable[[Redis], object]) -> None:
        try:
            self._run(lambda: self._ignored(call))
        except RuntimeError as exc:  # "can't start new thread"
            self._outage.failed(exc)

    def _ignored(self, call: Callable[[Redis], object]) -> None:
        self._try(call)

    def _try(self, call: Callable[[Redis], object]) -> bool:
        """Whether Redis did it."""
        from redis.exceptions import RedisError

        try:
            client = self._client = self._client or self._connect()
            call(client)
        except RedisError as exc:
            self._outage.failed(exc)
            return False
        self._outage.succeeded()
        return True

    def _key(self, key: str) -> str:
        return f"{self._prefix}:{key}"
