"""Kudos that the horde settles some seconds after an answer."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import pytest
import responses
from flask.testing import FlaskClient

from horde_proxy.aihorde.rest import api_url
from horde_proxy.ledger import ClientKey
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.settlements import MOST_ENDED, Settlements
from horde_proxy.upstreams.horde.text import TEXT
from tests.support import CLIENT_KEY, HORDE_URL, Scripted, World, known

BODY = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}]}
KEY = {"Authorization": "Bearer key-of-laptop-longer"}
KEYS = known(laptop=ClientKey("laptop", admin=True))
STATUS = f"{api_url(HORDE_URL)}/generate/text/status/id-1"


def late_world(**sections: Any) -> World:
    """A world whose horde charges kudos every 3 s, as the real one does."""
    world = World(**{**KEYS, **sections})
    world.horde.settle_every = 3
    # So that the next charge is due at 1002, after the end of a short answer.
    world.clock.seconds = 1000.0
    world.employ(Scripted("Hello."))
    return world


def chat(http: FlaskClient, **more: Any) -> dict[str, Any]:
    response = http.post("/v1/chat/completions", json={**BODY, **more}, headers=KEY, buffered=True)
    assert response.status_code == 200, response.json
    assert response.json is not None
    return dict(response.json)


def used(http: FlaskClient) -> Any:
    answer = http.get("/v1/usage", headers=KEY).json
    assert answer is not None
    return answer["data"]


def kudos_metric(world: World, http: FlaskClient) -> float:
    text = http.get("/metrics", headers=KEY).text
    [line] = [line for line in text.splitlines() if line.startswith("horde_proxy_kudos_total{")]
    return float(line.split()[-1])


def paid(world: World) -> float:
    """What the horde has charged the proxy's account, which began with 10,000."""
    return round(10_000 - float(world.horde.people.find_user(CLIENT_KEY)["kudos"]), 2)


def test_kudos_that_are_settled_late_reach_usage_and_metrics() -> None:
    world = late_world()
    http = world.http()
    horde = chat(http)["horde"]
    assert (horde["kudos"], horde["kudos_settled"]) == (0.0, False)
    assert used(http)[0]["kudos"] == 0.0
    world.clock.sleep(5)
    [row] = used(http)
    assert (row["requests"], row["kudos"]) == (1, 2.65)
    assert kudos_metric(world, http) == 2.65
    assert paid(world) == 2.65


def test_the_page_counts_late_kudos_too() -> None:
    world = late_world()
    app = world.app()
    chat(app.test_client())
    world.clock.sleep(5)
    history = app.extensions["horde_proxy"].live.page.history
    assert history.buckets("laptop")[-1].kudos == 2.65


def test_a_stream_is_corrected_like_a_whole_answer() -> None:
    world = late_world()
    http = world.http()
    http.post("/v1/chat/completions", json={**BODY, "stream": True}, headers=KEY, buffered=True)
    world.clock.sleep(5)
    assert [row["kudos"] for row in used(http)] == [2.65]


def test_a_limit_of_kudos_a_day_counts_what_was_settled_late() -> None:
    world = late_world(**known(laptop=ClientKey("laptop", kudos_per_day=2)))
    http = world.http()
    assert chat(http)["horde"]["kudos"] == 0.0
    world.clock.sleep(5)
    response = http.post("/v1/chat/completions", json=BODY, headers=KEY)
    assert (response.status_code, response.json["error"]["code"]) == (429, "daily_limit_reached")  # type: ignore[index]
    assert "has used 2.65" in response.json["error"]["message"]  # type: ignore[index]


def test_the_usage_of_forty_answers_is_the_kudos_that_were_paid() -> None:
    world = late_world()
    http = world.http()
    for number in range(40):
        chat(http, messages=[{"role": "user", "content": f"Number {number:02}"}])
        # Some are settled before their end is seen, and some after it.
        world.clock.sleep(0.7)
    world.clock.sleep(5)
    [row] = used(http)
    assert row["requests"] == 40
    assert row["kudos"] == pytest.approx(paid(world), rel=0.001)
    assert paid(world) == pytest.approx(106.0)


def test_the_horde_object_of_several_prompts_has_the_kudos_of_all() -> None:
    world = World(**KEYS)
    world.employ(Scripted("Hello."))
    http = world.http()
    body = {"model": "test/model", "prompt": ["one", "two", "three"]}
    answer = http.post("/v1/completions", json=body, headers=KEY, buffered=True).json
    assert answer is not None
    assert answer["horde"]["kudos"] == pytest.approx(paid(world), abs=0.02)
    assert [row["kudos"] for row in used(http)] == [answer["horde"]["kudos"]]


def test_several_prompts_are_corrected_together() -> None:
    world = late_world()
    http = world.http()
    body = {"model": "test/model", "prompt": ["one", "two", "three"]}
    answer = http.post("/v1/completions", json=body, headers=KEY, buffered=True).json
    assert answer is not None
    assert answer["horde"]["kudos_settled"] is False
    world.clock.sleep(5)
    assert used(http)[0]["kudos"] == pytest.approx(paid(world), abs=0.02)
    assert paid(world) > 6


def test_the_private_horde_in_this_process_is_settled_at_once() -> None:
    world = World(private_horde={"enabled": True}, **KEYS)
    [private] = [
        horde.upstream
        for name, horde in world.app().extensions["horde_proxy"].hordes.items()
        if name == "private"
    ]
    assert private._horde.settlements is None
    cost = AnswerCost()
    cost.add_kudos("id-1", 2.0, None)
    assert cost.summary("test/model")["kudos_settled"] is True


