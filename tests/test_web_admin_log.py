"""The admin's pages: the requests, without prompts and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from horde_proxy.database.engine import Database
from horde_proxy.store.generation_filter import GenerationFilter
from horde_proxy.store.generation_log import GenerationLog
from horde_proxy.store.generation_record import GenerationRecord
from horde_proxy.store.generations import GenerationStore
from tests.admin_world import GUEST, AdminWorld, Operator
from tests.support import Scripted

# 2026-11-30 12:00 UTC, and one record every ten minutes.
NOON = 1_796_040_000.0
RECORDS = [
    ("ann", GenerationRecord("a0", "r0", NOON, "/v1/chat/completions", model="llama-3-8b",
        endpoint="home", prompt_tokens=7, completion_tokens=5, seconds=1.5)),
    ("ann", GenerationRecord("a1", "r1", NOON + 600, "/v1/chat/completions", 502,
        model="llama-3-8b", endpoint="cloud", error="upstream_error",
        failed_at=(("home", "llama-3-8b"),))),
    ("bob", GenerationRecord("a2", "r2", NOON + 1200, "/v1/images/generations", model="Flux_100%",
        endpoint="horde", images=2, kudos=31.5, horde={"workers": [{"name": "rig", "id": "w1"}]})),
    ("bob", GenerationRecord("a3", "r3", NOON + 1800, "/v1/messages", model="qwen", endpoint="home",
        error="timeout")),
]  # fmt: skip


FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["r3", "r2", "r1", "r0"]),
    ({"owner": "ann"}, ["r1", "r0"]),
    ({"model": "LLAMA"}, ["r1", "r0"]),
    ({"model": "100%"}, ["r2"]),
    ({"model": "_"}, ["r2"]),
    ({"endpoint": "home"}, ["r3", "r0"]),
    ({"status": 502}, ["r1"]),
    ({"status": 200}, ["r3", "r2", "r0"]),
    ({"outcome": "failed"}, ["r3", "r1"]),
    ({"outcome": "answered"}, ["r2", "r0"]),
    ({"first": NOON + 600, "last": NOON + 1200}, ["r2", "r1"]),
    ({"owner": "bob", "outcome": "failed", "endpoint": "home"}, ["r3"]),
    ({"owner": "eve"}, []),
]


def requests_of(log: GenerationLog | GenerationStore, wanted: dict[str, Any]) -> list[str]:
    """The ids of the requests whose records are wanted."""
    matches = log.search(GenerationFilter(**wanted), limit=10, offset=0)
    return [record.request_id for _, record in matches]


def logs(folder: Path) -> list[GenerationLog]:
    """One with a database and one without, with the same records."""
    database = Database(f"sqlite:///{folder}/store.db", setting="store.database")
    store = GenerationStore(database, 30, now=lambda: NOON + 3600)
    both = [GenerationLog(store, lambda seconds, call: None), GenerationLog()]
    for log in both:
        for owner, record in RECORDS:
            log.add(owner, record)
    return both


@pytest.mark.parametrize(("wanted", "requests"), FILTERS)
def test_records_are_filtered_in_a_database_and_in_memory_alike(
    tmp_path: Path, wanted: dict[str, Any], requests: list[str]
) -> None:
    for log in logs(tmp_path):
        assert requests_of(log, wanted) == requests


def test_records_are_paged(tmp_path: Path) -> None:
    for log in logs(tmp_path):
        pages = [log.search(GenerationFilter(), limit=2, offset=offset) for offset in (0, 2, 4)]
        names = [[record.request_id for _, record in page] for page in pages]
        assert names == [["r3", "r2"], ["r1", "r0"], []]


@pytest.fixture
def house(tmp_path: Path) -> AdminWorld:
    return AdminWorld(tmp_path)


def filled(house: AdminWorld) -> Operator:
    """The operator of a proxy that has the records."""
    house.world.clock.sleep(NOON + 3600 - house.world.clock())
    app = house.app()
    generations = app.extensions["horde_proxy"].store.generations
    for owner, record in RECORDS:
        generations.add(owner, record)
    return Operator(app)


def test_the_page_shows_who_asked_which_model_where_and_what_it_cost(house: AdminWorld) -> None:
    text = filled(house).text("log")
    assert (
        "2026-11-30 12:20 UTC 200 Flux_100% at horde of bob · 2 images · 31.5 kudos · 0 s"
    ) in text
    assert "502 upstream_error 1 before it failed llama-3-8b at cloud of ann" in text
    assert "Failed before at home: llama-3-8b" in text
    assert "Workers rig" in text
    assert "7 + 5 tokens · 1.5 s" in text


@pytest.mark.parametrize(
    ("query", "requests"),
    [
        ("key=bob", ["r3", "r2"]),
        ("model=llama&status=failed", ["r1"]),
        ("status=200&endpoint=home", ["r3", "r0"]),
        ("from=2026-11-30T12:10&to=2026-11-30T12:20", ["r2", "r1"]),
    ],
)
def test_the_fields_of_the_address_filter_the_records(
    house: AdminWorld, query: str, requests: list[str]
) -> None:
    text = filled(house).text(f"log?{query}")
    known = ["r3", "r2", "r1", "r0"]
    assert [name for name in known if f"Request {name} Answer" in text] == requests


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("status=lost", "The status is answered, failed, or a number such as 503."),
        ("from=yesterday", "Write a time as 2026-01-31T18:00; it is UTC's."),
    ],
)
def test_a_wrong_filter_is_named(house: AdminWorld, query: str, problem: str) -> None:
    assert problem in filled(house).text(f"log?{query}")


def test_no_prompt_and_no_answer_is_on_the_page(house: AdminWorld) -> None:
    house.world.employ(Scripted("The answer to it."))
    app = house.app()
    body = {"model": "test/model", "messages": [{"role": "user", "content": "My question."}]}
    headers = {"Authorization": f"Bearer {GUEST}"}
    app.test_client().post("/v1/chat/completions", json=body, headers=headers)
    page = Operator(app).get("log").text
    assert "test/model" in page
    assert "guest" in page
    assert "My question" not in page
    assert "The answer" not in page
