"""The queue in front of the horde: who may submit when, so that the horde never has to refuse.

Submits of all threads keep the pace that the horde allows an address and a key, and no account has
more jobs waiting than it may. fair_line.py decides whose turn it is: clients take turns, and
background work goes after all others. This module does not know what is submitted.

How the threads meet: each chat's thread waits for its own turn, in `wait_turn`:

    queued --first in line, and the limits have room--> asking   (one at a time; only with a pace
       ^                                                  |       that other processes share)
       +------- no room with the other processes ---------+
                                                          v
                        sending: reserved until the submit has ended, then counted

`_lock` guards all queues and counts. No I/O happens under it: `asking` holds no lock, and the
others see `_asking` and stay queued meanwhile.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from limits import RateLimitItem, parse_many
from limits.strategies import MovingWindowRateLimiter

from horde_proxy.key_digest import key_digest
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import HELD_BACK, Sleeper, Waiting
from horde_proxy.upstreams.fair_line import FairLine
from horde_proxy.upstreams.horde.shared_pace import LEAST_PAUSE, SharedPace
from horde_proxy.windows import MemoryWindows

_FULL_PAUSE = 0.45
"""The pause while the horde has as many waiting jobs of the key as it allows (s)."""
_STEP = 0.25
"""The pause for each chat ahead (s): at two submits a second, twice as often as turns change."""
_MAX_STEPS = 4
"""No pause is longer than so many steps: a chat ahead may leave, or be refused."""
_SHARE_OF_PEOPLE = 4
"""One of so many places of a key's waiting jobs is kept free for clients that wait."""
_ADDRESS = "address"
"""The name that submits of all keys are counted under: the horde limits our address, too."""


@dataclass(frozen=True)
class Limits:
    """What the horde allows, in the notation of `limits`, e.g. "2/second"; empty: no limit.

    The defaults are AI-Horde's, of POST generate/text/async: by address, and by registered key.
    """

    address: Sequence[str] = ("2/second", "90/minute")
    key: Sequence[str] = ("2/second",)


@dataclass(frozen=True)
class Ticket:
    """A chat's place in the order of arrival, the same for all requests that it submits.

    `key` is the digest of the API key that pays. `is_background`: nobody waits for the answer.
    `weight` is the client's in the fair line.
    """

    key: str
    client: str
    number: int
    is_background: bool = False
    weight: float = 1.0


@dataclass(eq=False)
class _Waiter:
    """A ticket that waits for its turn to submit `n` jobs.

    `concurrency`: how many jobs of its key may wait on the horde.
    """

    ticket: Ticket
    n: int
    concurrency: int

    @property
    def client(self) -> str:
        return self.ticket.client

    @property
    def number(self) -> int:
        return self.ticket.number

    @property
    def weight(self) -> float:
        return self.ticket.weight

    @property
    def is_background(self) -> bool:
        return self.ticket.is_background