def test_a_request_that_the_horde_forgot_keeps_its_last_kudos(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    world, cost = World(), AnswerCost()
    cost.add_kudos("id-1", 1.0, 6.0)
    watched(world, cost)
    world.clock.sleep(4)
    assert (cost.kudos, cost.is_settled) == (1.0, True)
    assert "the final kudos of request id-1 are unknown: The horde has lost the request." in (
        caplog.messages
    )


def watched(world: World, cost: AnswerCost) -> Settlements:
    """Settlements that watch the request id-1, over the world's connections."""
    found = Settlements(world.client, clock=world.clock, run_later=world.clock.run_later)
    found.watch(TEXT, "id-1", cost)
    return found


def test_a_horde_that_does_not_answer_is_asked_three_times() -> None:
    world, cost = World(), AnswerCost()
    cost.add_kudos("id-1", 1.0, 6.0)
    world.session.get_adapter(HORDE_URL)
    del world.session.adapters[HORDE_URL]
    watched(world, cost)
    with responses.RequestsMock() as horde:
        down = horde.get(STATUS, status=500)
        for _ in range(8):
            world.clock.sleep(4)
        assert down.call_count == 3
    assert (cost.kudos, cost.is_settled) == (1.0, True)


def test_a_ledger_that_is_behind_is_looked_at_again() -> None:
    world, cost = World(), AnswerCost()
    cost.add_kudos("id-1", 1.0, 6.0)
    del world.session.adapters[HORDE_URL]
    watched(world, cost)
    with responses.RequestsMock() as horde:
        horde.get(STATUS, json={"finished": 1, "done": True, "kudos": 1.0})
        horde.get(STATUS, json={"finished": 1, "done": True, "kudos": 6.0})
        world.clock.sleep(4)
        assert not cost.is_settled
        world.clock.sleep(4)
    assert (cost.kudos, cost.is_settled) == (6.0, True)


def test_what_ends_together_shares_one_timer_and_is_bounded() -> None:
    world = World()
    timers: list[float] = []
    found = Settlements(
        world.client,
        clock=world.clock,
        run_later=lambda seconds, call: timers.append(seconds),
    )
    for number in range(2 * MOST_ENDED):
        found.watch(TEXT, f"id-{number}", AnswerCost())
    assert timers == [4.0]
    assert len(found._ended) == 1000


def test_no_thread_for_a_timer_leaves_the_request_for_the_next_one() -> None:
    world, cost, ready = World(), AnswerCost(), [False]

    def run_later(seconds: float, call: Any) -> None:
        if not ready[0]:
            raise RuntimeError("can't start new thread")
        world.clock.run_later(seconds, call)

    found = Settlements(world.client, clock=world.clock, run_later=run_later)
    cost.add_kudos("id-1", 1.0, 6.0)
    found.watch(TEXT, "id-1", cost)
    ready[0] = True
    found.watch(TEXT, "id-2", AnswerCost())
    world.clock.sleep(5)
    assert cost.is_settled


def test_kudos_that_are_not_settled_count_with_their_price() -> None:
    cost = AnswerCost()
    cost.add_kudos("a", 1.0, 6.0)
    cost.add_kudos("b", 2.0, None)
    assert (cost.kudos, cost.committed) == (3.0, 8.0)
    cost.settle("a", 4.0)
    assert (cost.kudos, cost.committed) == (6.0, 6.0)


def test_late_kudos_never_fall() -> None:
    cost = AnswerCost()
    cost.add_kudos("a", 3.0, 6.0)
    cost.settle("a", 1.0)
    assert cost.kudos == 3.0


def test_a_request_that_failed_costs_its_tax() -> None:
    world = World(**KEYS)
    texts = iter(["", "Hello."])

    class FirstIsEmpty(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            return next(texts)

    world.employ(FirstIsEmpty(""))
    world.employ(Scripted("Hello."), "worker-2")
    http = world.http()
    answer = chat(http)
    assert answer["horde"]["kudos"] == pytest.approx(paid(world), abs=0.02)


def test_max_kudos_holds_where_kudos_are_settled_late() -> None:
    world = World(**KEYS)
    world.horde.settle_every = 3
    world.employ(Scripted("word " * 64, max_length=64, context=1024))
    http = world.http()
    horde = chat(http, max_tokens=2000, horde={"max_kudos": 60})["horde"]
    assert (horde["cut_off_by"], horde["kudos_settled"]) == ("kudos", False)
    world.clock.sleep(5)
    assert horde["kudos"] < paid(world) <= 60
    assert used(http)[0]["kudos"] == pytest.approx(paid(world), abs=0.05)


def test_a_client_that_leaves_in_the_middle_pays_what_was_settled_late() -> None:
    world = World(server={"cancel_grace": 0}, **KEYS)
    # The ledger is so far behind that the first look, 4 s later, finds nothing.
    world.horde.settle_every = 8
    world.employ(Scripted("word " * 64, max_length=64))
    http = world.http()
    body = {**BODY, "max_tokens": 640, "stream": True}
    stream = http.post("/v1/chat/completions", json=body, headers=KEY)
    pieces: Iterable[Any] = stream.response
    assert any(b"word" in piece for piece in pieces)
    world.clock.every_sleep.clear()
    stream.close()
    assert used(http)[0]["kudos"] == 0.0
    world.clock.sleep(5)
    assert used(http)[0]["kudos"] == 0.0
    world.clock.sleep(5)
    # The private horde forgets a cancelled request at once, and with it the tax of 1 kudos.
    assert paid(world) > 10
    assert used(http)[0]["kudos"] == pytest.approx(paid(world), abs=1.05)
