"""The gate before the horde: who may submit when, so that the horde never has to refuse.

Submits of all threads keep the pace that the horde allows an address and a key, and an account
has no more jobs waiting than it may. Whoever must wait stands in a line: chats of one client in
the order of their arrival, clients in turn.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from limits import RateLimitItem, parse_many
from limits.errors import StorageError
from limits.storage import MemoryStorage, Storage
from limits.strategies import MovingWindowRateLimiter

from horde_proxy.key_digest import key_digest
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import Waiting

SLICE = 0.9
"""Between two Waitings (s)."""
_LEAST_PAUSE = 0.02
_STEP = 0.25
_SOON = 4
_ADDRESS = "address"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What the horde allows, in the notation of `limits`, e.g. "2/second"; empty: no limit."""

    address: Sequence[str] = ("2/second", "90/minute")
    key: Sequence[str] = ("2/second",)


@dataclass(eq=False)
class Ticket:
    """A chat's place at the gate. It keeps the order of its arrival for all of its segments."""

    key: str
    client: str
    number: int
    n: int = 1
    concurrency: int = 1


class SubmitQueue:
    """`concurrency` tells how many jobs of an API key may wait on the horde.

    `now` is the storage's idea of time (s). A `shared` storage counts for other processes too:
    there a submit counts from the moment that it may be made.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        sleep: Callable[[float], None],
        concurrency: Callable[[str], int],
        storage: Callable[[], Storage] = MemoryStorage,
        shared: Callable[[], Storage] | None = None,
        now: Callable[[], float] = time.time,
        observer: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._address_limits = _parsed(limits.address)
        self._key_limits = _parsed(limits.key)
        self._has_pace = bool(self._address_limits or self._key_limits)
        self._sleep, self._now, self._concurrency = sleep, now, concurrency
        self._storage, self._shared_storage = storage, shared
        self._observer = observer
        self._limiter: MovingWindowRateLimiter | None = None
        self._shared: MovingWindowRateLimiter | None = None
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._lines: dict[str, deque[Ticket]] = {}
        self._turns: deque[str] = deque()
        self._sending: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._held_until: dict[str, float] = {}

    def place(self, api_key: str, client: str) -> Ticket:
        """A new chat's place, after all that have come before."""
        return Ticket(key_digest(api_key)[:32], client, next(self._numbers))

    def pass_through(self, place: Ticket, api_key: str, n: int) -> Generator[Waiting, None, None]:
        """Waitings until the chat may submit n jobs, which it then does within `sending`.

        Closing the generator leaves the line.
        """
        place = replace(place, n=n, concurrency=self._concurrency(api_key))
        since: float | None = None
        with self._lock:
            self._line_up(place)
        try:
            while (pause := self._pause(place)) > 0:
                since = self._now() if since is None else since
                yield Waiting("held back", self.position(place), None)
                self._sleep(min(pause, SLICE))
                place.concurrency = self._concurrency(api_key)
        finally:
            with self._lock:
                self._leave(place)
            if since is not None:
                self._observer.held_back(self._now() - since)

    @contextmanager
    def sending(self, place: Ticket) -> Iterator[None]:
        """Around the submit itself, which counts from its end: the horde saw it before that."""
        try:
            yield
        finally:
            with self._lock:
                _add(self._sending, _ADDRESS, -1)
                _add(self._sending, place.key, -1)
                for item, identity in self._limits_of(place):
                    self._strategy().hit(item, identity)

    def count_waiting(self, place: Ticket, n: int) -> None:
        """Count n jobs that wait on the horde; fewer, when negative: popped or cancelled."""
        with self._lock:
            _add(self._waiting, place.key, n)

    def hold(self, place: Ticket, seconds: float) -> None:
        """The horde said that this key has too much waiting: nothing of it for some seconds."""
        with self._lock:
            now = self._now()
            self._held_until = {
                key: until for key, until in self._held_until.items() if until > now
            }
            self._held_until[place.key] = max(self._held_until.get(place.key, 0.0), now + seconds)

    def position(self, place: Ticket) -> int:
        """1 for who is next: who stands before it, when clients take turns."""
        with self._lock:
            line = self._lines.get(place.client, ())
            ahead = line.index(place) if place in line else 0
            others = (each for client, each in self._lines.items() if client != place.client)
            return 1 + ahead + sum(min(len(other), ahead + 1) for other in others)

    def _line_up(self, place: Ticket) -> None:
        if place.client not in self._lines:
            self._lines[place.client] = deque()
            self._turns.append(place.client)
        line = self._lines[place.client]
        at = next((i for i, other in enumerate(line) if other.number > place.number), len(line))
        line.insert(at, place)

    def _leave(self, place: Ticket) -> None:
        line = self._lines.get(place.client, deque())
        if place in line:
            line.remove(place)
            if not line:
                del self._lines[place.client]
                self._turns.remove(place.client)

    def _pause(self, place: Ticket) -> float:
        """Seconds to wait; 0 when it is this chat's turn, which is then taken."""
        with self._lock:
            ahead = self._lines[place.client].index(place)
            if self._has_pace and ahead == 0:
                before = itertools.takewhile(lambda client: client != place.client, self._turns)
                ahead = sum(
                    self._until_key_allowed(self._lines[each][0]) <= 0
                    for each in itertools.islice(before, _SOON + 1)
                )
            if self._has_pace and ahead:
                return max(min(ahead - 1, _SOON) * _STEP, _LEAST_PAUSE)
            pause = self._until_allowed(place) or self._until_shared(place)
            if pause <= 0:
                self._turns.remove(place.client)
                self._turns.append(place.client)
                self._leave(place)
                self._sending.update((_ADDRESS, place.key))
            return pause

    def _until_allowed(self, place: Ticket) -> float:
        """Seconds until the limits have room for one more; 0 is now."""
        address = self._window(self._address_limits, _ADDRESS)
        return max(address, self._until_key_allowed(place))

    def _until_key_allowed(self, place: Ticket) -> float:
        if self._waiting[place.key] + place.n > max(place.concurrency, place.n):
            return SLICE / 2
        held = self._held_until.get(place.key, 0.0) - self._now()
        return max(held, self._window(self._key_limits, place.key))

    def _window(self, items: Sequence[RateLimitItem], identity: str) -> float:
        pause = 0.0
        for item in items:
            stats = self._strategy().get_window_stats(item, identity)
            if stats.remaining - self._sending[identity] < 1:
                pause = max(pause, stats.reset_time - self._now(), _LEAST_PAUSE)
        return pause

    def _until_shared(self, place: Ticket) -> float:
        """Seconds until all processes together have room; 0 takes it. Without a storage: 0."""
        if self._shared_storage is None:
            return 0.0
        try:
            self._shared = self._shared or MovingWindowRateLimiter(self._shared_storage())
            for item, identity in self._limits_of(place):
                stats = self._shared.get_window_stats(item, identity)
                if stats.remaining < 1:
                    return max(stats.reset_time - self._now(), _LEAST_PAUSE)
            taken = [self._shared.hit(item, identity) for item, identity in self._limits_of(place)]
        except StorageError as exc:
            log.warning("submits are counted in this process only now: %s", exc)
            self._shared_storage = None
            return 0.0
        return 0.0 if all(taken) else _STEP

    def _limits_of(self, place: Ticket) -> Iterator[tuple[RateLimitItem, str]]:
        yield from ((item, _ADDRESS) for item in self._address_limits)
        yield from ((item, place.key) for item in self._key_limits)

    def _strategy(self) -> MovingWindowRateLimiter:
        """Made at the first use: the storage may start a thread, and connect."""
        self._limiter = self._limiter or MovingWindowRateLimiter(self._storage())
        return self._limiter


def _add(counts: Counter[str], name: str, number: int) -> None:
    counts[name] += number
    if not counts[name]:
        del counts[name]


def _parsed(limits: Sequence[str]) -> list[RateLimitItem]:
    return [item for each in limits for item in parse_many(each)]
