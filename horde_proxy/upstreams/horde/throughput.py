"""What was measured of models and workers: tokens a second, tokens of a generation, and how much
longer than expected a generation may take.

The horde's own wait_time is 0 while a request is queued (its queue part is divided by a million),
so that expectations are made of what this proxy saw itself. Nothing is stored.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from statistics import median_high

from horde_proxy.aihorde.limits import JOB_SECONDS
from horde_proxy.prompts.partial_answer import LengthEstimate
from horde_proxy.upstreams.horde.catalog import ModelEntry
from horde_proxy.upstreams.horde.jobs import UNUSUAL, Estimate

_WEIGHT = 0.3
"""The weight of the newest measurement in a moving average: four of them make up 3/4 of it."""
_SPEEDS = 9
"""Generations whose median is the speed: one that stalled does not change it, five others do."""
_DURATIONS, _ENOUGH, _USUAL = 100, 20, 0.95
"""The durations kept of a model, how many are needed, and the share of them that counts as usual.
With fewer than 20, the 95th percentile would be the longest one."""
UNMEASURED = 10.0
"""Tokens a second that a worker or a model is assumed to write before it was measured."""
_ASSUMED_TOKENS = 200.0
"""Tokens of a generation of a model that was not measured: two paragraphs."""
_LEAST_SECONDS = 0.05
"""A generation that seems to have taken less came between two polls, and tells no speed."""
_POP_SECONDS = 1.0
"""Seconds from the submit to the pop when a worker is idle: workers ask about once a second."""
_ANY_LENGTH = 10**6


@dataclass(frozen=True)
class Speed:
    """Of one model or worker: tokens a second, and tokens of a generation; None: not measured.

    `speeds` and `durations` are those of the last generations: tokens a second, and how many times
    the expected seconds each took. `fill`: how long the full segments of a model are, by our
    estimate of tokens.
    """

    mean_tokens: float | None = None
    fill: LengthEstimate = field(default_factory=LengthEstimate)
    speeds: tuple[float, ...] = ()
    durations: tuple[float, ...] = ()

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


class Throughput:
    """The measurements, by model name or worker id."""

    def __init__(self) -> None:
        # Guards both: a measurement is read, changed and written. No I/O happens under it.
        self._lock = threading.Lock()
        self._speeds: dict[str, Speed] = {}
        self._in_flight: Counter[str] = Counter()

    def of(self, name: str) -> Speed:
        """What was measured of a model by its name, or of a worker by its id."""
        return self._speeds.get(name, Speed())

    def learn(self, name: str, tokens: int, seconds: float) -> None:
        """A generation of so many tokens took so many seconds; 0.0 where these tell no speed."""
        with self._lock:
            old = self.of(name)
            is_telling = tokens > 0 and seconds > _LEAST_SECONDS
            newest = (tokens / seconds,) if is_telling else ()
            self._speeds[name] = replace(
                old,
                speeds=(*old.speeds, *newest)[-_SPEEDS:],
                mean_tokens=_mean(old.mean_tokens, tokens),
            )

    def learn_duration(self, model: str, times_expected: float) -> None:
        """A generation took so many times the seconds that were expected of a measured model."""
        with self._lock:
            old = self.of(model)
            durations = (*old.durations, times_expected)[-_DURATIONS:]
            self._speeds[model] = replace(old, durations=durations)

    def learn_length(self, model: str, share: float, *, is_full: bool) -> None:
        """A segment was estimated at this share of its max_length, which cut it off, or did not."""
        with self._lock:
            old = self.of(model)
            fill = old.fill.with_full(share) if is_full else old.fill.with_complete(share)
            self._speeds[model] = replace(old, fill=fill)

    def count_in_flight(self, model: str, change: int) -> None:
        """Count a request of ours for a model: 1 when it is submitted, -1 when it has ended."""
        with self._lock:
            self._in_flight[model] += change

    def queue_seconds(self, entry: ModelEntry) -> float:
        """Seconds that a request submitted now waits for a worker.

        Counted in jobs and not in the horde's queued tokens: those are what clients allowed, which
        is mostly far more than what is written.
        """
        threads = sum(worker.threads for worker in entry.workers) or 1
        before = max(entry.jobs, self._in_flight[entry.name]) - threads + 1
        return _POP_SECONDS + max(before, 0) * self.generation_seconds(entry, _ANY_LENGTH) / threads

    def per_second(self, entry: ModelEntry) -> float:
        """Tokens a second of one job: as measured here, or else as the horde says."""
        return self.of(entry.name).per_second or entry.performance or UNMEASURED

    def generation_seconds(self, entry: ModelEntry, max_length: int) -> float:
        """Seconds that a worker needs for a job of at most so many tokens."""
        tokens = min(self.of(entry.name).mean_tokens or _ASSUMED_TOKENS, max_length)
        return tokens / self.per_second(entry)

    def expected(self, entry: ModelEntry, max_length: int) -> Estimate:
        """The estimate for a request that is submitted now."""
        generation, speed = self.generation_seconds(entry, max_length), self.of(entry.name)
        return Estimate(
            self.queue_seconds(entry),
            generation,
            is_measured=speed.per_second is not None,
            # Later it is no longer the same worker's: the horde takes the job back.
            longest=min(generation * speed.longest, JOB_SECONDS),
        )


def _mean(old: float | None, new: float) -> float:
    """The moving average after one more measurement."""
    return new if old is None else old + _WEIGHT * (new - old)
