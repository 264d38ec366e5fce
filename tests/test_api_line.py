"""The line before an endpoint, as clients, the operator and a reload see it."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from horde_proxy.app.factory import reconfigure
from horde_proxy.errors import ShuttingDown
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.line import HeldSlot
from horde_proxy.upstreams.base import Caller
from tests.support import CLIENT_KEY, Scripted, World
from tests.test_api_kept_alive import (
    ANSWERS,
    BODIES,
    CHAT,
    FRONTS,
    MESSAGES,
    MODEL,
    answering,
    silent,
    world_of,
)

KEYS = {"ann": CLIENT_KEY, "bob": "sk-bobs-key-of-many-letters"}


def endpoints_of(app: Flask) -> list[Endpoint]:
    return list(app.extensions["horde_proxy"].router.endpoints)


def occupy(app: Flask, model: str = MODEL) -> HeldSlot:
    """Somebody else's request runs at the first endpoint."""
    slot = endpoints_of(app)[0].line.try_enter(model, Caller("somebody"))
    assert slot is not None
    return slot


def world_with(path: str = CHAT, servers: int = 1, **limits: Any) -> World:
    """A proxy in front of servers with one slot each, as far as `limits` do not say otherwise."""
    world = world_of(*[answering(ANSWERS[path])] * servers)
    for endpoint in world.settings["endpoints"]:
        endpoint.update({"max_concurrent": 1, **limits})
    return world


def free_after(world: World, slot: HeldSlot, seconds: float) -> None:
    """The other request ends after so many seconds."""
    end = world.clock() + seconds

    def look() -> None:
        if world.clock() >= end:
            slot.free(was_answered=True)

    world.clock.every_sleep.append(look)


@pytest.mark.parametrize("path", FRONTS)
def test_a_proxied_stream_is_kept_alive_in_line_with_its_position_and_seconds(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    world = world_with(path)
    silent(monkeypatch, world)
    app = world.app()
    line = endpoints_of(app)[0].line
    line.throughput.learn_held("", 25.0)
    slot = occupy(app)
    free_after(world, slot, 15)
    body = {"model": MODEL, "stream": True, **BODIES[path]}
    answer = app.test_client().post(path, json=body)
    assert answer.status_code == 200
    assert answer.text.startswith(": in line, position 1, about 25 s\n\n")
    assert answer.text.endswith(ANSWERS[path])
    answer.close()
    assert line.state()[:2] == (0, 0)


def test_a_generated_stream_is_kept_alive_in_line_with_its_position() -> None:
    world = World(endpoints=[{"type": "horde", "name": "horde", "max_concurrent": 1}])
    world.employ(Scripted("Hello."))
    app = world.app()
    free_after(world, occupy(app), 40)
    body = {"model": "test/model", "stream": True, **BODIES[CHAT]}
    answer = app.test_client().post(CHAT, json=body)
    assert answer.status_code == 200
    assert ": in line, position 1\n\n" in answer.text
    assert '"content":"Hello."' in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    assert endpoints_of(app)[0].line.state()[:2] == (0, 0)


def test_an_unstreamed_call_waits_for_its_slot() -> None:
    world = world_of(answering('{"choices": []}', kind="application/json"))
    world.settings["endpoints"][0]["max_concurrent"] = 1
    app = world.app()
    states: set[tuple[str, ...]] = set()
    in_flight = app.extensions["horde_proxy"].live.in_flight
    world.clock.every_sleep.append(lambda: states.add((*in_flight.wait_states(),)))
    free_after(world, occupy(app), 30)
    answer = app.test_client().post(CHAT, json={"model": MODEL, **BODIES[CHAT]})
    assert (answer.status_code, answer.get_json()) == (200, {"choices": []})
    assert states == {("in line",)}
    assert list(in_flight.wait_states()) == []
    assert 1030 <= world.clock() < 1032


def test_a_client_that_leaves_the_line_has_used_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "horde_proxy.requests")
    world = world_with()
    silent(monkeypatch, world)
    app = world.app()
    occupy(app)
    body = {"model": MODEL, "stream": True, **BODIES[CHAT]}
    answer = app.test_client().post(CHAT, json=body, buffered=False)
    assert next(answer.iter_encoded()).startswith(b": in line, position 1")
    answer.close()
    [line] = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert line["error"] == "client_closed_request"
    assert (line.get("prompt_tokens"), line.get("upstream")) == (None, None)
    assert endpoints_of(app)[0].line.state()[:2] == (1, 0)


