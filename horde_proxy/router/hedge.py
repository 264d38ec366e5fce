"""A second candidate beside the first one, where that is late: `routing.hedge`.

    first    stream or call --> late -----------------> it is the first to come, or it is closed
                                  |  another endpoint has a free slot
    second                        '--> the same ------> it is the first to come, or it is closed

One thread drives both in turns, each until it waits: hedged_stream.py for what is translated,
hedged_call.py for what is proxied. Here is what both have in common: when something is late, which
candidate may be tried beside it, and which errors end both. A request that is bound to places has
no candidates elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from horde_proxy.errors import (
    ClientGone,
    InsufficientKudos,
    ProxyError,
    RateLimited,
    ShuttingDown,
    TimedOut,
    Unavailable,
    UpstreamFailed,
)
from horde_proxy.router.candidates import Candidate, Candidates
from horde_proxy.router.health import EndpointAttempt
from horde_proxy.upstreams.base import Caller, DeadlinePassed, Waiting

LEAST_LATE = 1.0
"""Seconds within which no answer is late, however quick the endpoint: as long as one sleep."""
LONGEST_TURN = 0.3
"""The longest sleep while two take turns (s): the other one is noticed that much later."""
FAILURES = (UpstreamFailed, Unavailable, RateLimited, TimedOut)
"""Failures of an endpoint: another one may answer."""


@dataclass(frozen=True)
class HedgeRules:
    """`stall`: the seconds after which an unchanged position in a queue is late."""

    stall: float


@dataclass
class Lead:
    """The candidate that answers, as it seems now, with its attempt."""

    candidate: Candidate
    attempt: EndpointAttempt


class Lateness:
    """Whether the first content of a request to a candidate is late."""

    def __init__(self, rules: HedgeRules, candidate: Candidate, name: str) -> None:
        self._rules, self._name = rules, name
        self._throughput = candidate.endpoint.line.throughput
        self._clock = candidate.endpoint.breaker.clock
        self._began = self._moved = self._clock()
        self._position: int | None = None

    def learn(self) -> None:
        """The first content has come, or it takes at least as long as this."""
        self._throughput.learn_first(self._name, self._clock() - self._began)

    def is_late(self, waiting: Waiting) -> bool:
        """Whether it is late by now: beyond what 19 of 20 took, or in a queue that stands still."""
        now = self._clock()
        if waiting.queue_position != self._position:
            self._position, self._moved = waiting.queue_position, now
        usual = self._throughput.of(self._name).longest_first
        is_unusual = usual is not None and now - self._began > max(usual, LEAST_LATE)
        return is_unusual or (bool(self._position) and now - self._moved >= self._rules.stall)


def may_go_on(error: ProxyError, *, is_second: bool) -> bool:
    """Whether the other one of two goes on after an error.

    Where the first one refuses the request itself, the second one would, too. A refusal of the
    second one, for lack of context or kudos, says nothing about the first.
    """
    if isinstance(error, ClientGone | ShuttingDown | DeadlinePassed):
        return False
    return is_second or isinstance(error, (*FAILURES, InsufficientKudos))


def entered_beside(
    candidates: Candidates,
    first: Candidate,
    caller: Caller,
    may_take: Callable[[Candidate], bool] = lambda candidate: True,
) -> Lead | None:
    """The best other candidate that is awake and has a free slot now; None without one."""
    for other in filter(may_take, candidates.beside(first)):
        if not other.endpoint.is_awake:
            continue
        slot = other.endpoint.line.try_enter(other.models[0], caller)
        if slot is None:
            continue
        attempt = candidates.acquire(other)
        if attempt is not None:
            attempt.slot = slot
            candidates.take(other)
            return Lead(other, attempt)
        slot.free()
    return None


def name_of(lead: Lead) -> str:
    """The name of its endpoint."""
    return lead.candidate.endpoint.name
