"""The history over HTTP: what each client sees of hordes and endpoints, and in which steps."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from flask.testing import FlaskClient

from horde_proxy.database.errors import DatabaseError
from horde_proxy.ledger import ClientKey
from horde_proxy.stats.history.hourly_facts import HourlyFacts
from horde_proxy.stats.history.records import (
    DAY,
    HOUR,
    EndpointFacts,
    EndpointKey,
    HordeFacts,
    HordeKey,
)
from tests.support import World, known

NOON = 1_769_860_800
"""2026-01-31, 12:00 UTC."""


def app_with(world: World, hordes: Any = (), endpoints: Any = ()) -> FlaskClient:
    """A proxy at half past twelve, with these facts in its database."""
    world.clock.seconds = NOON + HOUR / 2
    app = world.app()
    facts: HourlyFacts = app.extensions["horde_proxy"].live.hourly
    assert facts.database is not None
    facts.database.add(dict(hordes), dict(endpoints))
    return app.test_client()


def got(client: FlaskClient, path: str, key: str | None = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer key-of-{key}-longer"} if key else {}
    response = client.get(path, headers=headers)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json  # type: ignore[assignment]
    return answer


def horde(hour: int, model: str, *sums: float) -> tuple[HordeKey, HordeFacts]:
    names = {"big-8b": "Big-8B", "small-1b": "Small-1B"}
    key = HordeKey(NOON + hour * HOUR, "horde", "text", model)
    return key, HordeFacts(names.get(model, ""), *sums)  # type: ignore[arg-type]


HORDE = (
    horde(-1, "", 12, 60, 72, 12_000.0, 36.0),
    horde(-1, "big-8b", 12, 24, 36, 6_000.0, 18.0, 220.0, 11),
    horde(0, "", 6, 12, 12, 0.0, 0.0),
    horde(0, "small-1b", 3, 3, 6, 0.0, 0.0, 0.0, 0),
)


def test_a_horde_is_told_hour_by_hour_in_means(world: World) -> None:
    answer = got(app_with(world, HORDE), "/v1/horde/history?hours=3")
    assert answer == {
        "object": "list",
        "type": "text",
        "endpoint": "horde",
        "model": None,
        "from": NOON - 2 * HOUR,
        "to": NOON + HOUR,
        "step": "hour",
        "total_count": 2,
        "returned_count": 2,
        "offset": 0,
        "limit": 1000,
        "has_more": False,
        "data": [
            {
                "at": NOON - HOUR,
                "worker_count": 5.0,
                "threads": 6.0,
                "queued": 1000.0,
                "queued_jobs": 3.0,
                "performance": None,
                "samples": 12,
            },
            {
                "at": NOON,
                "worker_count": 2.0,
                "threads": 2.0,
                "queued": 0.0,
                "queued_jobs": 0.0,
                "performance": None,
                "samples": 6,
            },
        ],
    }


def test_a_model_is_found_by_any_of_its_names(world: World) -> None:
    client = app_with(world, HORDE)
    for name in ("Big-8B", "koboldcpp/a/Big-8B-Q4_K_M"):
        before, now = got(client, f"/horde/history?model={name}")["data"]
        assert (before["worker_count"], before["performance"]) == (2.0, 20.0)
        # It had no worker then, which is known, because the horde was sampled.
        assert (now["worker_count"], now["performance"], now["samples"]) == (0.0, None, 6)


def test_a_models_first_and_last_hours_are_told_beyond_the_period(world: World) -> None:
    facts = (*HORDE, horde(-99, "big-8b", 1, 1), horde(-30, "small-1b", 1, 0, 0, 500.0, 1.0))
    client = app_with(world, facts)
    answer = got(client, "/v1/horde/history?model=Big-8B&hours=1")
    assert (answer["first_seen_at"], answer["last_seen_at"]) == (NOON - 99 * HOUR, NOON - HOUR)
    # A queue without a worker is no worker.
    assert got(client, "/v1/horde/history?model=small-1b")["first_seen_at"] == NOON


def test_a_model_that_never_was_is_a_404(world: World) -> None:
    client = app_with(world, HORDE)
    for query in ("model=Bgi-8B", "model=Big-8B&type=image"):
        response = client.get(f"/v1/horde/history?{query}")
        assert response.status_code == 404
        assert response.json is not None
        assert response.json["error"]["code"] == "model_not_found"


def test_the_models_of_a_period_are_listed_with_their_means(world: World) -> None:
    answer = got(app_with(world, HORDE), "/v1/horde/history/models?hours=3")
    assert answer["total_count"] == 2
    assert answer["data"] == [
        {
            "name": "Big-8B",
            "worker_count": 1.33,
            "threads": 2.0,
            "queued": 333.33,
            "queued_jobs": 1.0,
            "performance": 20.0,
            "first_seen_at": NOON - HOUR,
            "last_seen_at": NOON - HOUR,
            "worker_counts": [None, 2.0, 0.0],
        },
        {
            "name": "Small-1B",
            "worker_count": 0.17,
            "threads": 0.33,
            "queued": 0.0,
            "queued_jobs": 0.0,
            "performance": None,
            "first_seen_at": NOON,
            "last_seen_at": NOON,
            "worker_counts": [None, 0.0, 0.5],
        },
    ]


def test_models_come_in_pages(world: World) -> None:
    answer = got(app_with(world, HORDE), "/v1/horde/history/models?limit=1&offset=1")
    assert [model["name"] for model in answer["data"]] == ["Small-1B"]
    assert (answer["total_count"], answer["has_more"]) == (2, False)


def test_days_are_whole_utc_days(world: World) -> None:
    answer = got(app_with(world, HORDE), "/v1/horde/history?days=2&step=day")
    midnight = NOON - 12 * HOUR
    assert (answer["from"], answer["to"], answer["step"]) == (midnight - DAY, NOON + HOUR, "day")
    [today] = answer["data"]
    assert (today["at"], today["worker_count"], today["samples"]) == (midnight, 4.0, 18)


def endpoint(hour: int, name: str, model: str, key: str, *counts: Any) -> Any:
    return EndpointKey(NOON + hour * HOUR, name, model, key), EndpointFacts(*counts)


ENDPOINTS = (
    endpoint(-1, "box", "m", "ann", 4, 1, 400, 80, 300, 150, Counter({-8: 3}), Counter({16: 3})),
    endpoint(-1, "box", "n", "ann", 1, 0, 100, 20, 100, 50, Counter({8: 1}), Counter({24: 1})),
    endpoint(0, "box", "m", "bob", 2, 0, 10, 10),
    endpoint(0, "other", "m", "bob", 1, 1),
)


def test_an_endpoint_is_told_with_its_percentiles_and_warm_tokens(world: World) -> None:
    answer = got(app_with(world, endpoints=ENDPOINTS), "/v1/endpoints/history?hours=2")
    assert (answer["from"], answer["to"], answer["total_count"]) == (NOON - HOUR, NOON + HOUR, 3)
    assert answer["data"][0] == {
        "at": NOON - HOUR,
        "endpoint": "box",
        "requests": 5,
        "failures": 1,
        "first_content": {"count": 4, "p50": 0.5, "p95": 2.0},
        "duration": {"count": 4, "p50": 4.0, "p95": 8.0},
        "prompt_tokens": 500,
        "completion_tokens": 100,
        "warm": {"known_tokens": 400, "tokens": 200, "share": 0.5},
    }
    assert [(row["at"], row["endpoint"], row["requests"]) for row in answer["data"][1:]] == [
        (NOON, "box", 2),
        (NOON, "other", 1),
    ]
    assert answer["data"][2]["warm"] == {"known_tokens": 0, "tokens": 0, "share": None}


def requests_by_endpoint(answer: dict[str, Any]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for row in answer["data"]:
        counts[row["endpoint"]] += row["requests"]
    return counts


def test_a_query_chooses_endpoint_and_model(world: World) -> None:
    client = app_with(world, endpoints=ENDPOINTS)
    assert requests_by_endpoint(got(client, "/v1/endpoints/history?model=m")) == {
        "box": 6,
        "other": 1,
    }
    assert requests_by_endpoint(got(client, "/v1/endpoints/history?endpoint=other")) == {"other": 1}


def test_a_client_sees_its_own_requests_and_an_admin_all(world: World) -> None:
    keys = {
        "ann": ClientKey("ann"),
        "bob": ClientKey("bob", endpoints=("box",)),
        "carl": ClientKey("carl"),
        "root": ClientKey("root", admin=True),
    }
    box = {"type": "openai", "url": "http://box.invalid", "name": "box"}
    world.configure(endpoints=[{"type": "horde"}, box], **known(**keys))
    client = app_with(world, endpoints=ENDPOINTS)
    seen = {
        name: dict(requests_by_endpoint(got(client, "/v1/endpoints/history", name)))
        for name in keys
    }
    assert seen == {
        "ann": {"box": 5},
        # What the key may not use any more is not shown either.
        "bob": {"box": 2},
        "carl": {},
        "root": {"box": 7, "other": 1},
    }


def test_a_key_for_some_models_sees_these(world: World) -> None:
    world.configure(**known(ann=ClientKey("ann", models=("n*",))))
    client = app_with(world, endpoints=ENDPOINTS)
    assert requests_by_endpoint(got(client, "/v1/endpoints/history", "ann")) == {"box": 1}


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("hours=0", "hours"),
        ("hours=9000", "hours"),
        ("days=367", "days"),
        ("hours=1&days=1", "hours"),
        ("days=60&step=hour", "step"),
        ("step=week", "step"),
        ("type=audio", "type"),
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("offset=-1", "offset"),
        ("modle=x", "modle"),
    ],
)
def test_a_wrong_parameter_is_named(world: World, query: str, param: str) -> None:
    response = app_with(world).get(f"/v1/horde/history?{query}")
    assert response.status_code == 400
    assert response.json is not None
    assert response.json["error"]["param"] == param


def test_a_long_period_is_told_in_days(world: World) -> None:
    answer = got(app_with(world, HORDE), "/v1/horde/history?days=60")
    assert (answer["step"], answer["returned_count"]) == ("day", 1)


def test_a_proxy_without_history_says_so(world: World) -> None:
    client = world.configure(stats={"history_days": 0}).http()
    for path in ("/v1/horde/history", "/v1/horde/history/models", "/v1/endpoints/history"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json is not None
        assert response.json["error"]["message"] == (
            "This proxy keeps no history: stats.history_days is 0."
        )


def test_a_database_that_fails_is_a_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise DatabaseError("postgresql://secret failed")

    client = app_with(world, HORDE)
    monkeypatch.setattr("horde_proxy.stats.history.database.HistoryDatabase.horde", fail)
    response = client.get("/v1/horde/history")
    assert response.status_code == 503
    assert response.json is not None
    assert response.json["error"]["message"] == "The history cannot be read now."


def test_new_settings_turn_the_history_off_and_on(world: World) -> None:
    from horde_proxy import reconfigure

    app = world.app()
    facts: HourlyFacts = app.extensions["horde_proxy"].live.hourly
    first = facts.database
    world.configure(stats={"history_days": 7})
    assert reconfigure(app, world.config()) == []
    assert (facts.database is first, facts.days) == (True, 7)
    world.configure(stats={"history_days": 0})
    reconfigure(app, world.config())
    assert app.test_client().get("/v1/endpoints/history").status_code == 404
    world.configure(stats={"history_days": 7})
    reconfigure(app, world.config())
    assert app.test_client().get("/v1/endpoints/history").status_code == 200


def test_a_proxy_of_servers_alone_says_where_their_history_is() -> None:
    http = World(endpoints=[{"url": "http://127.0.0.1:11434"}]).http()
    answer = http.get("/v1/horde/history")
    assert answer.status_code == 404
    assert answer.get_json()["error"]["message"] == (
        "No endpoint of this proxy is a horde: add one with type = 'horde'. Servers are in "
        "GET /v1/endpoints and GET /v1/endpoints/history."
    )
