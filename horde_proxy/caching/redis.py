"""Documents that several proxies share through Redis, and the handling of its outages.

One proxy at a time holds a document's lock and fetches; the others wait for the stored document:

    young document in Redis? --yes--> return it
        | no
    lock free? --yes--> fetch, store, unlock     --no--> sleep, look again, until a deadline;
                                                         then fetch as well

A failing Redis never raises an error here: each proxy then works alone. See `Outage`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from redis import Redis
    from redis.lock import Lock

LAST_GOOD_SECONDS = 3600
"""The time for which the last good document is served while its source is down."""
OUTAGE_SECONDS = 5.0
"""The pause between two attempts to reach a failed Redis: each costs SOCKET_SECONDS."""
SOCKET_SECONDS = 0.5
"""The longest wait for a connection or an answer: a healthy Redis needs milliseconds."""
PATIENCE = 1.5
"""The longest wait of a proxy without a document for another proxy's fetch (s)."""
_POLL_SECONDS = 0.05
"""The pause between two looks for another proxy's document."""

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Document:
    """A fetched document. `at`: when it was fetched (Unix s); `age`: its age on arrival (s)."""

    value: Any
    at: float
    age: float = 0.0


def redis_client(url: str) -> Redis:
    """A client that connects at its first use, and waits at most SOCKET_SECONDS for an answer."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.retry import Retry

    # One retry, because kept connections are broken after a restart of Redis. No retry after a
    # time-out, because a Redis that hangs would cost every call twice the time.
    retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    return Redis.from_url(
        url, socket_connect_timeout=SOCKET_SECONDS, socket_timeout=SOCKET_SECONDS, retry=retry
    )


class Outage:
    """Whether Redis may be called. It logs once when an outage begins, and once when it ends.

    States: UP, every caller may call. DOWN, after a failure: one caller in `pause` seconds may
    call, to find out whether Redis is up again. `what` is for the log: "submits are counted".
    """

    def __init__(
        self,
        what: str,
        *,
        pause: float = OUTAGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._pause, self._clock = what, pause, clock
        self._lock = threading.Lock()  # guards the two fields below; no I/O under it
        self._is_down = False
        self._next_call = 0.0

    @property
    def is_down(self) -> bool:
        """Whether the last call failed."""
        return self._is_down

    def may_call(self) -> bool:
        """Whether the caller may call now. While Redis is down, True reserves the attempt."""
        if not self._is_down:
            return True
        with self._lock:
            now = self._clock()
            if now < self._next_call:
                return False
            self._next_call = now + self._pause
            return True

    def failed(self, reason: Exception | str) -> None:
        """Record that a call failed."""
        with self._lock:
            was_down, self._is_down = self._is_down, True
            self._next_call = self._clock() + self._pause
        if not was_down:
            log.warning("Redis fails, so %s in this process only: %s", self._what, reason)

    def succeeded(self) -> None:
        """Record that a call succeeded."""
        if not self._is_down:
            return
        with self._lock:
            was_down, self._is_down = self._is_down, False
        if was_down:
            log.info("Redis works again, so %s for all processes", self._what)


class RedisCalls:
    """Calls of Redis that raise none of its errors. Thread-safe. `what` is for the log, see Outage.

    `connect` is called at the first use, after a fork.
    """

    def __init__(
        self,
        connect: Callable[[], Redis],
        what: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        # Any thread may set it at the first use: of two that are made at once, one is dropped.
        self._client: Redis | None = None
        self._outage = Outage(what, clock=clock)

    def __call__(self, call: Callable[[Redis], T], otherwise: T) -> T:
        """The result of the call; `otherwise` while Redis is down."""
        from redis.exceptions import RedisError

        if not self._outage.may_call():
            return otherwise
        try:
            client = self._client = self._client or self._connect()
            result = call(client)
        except RedisError as exc:
            self._outage.failed(exc)
            return otherwise
        self._outage.succeeded()
        return result


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
        self._prefix, self._clock, self._sleep = prefix, clock, sleep
        # Only the thread that keeps the documents warm uses it.
        self._leadership: Lock | None = None
        self._call = RedisCalls(connect, "the horde's documents are kept", clock=clock)

    def last(self, name: str) -> Document | None:
        """The last document that any proxy fetched; None if it is older than an hour."""
        key, absent = self._key(name), _Stored(None, 0)
        # The age follows from the time to live, which Redis counts: proxies' clocks may differ.
        text, milliseconds_left = self._call(lambda redis: _read(redis, key), absent)
        age = LAST_GOOD_SECONDS - milliseconds_left / 1000
        try:
            stored: Any = json.loads(text) if text else {}
            return Document(stored["value"], float(stored["at"]), max(age, 0.0))
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
        """The shared document if it is younger than `max_age`, else a fetched one, which is shared.

        One proxy fetches, for at most `lease` seconds, and the others wait. `is_known`: this proxy
        has an older document. Otherwise it waits at most PATIENCE, and then fetches as well.
        """
        # A second more than the lease: by then a proxy that died has lost its lock.
        deadline = self._clock() + (lease + 1 if is_known else PATIENCE)
        while True:
            if document := self._young(name, max_age):
                return document
            unlock = self._try_lock(name, lease)
            if unlock is not None or self._clock() >= deadline:
                break
            self._sleep(_POLL_SECONDS)
        if unlock is None:
            return self._store(name, fetch())
        try:
            # Another proxy may have stored its document just before it released the lock.
            return self._young(name, max_age) or self._store(name, fetch())
        finally:
            unlock()

    def try_lead(self, seconds: float) -> bool:
        """Whether this proxy is the one that keeps the documents fresh, for `seconds` from now.

        Without a working Redis, every proxy is.
        """
        return self._call(lambda redis: self._lead(redis, seconds), True)

    def _lead(self, redis: Redis, seconds: float) -> bool:
        from redis.exceptions import LockError

        lock = self._leadership
        if lock is None:
            # The token must not be bound to a thread, because any thread of this proxy may call.
            lock = self._leadership = redis.lock(
                self._key("hydrator"), timeout=seconds, blocking=False, thread_local=False
            )
        try:
            return lock.reacquire() if lock.owned() else lock.acquire()
        except LockError:
            return False  # it expired between the two calls, and another proxy has it now

    def _young(self, name: str, max_age: float) -> Document | None:
        document = self.last(name)
        return document if document and document.age < max_age else None

    def _store(self, name: str, document: Document) -> Document:
        text = json.dumps({"at": document.at, "value": document.value}, separators=(",", ":"))
        key = self._key(name)
        self._call(lambda redis: bool(redis.set(key, text, ex=LAST_GOOD_SECONDS)), False)
        return document

    def _try_lock(self, name: str, lease: float) -> Callable[[], None] | None:
        """A function that releases the lock; None while another proxy holds the lock.

        Without a working Redis, there is nothing to lock and nothing to release.
        """
        key = self._key(name) + ":lock"

        def acquire(redis: Redis) -> Callable[[], None] | None:
            # Not thread-local, so that any thread may release it.
            lock = redis.lock(key, timeout=lease, blocking=False, thread_local=False)
            return (lambda: self._unlock(lock)) if lock.acquire() else None

        alone: Callable[[], None] | None = _nothing_to_unlock
        return self._call(acquire, alone)

    def _unlock(self, lock: Lock) -> None:
        from redis.exceptions import LockError

        def release(redis: Redis) -> None:
            with suppress(LockError):  # the fetch took longer than the lease
                lock.release()

        self._call(release, None)

    def _key(self, name: str) -> str:
        return f"{self._prefix}:horde_api:{name}"


class _Stored(NamedTuple):
    """The text under a key and the milliseconds until it expires."""

    text: bytes | None
    milliseconds_left: int


def _nothing_to_unlock() -> None:
    """The release of a lock that was never taken, because Redis is down."""


def _read(redis: Redis, key: str) -> _Stored:
    # Both in one round trip.
    pipeline = redis.pipeline(transaction=False)
    pipeline.get(key)
    pipeline.pttl(key)
    return _Stored(*pipeline.execute())
