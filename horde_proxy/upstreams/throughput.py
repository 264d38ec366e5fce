"""What was measured of models, workers and endpoints: tokens a second, tokens of a generation, how
much longer than expected one may take, and how long a request holds its slot.

Every forecast of a wait is made of these, for a horde and for the lines before endpoints. Nothing
is stored.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from statistics import fmean, median_high

from horde_proxy.prompts.partial_answer import LengthEstimate

_WEIGHT = 0.3
"""The weight of the newest measurement in a moving average: four of them make up 3/4 of it."""
_SPEEDS = 9
"""Generations whose median is the speed: one that stalled does not change it, five others do."""
_DURATIONS, _ENOUGH, _USUAL = 100, 20, 0.95
"""The durations kept of a model, how many are needed, and the share of them that counts as usual.
With fewer than 20, the 95th percentile would be the longest one."""
UNUSUAL = 3.0
"""A job that takes so many times as long as expected is unusual, where little was measured: one of
a model's longest answers takes about twice as long as its mean."""
_HELD = 20
"""The requests whose mean says how long a slot is held: a line of ten is served by the mean, and
long answers count in it."""
_MOST_NAMES = 5000
"""Names that are remembered. Clients choose those of models where a server lists none."""
_LEAST_SECONDS = 0.05
"""A generation that seems to have taken less came between two polls, and tells no speed."""


@dataclass(frozen=True)
class Speed:
    """Of one model or worker: tokens a second, and tokens of a generation; None: not measured.

    `speeds` and `durations` are those of the last generations: tokens a second, and how many times
    the expected seconds each took. `fill`: how long the full segments of a model are, by our
    estimate of tokens. `held`: how many seconds the last requests held their slots. `firsts`:
    after how many seconds their first content came.
    """

    mean_tokens: float | None = None
    fill: LengthEstimate = field(default_factory=LengthEstimate)
    speeds: tuple[float, ...] = ()
    durations: tuple[float, ...] = ()
    held: tuple[float, ...] = ()
    firsts: tuple[float, ...] = ()

    @property
    def per_second(self) -> float | None:
        """The median; of two the larger, since a stall makes a speed too small."""
        return median_high(self.speeds) if self.speeds else None

    @property
    def longest(self) -> float:
        """How many times the expected seconds a generation takes at most, but for one in twenty."""
        if len(self.durations) < _ENOUGH:
            return max(UNUSUAL, *self.durations) if self.durations else UNUSUAL
        return sorted(self.durations)[math.ceil(len(self.durations) * _USUAL) - 1]

    @property
    def longest_first(self) -> float | None:
        """Seconds within which the first content of 19 of 20 came; None while few were measured."""
        if len(self.firsts) < _ENOUGH:
            return None
        return sorted(self.firsts)[math.ceil(len(self.firsts) * _USUAL) - 1]

    @property
    def mean_held(self) -> float | None:
        """Seconds that a request holds its slot; None: not measured."""
        return fmean(self.held) if self.held else None


class Throughput:
    """The measurements, by the name of a model or an endpoint, or by a worker's id."""

    def __init__(self) -> None:
        # Guards both: a measurement is read, changed and written. No I/O happens under it.
        self._lock = threading.Lock()
        self._speeds: dict[str, Speed] = {}

    def of(self, name: str) -> Speed:
        """What was measured of a model by its name, or of a worker by its id."""
        return self._speeds.get(name, Speed())

    def learn(self, name: str, tokens: int, seconds: float) -> None:
        """A generation of so many tokens took so many seconds; 0.0 where these tell no speed."""
        with self._lock:
            old = self.of(name)
            is_telling = tokens > 0 and seconds > _LEAST_SECONDS
            newest = (tokens / seconds,) if is_telling else ()
            new = replace(
                old,
                speeds=(*old.speeds, *newest)[-_SPEEDS:],
                mean_tokens=_mean(old.mean_tokens, tokens),
            )
            self._remember(name, new)

    def learn_duration(self, model: str, times_expected: float) -> None:
        """A generation took so many times the seconds that were expected of a measured model."""
        with self._lock:
            old = self.of(model)
            durations = (*old.durations, times_expected)[-_DURATIONS:]
            self._remember(model, replace(old, durations=durations))

    def learn_length(self, model: str, share: float, *, is_full: bool) -> None:
        """A segment was estimated at this share of its max_length, which cut it off, or did not."""
        with self._lock:
            old = self.of(model)
            fill = old.fill.with_full(share) if is_full else old.fill.with_complete(share)
            self._remember(model, replace(old, fill=fill))

    def learn_held(self, name: str, seconds: float) -> None:
        """A request held a slot for so many seconds."""
        with self._lock:
            old = self.of(name)
            self._remember(name, replace(old, held=(*old.held, seconds)[-_HELD:]))

    def learn_first(self, name: str, seconds: float) -> None:
        """The first content of a request came after so many seconds."""
        with self._lock:
            old = self.of(name)
            self._remember(name, replace(old, firsts=(*old.firsts, seconds)[-_DURATIONS:]))

    def seconds_in_line(self, name: str, before: int, slots: int) -> float | None:
        """Seconds until a slot is free for a request with so many before it; None: not measured."""
        held = self.of(name).mean_held
        # One more than those before it: a slot has to become free for itself as well.
        return None if held is None else line_seconds(before + 1, held, slots)

    def _remember(self, name: str, speed: Speed) -> None:
        """Keep a measurement, and forget the oldest name beyond the bound. Under the lock."""
        self._speeds[name] = speed
        if len(self._speeds) > _MOST_NAMES:
            del self._speeds[next(iter(self._speeds))]


def _mean(old: float | None, new: float) -> float:
    """The moving average after one more measurement."""
    return new if old is None else old + _WEIGHT * (new - old)


def line_seconds(requests: float, seconds: float, places: int) -> float:
    """Seconds until so many requests were taken up that run for so long, so many at a time."""
    return max(requests, 0) * seconds / places
