"""A translated answer by one candidate, or by the quicker one of two; see hedge.py.

The first content decides. What the second one may cost its upstream decides, by the caller's
limits and by what the first one costs already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from horde_proxy.errors import ProxyError
from horde_proxy.numbers import finite
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.router.candidates import Candidate, Candidates
from horde_proxy.router.health import EndpointAttempt
from horde_proxy.router.hedge import (
    FAILURES,
    LONGEST_TURN,
    HedgeRules,
    Lateness,
    Lead,
    entered_beside,
    may_go_on,
    name_of,
)
from horde_proxy.upstreams.base import Accepted, Caller, Spent, StreamItem, Waiting
from horde_proxy.upstreams.interleave import AllLateKudos

_WATCHFUL_SLEEP = 1.0
"""The longest sleep while a stream may become late (s)."""
Splice = Callable[[Candidate, EndpointAttempt, StreamItem], StreamItem | None]
"""What a client is given for an item of a candidate's stream; None where it has seen it already."""
log = logging.getLogger(__name__)


class _Runner:
    """One of the streams of a request, and what it has given before its first content."""

    def __init__(
        self,
        lead: Lead,
        items: Generator[StreamItem, None, None],
        lateness: Lateness,
    ) -> None:
        self.lead, self.items, self.lateness = lead, items, lateness
        self.accepted: Accepted | None = None
        self.held: list[StreamItem] = []

    def close(self) -> None:
        """End its call, if it still runs. Idempotent."""
        try:
            self.items.close()
        finally:
            # One whose items had not begun has not ended its attempt.
            self.lead.attempt.end()


