"""What was measured of each model: how fast it writes, how much, how it fills its segments.

The horde's own wait_time says 0 while a request is queued, so the proxy goes by what it saw.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field, replace

from horde_proxy.prompts.partial_answer import LengthEstimate
from horde_proxy.upstreams.horde.catalog import ModelEntry
from horde_proxy.upstreams.horde.jobs import Estimate

_STEP = 0.3
UNMEASURED = 10.0
"""Tokens a second that a worker or a model is taken to write before it was seen to."""
_TYPICAL_TOKENS = 200.0
_POP_SECONDS = 1.0


@dataclass(frozen=True)
class Speed:
    """Of one model. `per_second`: tokens; `typical`: tokens of a generation; None: not seen yet."""

    per_second: float | None = None
    typical: float | None = None
    fill: LengthEstimate = field(default_factory=LengthEstimate)


def _towards(old: float | None, new: float) -> float:
    return new if old is None else old + _STEP * (new - old)


class Throughput:
    """The measurements, by model or worker id. Seconds and tokens; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Speed] = {}
        self._own: Counter[str] = Counter()

    def of(self, model: str) -> Speed:
        """What is known of a model, or of a worker by its id."""
        return self._known.get(model, Speed())

    def learn(self, model: str, tokens: int, generation: float) -> None:
        """A generation of so many tokens took so many seconds."""
        with self._lock:
            old = self.of(model)
            speed = tokens / generation if tokens and generation > 0.05 else None
            self._known[model] = replace(
                old,
                per_second=_towards(old.per_second, speed) if speed else old.per_second,
                typical=_towards(old.typical, tokens),
            )

    def learn_fill(self, model: str, share: float) -> None:
        """A segment that was cut off by its max_length was estimated at that share of it."""
        with self._lock:
            old = self.of(model)
            self._known[model] = replace(old, fill=old.fill.with_sample(share))

    def began(self, model: str, count: int = 1) -> None:
        """A request of ours for a model was submitted; -1: it has ended."""
        with self._lock:
            self._own[model] += count

    def queue_seconds(self, entry: ModelEntry) -> float:
        """How long the queue of a model should take, by the jobs before us and who does them.

        The horde's queued tokens are what was declared, and mostly far more than what is written.
        """
        threads = sum(worker.threads for worker in entry.workers) or 1
        before = max(entry.jobs, self._own[entry.name]) - threads + 1
        return _POP_SECONDS + max(before, 0) * self.generation_seconds(entry, 10**6) / threads

    def per_second(self, entry: ModelEntry) -> float:
        """Tokens a second for one job: as measured here, else as the horde says."""
        return self.of(entry.name).per_second or entry.performance or UNMEASURED

    def generation_seconds(self, entry: ModelEntry, max_length: int) -> float:
        """How long a worker should take for a job of that length."""
        typical = min(self.of(entry.name).typical or _TYPICAL_TOKENS, max_length)
        return typical / self.per_second(entry)

    def expected(self, entry: ModelEntry, max_length: int) -> Estimate:
        """What to expect of a request that is submitted now."""
        return Estimate(self.queue_seconds(entry), self.generation_seconds(entry, max_length))
