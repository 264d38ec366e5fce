"""Paused endpoints: they get no new requests, in all processes and after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import responses
from flask import Flask

from horde_proxy import reconfigure
from horde_proxy.app.factory import composition_of
from horde_proxy.commands.check import check_endpoints
from horde_proxy.config import load
from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import (
    AllEndpointsClosed,
    AllEndpointsFailed,
    AllEndpointsUnfit,
    UpstreamFailed,
    UpstreamUnfit,
)
from horde_proxy.router import Router
from horde_proxy.router.hedge import entered_beside
from horde_proxy.router.line import wait_in_lines
from horde_proxy.router.pause_database import PauseDatabase
from horde_proxy.router.pauses import Pauses
from horde_proxy.upstreams.base import Caller, Waiting
from horde_proxy.upstreams.horde.penalties import Penalized
from tests.support import Clock
from tests.test_api_proxying import CLOUD, COMPLETION, ENDPOINTS, HOME, chat, made
from tests.test_api_proxying import servers as servers
from tests.test_router import (
    CALL,
    CHAT,
    Proxying,
    answered_by,
    endpoint,
    proxied,
    response_of,
    tried_in_order,
)
from tests.test_router_entering import House, client, ended, name_of
from tests.test_router_health import call
from tests.test_router_wake import CHAT as CHAT_BODY
from tests.test_router_wake import House as SleepingHouse

NOON = 1_764_504_000.0
MESSAGES = [{"role": "user", "content": "Hi"}]


def in_file(folder: Path) -> PauseDatabase:
    """The pauses in a file, as one process opens it."""
    return PauseDatabase(Database(f"sqlite:///{folder}/store.db", setting="store.database"))


def reading(store: PauseDatabase, clock: Clock) -> Pauses:
    return Pauses(store, clock=clock, run=lambda load: load())


def stored(folder: Path) -> dict[str, Any]:
    """The settings of a proxy that keeps its answers, and so its pauses, in a folder."""
    return {"store": {"database": f"sqlite:///{folder}/store.db"}}


def pauses_of(app: Flask) -> Pauses:
    return composition_of(app).assembly.pauses


def states(http: Any) -> dict[str, str]:
    return {state["name"]: state["state"] for state in http.get("/v1/endpoints").json["data"]}


def test_a_paused_endpoint_is_no_candidate_and_the_next_one_answers() -> None:
    pauses = Pauses()
    one = endpoint(Proxying("one", "m"), pauses=pauses)
    two = endpoint(Proxying("two", "m"), pauses=pauses, priority=1)
    router = Router([one, two])
    pauses.pause("one", NOON)
    assert tried_in_order(router, "m") == [("two", ("m",))]
    answer = response_of(router.proxy(CALL, router.candidates("m"), Caller()))
    assert answer is not None and answered_by(answer) == "two"
    pauses.resume("one")
    assert tried_in_order(router, "m") == [("one", ("m",)), ("two", ("m",))]


def test_where_every_endpoint_is_paused_the_error_says_so_and_no_client_tries_again() -> None:
    pauses = Pauses()
    router = Router([endpoint(Proxying("one", "m"), pauses=pauses)])
    pauses.pause("one", NOON)
    candidates = router.candidates("m")
    assert response_of(router.proxy(CALL, candidates, Caller())) is None
    error = candidates.error()
    assert isinstance(error, AllEndpointsClosed)
    assert str(error) == "No endpoint answers for `m` now. one: the operator has paused it."
    assert error.headers() == {"Retry-After": "60", "x-should-retry": "false"}
    assert error.headers(for_job=True) == {"Retry-After": "60"}


def test_jobs_wait_where_a_penalty_ends_and_not_where_the_owner_must_mend_something() -> None:
    one, two = Proxying("one", "m"), Proxying("two", "m")
    router = Router([endpoint(one), endpoint(two, priority=1)])
    one.answers = [Penalized("time-out", retry_after=900)]
    two.answers = [UpstreamUnfit("it has no such path")]
    with pytest.raises(AllEndpointsClosed) as raised:
        proxied(router)
    assert raised.value.headers(for_job=True) == {"Retry-After": "900"}
    one, two = Proxying("one", "m"), Proxying("two", "m")
    router = Router([endpoint(one), endpoint(two, priority=1)])
    one.answers, two.answers = [UpstreamUnfit("no path")], [UpstreamUnfit("no path")]
    with pytest.raises(AllEndpointsUnfit) as unfit:
        proxied(router)
    assert unfit.value.headers(for_job=True) == {"Retry-After": "60", "x-should-retry": "false"}


def test_two_failures_of_one_endpoint_do_not_stand_for_another_that_cools_down() -> None:
    one, two = Proxying("one", "x", "y"), Proxying("two", "x")
    two.answers = [UpstreamFailed("it broke", retry_after=20)]
    router = Router([endpoint(two), endpoint(one, priority=1)], fallbacks={"x": ["y"]})
    assert answered_by(proxied(router, call("x"), "x")) == "one"
    one.answers = [UpstreamUnfit("it has no such path"), UpstreamUnfit("it has no such path")]
    with pytest.raises(AllEndpointsFailed) as raised:
        proxied(router, call("x"), "x")
    assert not isinstance(raised.value, AllEndpointsUnfit)
    assert raised.value.headers() == {"Retry-After": "20"}


def test_a_request_leaves_the_line_of_an_endpoint_that_is_paused() -> None:
    house, pauses = House(), Pauses()
    house.occupy(house.add(Proxying("one", "m"), pauses=pauses))
    house.add(Proxying("two", "m"), pauses=pauses, priority=1)
    router = house.router()
    proxying = router.proxy(CALL, router.candidates("m"), client())
    assert next(proxying) == Waiting("in line", 1, None)
    pauses.pause("one", NOON)
    response = ended(proxying)
    assert house.states() == [(1, 0), (1, 0)]
    assert name_of(response) == "two"


def test_a_request_stays_in_the_lines_of_endpoints_that_are_not_paused() -> None:
    house, pauses = House(), Pauses()
    house.occupy(house.add(Proxying("one", "m"), pauses=pauses))
    slot = house.occupy(house.add(Proxying("two", "m"), pauses=pauses, weight=0.1))
    router = house.router()
    proxying = router.proxy(CALL, router.candidates("m"), client())
    next(proxying)
    pauses.pause("one", NOON)
    next(proxying)
    assert house.states() == [(1, 0), (1, 1)]
    slot.free()
    assert name_of(ended(proxying)) == "two"


def test_a_conversation_does_not_wait_for_the_endpoint_that_has_read_it_once_that_is_paused() -> (
    None
):
    house, pauses = House(), Pauses()
    slots = [house.occupy(house.add(Proxying(name, "m"), pauses=pauses)) for name in ("one", "two")]
    lines = [(endpoint.line, "m") for endpoint in house.endpoints]
    waiting = wait_in_lines(
        lines, client(), alone=600, is_open=lambda index: pauses.since(lines[index][0].name) is None
    )
    next(waiting)
    assert house.states() == [(1, 1), (1, 0)]
    pauses.pause("one", NOON)
    next(waiting)
    assert house.states() == [(1, 0), (1, 1)]
    slots[1].free()
    with pytest.raises(StopIteration) as end:
        next(waiting)
    index, slot = end.value.value
    assert index == 1
    slot.free()


def test_a_request_in_line_is_refused_once_its_only_endpoint_is_paused() -> None:
    house, pauses = House(), Pauses()
    house.occupy(house.add(Proxying("one", "m"), pauses=pauses))
    router = house.router()
    stream = router.stream(CHAT, router.candidates("m"), client())
    next(stream)
    pauses.pause("one", NOON)
    with pytest.raises(AllEndpointsClosed):
        list(stream)
    assert house.states() == [(1, 0)]


def test_a_paused_endpoint_is_never_tried_beside_a_late_one() -> None:
    house, pauses = House(), Pauses()
    house.add(Proxying("one", "m"), pauses=pauses)
    house.add(Proxying("two", "m"), pauses=pauses, priority=1)
    candidates = house.router().candidates("m")
    first, attempt = next(iter(candidates))
    pauses.pause("two", NOON)
    assert entered_beside(candidates, first, client()) is None
    assert house.states() == [(0, 0), (0, 0)]
    pauses.resume("two")
    assert entered_beside(candidates, first, client()) is not None
    attempt.end()


def test_nothing_is_sent_to_a_machine_that_is_paused_while_it_boots(tmp_path: Path) -> None:
    house = SleepingHouse(tmp_path)
    app = house.world.app()
    http = app.test_client()
    house.fall_asleep(http)
    house.clock.run_later(10, lambda: pauses_of(app).pause("desktop", NOON))
    refused: Any = http.post("/v1/chat/completions", json={**CHAT_BODY, "stream": False})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "60")
    assert house.desktop.chats == 0


def test_a_client_that_names_a_paused_endpoint_hears_of_that_one_only() -> None:
    pauses = Pauses()
    one, two = Proxying("one", "m"), Proxying("two", "m")
    router = Router([endpoint(one, pauses=pauses), endpoint(two, pauses=pauses)])
    pauses.pause("one", NOON)
    candidates = router.candidates("m", endpoint="one")
    assert response_of(router.proxy(CALL, candidates, Caller())) is None
    # The other one does offer the model: it was not asked.
    assert str(candidates.error()) == (
        "No endpoint answers for `m` now. one: the operator has paused it."
    )


def test_a_call_that_runs_when_its_endpoint_is_paused_ends_as_any_other() -> None:
    pauses, upstream = Pauses(), Proxying("one", "m")
    router = Router([endpoint(upstream, pauses=pauses)])
    answer = response_of(router.proxy(CALL, router.candidates("m"), Caller()))
    assert answer is not None
    pauses.pause("one", NOON)
    assert b"".join(answer) == b'{"answer": "one"}'


def test_a_busy_endpoint_does_not_hand_its_line_to_a_paused_one() -> None:
    pauses = Pauses()
    one, two = (
        endpoint(Proxying("one", "m"), pauses=pauses),
        endpoint(Proxying("two", "m"), pauses=pauses),
    )
    candidates = Router([one, two]).candidates("m")
    first, attempt = next(iter(candidates))
    other = two if first.endpoint is one else one
    assert [beside.endpoint for beside in candidates.equals(first)] == [other]
    pauses.pause(other.name, NOON)
    assert candidates.equals(first) == []
    attempt.end()


def test_a_pause_is_seen_by_other_processes_and_outlives_them(tmp_path: Path) -> None:
    clock = Clock()
    one, two = reading(in_file(tmp_path), clock), reading(in_file(tmp_path), clock)
    assert (one.since("home"), two.since("home")) == (None, None)
    one.pause("home", NOON)
    assert one.since("home") == NOON
    clock.sleep(3)
    assert two.since("home") == NOON
    two.pause("home", NOON + 60)
    assert reading(in_file(tmp_path), clock).since("home") == NOON
    two.resume("home")
    clock.sleep(3)
    assert (one.since("home"), two.since("home")) == (None, None)


def test_a_database_that_a_reload_brings_takes_over_the_pauses(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    app = made(store={"days": 0})
    assert not pauses_of(app).is_kept
    pauses_of(app).pause("home", NOON)
    kept = {"store": {**stored(tmp_path)["store"], "days": 30}}
    reconfigure(app, load(environ={}, flags={"endpoints": ENDPOINTS, **kept}))
    assert pauses_of(app).is_kept
    assert states(app.test_client()) == {"home": "paused", "cloud": "up"}
    assert in_file(tmp_path).paused() == {"home": NOON}


def test_a_database_that_takes_over_no_pauses_is_used_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Full:
        """A store that can only be read."""

        def paused(self) -> dict[str, float]:
            return {}

        def pause(self, name: str, at: float) -> None:
            raise DatabaseError("disk full")

        resume: Any = None

    pauses = Pauses(run=lambda load: load())
    pauses.pause("home", NOON)
    pauses.keep_in(Full())
    assert pauses.is_kept
    assert [record.message for record in caplog.records] == [
        "the paused endpoints cannot be stored, pause them again: disk full"
    ]


def test_looking_for_pauses_makes_no_database(tmp_path: Path) -> None:
    assert reading(in_file(tmp_path), Clock()).since("home") is None
    assert list(tmp_path.iterdir()) == []


def test_the_last_pauses_stay_while_the_database_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing:
        """A store that works once."""

        def __init__(self) -> None:
            self.answers = [{"home": NOON}]

        def paused(self) -> dict[str, float]:
            if not self.answers:
                raise DatabaseError("disk I/O error")
            return self.answers.pop()

        def pause(self, name: str, at: float) -> None:
            raise DatabaseError("disk I/O error")

        resume: Any = None

    clock = Clock()
    pauses = Pauses(Failing(), clock=clock, run=lambda load: load())
    assert pauses.since("home") == NOON
    for _ in range(3):
        clock.sleep(10)
        assert pauses.since("home") == NOON
    assert [record.message for record in caplog.records] == [
        "the paused endpoints cannot be read, the last ones stay: disk I/O error"
    ]
    with pytest.raises(DatabaseError):
        pauses.pause("cloud", NOON)


def test_every_list_shows_a_pause(servers: responses.RequestsMock, tmp_path: Path) -> None:
    app = made(**stored(tmp_path))
    http: Any = app.test_client()
    pauses_of(app).pause("home", NOON)
    assert states(http) == {"home": "paused", "cloud": "up"}
    [state, _] = http.get("/v1/endpoints").json["data"]
    assert (state["paused_at"], state["retry_in"]) == (int(NOON), None)
    assert http.get("/health/ready").json == {"status": "ok", "models": 2, "paused": 1}
    assert 'horde_proxy_endpoint_paused{upstream="home"} 1.0' in http.get("/metrics").text
    assert 'horde_proxy_endpoint_paused{upstream="cloud"} 0.0' in http.get("/metrics").text
    shown = http.get("/page/state.json").json["endpoints"]["rows"][0]["cells"][2]
    assert (shown["text"], shown["tone"]) == ("paused", "warn")
    settings = load(environ={}, flags={"endpoints": ENDPOINTS, **stored(tmp_path)})
    assert [finding.what for finding in check_endpoints(settings)] == [
        "endpoint home: paused since 2025-11-30 12:00 UTC, so it gets no requests",
        "endpoint home (paid): 2 models",
        "endpoint cloud (paid): 2 models",
    ]


def test_a_proxy_with_paused_endpoints_only_is_not_ready(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    app = made(**stored(tmp_path))
    pauses_of(app).pause("home", NOON)
    pauses_of(app).pause("cloud", NOON)
    answer: Any = app.test_client().get("/health/ready")
    assert (answer.status_code, answer.json) == (
        503,
        {"status": "unavailable", "models": 0, "reason": "Every endpoint is paused.", "paused": 2},
    )


def test_a_proxy_whose_models_are_all_at_paused_endpoints_is_not_ready(tmp_path: Path) -> None:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as servers:
        servers.get(f"{HOME}/v1/models", json={"data": [{"id": "m"}]})
        servers.get(f"{CLOUD}/v1/models", json={"data": []})
        app = made(**stored(tmp_path))
        http: Any = app.test_client()
        assert http.get("/health/ready").json == {"status": "ok", "models": 1}
        pauses_of(app).pause("home", NOON)
        answer = http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json == {
        "status": "unavailable",
        "models": 0,
        "reason": "Every model is at a paused endpoint.",
        "paused": 1,
    }


@pytest.mark.parametrize(
    ("path", "body", "status", "retry_after"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, 503, "60"),
        ("/v1/completions", {"prompt": "Hi"}, 503, "60"),
        # Codex repeats every 5xx 30 times.
        ("/v1/responses", {"input": "Hi"}, 400, None),
        ("/v1/responses/compact", {"input": "Hi"}, 400, None),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}, 529, "60"),
        ("/v1/embeddings", {"input": "Hi"}, 503, "60"),
        ("/v1/images/generations", {"prompt": "a fox"}, 503, "60"),
        ("/v1/audio/speech", {"input": "Hi", "voice": "x"}, 503, "60"),
        ("/v1/rerank", {"query": "Hi", "documents": ["x"]}, 503, "60"),
        ("/api/chat", {"messages": MESSAGES}, 503, "60"),
        ("/api/generate", {"prompt": "Hi"}, 503, "60"),
        ("/api/embed", {"input": "Hi"}, 503, "60"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_no_client_of_any_api_is_told_to_call_paused_endpoints_again_soon(
    servers: responses.RequestsMock,
    tmp_path: Path,
    path: str,
    body: dict[str, Any],
    status: int,
    retry_after: str | None,
    *,
    stream: bool,
) -> None:
    app = made(**stored(tmp_path))
    pauses_of(app).pause("home", NOON)
    pauses_of(app).pause("cloud", NOON)
    answer = app.test_client().post(path, json={"model": "m", "stream": stream, **body})
    assert (answer.status_code, answer.headers.get("Retry-After")) == (status, retry_after)
    assert answer.headers["x-should-retry"] == "false"
    assert "home: the operator has paused it; cloud: the operator has paused it" in answer.text


def test_a_pause_outlives_a_restart_and_a_reload(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    servers.post(f"{CLOUD}/v1/chat/completions", json=COMPLETION)
    pauses_of(made(**stored(tmp_path))).pause("home", NOON)
    app = made(**stored(tmp_path))
    assert chat(app.test_client()).headers["X-Endpoint"] == "cloud"
    changed = [{**ENDPOINTS[0], "timeout": 7}, ENDPOINTS[1]]
    reconfigure(app, load(environ={}, flags={"endpoints": changed, **stored(tmp_path)}))
    assert chat(app.test_client()).headers["X-Endpoint"] == "cloud"
    assert states(app.test_client()) == {"home": "paused", "cloud": "up"}


def test_a_paused_endpoint_draws_no_pictures(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    app = made(**stored(tmp_path))
    pauses_of(app).pause("home", NOON)
    pauses_of(app).pause("cloud", NOON)
    answer: Any = app.test_client().post(
        "/v1/images/generations", json={"model": "m", "prompt": "a fox"}
    )
    assert answer.status_code == 503
    assert "home: the operator has paused it" in answer.json["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
