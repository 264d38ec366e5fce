"""A second endpoint beside the first one, where the first content is late."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from horde_proxy.errors import InsufficientKudos, InvalidRequest, ProxyError, UpstreamFailed
from horde_proxy.protocol.chunks import Head, chunk, role_chunk, usage_chunk
from horde_proxy.router import Router
from horde_proxy.router.hedge import HedgeRules
from horde_proxy.router.line import EndpointLine, LineLimits
from horde_proxy.upstreams.base import (
    Accepted,
    Caller,
    Route,
    SecondRequests,
    Sleeper,
    Spent,
    StreamItem,
    Waiting,
)
from horde_proxy.upstreams.request_journal import RequestJournal
from tests.support import Clock
from tests.test_router import CHAT, Offering, endpoint

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


@dataclass
class Kudos:
    """Kudos that are known, and those that are expected."""

    kudos: float = 0.0
    expected: float = 0.0

    def on_change(self, listener: Any) -> None:
        """They stay the same."""


@dataclass
class Step:
    """What an upstream does for one request: content or an error after so many seconds."""

    seconds: float
    failure: ProxyError | None = None
    position: int | None = None
    cost: Kudos = field(default_factory=Kudos)
    horde: dict[str, Any] | None = None


class Timed(Offering):
    """An upstream that takes its time; the last of `steps` is for all further requests."""

    def __init__(self, name: str, clock: Clock, *steps: Step) -> None:
        super().__init__(name, "m")
        self.clock, self.steps = clock, [*steps]
        self.callers: list[Caller] = []
        self.ended: list[str] = []

    def stream(
        self, request: Any, route: Route, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        self.callers.append(caller)
        head, due = Head(f"of-{self.name}", 1, route.model), self.clock() + step.seconds
        end = "closed"
        try:
            yield Accepted(
                {"X-Endpoint": self.name},
                self.name,
                lambda: Spent(0, 0, step.cost.kudos),
                late_kudos=step.cost,
            )
            yield role_chunk(head)
            while self.clock() < due:
                self.clock.sleep(0.5)
                yield Waiting("generating", step.position)
            if step.failure:
                end = "failed"
                raise step.failure
            yield chunk(head, {"content": self.name})
            yield chunk(head, {"content": "!"}, finish_reason="stop")
            yield usage_chunk(head, USAGE, step.horde or {})
            end = "complete"
        finally:
            self.ended.append(end)


class Setup:
    """A router over these upstreams, whose first content usually comes after a second."""

    def __init__(self, *upstreams: Timed, stall: float = 20.0, limits: Any = None) -> None:
        clock = upstreams[0].clock
        self.endpoints = [
            endpoint(
                upstream,
                clock,
                priority=place,
                line=EndpointLine(upstream.name, limits or LineLimits(), clock=clock),
            )
            for place, upstream in enumerate(upstreams)
        ]
        for one in self.endpoints:
            for _ in range(20):
                one.line.throughput.learn_first("m", 1.0)
        self.router = Router(self.endpoints, hedge=HedgeRules(stall))

    def answer(self, caller: Caller | None = None, request: Any = CHAT) -> list[StreamItem]:
        candidates = self.router.candidates("m")
        return list(self.router.stream(request, candidates, caller or Caller()))


def text(items: Sequence[StreamItem]) -> str:
    parts = [
        choice["delta"].get("content") or ""
        for item in items
        if isinstance(item, dict)
        for choice in item["choices"]
    ]
    return "".join(parts)


def accepted(items: Sequence[StreamItem]) -> list[Accepted]:
    return [item for item in items if isinstance(item, Accepted)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_late_first_content_brings_in_another_endpoint(clock: Clock) -> None:
    slow, quick = Timed("slow", clock, Step(60)), Timed("quick", clock, Step(1))
    setup, began = Setup(slow, quick), clock()
    items = setup.answer()
    assert text(items) == "quick!"
    # Late after 1 s; a second of the other one, in turns with the first.
    assert clock() - began <= 4
    assert (slow.ended, quick.ended) == (["closed"], ["complete"])
    # The role came once, all chunks have one id, and the last Accepted names who answers.
    chunks = [item for item in items if isinstance(item, dict)]
    assert sum("role" in c["delta"] for item in chunks for c in item["choices"]) == 1
    assert {item["id"] for item in chunks} == {"of-slow"}
    assert [item.upstream for item in accepted(items)] == ["slow", "quick"]
    assert all(one.breaker.running == 0 for one in setup.endpoints)
    assert [one.line.state().running for one in setup.endpoints] == [0, 0]


def test_without_the_setting_the_first_one_is_waited_for(clock: Clock) -> None:
    slow, quick = Timed("slow", clock, Step(60)), Timed("quick", clock, Step(1))
    setup = Setup(slow, quick)
    router = Router(setup.endpoints)
    assert text(list(router.stream(CHAT, router.candidates("m"), Caller()))) == "slow!"
    assert quick.callers == []


def test_the_first_one_wins_where_its_content_comes_first(clock: Clock) -> None:
    slow, other = Timed("slow", clock, Step(3)), Timed("other", clock, Step(60))
    items = Setup(slow, other).answer()
    assert text(items) == "slow!"
    assert (slow.ended, other.ended) == (["complete"], ["closed"])
    assert accepted(items)[-1].upstream == "slow"


def test_a_request_in_time_is_sent_once(clock: Clock) -> None:
    first, other = Timed("first", clock, Step(1)), Timed("other", clock, Step(1))
    assert text(Setup(first, other).answer()) == "first!"
    assert other.callers == []


def test_nothing_is_late_while_few_were_measured(clock: Clock) -> None:
    slow, quick = Timed("slow", clock, Step(10)), Timed("quick", clock, Step(1))
    setup = Setup(slow, quick)
    setup.endpoints[0].line = EndpointLine("slow", clock=clock)
    assert text(setup.answer()) == "slow!"


def test_a_queue_that_stands_still_is_late_though_nothing_was_measured(clock: Clock) -> None:
    slow, quick = Timed("slow", clock, Step(60, position=3)), Timed("quick", clock, Step(1))
    setup, began = Setup(slow, quick, stall=15.0), clock()
    setup.endpoints[0].line = EndpointLine("slow", clock=clock)
    assert text(setup.answer()) == "quick!"
    assert 15 <= clock() - began <= 19


def test_what_was_late_counts_among_what_is_usual(clock: Clock) -> None:
    slow, quick = Timed("slow", clock, Step(60)), Timed("quick", clock, Step(1))
    setup = Setup(slow, quick)
    setup.answer()
    firsts = setup.endpoints[0].line.throughput.of("m").firsts
    assert (len(firsts), firsts[-1] > 1.0) == (21, True)
    assert len(setup.endpoints[1].line.throughput.of("m").firsts) == 21


def test_an_endpoint_without_a_free_slot_is_no_second_one(clock: Clock) -> None:
    slow, full = Timed("slow", clock, Step(10)), Timed("full", clock, Step(1))
    third = Timed("third", clock, Step(1))
    setup = Setup(slow, full, third)
    setup.endpoints[1].line.configure(LineLimits(endpoint=1))
    place = setup.endpoints[1].line.try_enter("m", Caller())
    assert place is not None
    assert text(setup.answer()) == "third!"
    assert full.callers == []


def test_at_most_one_second_endpoint_is_tried(clock: Clock) -> None:
    upstreams = [Timed(name, clock, Step(30)) for name in ("a", "b", "c")]
    assert text(Setup(*upstreams).answer()) in ("a!", "b!")
    assert upstreams[2].callers == []


@pytest.mark.parametrize("failure", [UpstreamFailed("down"), InsufficientKudos("Too few.")])
def test_a_second_one_that_fails_leaves_the_first_alone(clock: Clock, failure: ProxyError) -> None:
    slow, bad = Timed("slow", clock, Step(10)), Timed("bad", clock, Step(0, failure))
    third = Timed("third", clock, Step(1))
    setup = Setup(slow, bad, third)
    assert text(setup.answer()) == "slow!"
    assert (bad.ended, third.callers) == (["failed"], [])
    # Too few kudos for it are no failure of the endpoint.
    state = setup.endpoints[1].health.own.state()
    assert state["running"] == 0


def test_a_first_one_that_fails_later_leaves_the_second_alone(clock: Clock) -> None:
    bad = Timed("bad", clock, Step(3, UpstreamFailed("broken")))
    good = Timed("good", clock, Step(10))
    items = Setup(bad, good).answer()
    assert text(items) == "good!"
    assert accepted(items)[-1].upstream == "good"


def test_where_both_fail_the_next_candidate_follows(clock: Clock) -> None:
    first = Timed("first", clock, Step(3, UpstreamFailed("broken")))
    second = Timed("second", clock, Step(4, UpstreamFailed("broken, too")))
    third = Timed("third", clock, Step(1))
    setup = Setup(first, second, third)
    assert text(setup.answer()) == "third!"
    assert all(one.breaker.running == 0 for one in setup.endpoints)


def test_a_refusal_of_the_request_itself_ends_both(clock: Clock) -> None:
    first = Timed("first", clock, Step(3, InvalidRequest("No such field.")))
    second = Timed("second", clock, Step(60))
    setup = Setup(first, second)
    with pytest.raises(InvalidRequest):
        setup.answer()
    assert second.ended == ["closed"]
    assert all(one.breaker.running == 0 for one in setup.endpoints)


def test_a_client_that_leaves_ends_both(clock: Clock) -> None:
    first, second = Timed("first", clock, Step(60)), Timed("second", clock, Step(60))
    setup = Setup(first, second)
    stream = setup.router.stream(CHAT, setup.router.candidates("m"), Caller())
    while not second.callers:
        next(stream)
    stream.close()
    assert (first.ended, second.ended) == (["closed"], ["closed"])
    assert [one.line.state().running for one in setup.endpoints] == [0, 0]


class Unclosable(Timed):
    """An upstream whose call cannot be ended without an error."""

    def stream(self, *arguments: Any) -> Any:
        try:
            yield from super().stream(*arguments)
        except GeneratorExit:
            raise RuntimeError("it cannot be closed") from None


def test_an_error_at_the_end_of_one_call_leaves_no_slot_taken(clock: Clock) -> None:
    first, second = Unclosable("first", clock, Step(60)), Timed("second", clock, Step(60))
    setup = Setup(first, second)
    stream = setup.router.stream(CHAT, setup.router.candidates("m"), Caller())
    while not second.callers:
        next(stream)
    with pytest.raises(RuntimeError, match="it cannot be closed"):
        stream.close()
    assert second.ended == ["closed"]
    assert [one.line.state().running for one in setup.endpoints] == [0, 0]


@pytest.mark.parametrize(
    "caller",
    [Caller(is_job=True), Caller(journal=RequestJournal()), Caller(second=SecondRequests(1))],
)
def test_what_nobody_waits_for_or_what_has_a_second_job_gets_none(
    clock: Clock, caller: Caller
) -> None:
    slow, quick = Timed("slow", clock, Step(10)), Timed("quick", clock, Step(1))
    assert text(Setup(slow, quick).answer(caller)) == "slow!"
    assert quick.callers == []


def test_the_second_one_knows_what_the_first_one_costs(clock: Clock) -> None:
    cost = Kudos(expected=20.0)
    slow, quick = Timed("slow", clock, Step(60, cost=cost)), Timed("quick", clock, Step(1))
    caller = Caller()
    Setup(slow, quick).answer(caller)
    [second] = quick.callers
    assert (second.is_second, second.spent_kudos, second.may_fail_over()) == (True, 20.0, True)
    assert second.kudos_left(50.0) == 30.0
    # Neither of the two is requested a third time meanwhile.
    assert second.second is slow.callers[0].second
    assert not caller.second.is_of_answer


def test_the_answer_costs_the_kudos_of_both(clock: Clock) -> None:
    slow = Timed("slow", clock, Step(60, cost=Kudos(kudos=2.0, expected=20.0)))
    quick = Timed("quick", clock, Step(1, cost=Kudos(kudos=3.0), horde={"kudos": 3.0}))
    items = Setup(slow, quick).answer()
    assert accepted(items)[-1].spent().kudos == 5.0
    late = accepted(items)[-1].late_kudos
    assert late is not None
    assert (late.kudos, late.expected) == (5.0, 20.0)
    usage = items[-1]
    assert isinstance(usage, dict)
    assert usage["horde"] == {"kudos": 5.0, "hedged_requests": 1}


def test_sleeps_are_short_only_until_the_content_comes(clock: Clock) -> None:
    slow, quick = Timed("slow", clock, Step(3)), Timed("quick", clock, Step(60))
    sleeper = Sleeper(longest=15.0, sleep=clock.sleep)
    setup = Setup(slow, quick)
    longest = set()
    for item in setup.router.stream(CHAT, setup.router.candidates("m"), Caller(sleeper=sleeper)):
        if isinstance(item, Waiting):
            longest.add(sleeper.longest)
    assert longest == {1.0, 0.3}
    assert (sleeper.longest, math.isfinite(sleeper.longest)) == (15.0, True)
