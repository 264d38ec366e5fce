"""The line before an endpoint: never more requests than slots, and everybody gets a turn."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horde_proxy.router.line import EndpointLine, HeldSlot, LineFull, LineLimits, wait_in_lines
from horde_proxy.telemetry import Telemetry
from horde_proxy.upstreams.base import Caller, DeadlinePassed, Sleeper, Waiting
from tests.support import Clock


def caller(client: str = "ann", **options: object) -> Caller:
    return Caller(client, sleeper=Sleeper(sleep=lambda seconds: None), **options)  # type: ignore[arg-type]


class Times(Telemetry):
    """The reported waits."""

    def __init__(self) -> None:
        self.waits: list[tuple[str, float]] = []

    def in_line(self, endpoint: str, seconds: float) -> None:
        self.waits.append((endpoint, seconds))


@dataclass
class Request:
    """A request that enters lines, each step by hand."""

    name: str
    waiting: Generator[Waiting, None, tuple[int, HeldSlot]]
    shown: Waiting | None = None
    slot: HeldSlot | None = None
    index: int | None = None

    def step(self) -> None:
        """Go on until it waits again, or has a slot."""
        if self.slot is not None:
            return
        try:
            self.shown = next(self.waiting)
        except StopIteration as end:
            self.index, self.slot = end.value


@dataclass
class Door:
    """Requests before one endpoint or several with the same clock."""

    slots: int | None = 1
    models: dict[str, int] = field(default_factory=dict)
    longest: int = 100

    def __post_init__(self) -> None:
        self.clock, self.times = Clock(), Times()
        # A generator that nobody holds is closed, and leaves its line.
        self.requests: list[Request] = []
        self.line = self.new_line("gpu")

    def new_line(self, name: str) -> EndpointLine:
        limits = LineLimits(self.slots, self.models, self.longest)
        return EndpointLine(name, limits, clock=self.clock, telemetry=self.times)

    def enter(self, client: str = "ann", model: str = "m", **options: object) -> HeldSlot:
        slot = self.line.try_enter(model, caller(client, **options))
        assert slot is not None
        return slot

    def wait(
        self,
        client: str = "ann",
        model: str = "m",
        lines: Sequence[EndpointLine] = (),
        who: Caller | None = None,
        **options: object,
    ) -> Request:
        who = who or caller(client, **options)
        waiting = wait_in_lines([(line, model) for line in lines or (self.line,)], who)
        request = Request(client, waiting)
        self.requests.append(request)
        request.step()
        return request

    def answer(self, slot: HeldSlot | None, seconds: float) -> None:
        """An answer takes so long, and ends."""
        assert slot is not None
        self.clock.seconds += seconds
        slot.free(was_answered=True)


def test_without_limits_everybody_enters_at_once() -> None:
    door = Door(slots=None)
    slots_held = [door.enter() for _ in range(50)]
    assert door.line.state()[:3] == (50, 0, None)
    for slot in slots_held:
        slot.free()
    assert door.line.state()[:3] == (0, 0, None)


def test_no_more_enter_than_there_are_slots() -> None:
    door = Door(slots=2)
    first, _ = door.enter(), door.enter()
    assert door.line.try_enter("m", caller()) is None
    request = door.wait()
    assert request.shown == Waiting("in line", 1, None)
    first.free()
    request.step()
    assert (request.index, door.line.state()[:3]) == (0, (2, 0, 2))


def test_a_slot_is_freed_once_however_often_it_is_left() -> None:
    door = Door(slots=2)
    first, _ = door.enter(), door.enter()
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda _: first.free(), range(20)):
            pass
    assert door.line.state().running == 1


def test_clients_take_turns_and_weights_count() -> None:
    door = Door()
    slot: HeldSlot | None = door.enter("other")
    waiting = [door.wait("ann", weight=2) for _ in range(4)]
    waiting += [door.wait("bob") for _ in range(2)]
    order = []
    while waiting:
        assert slot is not None
        slot.free()
        for request in waiting:
            request.step()
        [served] = [request for request in waiting if request.slot]
        waiting.remove(served)
        order.append(served.name)
        slot = served.slot
    assert order == ["ann", "bob", "ann", "ann", "bob", "ann"]


def test_jobs_go_after_people_and_leave_a_quarter_of_the_slots_to_them() -> None:
    door = Door(slots=4)
    slots_held = [door.enter(is_job=True) for _ in range(3)]
    assert door.line.try_enter("m", caller(is_job=True)) is None
    job = door.wait("batch", is_job=True)
    slots_held.append(door.enter("ann"))
    person = door.wait("bob")
    slots_held[0].free()
    for request in (job, person):
        request.step()
    assert (job.slot, person.slot is not None) == (None, True)
    # Three jobs may run again once two of the others have ended.
    for slot in slots_held[1:3]:
        slot.free()
    job.step()
    assert job.slot is not None


def test_the_position_and_the_expected_seconds_are_told() -> None:
    door = Door(slots=2)
    slot, _ = door.enter(), door.enter()
    door.answer(slot, 20)
    door.enter()
    first, second, other = door.wait("ann"), door.wait("ann"), door.wait("bob")
    assert first.shown == Waiting("in line", 1, 10)
    for request in (first, second, other):
        request.step()
    assert first.shown == Waiting("in line", 1, 10)
    assert second.shown == Waiting("in line", 3, 30)
    assert other.shown == Waiting("in line", 2, 20)


def test_a_failure_tells_nothing_about_how_long_an_answer_takes() -> None:
    door = Door()
    door.enter().free()
    door.enter()
    assert door.wait().shown == Waiting("in line", 1, None)


def test_a_full_line_refuses_and_says_when_there_is_room() -> None:
    door = Door(slots=2, longest=1)
    door.answer(door.enter(), 30)
    door.enter(), door.enter()
    door.wait()
    with pytest.raises(LineFull) as refused:
        door.wait("bob")
    assert str(refused.value) == (
        "The line for the endpoint 'gpu' is full (longest_line = 1). The next place in it is free "
        "in about 15 s."
    )
    assert (refused.value.status, refused.value.headers()) == (429, {"Retry-After": "15"})
    assert door.line.state().waiting == 1


def test_a_line_of_length_0_refuses_what_finds_no_slot() -> None:
    door = Door(longest=0)
    door.enter()
    with pytest.raises(LineFull):
        door.wait()


def test_a_request_whose_time_would_not_suffice_is_refused_at_once() -> None:
    door = Door()
    door.answer(door.enter(), 40)
    door.enter()
    assert door.wait("ann", deadline=door.clock.seconds + 80).shown == Waiting("in line", 1, 40)
    with pytest.raises(LineFull) as refused:
        door.wait("bob", deadline=door.clock.seconds + 100)
    assert str(refused.value) == (
        "The endpoint 'gpu' is busy: with the requests that wait already, an answer is expected "
        "in 120 s, and this proxy waits for 100 s at most."
    )
    assert refused.value.retry_after == 20
    assert door.line.state().waiting == 1


def test_the_deadline_ends_the_wait() -> None:
    door = Door()
    door.enter()
    request = door.wait(deadline=door.clock.seconds + 5)
    door.clock.seconds += 6
    with pytest.raises(DeadlinePassed):
        request.step()
    assert door.line.state()[:3] == (1, 0, 1)


def test_who_leaves_the_line_is_not_served() -> None:
    door = Door()
    slot = door.enter()
    left, stays = door.wait("ann"), door.wait("bob")
    left.waiting.close()
    slot.free()
    stays.step()
    assert (stays.slot is not None, door.line.state()[:3]) == (True, (1, 0, 1))


def test_a_slot_given_to_a_request_that_is_just_leaving_goes_to_the_next() -> None:
    door = Door()
    slot = door.enter()
    leaving, stays = door.wait("ann"), door.wait("bob")
    slot.free()
    leaving.waiting.close()
    stays.step()
    assert (stays.slot is not None, door.line.state()[:3]) == (True, (1, 0, 1))


def test_what_stops_the_sleeper_ends_the_wait() -> None:
    door = Door()
    door.enter()
    who = caller()
    request = door.wait(who=who)
    assert who.sleeper is not None
    who.sleeper.stop(LineFull("stopping"))
    with pytest.raises(LineFull, match="stopping"):
        request.step()
    assert door.line.state().waiting == 0


def test_a_client_that_has_gone_keeps_its_place_and_is_passed_over() -> None:
    door = Door()
    slot = door.enter()
    who = caller("ann")
    gone, other, last = door.wait(who=who), door.wait("bob"), door.wait("cid")
    assert who.sleeper is not None
    who.sleeper.has_client = False
    slot.free()
    for request in (gone, other, last):
        request.step()
    assert [request.slot is not None for request in (gone, other, last)] == [False, True, False]
    who.sleeper.has_client = True
    assert other.slot is not None
    other.slot.free()
    for request in (gone, last):
        request.step()
    assert [request.slot is not None for request in (gone, last)] == [True, False]


def test_a_client_that_comes_back_takes_the_slot_that_nobody_else_wanted() -> None:
    door = Door()
    slot = door.enter()
    who = caller()
    request = door.wait(who=who)
    assert who.sleeper is not None
    who.sleeper.has_client = False
    slot.free()
    request.step()
    assert request.slot is None
    who.sleeper.has_client = True
    request.step()
    request.step()
    assert request.slot is not None


def test_a_model_with_fewer_slots_holds_up_no_other() -> None:
    door = Door(slots=3, models={"big*": 1})
    big = door.enter(model="big-70b")
    waits = door.wait("ann", "big-70b")
    door.enter("ann", "small")
    door.enter("bob", "small")
    assert door.line.state("big-70b").slots == 1
    small = door.wait("ann", "small")
    big.free()
    for request in (waits, small):
        request.step()
    assert (waits.slot is not None, small.slot) == (True, None)


def test_the_forecast_of_a_model_with_fewer_slots_is_its_own() -> None:
    door = Door(slots=4, models={"big": 1})
    door.answer(door.enter(model="big"), 60)
    door.answer(door.enter(model="small"), 2)
    door.enter(model="big")
    assert door.wait("ann", "big").shown == Waiting("in line", 1, 60)


def test_slots_that_the_server_tells_count_where_none_are_set() -> None:
    told = {"m": 1}
    line = EndpointLine("gpu", LineLimits(server_slots=told.get))
    assert line.try_enter("m", caller()) is not None
    assert line.try_enter("m", caller()) is None
    assert line.try_enter("n", caller()) is not None
    configured = EndpointLine("gpu", LineLimits(2, server_slots=told.get))
    assert [configured.try_enter("m", caller()) is None for _ in range(3)] == [False, False, True]


def test_a_server_that_tells_of_more_slots_is_used_at_once() -> None:
    told = {"m": 1}
    door = Door()
    door.line.configure(LineLimits(server_slots=told.get))
    door.enter()
    request = door.wait()
    told["m"] = 2
    request.step()
    request.step()
    assert request.slot is not None


def test_other_limits_count_for_those_that_wait_and_run() -> None:
    door = Door()
    slots_held = [door.enter()]
    waiting = [door.wait() for _ in range(3)]
    door.line.configure(LineLimits(3))
    for request in waiting:
        request.step()
    assert [request.slot is not None for request in waiting] == [True, True, False]
    door.line.configure(LineLimits(1))
    slots_held += [request.slot for request in waiting if request.slot]
    for slot in slots_held[:2]:
        slot.free()
        waiting[2].step()
        assert waiting[2].slot is None
    slots_held[2].free()
    waiting[2].step()
    assert (waiting[2].slot is not None, door.line.state()[:3]) == (True, (1, 0, 1))


def test_a_request_goes_to_the_first_of_several_endpoints_that_is_free() -> None:
    door = Door()
    other = door.new_line("cpu")
    door.enter()
    slot = other.try_enter("m", caller())
    assert slot is not None
    request = door.wait(lines=[door.line, other])
    slot.free()
    request.step()
    assert (request.index, request.slot is not None) == (1, True)
    assert [line.state()[:3] for line in (door.line, other)] == [(1, 0, 1), (1, 0, 1)]


def test_a_request_in_several_lines_gets_one_slot() -> None:
    door = Door()
    lines = [door.line, door.new_line("cpu"), door.new_line("old")]
    slots_held = [line.try_enter("m", caller()) for line in lines]
    request, other = door.wait("ann", lines=lines), door.wait("bob", lines=lines)
    for slot in slots_held:
        assert slot is not None
        slot.free()
    for _ in range(2):
        for waiting in (request, other):
            if waiting.slot is None:
                waiting.step()
    assert sorted(line.state().running for line in lines) == [0, 1, 1]
    assert [line.state().waiting for line in lines] == [0, 0, 0]


def test_the_shortest_of_several_lines_is_told() -> None:
    door = Door()
    other = door.new_line("cpu")
    for line, seconds in ((door.line, 50), (other, 20)):
        slot = line.try_enter("m", caller())
        door.answer(slot, seconds)
        assert line.try_enter("m", caller()) is not None
    assert door.wait(lines=[door.line, other]).shown == Waiting("in line", 1, 20)


def test_one_full_line_of_several_is_no_refusal() -> None:
    door = Door(longest=1)
    other = door.new_line("cpu")
    for line in (door.line, other):
        assert line.try_enter("m", caller()) is not None
    door.wait("bob", lines=[door.line])
    assert door.wait("ann", lines=[door.line, other]).shown == Waiting("in line", 1, None)
    with pytest.raises(LineFull, match="'gpu'"):
        door.wait("cid", lines=[door.line, other])


def test_a_request_in_line_checks_only_for_itself_however_many_wait() -> None:
    checks: list[str] = []

    def server_slots(model: str) -> int:
        checks.append(model)
        return 1

    limits = LineLimits(longest=300, server_slots=server_slots)
    line = EndpointLine("gpu", limits, clock=Clock())
    assert line.try_enter("m", caller()) is not None
    requests = [
        Request("ann", wait_in_lines([(line, "m")], caller(str(number)))) for number in range(300)
    ]
    for request in requests:
        request.step()
    checks.clear()
    for request in requests:
        request.step()
    assert line.state().waiting == 300
    # Whether there is room for it, and its forecast.
    assert len(checks) == 600


def test_the_positions_in_a_long_line_are_counted_each_second() -> None:
    door = Door()
    slot = door.enter()
    requests = [door.wait(str(number)) for number in range(60)]
    assert requests[59].shown == Waiting("in line", 60, None)
    door.clock.seconds += 1
    requests[59].step()
    requests[3].waiting.close()
    requests[59].step()
    assert requests[59].shown == Waiting("in line", 60, None)
    door.clock.seconds += 1
    requests[59].step()
    assert requests[59].shown == Waiting("in line", 59, None)
    slot.free()


def test_a_request_that_waits_alone_at_first_keeps_its_place_when_it_goes_to_other_lines() -> None:
    door = Door(longest=2)
    other = door.new_line("cpu")
    slot, _ = door.enter("x"), other.try_enter("m", caller("x"))
    both = [(door.line, "m"), (other, "m")]
    first = Request("ann", wait_in_lines(both, caller("ann"), alone=10))
    first.step()
    door.clock.seconds += 5
    second = door.wait("bob")
    assert (door.line.state().waiting, other.state().waiting) == (2, 0)
    door.clock.seconds += 5
    first.step()
    # Its own line is full by now, and has it all the same.
    assert (door.line.state().waiting, other.state().waiting) == (2, 1)
    door.clock.seconds += 5
    slot.free()
    second.step()
    first.step()
    assert (first.index, second.shown) == (0, Waiting("in line", 1, None))
    assert (door.line.state().waiting, other.state().waiting) == (1, 0)
    assert door.times.waits == [("gpu", 15)]


def test_the_wait_is_reported_once() -> None:
    door = Door()
    slot = door.enter()
    request = door.wait()
    door.answer(slot, 7)
    request.step()
    assert door.times.waits == [("gpu", 7)]


def test_a_woken_thread_goes_on_at_once() -> None:
    door = Door()
    slot, who = door.enter(), Caller("ann", sleeper=Sleeper(longest=600))
    request = Request("ann", wait_in_lines([(door.line, "m")], who))
    request.step()
    thread = threading.Thread(target=request.step)
    thread.start()
    slot.free()
    thread.join(60)
    assert request.slot is not None


KEYS = ("ann", "bob", "cid")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "end", "leave", "gone", "back", "configure", "look"]),
        st.sampled_from(KEYS),
        st.sampled_from(["m", "n"]),
        st.integers(0, 5),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=50)
@given(STEPS, st.integers(1, 4), st.integers(1, 4))
def test_never_more_than_the_slots_and_nothing_is_lost(
    steps: list[tuple[str, str, str, int]], slots: int, of_n: int
) -> None:
    door = Door(slots, {"n": of_n})
    lines = [door.line, door.new_line("cpu")]
    most, running = slots, list[HeldSlot]()
    waiting: list[tuple[Caller, str, Request]] = []
    for action, client, model, number in steps:
        if action == "arrive":
            who = caller(client, is_job=number == 5)
            chosen = lines if number % 2 else lines[:1]
            waiting.append((who, model, door.wait(lines=chosen, who=who, model=model)))
        elif action == "end" and running:
            running.pop(number % len(running)).free()
        elif action == "leave" and waiting:
            waiting.pop(number % len(waiting))[2].waiting.close()
        elif action in ("gone", "back") and waiting:
            who = waiting[number % len(waiting)][0]
            assert who.sleeper is not None
            who.sleeper.has_client = action == "back"
        elif action == "configure":
            most = max(most, number + 1)
            for line in lines:
                line.configure(LineLimits(number + 1, {"n": of_n}))
        for who, model, request in list(waiting):
            request.step()
            if request.slot:
                waiting.remove((who, model, request))
                running.append(request.slot)
        for line in lines:
            assert line.state().running <= most
            assert line._running["n"] <= of_n
        assert sum(line.state().running for line in lines) == len(running)
    # All who still wait are served once the others have ended.
    for who, _, _ in waiting:
        assert who.sleeper is not None
        who.sleeper.has_client = True
    for _ in range(2 * len(waiting) + len(running) + 2):
        for slot in running:
            slot.free()
        running = []
        for entry in list(waiting):
            entry[2].step()
            if entry[2].slot:
                waiting.remove(entry)
                running.append(entry[2].slot)
    assert waiting == []
    for slot in running:
        slot.free()
    assert [line.state()[:2] for line in lines] == [(0, 0), (0, 0)]


@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 4),
    st.tuples(*[st.integers(1, 20) for _ in KEYS]),
    st.lists(st.integers(1, 9), min_size=150, max_size=150),
)
def test_keys_get_equal_shares_however_many_requests_each_has_at_a_time(
    slots: int, crowd: tuple[int, ...], seconds: list[int]
) -> None:
    door = Door(slots, longest=1000)
    running: list[tuple[float, str, HeldSlot]] = []
    waiting = [door.wait(client) for client, n in zip(KEYS, crowd, strict=True) for _ in range(n)]
    served: Counter[str] = Counter()
    for duration in seconds:
        for request in list(waiting):
            request.step()
            if request.slot:
                waiting.remove(request)
                running.append((door.clock() + duration, request.name, request.slot))
        assert len(running) <= slots
        # The next one to end comes back at once, as a client in a loop does.
        running.sort(key=lambda entry: entry[0])
        ends, client, slot = running.pop(0)
        door.clock.seconds = ends
        served[client] += 1
        waiting.append(door.wait(client))
        slot.free()
    # A key needs two requests at a time to be always in line; with more slots, so many.
    busy = [client for client, n in zip(KEYS, crowd, strict=True) if n > slots]
    shares = [served[client] for client in busy]
    if len(busy) > 1:
        assert sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)) > 0.95


def test_threads_at_two_endpoints_get_the_slots_of_the_lines_that_they_are_told() -> None:
    limits = LineLimits(1)
    lines = [EndpointLine("gpu", limits), EndpointLine("cpu", limits)]
    wrong: list[str] = []

    def work(client: str) -> None:
        for _ in range(30):
            who = Caller(client, sleeper=Sleeper(longest=600))
            request = Request(client, wait_in_lines([(line, "m") for line in lines], who))
            while request.slot is None:
                request.step()
            assert request.index is not None
            if lines[request.index].state().running != 1:
                wrong.append(client)
            request.slot.free()

    threads = [threading.Thread(target=work, args=(f"client {n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (wrong, [line.state()[:2] for line in lines]) == ([], [(0, 0), (0, 0)])
