"""The line before an endpoint: who may send a request to it now, and who waits for a slot.

A request takes a slot before it is sent and gives it back when it has ended, so that the server
never has more of them than it can run. fair_line.py decides whose turn it is. This module does not
know what is sent.

How the threads meet: each request's thread waits for its own turn, in `wait_in_lines`; it may
be in the lines of several endpoints that serve it equally well.

    in line --a slot is free, and it is next: the thread that frees the slot gives it--> served
       |    (of several lines the first one that claims it)                             |
       +--its client has left, its time has passed, or  -> out of all lines free(), once <+
          none of its endpoints gets requests any more

`_lock` guards one line, its counts and limits. No I/O happens under it, and no second line's lock
is taken under it. A request whose client has gone, and may come back, keeps its place and is
passed over.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from horde_proxy.aihorde.names import matches_glob
from horde_proxy.errors import RateLimited
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import IN_LINE, Caller, Sleeper, Waiting
from horde_proxy.upstreams.fair_line import FairLine
from horde_proxy.upstreams.throughput import Throughput, line_seconds

_SHARE_OF_PEOPLE = 4
"""One in so many slots, and places in line, is kept free of jobs, which nobody waits for."""
_LONGEST_RETRY = 120
"""Retry-After (s), at most: openai-python obeys no longer one."""

_LONG_LINE = 50
"""Requests in line from which on all positions are counted at once, and at most each second: a
thousand that each counted the clients before it every second would use a whole core."""
_POSITIONS_AGE = 1.0
"""How long those positions are shown (s): as long as one sleep of a request in line."""


class LineFull(RateLimited):
    """The line is full, or it would take longer than the caller waits."""

    code = "line_full"


class LinesClosed(Exception):
    """None of the endpoints that a request is in line for gets requests any more."""


class LineState(NamedTuple):
    """A line at one moment: requests that run and wait, and how many may run; None: any number.

    `seconds`: how long one more request would wait; None where that was not measured.
    """

    running: int
    waiting: int
    slots: int | None
    seconds: float | None


def _always_open(index: int) -> bool:
    return True


def unknown_slots(model: str) -> int | None:
    """The slots of a server that does not tell them."""
    return None


@dataclass(frozen=True)
class LineLimits:
    """How many requests may run at a time: of the endpoint, and of each model by globs.

    `server_slots` returns what the server itself says of a model; it counts where nothing is set.
    `longest`: how many may wait.
    """

    endpoint: int | None = None
    models: Mapping[str, int] = field(default_factory=dict)
    longest: int = 100
    server_slots: Callable[[str], int | None] = unknown_slots

    def of_model(self, model: str) -> int | None:
        """How many requests for the model may run, besides what the endpoint may have."""
        for glob, slots in self.models.items():
            if matches_glob(model, glob):
                return slots
        return self.server_slots(model) if self.endpoint is None else None


class HeldSlot:
    """A slot that a request holds. Always free it."""

    def __init__(self, on_free: Callable[[bool], object]) -> None:
        self._on_free = on_free
        # Taken once, by the first of all threads that free it, and never released.
        self._freed = threading.Lock()

    def free(self, *, was_answered: bool = False) -> None:
        """Give the slot back. Idempotent. What an answer took is learned, a failure is not."""
        if self._freed.acquire(blocking=False):
            self._on_free(was_answered)


class _Claim:
    """Which of several lines gives a request its slot: the first one that takes the claim.

    `slot` is the slot that it gave, `index` that of the line. Both are set under the line's lock.
    """

    def __init__(self) -> None:
        self.slot: HeldSlot | None = None
        self.index = 0
        # Taken once, and never released. It guards nothing.
        self._taken = threading.Lock()

    def try_take(self) -> bool:
        """Whether the caller is the first."""
        return self._taken.acquire(blocking=False)


@dataclass(eq=False)
class _Entry:
    """A request in one of its lines, which has this `index` among them.

    `model` is the endpoint's own name of the model.
    """

    caller: Caller
    sleeper: Sleeper
    claim: _Claim
    model: str
    index: int
    number: int

    @property
    def client(self) -> str:
        return self.caller.client

    @property
    def weight(self) -> float:
        return self.caller.weight

    @property
    def is_background(self) -> bool:
        return self.caller.is_job


class EndpointLine:
    """The line before one endpoint, which stays the same when the settings are read again.

    Without limits, all requests are let through, and counted for the time when there are some.
    """

    def __init__(
        self,
        name: str = "",
        limits: LineLimits = LineLimits(),
        *,
        clock: Callable[[], float] = time.monotonic,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self.name, self.clock = name, clock
        self.throughput = Throughput()
        self._limits, self._telemetry = limits, telemetry
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._line: FairLine[_Entry] = FairLine()
        self._running: Counter[str] = Counter()  # by model
        self._count = 0  # all of them
        self._positions: Mapping[_Entry, int] = {}
        self._counted_at = -math.inf

    def configure(self, limits: LineLimits) -> None:
        """Use other limits from now on. What runs goes on, also where it is more than these."""
        with self._lock:
            self._limits = limits
            self._serve()

    def state(self, model: str = "") -> LineState:
        """The line now. The slots are those for the model, or without one the endpoint's."""
        with self._lock:
            waiting, slots = len(self._line), self._slots(model)
            seconds: float | None = 0.0
            if slots is not None and (waiting or self._count >= slots):
                seconds = self.throughput.seconds_in_line("", waiting, slots)
            return LineState(self._count, waiting, slots, seconds)

    def try_enter(self, model: str, caller: Caller) -> HeldSlot | None:
        """A slot for the model, if there is a free one that nobody waits for."""
        with self._lock:
            if len(self._line):
                self._serve()
            if not self._has_room(model, is_background=caller.is_job):
                return None
            return self._new_slot(model)

    def join(
        self, caller: Caller, sleeper: Sleeper, claim: _Claim, model: str, index: int
    ) -> _Entry:
        """Put a request in line, after all earlier ones of its client. Raises LineFull."""
        with self._lock:
            longest = self._limits.longest
            most = longest - longest // _SHARE_OF_PEOPLE if caller.is_job else longest
            if len(self._line) >= most:
                raise self._full()
            number = next(self._numbers)
            entry = _Entry(caller, sleeper, claim, model, index, number)
            self._line.add(entry)
            try:
                self._check_time(entry)
            except LineFull:
                self._line.remove(entry)
                raise
            self._serve_for(entry)
            return entry

    def forget(self, entry: _Entry) -> None:
        """Take a request out of the line, if it is there."""
        with self._lock:
            self._line.remove(entry)

    def serve(self, entry: _Entry) -> None:
        """Give free slots to the next requests, if there is room for this one.

        A server may have more slots by now, and a client that had left may have come back. Each
        request in line checks only for itself: a thousand that checked for all of them would use a
        whole core.
        """
        with self._lock:
            self._serve_for(entry)

    def waiting(self, entry: _Entry) -> Waiting:
        """The Waiting of a request in line: its position, and the seconds until its slot."""
        with self._lock:
            if entry not in self._line:
                return Waiting(IN_LINE)
            position = self._position(entry)
            seconds = self._seconds(entry, position)
        return Waiting(IN_LINE, position, None if seconds is None else math.ceil(seconds))

    def waited(self, seconds: float) -> None:
        """Count the seconds that a request was in line, for the metrics, with or without a slot."""
        self._telemetry.in_line(self.name, seconds)

    # All that follows is called with the lock held.

    def _serve_for(self, entry: _Entry) -> None:
        if self._has_room(entry.model, is_background=entry.is_background):
            self._serve()

    def _serve(self) -> None:
        while (entry := self._next()) is not None:
            if not entry.claim.try_take():
                # It has a slot at another endpoint, or gives up.
                self._line.remove(entry)
                continue
            self._line.take(entry)
            # The slot comes last: with it, the request's thread goes on without this lock.
            entry.claim.index = entry.index
            entry.claim.slot = self._new_slot(entry.model)
            entry.sleeper.wake()

    def _next(self) -> _Entry | None:
        """The request that gets a slot now, if there is one."""
        if not len(self._line) or not self._is_free(self._limits.endpoint, self._count):
            return None
        return self._line.next(
            lambda entry: (
                not entry.caller.is_gone
                and self._has_room(entry.model, is_background=entry.is_background)
            )
        )

    def _has_room(self, model: str, *, is_background: bool) -> bool:
        most, most_of_model = self._limits.endpoint, self._limits.of_model(model)
        if most is None and most_of_model is None:
            return True
        return self._is_free(most, self._count, is_background=is_background) and self._is_free(
            most_of_model, self._running[model], is_background=is_background
        )

    @staticmethod
    def _is_free(most: int | None, running: int, *, is_background: bool = False) -> bool:
        """Whether one more may run. Jobs leave some slots to people, where there are several."""
        if most is None:
            return True
        return running < (most - most // _SHARE_OF_PEOPLE if is_background else most)

    def _new_slot(self, model: str) -> HeldSlot:
        self._running[model] += 1
        self._count += 1
        began = self.clock()

        def free(was_answered: bool) -> None:
            # Where any number may run, nobody waits for a slot, and nothing is to be forecast.
            if was_answered and self._slots(model) is not None:
                seconds = self.clock() - began
                self.throughput.learn_held("", seconds)
                self.throughput.learn_held(model, seconds)
            with self._lock:
                self._count -= 1
                self._running[model] -= 1
                if not self._running[model]:
                    del self._running[model]
                self._serve()

        return HeldSlot(free)

    def _slots(self, model: str) -> int | None:
        """How many requests for the model may run at a time; None: any number."""
        limits = (self._limits.endpoint, self._limits.of_model(model) if model else None)
        return min((slots for slots in limits if slots is not None), default=None)

    def _position(self, entry: _Entry) -> int:
        """The position of a request; in a long line, what it was within the last second."""
        if len(self._line) < _LONG_LINE:
            self._positions = {}
            return self._line.position(entry)
        now = self.clock()
        if now - self._counted_at >= _POSITIONS_AGE:
            self._positions, self._counted_at = self._line.positions(), now
        # One that has just come is not among them.
        return self._positions.get(entry) or self._line.position(entry)

    def _seconds(self, entry: _Entry, position: int) -> float | None:
        """Expected seconds until a request in line gets its slot; None: nothing was measured."""
        slots = self._slots(entry.model)
        if slots is None:
            return None
        # Where the model has fewer slots than the endpoint, its own requests are what it waits for.
        name = "" if slots == self._limits.endpoint else entry.model
        return self.throughput.seconds_in_line(name, position - 1, slots)

    def _full(self) -> LineFull:
        is_full = (
            f"The line for the endpoint {self.name!r} is full (longest_line = "
            f"{self._limits.longest})."
        )
        held = self.throughput.of("").mean_held
        if held is None:
            # Nothing has ended yet, so that nobody knows how long a request takes.
            return LineFull(f"{is_full} Try again when one of its requests has ended.")
        # One leaves the line whenever one of those that run ends.
        seconds = _whole(line_seconds(1, held, max(self._count, 1)))
        return LineFull(
            f"{is_full} The next place in it is free in about {seconds} s.",
            retry_after=min(seconds, _LONGEST_RETRY),
        )

    def _check_time(self, entry: _Entry) -> None:
        """Raises LineFull where the answer would come after the caller's deadline."""
        deadline = entry.caller.deadline
        if deadline is None or self._slots(entry.model) is None:
            return
        expected = self._seconds(entry, self._line.position(entry))
        if expected is None:
            return
        needed = expected + (self.throughput.of(entry.model).mean_held or 0.0)
        left = deadline - self.clock()
        if needed > left:
            raise LineFull(
                f"The endpoint {self.name!r} is busy: with the requests that wait already, an "
                f"answer is expected in {_whole(needed)} s, and this proxy waits for "
                f"{_whole(left)} s at most.",
                retry_after=min(_whole(needed - left), _LONGEST_RETRY),
            )


def _whole(seconds: float) -> int:
    return max(math.ceil(seconds), 1)


class _LineEntries:
    """One request in the lines of several endpoints, any of which may answer it."""

    def __init__(self, caller: Caller) -> None:
        self.claim = _Claim()
        self._caller, self._sleeper = caller, caller.sleeper or Sleeper()
        self._entries: list[tuple[EndpointLine, _Entry]] = []
        self._refusals: list[LineFull] = []

    def join(self, lines: Sequence[tuple[EndpointLine, str]], first: int = 0) -> None:
        """Stand in each line that is not full; the first of them has the index `first`.

        Raises the first one's LineFull where it stands in none.
        """
        for index, (line, model) in enumerate(lines, first):
            try:
                entry = line.join(self._caller, self._sleeper, self.claim, model, index)
            except LineFull as exc:
                self._refusals.append(exc)
            else:
                self._entries.append((line, entry))
        if not self._entries:
            raise self._refusals[0]

    def wait(
        self,
        clock: Callable[[], float],
        later: Sequence[tuple[EndpointLine, str]] = (),
        alone: float = 0.0,
        is_open: Callable[[int], bool] = _always_open,
    ) -> Generator[Waiting, None, HeldSlot]:
        """Waitings until it has a slot; then that one.

        Raises LinesClosed, LineFull, DeadlinePassed, and what stops the sleeper. `later` are lines
        that it stands in as well after `alone` seconds, or when the first one has been closed.
        """
        began = clock()
        while self.claim.slot is None:
            yield min((line.waiting(entry) for line, entry in self._entries), key=_soonest)
            # The sleeper itself bounds this. Who gives the slot wakes it.
            self._sleeper.wait(math.inf)
            self._caller.check_deadline(clock())
            self._leave_closed(is_open)
            if later and (clock() - began >= alone or not self._entries):
                self.join(later, 1)
                later = ()
                self._leave_closed(is_open)
            for line, entry in self._entries:
                line.serve(entry)
            if not self._entries and self.claim.try_take():
                raise self._refusals[0] if self._refusals else LinesClosed()
        return self.claim.slot

    def _leave_closed(self, is_open: Callable[[int], bool]) -> None:
        """Leave the lines of endpoints that get no more requests."""
        for line, entry in [*self._entries]:
            if not is_open(entry.index):
                line.forget(entry)
                self._entries.remove((line, entry))

    def leave(self, *, is_given: bool) -> None:
        """Leave all lines, and give back a slot that was given too late."""
        for line, entry in self._entries:
            line.forget(entry)
        # No line can give one any more.
        if self.claim.slot is not None and not is_given:
            self.claim.slot.free()


def _soonest(waiting: Waiting) -> tuple[float, float]:
    """What the best of several Waitings is chosen by."""
    seconds = math.inf if waiting.seconds is None else waiting.seconds
    return seconds, waiting.queue_position or 0


def wait_in_lines(
    lines: Sequence[tuple[EndpointLine, str]],
    caller: Caller,
    alone: float = 0.0,
    is_open: Callable[[int], bool] = _always_open,
) -> Generator[Waiting, None, tuple[int, HeldSlot]]:
    """Waitings until one of the lines has a slot; then the line's index, and the slot.

    Each line comes with its endpoint's own name of the model. With `alone`, it waits so many
    seconds in the first line only, and keeps its place there when it goes to the others. Closing
    the generator leaves all of them. `is_open`: whether the endpoint of the line with this index
    still gets requests. Raises LineFull where no line takes one more request, LinesClosed, and
    DeadlinePassed.
    """
    at_once = lines[:1] if alone else lines
    first, entries, is_given = lines[0][0], _LineEntries(caller), False
    since = first.clock()
    try:
        entries.join(at_once)
        slot = yield from entries.wait(first.clock, lines[len(at_once) :], alone, is_open)
        is_given = True
        return entries.claim.index, slot
    finally:
        entries.leave(is_given=is_given)
        lines[entries.claim.index][0].waited(first.clock() - since)