@pytest.mark.parametrize("path", FRONTS)
def test_a_full_line_is_a_429_with_retry_after_in_every_front(path: str) -> None:
    world = world_with(path, longest_line=0)
    app = world.app()
    endpoints_of(app)[0].line.throughput.learn_held("", 25.0)
    occupy(app)
    body = {"model": MODEL, "stream": True, **BODIES[path]}
    answer = app.test_client().post(path, json=body)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "25")
    assert "is full (longest_line = 0)" in answer.get_json()["error"]["message"]
    kind = answer.get_json()["error"]["type"]
    assert kind == ("rate_limit_error" if path == MESSAGES else "requests")


def test_a_line_that_takes_longer_than_the_proxy_waits_is_a_429() -> None:
    app = world_with().configure(server={"stream_timeout": 60}).app()
    endpoints_of(app)[0].line.throughput.learn_held("", 50.0)
    endpoints_of(app)[0].line.throughput.learn_held(MODEL, 50.0)
    occupy(app)
    body = {"model": MODEL, "stream": True, **BODIES[CHAT]}
    answer = app.test_client().post(CHAT, json=body)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "40")
    assert "an answer is expected in 100 s" in answer.get_json()["error"]["message"]


def test_the_next_priority_answers_when_the_line_is_full() -> None:
    world = world_with(servers=2, longest_line=0)
    app = world.app()
    occupy(app)
    body = {"model": MODEL, "stream": True, **BODIES[CHAT]}
    answer = app.test_client().post(CHAT, json=body)
    assert (answer.status_code, answer.headers["X-Endpoint"]) == (200, "two")


def test_a_shutdown_ends_the_wait_in_line() -> None:
    world = world_with()
    app = world.app()
    occupy(app)
    monitor = app.extensions["horde_proxy"].live.disconnects
    world.clock.every_sleep.append(monitor.hang_up_all)
    answer = app.test_client().post(CHAT, json={"model": MODEL, **BODIES[CHAT]})
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, ShuttingDown.code)
    assert endpoints_of(app)[0].line.state()[:2] == (1, 0)


def test_the_state_of_the_line_is_listed_and_measured() -> None:
    app = world_with(max_concurrent=2).app()
    http = app.test_client()
    line = endpoints_of(app)[0].line
    line.throughput.learn_held("", 30.0)
    [state] = http.get("/v1/endpoints").get_json()["data"]
    assert (state["waiting"], state["max_concurrent"], state["expected_wait"]) == (0, 2, 0.0)
    occupy(app), occupy(app)
    [state] = http.get("/v1/endpoints").get_json()["data"]
    assert (state["waiting"], state["max_concurrent"], state["expected_wait"]) == (0, 2, 15.0)
    line.waited(3.0)
    text = http.get("/metrics").text
    assert 'horde_proxy_endpoint_slots{upstream="one"} 2.0' in text
    assert 'horde_proxy_endpoint_waiting_requests{upstream="one"} 0.0' in text
    assert 'horde_proxy_line_seconds_sum{upstream="one"} 3.0' in text


def test_a_reload_with_more_slots_keeps_those_that_run_and_the_endpoint() -> None:
    world = world_with()
    app = world.app()
    slots = [occupy(app)]
    [endpoint] = endpoints_of(app)
    world.settings["endpoints"][0]["max_concurrent"] = 2
    reconfigure(app, world.config())
    assert endpoints_of(app) == [endpoint]
    slots.append(occupy(app))
    assert endpoint.line.state()[:3] == (2, 0, 2)
    # The server is the same, though other settings of it have changed as well.
    world.settings["endpoints"][0].update({"max_concurrent": 1, "timeout": 20})
    reconfigure(app, world.config())
    [other] = endpoints_of(app)
    assert (other is endpoint, other.line is endpoint.line) == (False, True)
    for slot in slots:
        assert other.line.try_enter(MODEL, Caller("ann")) is None
        slot.free()
    assert other.line.try_enter(MODEL, Caller("ann")) is not None


def test_another_server_under_the_same_name_has_a_line_of_its_own() -> None:
    world = world_with()
    app = world.app()
    occupy(app)
    world.settings["endpoints"][0]["url"] = "http://new.invalid"
    reconfigure(app, world.config())
    assert endpoints_of(app)[0].line.state()[:3] == (0, 0, 1)


def test_pictures_and_texts_of_a_server_share_its_slots() -> None:
    app = world_with().app()
    context = app.extensions["horde_proxy"]
    [texts], [pictures] = context.router.endpoints, context.image_router.endpoints
    assert texts.line is pictures.line