class SubmitQueue:
    """One horde's queue. `concurrency` returns how many jobs of an API key may wait there.

    `now` is in Unix seconds where `shared` is given. A shared submit counts from the moment of its
    turn, a local one from its end.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        sleep: Callable[[float], None],
        concurrency: Callable[[str], int],
        shared: SharedPace | None = None,
        now: Callable[[], float] = time.time,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._address_limits = _parse(limits.address)
        self._key_limits = _parse(limits.key)
        self._has_pace = bool(self._address_limits or self._key_limits)
        self._sleep, self._now, self._concurrency = sleep, now, concurrency
        self._shared = shared if self._has_pace else None
        self._telemetry = telemetry
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._local = MovingWindowRateLimiter(MemoryWindows(now))
        self._line: FairLine[_Waiter] = FairLine()
        self._asking: _Waiter | None = None
        self._sending: Counter[str] = Counter()  # turns that are not counted yet, by name
        self._waiting: Counter[str] = Counter()  # jobs that wait on the horde, by key
        self._held_until: dict[str, float] = {}  # by key

    def new_ticket(
        self, api_key: str, client: str, *, is_background: bool = False, weight: float = 1.0
    ) -> Ticket:
        """A new chat's ticket, after those of all earlier chats of its client."""
        return Ticket(key_digest(api_key), client, next(self._numbers), is_background, weight)

    def wait_turn(
        self, ticket: Ticket, api_key: str, n: int, sleeper: Sleeper | None = None
    ) -> Generator[Waiting, None, None]:
        """Waitings until the chat may submit n jobs, which it must then do within `sending`.

        Closing the generator gives the place in the line up.
        """
        sleeper = sleeper or Sleeper(sleep=self._sleep)
        waiter = _Waiter(ticket, n, self._concurrency(api_key))
        since: float | None = None
        with self._lock:
            self._line.add(waiter)
        try:
            while (pause := self._try_turn(waiter)) > 0:
                since = self._now() if since is None else since
                yield Waiting(HELD_BACK, self._position(waiter), None)
                sleeper.wait(pause)
                # Asked outside the lock: it may have to load the account.
                waiter.concurrency = self._concurrency(api_key)
        finally:
            with self._lock:
                self._line.remove(waiter)
            if since is not None:
                self._telemetry.held_back(self._now() - since)

    @contextmanager
    def sending(self, ticket: Ticket) -> Iterator[None]:
        """The context of the submit. It counts from its end: the horde saw it before that."""
        try:
            yield
        finally:
            with self._lock:
                _add(self._sending, _ADDRESS, -1)
                _add(self._sending, ticket.key, -1)
                for item, name in self._limits_of(ticket):
                    self._local.hit(item, name)

    def count_waiting(self, ticket: Ticket, n: int) -> None:
        """Count n jobs that wait on the horde; a negative n those that were popped or cancelled."""
        with self._lock:
            _add(self._waiting, ticket.key, n)

    def hold_key(self, ticket: Ticket, seconds: float) -> None:
        """Let no chat of this key submit for some seconds, after the horde refused one."""
        with self._lock:
            now = self._now()
            self._held_until = {
                key: until for key, until in self._held_until.items() if until > now
            }
            self._held_until[ticket.key] = max(self._held_until.get(ticket.key, 0), now + seconds)

    def _try_turn(self, waiter: _Waiter) -> float:
        """Seconds to wait; 0 when it is this chat's turn, which is then taken."""
        with self._lock:
            pause = self._pause_in_line(waiter) or self._pause_for_limits(waiter)
            if pause <= 0 and self._asking is not None:
                pause = LEAST_PAUSE
            if pause > 0:
                return pause
            if self._shared is None:
                self._take_turn(waiter)
                return 0.0
            self._asking = waiter
        is_taken = False
        try:
            pause = self._shared.try_take(self._limits_of(waiter.ticket))
            is_taken = pause <= 0
            return pause
        finally:
            with self._lock:
                self._asking = None
                if is_taken:
                    self._take_turn(waiter)

    def _position(self, waiter: _Waiter) -> int:
        """1 for the next chat: how many submit before it, when clients take turns, and itself."""
        with self._lock:
            return self._line.position(waiter)

    # All that follows is called with the lock held.

    def _take_turn(self, waiter: _Waiter) -> None:
        """Leave the line, let the other clients go first, and reserve a submit."""
        self._line.take(waiter)
        self._sending.update((_ADDRESS, waiter.ticket.key))

    def _pause_in_line(self, waiter: _Waiter) -> float:
        """Seconds until it may be first; 0 if it is, or there is no pace to wait for."""
        if not self._has_pace:
            return 0.0
        ahead = self._line.ahead(waiter)
        if ahead == 0:
            # Clients before this one count only if they may go: a key that must wait for its own
            # limits holds nobody else up.
            before = itertools.islice(self._line.heads_before(waiter), _MAX_STEPS + 1)
            ahead = sum(self._pause_for_key(other) <= 0 for other in before)
        return max(min(ahead - 1, _MAX_STEPS) * _STEP, LEAST_PAUSE) if ahead else 0.0

    def _pause_for_limits(self, waiter: _Waiter) -> float:
        """Seconds until the limits of this process have room for one more submit; 0 is now."""
        address = self._pause_for_windows(self._address_limits, _ADDRESS)
        return max(address, self._pause_for_key(waiter))

    def _pause_for_key(self, waiter: _Waiter) -> float:
        key = waiter.ticket.key
        # A request of more jobs than the account may have is let through when nothing else waits:
        # the horde, not we, has to refuse it.
        most = waiter.concurrency
        if waiter.ticket.is_background:
            most -= most // _SHARE_OF_PEOPLE
        if self._waiting[key] + waiter.n > max(most, waiter.n):
            return _FULL_PAUSE
        held = self._held_until.get(key, 0.0) - self._now()
        return max(held, self._pause_for_windows(self._key_limits, key))

    def _pause_for_windows(self, items: Sequence[RateLimitItem], name: str) -> float:
        pause = 0.0
        for item in items:
            stats = self._local.get_window_stats(item, name)
            if stats.remaining - self._sending[name] < 1:
                pause = max(pause, stats.reset_time - self._now(), LEAST_PAUSE)
        return pause

    def _limits_of(self, ticket: Ticket) -> list[tuple[RateLimitItem, str]]:
        """Each limit that a submit counts for, with the name that it is counted under."""
        address = [(item, _ADDRESS) for item in self._address_limits]
        return address + [(item, ticket.key) for item in self._key_limits]


def _add(counts: Counter[str], name: str, number: int) -> None:
    counts[name] += number
    if not counts[name]:
        del counts[name]


def _parse(limits: Sequence[str]) -> list[RateLimitItem]:
    return [item for limit in limits for item in parse_many(limit)]
