"""What several proxies know together: the horde's documents in a Redis, and who fetches them.

Without the Redis each does by itself. A failure is never an error here: it is logged once until
the Redis answers again, and it is not asked meanwhile for some seconds.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from redis import Redis

KEPT = 3600
"""How long the last good document is served while the horde is gone (s)."""
DOWN_SECONDS = 5.0
"""How long a Redis that failed is left alone."""
PATIENCE = 1.5
"""How long somebody who knows nothing waits for another proxy's fetch (s)."""
_STEP = 0.05
_FREE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end"

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Document:
    """One answer of the horde. `at`: when it was fetched (Unix s); `age` when it came here (s)."""

    value: Any
    at: float
    age: float = 0.0


def connected(url: str) -> Redis:
    """A client for that Redis, which connects at the first use and gives up soon."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return Redis.from_url(
        url, socket_connect_timeout=0.5, socket_timeout=1.0, retry=Retry(NoBackoff(), 1)
    )


class SharedDocuments:
    """Documents by name under one prefix. `connect` is called at the first use, after a fork."""

    def __init__(
        self,
        connect: Callable[[], Redis],
        prefix: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connect, self._prefix = connect, prefix
        self._clock, self._sleep = clock, sleep
        self._client: Redis | None = None
        self._token = uuid.uuid4().hex
        self._down_until = 0.0
        self._is_down = False

    def last(self, name: str) -> Document | None:
        """The document that was fetched last by any proxy, at most an hour old."""
        key, nothing = self._key(name), _Read(None, 0)
        text, left = self._ask(lambda redis: _read(redis, key), nothing)
        age = KEPT - left / 1000
        try:
            found: Any = json.loads(text) if text else {}
            return Document(found["value"], float(found["at"]), max(age, 0.0))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def load(
        self,
        name: str,
        fetch: Callable[[], Document],
        *,
        max_age: float,
        lease: float,
        is_known: bool,
    ) -> Document:
        """The shared document when it is young enough, else what `fetch` gives, shared.

        One proxy fetches, for at most `lease` seconds. The others wait for it; who knows nothing
        yet does not wait long, and then fetches too.
        """
        until = self._clock() + (lease + 1 if is_known else PATIENCE)
        while True:
            if found := self._young(name, max_age):
                return found
            token = self._take(name, lease)
            if token is not None or self._clock() >= until:
                break
            self._sleep(_STEP)
        try:
            return (self._young(name, max_age) if token else None) or self._put(name, fetch())
        finally:
            if token:
                self._free(name, token)

    def lead(self, seconds: float) -> bool:
        """Whether this proxy is the one that keeps the documents warm, for so many seconds.

        Without the Redis every proxy is.
        """
        key, token, lease = self._key("hydrator"), self._token, int(seconds * 1000)

        def leads(redis: Redis) -> bool:
            if redis.set(key, token, nx=True, px=lease):
                return True
            return redis.get(key) == token.encode() and bool(redis.pexpire(key, lease))

        return self._ask(leads, True)

    def _young(self, name: str, max_age: float) -> Document | None:
        found = self.last(name)
        return found if found and found.age < max_age else None

    def _put(self, name: str, document: Document) -> Document:
        text = json.dumps({"at": document.at, "value": document.value}, separators=(",", ":"))
        self._ask(lambda redis: bool(redis.set(self._key(name), text, ex=KEPT)), False)
        return document

    def _take(self, name: str, lease: float) -> str | None:
        """A token when nobody else fetches, None when somebody does; "" without a Redis."""
        key, token, most = self._key(name) + ":lock", uuid.uuid4().hex, int(lease * 1000)
        nobody: str | None = ""
        return self._ask(lambda redis: _taken(redis, key, token, most), nobody)

    def _free(self, name: str, token: str) -> None:
        key = self._key(name) + ":lock"
        self._ask(lambda redis: bool(redis.eval(_FREE, 1, key, token)), False)

    def _key(self, name: str) -> str:
        return f"{self._prefix}:horde_api:{name}"

    def _ask(self, call: Callable[[Redis], T], otherwise: T) -> T:
        """What the call gives, or `otherwise` while the Redis is down."""
        from redis.exceptions import RedisError

        if self._clock() < self._down_until:
            return otherwise
        try:
            self._client = self._client or self._connect()
            found = call(self._client)
        except RedisError as exc:
            self._failed(exc)
            return otherwise
        if self._is_down:
            self._is_down = False
            log.info("the horde's answers are shared through Redis again")
        return found

    def _failed(self, exc: Exception) -> None:
        self._down_until = self._clock() + DOWN_SECONDS
        if not self._is_down:
            self._is_down = True
            log.warning("the horde's answers are kept in this process only now: %s", exc)


class _Read(NamedTuple):
    """The text under a key and the milliseconds that it has left."""

    text: bytes | None
    left: int


def _read(redis: Redis, key: str) -> _Read:
    both = redis.pipeline(transaction=False)
    both.get(key)
    both.pttl(key)
    return _Read(*both.execute())


def _taken(redis: Redis, key: str, token: str, lease: int) -> str | None:
    return token if redis.set(key, token, nx=True, px=lease) else None
