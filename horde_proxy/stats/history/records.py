"""What is known of one hour: sums that can be added to others of the same hour. Pure.

Several processes write the same hour, and a process that restarts writes its hour twice. So there
are only sums and counts here; means and percentiles are made of them when they are read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

HOUR = 3600
DAY = 24 * HOUR
WHOLE_HORDE = ""
"""The model of the facts about all models of a horde together. No model has an empty name."""
_STEPS_OF_OCTAVE = 8
"""Steps in which a duration doubles: a percentile is at most 4.5 % off."""
_SHORTEST = 0.001
"""Seconds. Shorter ones count as this: no answer comes faster over a network."""
_LONGEST = 86_400.0
"""Seconds. Longer ones count as this."""

ONE_STEP = 10**15
"""A step (s) that holds every time: all hours of a period are one sum, at the time 0."""

Measure = Literal["first", "whole"]
"""The time to the first content of an answer, or to its end."""


class Period(NamedTuple):
    """From one hour to another, the last one excluded (Unix s), in steps of so many seconds."""

    first: int
    end: int
    step: int


class HordeKey(NamedTuple):
    """What facts about a horde are summed by. `hour` is the Unix time at which the hour begins.

    `horde` is the endpoint's name, `kind` "text" or "image", `model` the key of a canonical name.
    """

    hour: int
    horde: str
    kind: str
    model: str


@dataclass(slots=True)
class HordeFacts:
    """Sums over the samples of a model. The units are those of HordeModelStatus.

    `name` is a name for people. `speed` is summed over `speed_samples`, those in which the horde
    knew one. `first_seen` and `last_seen` are the first and the last hour with a worker (Unix s).
    """

    name: str = ""
    samples: int = 0
    workers: int = 0
    threads: int = 0
    queued: float = 0.0
    jobs: float = 0.0
    speed: float = 0.0
    speed_samples: int = 0
    first_seen: int | None = field(default=None, compare=False)
    last_seen: int | None = field(default=None, compare=False)

    def add(self, other: HordeFacts) -> None:
        """Add the sums of another."""
        self.name = other.name
        self.samples += other.samples
        self.workers += other.workers
        self.threads += other.threads
        self.queued += other.queued
        self.jobs += other.jobs
        self.speed += other.speed
        self.speed_samples += other.speed_samples
        firsts = [hour for hour in (self.first_seen, other.first_seen) if hour is not None]
        lasts = [hour for hour in (self.last_seen, other.last_seen) if hour is not None]
        self.first_seen, self.last_seen = min(firsts, default=None), max(lasts, default=None)


class EndpointKey(NamedTuple):
    """What facts about an endpoint are summed by. `hour` is the Unix time at which it begins.

    `key` is the name of the client's key, "" where none is required.
    """

    hour: int
    endpoint: str
    model: str
    key: str


@dataclass(slots=True)
class EndpointFacts:
    """Counts of the requests to an endpoint, and how long its answers took.

    `failures` are those of `requests` that the endpoint did not answer, or not to the end.
    `warm_tokens` are the tokens of prompts that were in the server's cache. `known_tokens` are all
    tokens of the prompts of which that is known. `first` and `whole` count durations by their step.
    """

    requests: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    known_tokens: int = 0
    warm_tokens: int = 0
    first: Counter[int] = field(default_factory=Counter)
    whole: Counter[int] = field(default_factory=Counter)

    def add(self, other: EndpointFacts) -> None:
        """Add the counts of another."""
        self.requests += other.requests
        self.failures += other.failures
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.known_tokens += other.known_tokens
        self.warm_tokens += other.warm_tokens
        self.first.update(other.first)
        self.whole.update(other.whole)

    def durations(self, measure: Measure) -> Counter[int]:
        """The counts of one measure by step."""
        return self.first if measure == "first" else self.whole

    @property
    def warm_share(self) -> float | None:
        """The share of the prompts' tokens that met a warm cache, 0 to 1; None if not known."""
        return round(self.warm_tokens / self.known_tokens, 4) if self.known_tokens else None


def hour_of(now: float) -> int:
    """The beginning of the hour of a time; both in Unix seconds."""
    return int(now // HOUR) * HOUR


def duration_step(seconds: float) -> int:
    """The step of a duration: 0 for one second, 8 for two, -8 for a half."""
    return round(_STEPS_OF_OCTAVE * math.log2(min(max(seconds, _SHORTEST), _LONGEST)))


def percentile(counts: Mapping[int, int], fraction: float) -> float | None:
    """The duration (s) that this fraction of the counted ones did not exceed; None for none."""
    total = sum(counts.values())
    if total <= 0:
        return None
    rank, seen = min(int(total * fraction), total - 1), 0
    for step in sorted(counts):
        seen += counts[step]
        if seen > rank:
            break
    return round(math.exp2(step / _STEPS_OF_OCTAVE), 3)
