"""`routing.hedge`: a job that is late gets a second request, within every limit of kudos."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from horde_proxy.errors import InsufficientKudos
from horde_proxy.ledger import ClientKey
from horde_proxy.upstreams.base import Caller, Route, SecondRequests
from horde_proxy.upstreams.horde.upstream import HordeUpstream
from tests.support import PieceByPiece, World, known
from tests.test_upstreams_hung_workers import (
    CHAT,
    MODEL,
    Worker,
    cancelled,
    chat,
    drive,
    folded,
    items,
    measure,
    measured,
    submits,
)

HEDGE = {"hedge": True}
PRICE = 20.29
"""The kudos that one of the two requests for these 100 tokens costs at most."""


def hedged(world: World) -> HordeUpstream:
    """The horde with `routing.hedge`, at which generations took 4 s until now."""
    world.configure(routing=HEDGE)
    return measured(world, 4.0)


def hedged_http(world: World) -> FlaskClient:
    """A client of an app that has measured the same."""
    app = world.configure(routing=HEDGE).app()
    [endpoint] = app.extensions["horde_proxy"].router.endpoints
    measure(endpoint.upstream, 4.0)
    return app.test_client()


def test_a_job_that_takes_longer_than_19_of_20_is_submitted_a_second_time(world: World) -> None:
    late, good = Worker(world, "late", [60.0]), Worker(world, "good", [4.0])
    upstream, cable, began = hedged(world), world.cable(), world.clock()
    answer = folded(items(world, upstream, chat()))
    horde = answer["horde"]
    assert answer["choices"][0]["message"]["content"] == "Hello there."
    assert [worker["name"] for worker in horde["workers"]] == ["good"]
    assert (horde["retries"], horde["hedged_requests"], submits(cable)) == (1, 1, 2)
    # The loser is cancelled; its tax and price are in what the answer costs.
    assert cancelled(cable) == horde["request_ids"][:1]
    assert (horde["kudos"], horde["price"]) == (3.65, 2 * PRICE - 0.01)
    assert 4 <= good.popped[0] - late.popped[0] <= 8
    assert world.clock() - began < 16
    # It was late, but nobody knows yet that its worker hangs.
    assert upstream._horde.failures.workers() == []


def test_without_the_setting_it_is_waited_for(world: World) -> None:
    Worker(world, "late", [12.0])
    Worker(world, "good", [4.0])
    upstream, cable = measured(world, 4.0), world.cable()
    assert "hedged_requests" not in folded(items(world, upstream, chat()))["horde"]
    assert submits(cable) == 1


def test_a_job_in_time_is_submitted_once(world: World) -> None:
    Worker(world, "good", [4.0])
    Worker(world, "other", [4.0])
    upstream, cable = hedged(world), world.cable()
    assert folded(items(world, upstream, chat()))["horde"]["retries"] == 0
    assert submits(cable) == 1


def test_what_was_late_counts_among_the_durations(world: World) -> None:
    Worker(world, "late", [60.0])
    Worker(world, "good", [4.0])
    upstream = hedged(world)
    items(world, upstream, chat())
    durations = upstream._horde.throughput.of(MODEL).durations
    # What the late one took at least, then the good one's: either may come first.
    assert (len(durations), max(durations) > 1.5) == (22, True)


def test_a_second_request_in_the_queue_is_for_workers_that_were_left_out_at_first(
    world: World,
) -> None:
    world.configure(routing={**HEDGE, "hedge_stall": 15.0})
    failed = Worker(world, "failed", [4.0])
    busy = Worker(world, "busy", [300.0])
    upstream, cable = measured(world, 4.0), world.cable()
    ids = {worker["name"]: worker["id"] for worker in world.horde.fleet.workers("text")}
    upstream._horde.failures.add(ids["failed"])
    world.horde.submit("0000000000", {"prompt": "x", "models": [MODEL], "workers": [ids["busy"]]})
    world.clock.sleep(1)
    assert (len(busy.popped), len(failed.popped)) == (1, 0)
    began = world.clock()
    horde = folded(items(world, upstream, chat()))["horde"]
    assert [worker["name"] for worker in horde["workers"]] == ["failed"]
    assert (submits(cable), horde["hedged_requests"]) == (2, 1)
    assert 15 <= failed.popped[0] - began <= 20


def test_where_nobody_else_can_take_it_a_stalled_queue_gets_no_second_request(
    world: World,
) -> None:
    world.configure(routing={**HEDGE, "hedge_stall": 15.0})
    Worker(world, "busy", [300.0])
    upstream, cable = measured(world, 4.0), world.cable()
    world.horde.submit("0000000000", {"prompt": "x", "models": [MODEL]})
    world.clock.sleep(1)
    stream = upstream.stream(chat(), Route(upstream, (MODEL,)), Caller())
    drive(world, stream, 60)
    assert submits(cable) == 1
    stream.close()


@pytest.mark.parametrize(("most", "count"), [(40.0, 1), (41.0, 2)])
def test_both_keep_within_max_kudos_per_request_whatever_the_client_allows(
    world: World, most: float, count: int
) -> None:
    world.configure(horde={"max_kudos_per_request": most})
    Worker(world, "late", [None])
    Worker(world, "other", [None])
    upstream, cable = hedged(world), world.cable()
    request = chat(horde={"max_kudos": 1000.0})
    stream = upstream.stream(request, Route(upstream, (MODEL,)), Caller())
    drive(world, stream, 15)
    assert submits(cable) == count
    stream.close()


class Budget:
    """A key that may spend so many kudos today."""

    def __init__(self, kudos: float) -> None:
        self.kudos = kudos

    def left(self) -> float:
        return self.kudos

    def hold(self, kudos: float) -> None:
        self.kudos -= kudos


@pytest.mark.parametrize(("kudos", "count"), [(40.0, 1), (41.0, 2)])
def test_both_keep_within_what_the_key_has_left_of_its_day(
    world: World, kudos: float, count: int
) -> None:
    Worker(world, "late", [None])
    Worker(world, "other", [None])
    upstream, cable = hedged(world), world.cable()
    caller = Caller(budget=Budget(kudos))
    stream = upstream.stream(chat(), Route(upstream, (MODEL,)), caller)
    drive(world, stream, 15)
    assert submits(cable) == count
    stream.close()


@pytest.mark.parametrize(("kudos", "count"), [(30.0, 1), (300.0, 2)])
def test_a_keys_kudos_per_day_are_its_budget(world: World, kudos: float, count: int) -> None:
    world.configure(**known(anna=ClientKey("", kudos_per_day=kudos)))
    Worker(world, "late", [60.0])
    Worker(world, "good", [4.0])
    http, cable = hedged_http(world), world.cable()
    headers = {"Authorization": "Bearer key-of-anna-longer"}
    response = http.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert (response.status_code, submits(cable)) == (200, count)


def test_at_most_one_second_request_is_made(world: World) -> None:
    for name in ("late", "other", "idle"):
        Worker(world, name, [None])
    upstream, cable = hedged(world), world.cable()
    stream = upstream.stream(chat(), Route(upstream, (MODEL,)), Caller())
    drive(world, stream, 60)
    assert submits(cable) == 2
    stream.close()
    assert len(set(cancelled(cable))) == 2
    assert world.horde.open_requests() == []


def test_second_requests_of_late_jobs_are_counted(world: World) -> None:
    Worker(world, "late", [60.0])
    Worker(world, "good", [4.0])
    http = hedged_http(world)
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
    text = http.get("/metrics").get_data(as_text=True)
    assert 'horde_proxy_retries_total{reason="late"} 1.0' in text


def test_the_first_text_that_grows_wins_and_the_other_request_is_cancelled() -> None:
    world = World(streams=True, routing=HEDGE)
    Worker(world, "late", [None])
    good = PieceByPiece(world.session, lambda payload: "Hello there, and more.", 5, name="good")
    good.step()
    world.clock.every_sleep.append(good.step)
    upstream, cable = measured(world, 4.0), world.cable()
    taken, contents = [], []
    for item in upstream.stream(chat(stream=True), Route(upstream, (MODEL,)), Caller()):
        taken.append(item)
        if isinstance(item, dict) and item["choices"]:
            content = item["choices"][0]["delta"].get("content")
            if content:
                contents.append((content, len(cancelled(cable))))
    # The loser is cancelled at the first words, and the rest comes as it grows.
    assert "".join(content for content, _ in contents) == "Hello there, and more."
    assert len(contents) > 2
    assert contents[0][1] == 1
    horde = folded(taken)["horde"]
    assert [worker["name"] for worker in horde["workers"]] == ["good"]
    assert cancelled(cable) == horde["request_ids"][:1]
    assert world.horde.open_requests() == []


@pytest.mark.parametrize(
    ("caller", "is_submitted"),
    [
        (Caller(is_second=True), True),
        (Caller(is_second=True, spent_kudos=29.0), True),
        # The request that it is made beside is expected to cost the rest.
        (Caller(is_second=True, spent_kudos=30.0), False),
        (Caller(is_second=True, budget=Budget(20.0)), False),
        (Caller(budget=Budget(20.0)), True),
    ],
)
def test_a_request_beside_that_of_another_endpoint_keeps_within_what_is_left(
    world: World, caller: Caller, is_submitted: bool
) -> None:
    Worker(world, "good", [4.0])
    upstream, cable = hedged(world), world.cable()
    request = chat(horde={"max_kudos": 50.0})
    stream = upstream.stream(request, Route(upstream, (MODEL,)), caller)
    if is_submitted:
        assert folded(list(stream))["horde"]["retries"] == 0
    else:
        with pytest.raises(InsufficientKudos):
            list(stream)
    assert submits(cable) == is_submitted


def test_nobody_waits_for_a_job_so_that_it_is_not_submitted_twice(world: World) -> None:
    Worker(world, "late", [12.0])
    Worker(world, "good", [4.0])
    upstream, cable = hedged(world), world.cable()
    items(world, upstream, chat(), Caller(is_job=True))
    assert submits(cable) == 1


def test_what_has_a_second_request_at_another_endpoint_gets_none_here(world: World) -> None:
    Worker(world, "late", [30.0])
    Worker(world, "good", [4.0])
    upstream, cable = hedged(world), world.cable()
    caller = Caller(second=SecondRequests(is_of_answer=True))
    items(world, upstream, chat(), caller)
    assert submits(cable) == 1
