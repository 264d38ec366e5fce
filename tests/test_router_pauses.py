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
from horde_proxy.errors import AllEndpointsUnfit
from horde_proxy.router import Router
from horde_proxy.router.pause_database import PauseDatabase
from horde_proxy.router.pauses import Pauses
from horde_proxy.upstreams.base import Caller
from tests.support import Clock
from tests.test_api_proxying import CLOUD, COMPLETION, ENDPOINTS, chat, made
from tests.test_api_proxying import servers as servers
from tests.test_router import CALL, Proxying, answered_by, endpoint, response_of, tried_in_order

NOON = 1_764_504_000.0


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
    assert isinstance(error, AllEndpointsUnfit)
    assert str(error) == "No endpoint answers for `m` now. one: the operator has paused it."
    assert error.should_retry is False


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
    assert http.get("/health/ready").json == {"status": "ok", "models": 3, "paused": 1}
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