def test_a_limit_of_0_also_lifts_what_the_server_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    for most, slots in ((None, 1), (0, None), (3, 3)):
        world = world_with(max_concurrent=most)
        app = world.app()
        [endpoint] = endpoints_of(app)
        monkeypatch.setattr(type(endpoint.upstream), "slots", lambda self, model: 1)
        # What the server tells is asked for each time.
        reconfigure(app, world.config())
        assert endpoint.line.state(MODEL).slots == slots


def test_keys_have_turns_by_their_weights() -> None:
    access = {
        "mode": "keys",
        "keys": {"ann": {"key": KEYS["ann"], "weight": 3}, "bob": KEYS["bob"]},
    }
    world = world_with().configure(access=access)
    app = world.app()
    weights: list[float] = []
    line = endpoints_of(app)[0].line
    plain = line.try_enter

    def noting(model: str, caller: Caller) -> HeldSlot | None:
        weights.append(caller.weight)
        return plain(model, caller)

    line.try_enter = noting  # type: ignore[method-assign]
    for key in KEYS.values():
        headers = {"Authorization": f"Bearer {key}"}
        body = {"model": MODEL, "stream": True, **BODIES[CHAT]}
        app.test_client().post(CHAT, json=body, headers=headers).close()
    assert weights == [3.0, 1.0]


def test_a_request_that_fails_everywhere_ends_the_wait_of_nobody_in_line() -> None:
    world = world_with(servers=2)
    app = world.app()
    lines = [endpoint.line for endpoint in endpoints_of(app)]
    slots = [line.try_enter(MODEL, Caller("somebody")) for line in lines]
    failed_at: list[float] = []

    def fail() -> None:
        if failed_at or world.clock() < 1004:
            return
        failed_at.append(world.clock())
        for endpoint, slot in zip(endpoints_of(app), slots, strict=True):
            attempt = endpoint.health.try_acquire(MODEL)
            assert attempt is not None
            assert slot is not None
            attempt.failed("it answered with status 500", 3.0)
            attempt.slot = slot
            attempt.end()

    world.clock.every_sleep.append(fail)
    answer = app.test_client().post(CHAT, json={"model": MODEL, "stream": True, **BODIES[CHAT]})
    assert (answer.status_code, answer.text.endswith(ANSWERS[CHAT])) == (200, True)
    answer.close()
    assert failed_at[0] + 3 <= world.clock() < failed_at[0] + 5
    assert [line.state()[:2] for line in lines] == [(0, 0), (0, 0)]


def test_a_long_cooldown_ends_the_wait_in_line_with_its_reason() -> None:
    world = world_with(servers=2)
    app = world.app()
    slots = [endpoint.line.try_enter(MODEL, Caller("somebody")) for endpoint in endpoints_of(app)]

    def fail() -> None:
        for endpoint, slot in zip(endpoints_of(app), slots, strict=True):
            attempt = endpoint.health.try_acquire(MODEL)
            if attempt is not None and slot is not None:
                attempt.failed("it answered with status 500", 30.0)
                attempt.slot = slot
                attempt.end()

    world.clock.every_sleep.append(fail)
    answer = app.test_client().post(CHAT, json={"model": MODEL, **BODIES[CHAT]})
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "no_endpoint")
    assert world.clock() < 1003
    assert [endpoint.line.state()[:2] for endpoint in endpoints_of(app)] == [(0, 0), (0, 0)]


def test_an_endpoint_that_is_being_probed_is_no_reason_to_leave_the_line() -> None:
    world = world_with(servers=2)
    app = world.app()
    gpu, other = endpoints_of(app)
    slot = gpu.line.try_enter(MODEL, Caller("somebody"))
    assert slot is not None
    assert other.line.try_enter(MODEL, Caller("somebody")) is not None
    failed_at: list[float] = []

    def fail() -> None:
        if failed_at or world.clock() < 1004:
            return
        failed_at.append(world.clock())
        for endpoint, seconds in ((other, 0.0), (gpu, 3.0)):
            attempt = endpoint.health.try_acquire(MODEL)
            assert attempt is not None
            attempt.failed("it answered with status 500", seconds)
            attempt.end()

    def probe() -> None:
        if failed_at and world.clock() >= failed_at[0] + 2 and not probes:
            probes.append(other.health.try_acquire(MODEL))
            slot.free()

    probes: list[object] = []
    world.clock.every_sleep.extend((fail, probe))
    answer = app.test_client().post(CHAT, json={"model": MODEL, "stream": True, **BODIES[CHAT]})
    assert (answer.status_code, answer.text.endswith(ANSWERS[CHAT])) == (200, True)
    answer.close()
    assert probes != [None]
    assert gpu.line.state()[:2] == (0, 0)
