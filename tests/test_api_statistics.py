"""The horde's live statistics over HTTP, with a horde, without one, and after it has gone."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient

from horde_proxy import create_app, reconfigure
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.stats.service import Query
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.upstreams.sessions import new_session
from tests.support import HORDE_URL, Clock, Scripted, World

LISTS = [
    "/v1/horde/models",
    "/horde/statistics",
    "/v1/horde/deletion-risk",
    "/v1/horde/audit",
]
ROUTES = [*LISTS, "/v1/horde/models/a/Big-8B"]


class Gone(WSGIAdapter):
    """A horde that refuses every connection, and counts them."""

    def __init__(self) -> None:
        super().__init__(None)
        self.calls = 0

    def send(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        raise requests.ConnectionError("refused")


class Counted(WSGIAdapter):
    """Counts what is fetched of a horde that takes a moment, until `go` is set."""

    def __init__(self, inner: Any) -> None:
        super().__init__(None)
        self.inner, self.paths, self.go = inner, Counter[str](), threading.Event()

    def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
        self.paths[request.path_url] += 1
        assert self.go.wait(60)
        return self.inner.send(request, **options)


def serve(world: World, *names: str) -> None:
    for number, name in enumerate(names):
        world.bridge(Scripted("x", name), f"worker-{number}").step(world.session)


def stop(world: World) -> Gone:
    gone = Gone()
    world.session.mount(HORDE_URL, gone)
    return gone


def got(client: FlaskClient, path: str) -> dict[str, Any]:
    response = client.get(path)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json  # type: ignore[assignment]
    return found


def test_the_live_models_are_merged_under_one_name(world: World) -> None:
    serve(world, "a/Big-8B", "koboldcpp/Big-8B-Q4_K_M", "a/Small-1B")
    found = got(world.http(), "/v1/horde/models?sort_by=worker_count&include_workers=1")
    assert (found["object"], found["type"], found["degraded"]) == ("list", "text", False)
    assert (found["observed_at"], found["total_count"]) == (1000, 2)
    assert [(each["name"], each["worker_count"]) for each in found["data"]] == [
        ("Big-8B", 2),
        ("Small-1B", 1),
    ]
    assert len(found["data"][0]["worker_summaries"]) == 2
    assert found["data"][0]["reference"] is None


def test_a_models_workers_and_variations_are_listed_on_request_only(world: World) -> None:
    serve(world, "a/Big-8B", "koboldcpp/Big-8B")
    client = world.http()
    [plain] = got(client, "/horde/models")["data"]
    assert (plain["worker_summaries"], plain["backend_variations"]) == (None, None)
    [full] = got(client, "/horde/models?include_backend_variations=true")["data"]
    assert sorted(full["backend_variations"]) == ["canonical", "koboldcpp"]


def test_one_model_is_found_by_any_of_its_names_with_its_workers(world: World) -> None:
    serve(world, "koboldcpp/Big-8B")
    client = world.http()
    for name in ("koboldcpp/Big-8B", "big-8b", "aphrodite/a/Big-8B-Q8_0"):
        found = got(client, f"/v1/horde/models/{name}")
        assert (found["object"], found["name"]) == ("horde.model", "Big-8B")
        assert len(found["worker_summaries"]) == 1


def test_an_unknown_model_is_a_404(world: World) -> None:
    serve(world, "a/Big-8B")
    response = world.http().get("/v1/horde/models/a/nothing")
    assert response.status_code == 404
    assert response.json is not None
    assert response.json["error"]["code"] == "model_not_found"


def test_pages_do_not_change_what_others_get(world: World) -> None:
    serve(world, "a/One-1B", "a/Two-2B", "a/Three-3B")
    client = world.http()
    for route in ("models", "audit"):
        key = "data" if route == "models" else "models"
        before = got(client, f"/horde/{route}")
        page = got(client, f"/horde/{route}?limit=1&offset=1")
        assert page[key] == before[key][1:2]
        assert (page["total_count"], page["returned_count"]) == (3, 1)
        assert got(client, f"/horde/{route}") == before


def test_the_reference_is_joined_and_its_models_are_counted(world: World, tmp_path: Path) -> None:
    serve(world, "a/Big-8B")
    reference = tmp_path / "db.json"
    reference.write_text(
        json.dumps(
            {
                "Big-8B": {"description": "d", "baseline": "llama", "parameters": 8_000_000_000},
                "Idle-3B": {"description": "", "baseline": "qwen", "parameters": 3_000_000_000},
            }
        )
    )
    client = world.configure(stats={"text_reference": str(reference)}).http()
    [model] = got(client, "/horde/models")["data"]
    assert model["reference"]["baseline"] == "llama"
    counts = got(client, "/horde/statistics")
    assert counts["total_models"] == 2
    assert sorted(counts["baseline_distribution"]) == ["llama", "qwen"]
    lacking = got(client, "/horde/audit?preset=missing_data")
    assert [each["name"] for each in lacking["models"]] == ["Idle-3B"]
    idle = got(client, "/horde/models/Idle-3B")
    assert idle["worker_count"] == 0


def test_families_are_grouped_apart_from_the_plain_audit(world: World) -> None:
    serve(world, "a/Big-8B", "a/Big-70B")
    client = world.http()
    for _ in range(2):
        assert got(client, "/horde/audit")["total_count"] == 2
        assert got(client, "/horde/audit?group=true")["total_count"] == 1
        assert got(client, "/horde/statistics?group=1")["total_models"] == 1


def test_image_models_are_apart(world: World) -> None:
    serve(world, "a/Big-8B")
    found = got(world.http(), "/horde/models?type=image")
    assert (found["type"], found["data"], found["degraded"]) == ("image", [], False)


@pytest.mark.parametrize(
    "route,query,param",
    [
        ("models", "type=video", "type"),
        ("models", "include_workers=yes", "include_workers"),
        ("models", "include_backend_variations=2", "include_backend_variations"),
        ("models", "min_worker_count=-1", "min_worker_count"),
        ("models", "min_worker_count=many", "min_worker_count"),
        ("models", "sort_by=colour", "sort_by"),
        ("models", "sort_desc=down", "sort_desc"),
        ("models", "limit=0", "limit"),
        ("models", "limit=1.5", "limit"),
        ("models", "limit=99999999999999999999", "limit"),
        ("models", "limit=%C2%B2", "limit"),
        ("models", "offset=-1", "offset"),
        ("models", "offset=", "offset"),
        ("models", "group=true", "group"),
        ("models", "preset=critical", "preset"),
        ("models/x", "limit=1", "limit"),
        ("statistics", "group=maybe", "group"),
        ("statistics", "sort_by=name", "sort_by"),
        ("audit", "preset=odd", "preset"),
        ("audit", "type=", "type"),
        ("audit", "include_workers=true", "include_workers"),
    ],
)
def test_a_wrong_parameter_is_a_400_that_names_it(
    world: World, route: str, query: str, param: str
) -> None:
    response = world.http().get(f"/v1/horde/{route}?{query}")
    assert response.json is not None
    assert (response.status_code, response.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", ROUTES)
def test_who_has_the_answer_gets_a_304(world: World, path: str) -> None:
    serve(world, "a/Big-8B")
    client = world.http()
    first = client.get(path)
    assert first.headers["Cache-Control"] == "private, max-age=1"
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    serve(world, "a/Big-8B", "a/Other-3B")
    world.clock.seconds += 2
    changed = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200


@pytest.mark.parametrize("path", ROUTES)
def test_the_last_data_is_served_when_the_horde_has_gone(world: World, path: str) -> None:
    serve(world, "a/Big-8B")
    client = world.http()
    before = got(client, path)
    stop(world)
    world.clock.seconds += 10
    found = got(client, path)
    assert world.clock.seconds == 1010, "somebody waited"
    assert found == {
        **before,
        "degraded": True,
        **({"computed_at": 1010} if "computed_at" in before else {}),
    }


def test_answers_that_nobody_asks_for_again_do_not_hold_old_data(world: World) -> None:
    serve(world, "a/Big-8B")
    statistics = world.app().extensions["horde_proxy"].hordes["horde"].statistics
    for query in (Query(), Query(limit=1), Query(group=True)):
        statistics.models(query)
        statistics.audit(query)
    old = weakref.ref(statistics.view("text"))
    world.clock.seconds += 2
    statistics.statistics(Query())
    gc.collect()
    assert old() is None


def test_a_model_is_cached_once_whatever_author_a_client_gives_it(world: World) -> None:
    serve(world, "a/Big-8B")
    statistics = world.app().extensions["horde_proxy"].hordes["horde"].statistics
    names = ["Big-8B", "a/big-8b", f"koboldcpp/{'x' * 1000}/Big-8B-Q4_K_M"]
    bodies = {statistics.model(name, Query()).body for name in names}
    assert (len(bodies), len(statistics.view("text").answers)) == (1, 1)


def test_a_short_answer_counts_with_what_its_query_takes(world: World) -> None:
    statistics = world.app().extensions["horde_proxy"].hordes["horde"].statistics
    body = statistics.models(Query(offset=99)).body
    assert statistics.view("text").answers.currsize == len(body) + 1024


@pytest.mark.parametrize("path", LISTS)
def test_the_last_data_is_forgotten_after_an_hour(world: World, path: str) -> None:
    serve(world, "a/Big-8B")
    client = world.http()
    got(client, path)
    stop(world)
    world.clock.seconds += 3700
    found = got(client, path)
    assert (found["degraded"], found["observed_at"]) == (True, None)
    assert found.get("data", found.get("models", [])) == []


@pytest.mark.parametrize("path", LISTS)
def test_a_cold_start_without_the_horde_answers_with_nothing(world: World, path: str) -> None:
    gone = stop(world)
    client = world.http()
    found = got(client, path)
    assert (found["degraded"], found["observed_at"]) == (True, None)
    assert found.get("data", found.get("models", [])) == []
    got(client, path)
    assert gone.calls == 3


@pytest.mark.parametrize("path", LISTS)
def test_without_a_configured_horde_there_is_a_404(world: World, path: str) -> None:
    world.configure(endpoints=[{"url": "http://server.invalid"}])
    assert world.http().get(path).status_code == 404


def test_a_horde_that_the_settings_no_longer_have_is_not_kept_warm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped: list[bool] = []
    horde, home = {"type": "horde"}, {"type": "openai", "url": "http://home.invalid/v1"}
    app = create_app(load(environ={}, flags={"endpoints": [horde, home]}))
    hydrator = app.extensions["horde_proxy"].hordes["horde"].statistics.hydrator
    monkeypatch.setattr(hydrator, "stop", lambda: stopped.append(True))
    reconfigure(app, load(environ={}, flags={"endpoints": [home]}))
    assert stopped == [True]
    assert app.extensions["horde_proxy"].hordes == {}


def test_a_hundred_requests_at_once_make_one_fetch_of_each_endpoint(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A hundred threads may take longer than two seconds on a slow machine.
    monkeypatch.setattr("horde_proxy.caching.background.PATIENCE", 300.0)
    serve(world, "a/Big-8B")
    counted = Counted(world.session.get_adapter(HORDE_URL))
    world.session.mount(HORDE_URL, counted)
    app = world.app()
    paths = [*LISTS, "/v1/models"] * 25
    with ThreadPoolExecutor(100) as pool:
        answers = [pool.submit(app.test_client().get, path) for path in paths]
        counted.go.set()
        statuses = {each.result().status_code for each in answers}
    assert statuses == {200}
    assert counted.paths == {
        "/api/v2/status/models?type=text&model_state=all": 1,
        "/api/v2/stats/text/models?model_state=all": 1,
        "/api/v2/workers?type=text": 1,
        "/api/v2/status/models?type=image&model_state=all": 1,
        "/api/v2/workers?type=image": 1,
    }


def test_an_app_with_a_private_horde_serves_its_statistics() -> None:
    app = create_app(
        load(
            environ={},
            flags={
                "private_horde": {"enabled": True},
                "stats": {"hydrate": False},
            },
        )
    )
    found = got(app.test_client(), "/v1/horde/models")
    assert (found["data"], found["degraded"]) == ([], False)


def test_an_app_whose_horde_is_stopped_answers_from_a_cold_start_without_waiting() -> None:
    clock, gone = Clock(), Gone()
    app = create_app(
        load(environ={}, flags={"horde": {"url": HORDE_URL}, "stats": {"hydrate": False}}),
        Runtime(
            clock=clock,
            now=clock,
            sleep=clock.sleep,
            new_session=lambda adapter: new_session(gone),
            run=inline,
            run_loop=lambda loop: None,
        ),
    )
    client = app.test_client()
    for path in LISTS:
        assert got(client, path)["degraded"]
    assert clock.seconds == 1000, "somebody waited"
    assert gone.calls > 0


def test_the_audit_is_the_older_name_of_the_deletion_risk(world: World) -> None:
    serve(world, "a/Big-8B")
    client = world.http()
    new, old = client.get("/v1/horde/deletion-risk"), client.get("/v1/horde/audit")
    assert new.data == old.data
    assert "Deprecation" not in new.headers
    assert old.headers["Deprecation"] == "@1795996800"
    assert old.headers["Link"] == '</v1/horde/deletion-risk>; rel="successor-version"'


@pytest.mark.parametrize(
    "query,expected",
    [
        ("name=big", ["Big-8B"]),
        ("name=*-1b", ["Small-1B", "Tiny-1B"]),
        ("backend=KoboldCpp", ["Big-8B", "Tiny-1B"]),
        ("backend=canonical", ["Small-1B"]),
        ("backend=vllm", []),
        ("tags=rpg", ["Big-8B", "Tiny-1B"]),
        ("tags=RPG, 8B", ["Big-8B"]),
        ("tags=rpg&name=t", ["Tiny-1B"]),
    ],
)
@pytest.mark.parametrize("route", ["models", "deletion-risk", "statistics"])
def test_models_are_filtered_by_name_tags_and_backend(
    world: World, tmp_path: Path, route: str, query: str, expected: list[str]
) -> None:
    serve(world, "koboldcpp/Big-8B", "a/Small-1B", "koboldcpp/Tiny-1B")
    reference = tmp_path / "db.json"
    reference.write_text(
        json.dumps({"Big-8B": {"tags": ["rpg", "8b"]}, "Tiny-1B": {"tags": ["RPG"]}})
    )
    client = world.configure(stats={"text_reference": str(reference)}).http()
    answer = got(client, f"/horde/{route}?{query}")
    if route == "statistics":
        assert answer["total_models"] == len(expected)
    else:
        rows = answer["data" if route == "models" else "models"]
        assert sorted(row["name"] for row in rows) == expected
        assert (answer["total_count"], answer["has_more"]) == (len(expected), False)


@pytest.mark.parametrize("route", ["models", "deletion-risk", "statistics"])
def test_a_page_says_whether_more_follows(world: World, route: str) -> None:
    serve(world, "a/One-1B", "a/Two-2B", "a/Three-3B")
    client = world.http()
    pages = ("limit=2", "limit=2&offset=1", "limit=1&offset=1", "offset=5", "")
    has_more = [got(client, f"/horde/{route}?{page}")["has_more"] for page in pages]
    assert has_more == [True, False, True, False, False]


def test_a_family_has_only_the_members_that_a_filter_selects(world: World) -> None:
    serve(world, "koboldcpp/Big-8B", "a/Big-70B")
    client = world.http()
    [family] = got(client, "/horde/deletion-risk?group=true&backend=koboldcpp")["models"]
    assert (family["name"], family["worker_count"]) == ("Big", 1)
    assert got(client, "/horde/deletion-risk?name=70b")["total_count"] == 1


def test_tags_need_a_model_reference(world: World) -> None:
    serve(world, "a/Big-8B")
    response = world.http().get("/v1/horde/models?tags=rpg")
    assert response.json is not None
    assert (response.status_code, response.json["error"]["message"]) == (
        400,
        "`tags` is not usable: tags come from a model reference, and none is loaded. Set "
        "`stats.text_reference`.",
    )


@pytest.mark.parametrize("query", ["name=", "tags=,", f"backend={'x' * 201}"])
def test_a_filter_without_content_or_end_is_refused(world: World, query: str) -> None:
    response = world.http().get(f"/v1/horde/models?{query}")
    assert response.json is not None
    assert (response.status_code, response.json["error"]["param"]) == (400, query.split("=")[0])
