"""A fair line: whose turn it is, of clients that wait for the same thing.

Requests of one client take their turns in the order of their arrival; clients take turns with one
another, one with twice the weight twice as often. Batches and answers in the background, which
nobody waits for, go after all others.

Turns are those of start-time fair queueing (Goyal and others, 1996): a client's next turn comes
1 / weight after the last turn that anybody took, so that leaving and coming back gains nothing.
With equal weights that is a round robin. Times are whole numbers: sums of fractions differ in their
last digits, and turns at the same time would then come in another order than positions say.

It takes no lock and waits for nothing: the owner of a line calls it under its own lock.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Generic, NamedTuple, Protocol, TypeVar

_STEP = 720_720_000
"""The time between two turns of a client of weight 1. It is divisible by all numbers up to 16 and
by 1,000, so that turns of such weights, which are meant to be at the same time, are."""


class Waiter(Protocol):
    """A request in line: its client, and its number in the order of arrival.

    `is_background`: nobody waits for it. `weight` is its client's.
    """

    @property
    def client(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def weight(self) -> float: ...
    @property
    def is_background(self) -> bool: ...


W = TypeVar("W", bound=Waiter)


class _Turn(NamedTuple):
    """When it is a client's turn: those in the background last, equal times in order."""

    is_background: bool
    time: int
    number: int
    client: str


@dataclass
class _ClientLine(Generic[W]):
    """The requests of one client, first in line first, its next turn, and the time between two.

    `step` is that of the newest request: a client's weight may change while it waits.
    """

    turn: _Turn
    waiters: deque[W]
    step: int


class FairLine(Generic[W]):
    """The requests that wait, by client."""

    def __init__(self) -> None:
        self._lines: dict[tuple[bool, str], _ClientLine[W]] = {}
        self._turns: list[_Turn] = []  # of all lines, the next one first
        # The time of the latest turn that was taken, of people's and of those in the background.
        self._now = {False: 0, True: 0}
        self._count = self._turns_given = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, waiter: W) -> bool:
        line = self._lines.get(_key(waiter))
        return line is not None and waiter in line.waiters

    def add(self, waiter: W) -> None:
        """Put a request in its client's line, by its number."""
        line = self._lines.get(_key(waiter))
        step = max(1, round(_STEP / waiter.weight))
        if line is None:
            turn = self._new_turn(waiter, step)
            line = self._lines[_key(waiter)] = _ClientLine(turn, deque(), step)
        line.step = step
        # A chat's next segment comes again with its old number.
        later = (at for at, other in enumerate(line.waiters) if other.number > waiter.number)
        line.waiters.insert(next(later, len(line.waiters)), waiter)
        self._count += 1

    def remove(self, waiter: W) -> None:
        """Take a request out of its line, if it is there."""
        line = self._lines.get(_key(waiter))
        if line is None or waiter not in line.waiters:
            return
        line.waiters.remove(waiter)
        self._count -= 1
        if not line.waiters:
            del self._lines[_key(waiter)]
            self._drop_turn(line.turn)

    def take(self, waiter: W) -> None:
        """Let a request go: it leaves the line, and its client's next one lets others go first."""
        line = self._lines[_key(waiter)]
        self._now[waiter.is_background] = max(self._now[waiter.is_background], line.turn.time)
        self._drop_turn(line.turn)
        line.turn = self._new_turn(waiter, line.step)
        self.remove(waiter)

    def ahead(self, waiter: W) -> int:
        """How many requests of the same client come before this one."""
        return self._lines[_key(waiter)].waiters.index(waiter)

    def heads_before(self, waiter: W) -> Iterator[W]:
        """The first request of each client whose turn comes before that of this one's client."""
        own = self._lines[_key(waiter)].turn
        for turn in self._turns:
            if turn == own:
                return
            yield self._lines[turn.is_background, turn.client].waiters[0]

    def next(self, may_go: Callable[[W], bool]) -> W | None:
        """The request that goes next, of those that may go now."""
        for turn in self._turns:
            for waiter in self._lines[turn.is_background, turn.client].waiters:
                if may_go(waiter):
                    return waiter
        return None

    def position(self, waiter: W) -> int:
        """1 for the next one: how many go before it, when clients take turns, and itself."""
        own = self._lines[_key(waiter)]
        ahead = own.waiters.index(waiter)
        others = (line for line in self._lines.values() if line is not own)
        return 1 + ahead + sum(self._before(own, ahead, line) for line in others)

    def positions(self) -> dict[W, int]:
        """The positions of all requests, counted in one go."""
        order = sorted(
            (
                (self._order(line, ahead), waiter)
                for line in self._lines.values()
                for ahead, waiter in enumerate(line.waiters)
            ),
            key=itemgetter(0),
        )
        return {waiter: number for number, (_, waiter) in enumerate(order, 1)}

    def _order(self, line: _ClientLine[W], ahead: int) -> tuple[float, ...]:
        """What sorts requests as their turns come, with so many of the same client ahead.

        At the same time, a turn that was given already goes first, then the one that is given
        first.
        """
        turn = line.turn
        if not ahead:
            return turn.is_background, turn.time, -1, 0, turn.time, turn.number
        base = self._base(line)
        time, given = base + ahead * line.step, base + (ahead - 1) * line.step
        return turn.is_background, time, given, ahead, turn.time, turn.number

    def _base(self, line: _ClientLine[W]) -> int:
        """The time from which the turns after a client's next one are counted.

        One that was passed over takes that one late.
        """
        return max(line.turn.time, self._now[line.turn.is_background])

    def _before(self, own: _ClientLine[W], ahead: int, other: _ClientLine[W]) -> int:
        """How many requests of another client go before one with so many of its own ahead."""
        waiting = len(other.waiters)
        if other.turn.is_background != own.turn.is_background:
            return 0 if other.turn.is_background else waiting
        limit = self._order(own, ahead)
        if self._order(other, 0) > limit:
            return 0
        # The turns after the first one: those earlier than this one's, and perhaps one at its time.
        whole, rest = divmod(int(limit[1]) - self._base(other), other.step)
        if whole > 0 and not rest:
            whole -= self._order(other, whole) > limit
        return min(waiting, 1 + max(whole, 0))

    def _new_turn(self, waiter: W, step: int) -> _Turn:
        """The next turn of a client that has taken one, or comes to the line."""
        self._turns_given += 1
        time = self._now[waiter.is_background] + step
        turn = _Turn(waiter.is_background, time, self._turns_given, waiter.client)
        insort(self._turns, turn)
        return turn

    def _drop_turn(self, turn: _Turn) -> None:
        del self._turns[bisect_left(self._turns, turn)]


def _key(waiter: Waiter) -> tuple[bool, str]:
    """The key of a client's line. Background work has one of its own, so that it delays nothing."""
    return waiter.is_background, waiter.client
