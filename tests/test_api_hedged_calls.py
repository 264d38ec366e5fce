"""Proxied calls whose server is late: another one is called beside it, and the quicker one wins."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from horde_proxy.api import proxying
from horde_proxy.upstreams import beside as beside_module
from horde_proxy.upstreams.disconnects import CallGuard, NotYet
from horde_proxy.upstreams.proxying import ProxyResponse
from tests.support import World
from tests.test_api_kept_alive import (
    ANSWERS,
    BODIES,
    CHAT,
    KEEP_ALIVES,
    MODEL,
    Silence,
    answering,
    failing,
    world_of,
)

HEDGE = {"hedge": True}
OTHER = ANSWERS[CHAT].replace("Hi", "Hello from two")
WHOLE = '{"object":"chat.completion","model":"test/model","choices":[{"index":0,"message":{}}]}'


class Beside(Silence):
    """The calls of one client, each of which is silent for so many seconds; `pause` as it is."""

    pause = 0.9


def measured(world: World, kind: str = "stream") -> Flask:
    """The app, whose servers usually answer after a second."""
    app = world.app()
    for endpoint in app.extensions["horde_proxy"].router.endpoints:
        for _ in range(20):
            endpoint.line.throughput.learn_first(f"{MODEL} {kind}", 1.0)
    return app


def beside(monkeypatch: pytest.MonkeyPatch, world: World, *seconds: float) -> Beside:
    calls = Beside(world, *seconds)
    monkeypatch.setattr(proxying, "Beside", calls)
    return calls


def post(app: Flask, **more: Any) -> Any:
    body = {"model": MODEL, "stream": True, **BODIES[CHAT], **more}
    return app.test_client().post(CHAT, json=body, buffered=True)


def running(app: Flask) -> list[int]:
    endpoints = app.extensions["horde_proxy"].router.endpoints
    return [endpoint.line.state().running for endpoint in endpoints]


def test_a_late_server_s_stream_comes_from_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(answering(ANSWERS[CHAT]), answering(OTHER), routing=HEDGE)
    calls, app = beside(monkeypatch, world, 60, 2), measured(world)
    answer = post(app)
    assert (answer.status_code, answer.text) == (200, OTHER)
    assert answer.headers["X-Endpoint"] == "two"
    # The late one was ended, and turns were short.
    assert (calls.left, calls.pause, running(app)) == (1, 0.3, [0, 0])
    assert world.clock() < 1010


def test_after_keep_alives_the_other_one_s_bytes_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(answering(ANSWERS[CHAT]), answering(OTHER), routing=HEDGE)
    calls = beside(monkeypatch, world, 600, 12)
    answer = post(measured(world))
    assert answer.text == KEEP_ALIVES[CHAT] * 2 + OTHER
    assert calls.left == 1


def test_without_the_setting_the_first_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(answering(ANSWERS[CHAT]), answering(OTHER))
    calls = beside(monkeypatch, world, 9, 2)
    assert post(measured(world)).text == ANSWERS[CHAT]
    assert calls.left == 0


def test_the_first_server_wins_where_its_first_event_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(answering(ANSWERS[CHAT]), answering(OTHER), routing=HEDGE)
    calls, app = beside(monkeypatch, world, 4, 60), measured(world)
    answer = post(app)
    assert (answer.text, answer.headers["X-Endpoint"]) == (ANSWERS[CHAT], "one")
    assert (calls.left, running(app)) == (1, [0, 0])


def test_a_second_call_that_is_not_made_any_more_leaves_no_slot_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(answering(ANSWERS[CHAT]), answering(OTHER), routing=HEDGE)
    # The first one answers between its becoming late and the other call.
    beside(monkeypatch, world, 2, 60)
    app = measured(world)
    assert post(app).text == ANSWERS[CHAT]
    assert running(app) == [0, 0]
    endpoints = app.extensions["horde_proxy"].router.endpoints
    assert [endpoint.breaker.running for endpoint in endpoints] == [0, 0]


@pytest.mark.parametrize("status", [400, 429, 500])
def test_what_a_second_server_refuses_matters_to_nobody(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    world = world_of(answering(ANSWERS[CHAT]), failing(status, "No."), routing=HEDGE)
    beside(monkeypatch, world, 8, 1)
    app = measured(world)
    answer = post(app)
    assert (answer.status_code, answer.text) == (200, ANSWERS[CHAT])
    assert running(app) == [0, 0]


def test_where_the_first_server_fails_at_last_the_second_one_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(failing(500, "Broken."), answering(OTHER), routing=HEDGE)
    beside(monkeypatch, world, 3, 4)
    answer = post(measured(world))
    assert (answer.status_code, answer.text) == (200, OTHER)


def test_an_answer_in_one_piece_comes_from_the_quicker_one_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(*2 * [answering(WHOLE, kind="application/json")], routing=HEDGE)
    calls, app = beside(monkeypatch, world, 60, 15), measured(world, "whole")
    answer = post(app, stream=False)
    # It waits in silence, without a keep-alive before its JSON.
    assert (answer.status_code, answer.text) == (200, WHOLE)
    assert (answer.headers["X-Endpoint"], calls.left) == ("two", 1)


def test_the_real_calls_beside_end_the_one_that_is_not_needed() -> None:
    closed = []

    class Guard:
        patience: float | None = None
        ahead = None

        def end_call(self) -> None:
            closed.append("hung up")

        def close(self) -> None:
            closed.append("closed")

    made: list[Any] = []
    helpers: Any = type("Helpers", (), {"run": lambda self, call: made.append(call)})()
    watch: Any = Guard
    calls = beside_module.Beside(helpers, watch, pause=0.0)
    response = ProxyResponse(200, [], iter(()), [lambda: closed.append("response")])

    def send(guard: CallGuard) -> ProxyResponse:
        if guard.patience is not None:
            raise NotYet
        return response

    steps = [calls.send(send) for _ in range(2)]
    assert [next(one).state for one in steps] == ["generating", "generating"]
    made[1]()
    with pytest.raises(StopIteration) as end:
        next(steps[1])
    assert end.value.value is response
    steps[0].close()
    assert closed == ["hung up", "closed"]