class HedgedStream:
    """One answer, by one candidate or by the quicker one of two.

    `lead` is changed to the candidate that answers. `splice` makes an item one for the client.
    """

    def __init__(
        self,
        rules: HedgeRules,
        request: GenerationRequest,
        candidates: Candidates,
        lead: Lead,
        splice: Splice,
    ) -> None:
        self._rules, self._request, self._candidates = rules, request, candidates
        self._lead, self._splice = lead, splice
        self._runners: list[_Runner] = []
        self._lost: list[_Runner] = []
        self._was_late = False

    def items(self, caller: Caller) -> Generator[StreamItem | None, None, None]:
        """The items for the client; None for what it has seen. Raises as the upstreams do."""
        self._begin(Lead(self._lead.candidate, self._lead.attempt), caller)
        try:
            with _shorter_sleeps(caller, _WATCHFUL_SLEEP):
                yield from self._race(caller)
            for item in self._runners[0].items:
                yield from self._passed(item)
        finally:
            caller.second.is_of_answer = False
            # Both, also where the first one cannot be closed without an error.
            with ExitStack() as stack:
                for runner in self._runners:
                    stack.callback(runner.close)

    def _begin(self, lead: Lead, caller: Caller) -> None:
        route = lead.candidate.route
        lateness = Lateness(self._rules, lead.candidate, lead.candidate.models[0])
        own = replace(caller, endpoint=route.upstream.name)
        items = route.upstream.stream(self._request, route, own)
        self._runners.append(_Runner(lead, items, lateness))

    def _race(self, caller: Caller) -> Generator[StreamItem | None, None, None]:
        """The items until one of the streams has content, or the only one has ended."""
        turn = 0
        while True:
            runner = self._runners[turn % len(self._runners)]
            try:
                item = next(runner.items, None)
            except ProxyError as exc:
                yield from self._fail(runner, exc)
                continue
            if isinstance(item, Waiting):
                turn += 1
                yield item
                if not self._was_late and runner.lateness.is_late(item):
                    self._begin_second(caller)
            elif item is None or _has_content(item):
                yield from self._win(runner)
                if item is not None:
                    yield from self._passed(item)
                return
            else:
                yield from self._noted(runner, item)

    def _noted(self, runner: _Runner, item: StreamItem) -> Iterator[StreamItem | None]:
        """Pass on what comes before the content of the first one; that of the second is held."""
        if isinstance(item, Accepted):
            runner.accepted = item
        if runner is self._runners[0]:
            yield from self._passed(item)
        else:
            runner.held.append(item)

    def _begin_second(self, caller: Caller) -> None:
        """Begin at another endpoint what is late, where one has a slot and somebody waits."""
        # A job may go on after a restart, at the one endpoint where it was begun.
        if caller.is_job or caller.journal is not None or caller.is_gone:
            return
        # Each job has one second request at most, and a horde has just made it.
        if caller.second.of_jobs:
            return
        first = self._runners[0]
        lead = entered_beside(self._candidates, first.lead.candidate, caller)
        if lead is None:
            return
        log.info("%s is late, and %s is tried beside it", name_of(first.lead), name_of(lead))
        self._was_late = caller.second.is_of_answer = True
        late_kudos = first.accepted.late_kudos if first.accepted else None
        spent = caller.spent_kudos + (late_kudos.expected if late_kudos else 0.0)
        # It need not wait for a server that cannot be reached: the first one still runs.
        own = replace(caller, may_fail_over=_always, is_second=True, spent_kudos=spent)
        if caller.sleeper is not None:
            caller.sleeper.longest = min(caller.sleeper.longest, LONGEST_TURN)
        self._begin(lead, own)

    def _win(self, winner: _Runner) -> Iterator[StreamItem | None]:
        """Close the other stream. Its cost is a part of the answer's."""
        winner.lateness.learn()
        for loser in [runner for runner in self._runners if runner is not winner]:
            # What it would have taken is this at least. Without it, less and less would be usual.
            loser.lateness.learn()
            yield from self._drop(loser)

    def _fail(self, runner: _Runner, error: ProxyError) -> Iterator[StreamItem | None]:
        """Go on with the other stream. Raises the error of the last one, or for both."""
        is_second = runner is not self._runners[0]
        if len(self._runners) == 1 or not may_go_on(error, is_second=is_second):
            raise error
        if isinstance(error, FAILURES):
            self._candidates.failed(runner.lead.candidate, runner.lead.attempt, error)
        yield from self._drop(runner)

    def _drop(self, runner: _Runner) -> Iterator[StreamItem | None]:
        """Close a stream, and pass on what the one that is left has given already."""
        was_first = runner is self._runners[0]
        self._runners.remove(runner)
        self._lost.append(runner)
        runner.close()
        [left] = self._runners
        self._lead.candidate, self._lead.attempt = left.lead.candidate, left.lead.attempt
        # The client was told of the first one, or of its cost alone.
        if left.accepted is not None:
            yield from self._passed(left.accepted)
        if was_first:
            for item in left.held:
                if not isinstance(item, Accepted):
                    yield from self._passed(item)

    def _passed(self, item: StreamItem) -> Iterator[StreamItem | None]:
        """An item of the stream that is left, with what the other one cost."""
        if isinstance(item, Accepted):
            item = self._with_all_costs(item)
        elif isinstance(item, dict) and item.get("usage"):
            item = self._with_all_kudos(item)
        yield self._splice(self._lead.candidate, self._lead.attempt, item)

    def _with_all_costs(self, accepted: Accepted) -> Accepted:
        lost = [runner.accepted for runner in self._lost if runner.accepted is not None]
        if not lost:
            return accepted

        def spent() -> Spent:
            kudos = sum(other.spent().kudos for other in lost)
            return accepted.spent()._replace(kudos=accepted.spent().kudos + kudos)

        parts = {number: part.late_kudos for number, part in enumerate([accepted, *lost])}
        return replace(accepted, spent=spent, late_kudos=AllLateKudos(parts))

    def _with_all_kudos(self, chunk: Chunk) -> Chunk:
        """The chunk with the usage; its `horde` object has the kudos of both."""
        lost = [runner.accepted.spent().kudos for runner in self._lost if runner.accepted]
        if not any(lost):
            return chunk
        horde = chunk.get("horde")
        # A server may have sent anything under this name.
        own = horde if isinstance(horde, dict) else {}
        kudos = round((finite(own.get("kudos")) or 0.0) + sum(lost), 2)
        return {**chunk, "horde": {**own, "kudos": kudos, "hedged_requests": len(lost)}}


@contextmanager
def _shorter_sleeps(caller: Caller, seconds: float) -> Iterator[None]:
    """Let the caller's thread sleep no longer than this at a time, until the content comes."""
    sleeper = caller.sleeper
    if sleeper is None:
        yield
        return
    before, sleeper.longest = sleeper.longest, min(sleeper.longest, seconds)
    try:
        yield
    finally:
        sleeper.longest = before


def _has_content(item: StreamItem) -> bool:
    """Whether an item is more than the role that each choice begins with."""
    return isinstance(item, dict) and not any("role" in c["delta"] for c in item["choices"])


def _always() -> bool:
    """Another endpoint may answer: the first one's request runs."""
    return True
