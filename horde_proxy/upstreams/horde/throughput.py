"""What was measured of models and workers: tokens a second, tokens of a generation.

The horde's own wait_time is 0 while a request is queued (its queue part is divided by a million),
so that expectations are made of what this proxy saw itself. Nothing is stored.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field, replace

from horde_proxy.prompts.partial_answer import LengthEstimate
from horde_proxy.upstreams.horde.catalog import ModelEntry
from horde_proxy.upstreams.horde.jobs import Estimate

_WEIGHT = 0.3
"""The weight of the newest measurement in a moving average: four of them make up 3/4 of it."""
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

    `fill`: how long the full segments of a model are, by our estimate of tokens.
    """

    per_second: float | None = None
    mean_tokens: float | None = None
    fill: LengthEstimate = field(default_factory=LengthEstimate)


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
        """A generation of so many tokens took so many seconds."""
        with self._lock:
            old = self.of(name)
            speed = tokens / seconds if tokens and seconds > _LEAST_SECONDS else None
            self._speeds[name] = replace(
                old,
                per_second=_mean(old.per_second, speed) if speed else old.per_second,
                mean_tokens=_mean(old.mean_tokens, tokens),
            )

    def learn_fill(self, model: str, share: float) -> None:
        """A segment that its max_length cut off was estimated at this share of it."""
        with self._lock:
            old = self.of(model)
            self._speeds[model] = replace(old, fill=old.fill.with_sample(share))

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
        return Estimate(
            self.queue_seconds(entry),
            self.generation_seconds(entry, max_length),
            is_measured=self.of(entry.name).per_second is not None,
        )


def _mean(old: float | None, new: float) -> float:
    """The moving average after one more measurement."""
    return new if old is None else old + _WEIGHT * (new - old)
