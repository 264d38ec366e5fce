"""How long a horde takes for a request: what was measured, put together with its catalog.

The horde's own wait_time is 0 while a request is queued (its queue part is divided by a million),
so that expectations are made of what this proxy saw itself.
"""

from __future__ import annotations

from collections import Counter

from horde_proxy.aihorde.limits import JOB_SECONDS
from horde_proxy.upstreams.horde.catalog import ModelEntry
from horde_proxy.upstreams.horde.jobs import Estimate
from horde_proxy.upstreams.throughput import Throughput, line_seconds

UNMEASURED = 10.0
"""Tokens a second that a worker or a model is assumed to write before it was measured."""
_ASSUMED_TOKENS = 200.0
"""Tokens of a generation of a model that was not measured: two paragraphs."""
_POP_SECONDS = 1.0
"""Seconds from the submit to the pop when a worker is idle: workers ask about once a second."""
_ANY_LENGTH = 10**6


class HordeThroughput(Throughput):
    """The measurements of one horde, and its requests of ours that run, by model."""

    def __init__(self) -> None:
        super().__init__()
        self._in_flight: Counter[str] = Counter()

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
        return _POP_SECONDS + line_seconds(
            before, self.generation_seconds(entry, _ANY_LENGTH), threads
        )

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
