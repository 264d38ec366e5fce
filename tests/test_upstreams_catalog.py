"""Which models the horde offers, and what its workers can do."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.caching.background import inline
from horde_proxy.errors import ProxyError, UpstreamFailed
from horde_proxy.prompts.fit import Capacity
from horde_proxy.upstreams.horde.catalog import Catalog, ModelEntry, build_catalog
from horde_proxy.upstreams.horde.documents import HordeDocuments
from horde_proxy.upstreams.horde.throughput import HordeThroughput
from horde_proxy.upstreams.horde.workers import Filters, WorkerPool

CAPTURES = Path(__file__).parent / "data" / "captures"


def worker(**fields: Any) -> dict[str, Any]:
    return {
        "id": "w1",
        "online": True,
        "maintenance_mode": False,
        "models": ["a"],
        "threads": 1,
        "max_length": 512,
        "max_context_length": 4096,
        "trusted": False,
        **fields,
    }


def joined(statuses: list[Any], workers: list[Any]) -> dict[str, ModelEntry]:
    return build_catalog(statuses, workers, 7, {})


class Source:
    """Stands for the client: lists to give, or an error."""

    base = "http://horde.invalid/api/v2"

    def __init__(self) -> None:
        self.calls = 0
        self.error: ProxyError | None = None
        self.listed = [worker()]

    def models(self, kind: str) -> list[dict[str, Any]]:
        self.calls += 1
        if self.error:
            raise self.error
        return []

    def workers(self, kind: str) -> list[dict[str, Any]]:
        return self.listed


class Timer:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def catalog(source: Source, timer: Timer) -> Catalog:
    client: Any = source
    feeds = HordeDocuments(client, ttl=30, timer=timer, now=lambda: 7, run=inline)
    return Catalog(feeds, now=lambda: 7)


@pytest.mark.parametrize(
    "fields",
    [
        {"jobs": 1e308, "performance": 0.5},
        {"jobs": 3, "performance": 5e-324},
        {"jobs": float("nan")},
    ],
)
def test_nonsensical_numbers_make_no_infinite_wait(fields: dict[str, Any]) -> None:
    entry = joined([{"name": "a", "count": 1, **fields}], [worker()])["a"]
    expected = HordeThroughput().expected(entry, 512)
    assert math.isfinite(expected.queue + expected.generation)


def test_the_recorded_lists_are_joined() -> None:
    statuses = json.loads((CAPTURES / "get_status_models__type-text.json").read_text())
    workers = json.loads((CAPTURES / "get_workers__type-text.json").read_text())
    entries = joined(statuses["response"]["body"], workers["response"]["body"])
    assert list(entries) == [
        "koboldcpp/FakeLlama-8B-Instruct",
        "koboldcpp/Llama-3.1-SuperNova-Lite",
    ]
    entry = entries["koboldcpp/FakeLlama-8B-Instruct"]
    assert [worker.capacity for worker in entry.workers] == [Capacity(1024, 16384)]
    assert (entry.performance, entry.queued, entry.first_seen) == (327.2, 0, 7)


@pytest.mark.parametrize(
    "odd",
    [
        {"max_length": None},
        {"max_length": "many"},
        {"max_context_length": float("nan")},
        {"threads": None},
        {"models": None},
        {"models": "a"},
        {"models": 7},
        {"id": None},
        {"models": [None, 3, "", "a\nb"]},
        {"threads": 10**400},
        {"max_length": -1},
        {"trusted": None},
    ],
)
def test_an_odd_worker_does_not_affect_the_others(odd: dict[str, Any]) -> None:
    entries = joined(
        [{"name": None}, {"name": 3}, {"name": "c", "queued": "x", "eta": None}],
        [worker(**odd), worker(models=["c"])],
    )
    assert [worker.capacity for worker in entries["c"].workers] == [Capacity(512, 4096)]
    assert all(entry.largest_context_worker().capacity.max_length > 0 for entry in entries.values())


def test_workers_that_are_offline_or_in_maintenance_do_not_count() -> None:
    entries = joined(
        [],
        [worker(online=False), worker(maintenance_mode=True, models=["b"]), worker(models=["c"])],
    )
    active = {name: WorkerPool(entry.workers, Filters()).active for name, entry in entries.items()}
    assert [name for name, workers in active.items() if workers] == ["c"]


def test_a_model_whose_workers_are_in_maintenance_stays_known() -> None:
    resting = worker(maintenance_mode=True)
    assert [one.in_maintenance for one in joined([], [resting])["a"].workers] == [True]
    # A worker that only status/models counts is not that one.
    [_, other] = joined([{"name": "a", "count": 1}], [resting])["a"].workers
    assert (other.in_maintenance, other.capacity) == (False, Capacity(512, 2048))


def test_a_model_without_a_listed_worker_gets_one_of_the_servers_defaults() -> None:
    entries = joined([{"name": "a", "count": 1}, {"name": "b", "count": 0}], [])
    assert {
        name: [worker.capacity for worker in entry.workers] for name, entry in entries.items()
    } == {"a": [Capacity(512, 2048)]}


def test_the_worker_with_the_largest_context_may_have_the_shorter_answers() -> None:
    entries = joined(
        [],
        [
            worker(max_length=1024, max_context_length=2048),
            worker(max_length=100, max_context_length=8192),
        ],
    )
    assert entries["a"].largest_context_worker().capacity == Capacity(100, 8192)


def test_the_catalog_is_loaded_once_within_its_time_to_live() -> None:
    source, timer = Source(), Timer()
    models = catalog(source, timer)
    models.models()
    timer.seconds = 29
    models.models()
    assert source.calls == 1
    timer.seconds = 31
    models.models()
    assert source.calls == 2


def test_a_first_load_that_fails_is_an_error_and_is_repeated_after_a_pause() -> None:
    source, timer = Source(), Timer()
    source.error = UpstreamFailed("down")
    models = catalog(source, timer)
    for _ in range(2):
        with pytest.raises(UpstreamFailed):
            models.models()
    assert source.calls == 1
    source.error, timer.seconds = None, 6
    assert list(models.models()) == ["a"]


def test_the_last_good_models_are_served_while_the_horde_is_down() -> None:
    source, timer = Source(), Timer()
    models = catalog(source, timer)
    models.models()
    source.error, timer.seconds = UpstreamFailed("down"), 31
    assert list(models.models()) == ["a"]
    assert source.calls == 2
    timer.seconds = 62
    source.error, source.listed = None, [worker(models=["b"])]
    assert list(models.models()) == ["b"]


def test_a_model_keeps_the_time_at_which_it_was_first_seen() -> None:
    before = build_catalog([], [worker()], 7, {})
    assert build_catalog([], [worker()], 99, before)["a"].first_seen == 7


def test_many_threads_make_one_fetch() -> None:
    source, entered, gate = Source(), threading.Event(), threading.Event()
    plain = source.models

    def slow(kind: str) -> list[dict[str, Any]]:
        entered.set()
        assert gate.wait(60)
        return plain(kind)

    source.models = slow  # type: ignore[method-assign]
    models = catalog(source, Timer())
    threads = [threading.Thread(target=models.models) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert entered.wait(60)
    gate.set()
    for thread in threads:
        thread.join(60)
    assert source.calls == 1
