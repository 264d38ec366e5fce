"""Status, use and workers become one entry for each model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.stats.indexed import (
    IndexedHordeModelStats,
    IndexedHordeModelStatus,
    IndexedHordeWorkers,
)
from horde_proxy.stats.merger import DataMerger, merge_category_with_horde_data
from horde_proxy.stats.model_stats import CombinedModelStatistics, UsageStats, WorkerSummary
from horde_proxy.stats.records import read_stats, read_statuses, read_workers
from tests.support import growth

CAPTURES = Path(__file__).parent / "data" / "captures"


def recorded(name: str) -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text())["response"]["body"]


def status(name: str, count: int = 1, **fields: Any) -> dict[str, Any]:
    return {"name": name, "count": count, **fields}


def worker(worker_id: str, *models: str, **fields: Any) -> dict[str, Any]:
    return {"id": worker_id, "models": list(models), **fields}


def used(numbers: Mapping[str, int]) -> dict[str, Any]:
    return {"day": {}, "month": dict(numbers), "total": {}}


def merged(
    name: str,
    statuses: Any = None,
    stats: Any = None,
    workers: Any = None,
    *,
    variations: bool = False,
) -> CombinedModelStatistics:
    return merge_category_with_horde_data([name], statuses, stats, workers, variations)[name]


KOBOLD, APHRODITE, BARE = "koboldcpp/X-8B-Q4_K_M", "aphrodite/org/X-8B", "X-8B"


# The documented shape


def test_the_recorded_answers_make_the_documented_json() -> None:
    name = "FakeLlama-8B-Instruct"
    result = merged(
        name,
        recorded("get_status_models__type-text"),
        recorded("get_stats_text_models"),
        recorded("get_workers__type-text"),
        variations=True,
    )
    worker_id = "b5d1a4e9-9b45-4155-be09-69fd04fb6107"
    assert json.loads(json.dumps(result.to_json())) == {
        "worker_count": 1,
        "queued_jobs": 0.0,
        "performance": 327.2,
        "eta": 0,
        "queued": 0.0,
        "usage_stats": {"day": 24, "month": 24, "total": 0},
        "worker_summaries": {
            worker_id: {
                "id": worker_id,
                "name": "fake-text-0",
                "performance": "73.8 tokens per second",
                "online": True,
                "trusted": True,
                "uptime": 409,
                "max_length": 1024,
                "max_context_length": 16384,
                "bridge_agent": "AI Horde Worker:1:https://example.invalid/fake-worker",
                "nsfw": True,
                "threads": 1,
            }
        },
        "backend_variations": {
            "koboldcpp": {
                "backend": "koboldcpp",
                "variant_name": "koboldcpp/FakeLlama-8B-Instruct",
                "worker_count": 1,
                "performance": 327.2,
                "queued": 0.0,
                "queued_jobs": 0.0,
                "eta": 0,
                "usage_day": 24,
                "usage_month": 24,
                "usage_total": 0,
            }
        },
        "threads": 1,
    }


def test_the_recorded_image_model_is_merged() -> None:
    result = merged(
        "stable_diffusion",
        recorded("get_status_models__type-image"),
        recorded("get_stats_img_models"),
        recorded("get_workers__type-image"),
    )
    assert (result.worker_count, result.performance, result.usage_stats) == (1, 3426607.8, None)


def test_an_unknown_model_is_all_null() -> None:
    assert merged("nothing", [], {}).to_json() == {
        "worker_count": 0,
        "queued_jobs": None,
        "performance": None,
        "eta": None,
        "queued": None,
        "usage_stats": None,
        "worker_summaries": None,
        "backend_variations": None,
        "threads": None,
    }


def test_the_workers_can_be_left_out_and_still_count() -> None:
    result = merged(BARE, [], {}, [worker("w", KOBOLD)]).to_json(include_workers=False)
    assert (result["worker_count"], result["worker_summaries"]) == (1, None)


# Names


def test_each_name_has_an_entry_in_the_order_given() -> None:
    result = merge_category_with_horde_data(["b", "nothing", "A"], [status("a"), status("b", 2)])
    assert [(name, model.threads) for name, model in result.items()] == [
        ("b", 2),
        ("nothing", None),
        ("A", 1),
    ]
    assert merge_category_with_horde_data([], [status("a")]) == {}


def test_the_names_may_be_the_keys_of_a_mapping() -> None:
    assert list(merge_category_with_horde_data({"b": {}, "a": {}})) == ["b", "a"]


@pytest.mark.parametrize(
    "name",
    [
        "X-8B",
        "x-8b",
        "org/X-8B",
        "koboldcpp/X-8B",
        "aphrodite/X-8B",
        "X-8B-Q8_0",
        "X-8B::u#1",
    ],
)
def test_any_name_of_a_model_finds_all_its_variants(name: str) -> None:
    result = merged(
        name,
        [status(KOBOLD, 2), status(APHRODITE, 3)],
        used({"KOBOLDCPP/X-8B": 5, "X-8B-Q8_0": 7, "other/X-8B": 1}),
        [worker("v", KOBOLD), worker("w", "koboldcpp/X-8B::u#1")],
    )
    assert (result.threads, result.usage_stats, result.worker_count) == (5, UsageStats(0, 13, 0), 2)


def test_other_sizes_and_versions_are_other_models() -> None:
    stats = used({"koboldcpp/C-24B-v4.3": 22, "koboldcpp/C-22B-v1.3": 1000, "C-24B-v4": 7})
    assert merged("C-24B-v4.3", None, stats).usage_stats == UsageStats(0, 22, 0)


# Numbers


def test_variants_are_summed_the_speed_is_weighted_and_the_wait_the_least() -> None:
    result = merged(
        BARE,
        [
            status(KOBOLD, 1, performance=10.0, queued=100.25, jobs=2.5, eta=90),
            status(APHRODITE, 3, performance=50.0, queued=20.5, jobs=1.0, eta=7),
        ],
    )
    assert (result.threads, result.performance, result.queued, result.queued_jobs, result.eta) == (
        4,
        40.0,
        120.75,
        3.5,
        7,
    )


@pytest.mark.parametrize(
    ("statuses", "performance"),
    [
        ([status(KOBOLD, 1, performance=10.0), status(APHRODITE, 3)], 10.0),
        ([status(KOBOLD, 1, performance=10.0), status(APHRODITE, 3, performance=0.0)], 10.0),
        ([status(KOBOLD, 0, performance=10.0), status(APHRODITE, 0, performance=20.0)], 15.0),
        ([status(KOBOLD, 2, performance=0.0)], None),
        ([status(KOBOLD, 1, performance=1.0), status(APHRODITE, 2, performance=2.0)], 1.67),
    ],
)
def test_a_speed_that_was_not_measured_does_not_count(
    statuses: list[dict[str, Any]], performance: float | None
) -> None:
    assert merged(BARE, statuses).performance == performance


def test_a_value_that_only_one_variant_has_is_taken() -> None:
    result = merged(BARE, [status(KOBOLD, queued=3), status(APHRODITE, eta=4)])
    assert (result.queued, result.eta, result.queued_jobs) == (3.0, 4, None)


def test_a_status_that_came_twice_counts_once() -> None:
    assert merged(BARE, [status(BARE, 2), status(BARE, 3)]).threads == 3


@pytest.mark.parametrize(
    ("stats", "usage", "usage_known"),
    [
        (None, None, False),
        ({}, None, True),
        ({"day": {BARE: 0}, "month": {BARE: 0}, "total": {BARE: 0}}, None, True),
        ({"total": {BARE: 4}}, UsageStats(0, 0, 4), True),
        ({"day": {KOBOLD: 1, APHRODITE: 2}, "month": {KOBOLD: 3}}, UsageStats(3, 3, 0), True),
    ],
)
def test_the_use_of_all_names_is_summed_and_unknown_without_any(
    stats: Any, usage: UsageStats | None, usage_known: bool
) -> None:
    result = merged(BARE, None, stats)
    assert (result.usage_stats, result.usage_known) == (usage, usage_known)


def test_use_that_was_fetched_is_zero_and_not_unknown() -> None:
    assert merged(BARE, None, {}).usage == UsageStats(0, 0, 0)
    assert merged(BARE, None, None).usage is None


# Workers


def test_a_worker_with_several_variants_counts_once() -> None:
    result = merged(
        BARE,
        [status(KOBOLD, 9)],
        None,
        [
            worker("v", KOBOLD, APHRODITE, KOBOLD),
            worker("w", BARE),
            worker("u", "other"),
        ],
    )
    assert (result.worker_count, result.threads) == (2, 9)
    assert list(result.worker_summaries or {}) == ["v", "w"]


def test_a_worker_that_came_twice_counts_once() -> None:
    result = merged(
        BARE, None, None, [worker("v", BARE, name="old"), worker("v", BARE, name="new")]
    )
    assert [summary.name for summary in (result.worker_summaries or {}).values()] == ["new"]


@pytest.mark.parametrize(
    ("statuses", "workers", "count", "summaries"),
    [
        ([status(BARE, 5)], None, 5, None),
        ([status(BARE, 5)], [], 0, {}),
        ([status(BARE, 5)], [worker("w", "other")], 0, {}),
        ([], None, 0, None),
        (None, None, 0, None),
    ],
)
def test_an_empty_list_of_workers_is_not_a_missing_one(
    statuses: Any, workers: Any, count: int, summaries: Any
) -> None:
    result = merged(BARE, statuses, None, workers)
    assert (result.worker_count, result.worker_summaries) == (count, summaries)


@pytest.mark.parametrize(
    ("statuses", "workers", "known"),
    [
        (None, None, False),
        ([], None, True),
        (None, [], True),
        ([], [], True),
    ],
)
def test_workers_are_known_by_either_list(statuses: Any, workers: Any, known: bool) -> None:
    assert merged(BARE, statuses, None, workers).workers_known is known


@pytest.mark.parametrize("fields", [{"online": False}, {"maintenance_mode": True}])
def test_a_worker_that_is_offline_or_in_maintenance_does_not_count(fields: dict[str, bool]) -> None:
    result = merged(BARE, None, None, [worker("v", BARE, **fields), worker("w", BARE)])
    assert list(result.worker_summaries or {}) == ["w"]


SUMMARY = WorkerSummary("w", "w", "", True, False, 0)


@pytest.mark.parametrize(
    ("summaries", "threads", "count"),
    [
        ({"w": SUMMARY, "v": SUMMARY}, 5, 2),
        ({"w": SUMMARY}, 0, 1),
        ({}, 5, 0),
        (None, 5, 5),
        (None, None, 0),
    ],
)
def test_workers_count_before_the_threads_of_the_status(
    summaries: Any, threads: int | None, count: int
) -> None:
    result = CombinedModelStatistics(worker_summaries=summaries, threads=threads)
    assert result.to_json()["worker_count"] == count


# Variations


def test_variations_are_only_there_on_request() -> None:
    assert merged(BARE, [status(KOBOLD)]).backend_variations is None
    assert merged(BARE, [], variations=True).backend_variations == {}


def test_each_engine_has_its_own_numbers() -> None:
    result = (
        merged(
            BARE,
            [
                status("koboldcpp/X-8B-Q8_0", 1, queued=1.5, jobs=1, eta=9, performance=10),
                status(KOBOLD, 3, queued=2, jobs=2, eta=3, performance=20),
                status("tabbyapi/X-8B", 2),
            ],
            used({KOBOLD: 5, "koboldcpp/X-8B-Q8_0": 6, "new/org/X-8B": 7, BARE: 0}),
            [worker("v", KOBOLD, "koboldcpp/X-8B-Q8_0"), worker("w", "org/X-8B")],
            variations=True,
        ).backend_variations
        or {}
    )
    assert {
        backend: (share.variant_name, share.worker_count, share.queued, share.usage_month)
        for backend, share in result.items()
    } == {
        "canonical": ("org/X-8B", 1, None, 0),
        "koboldcpp": (KOBOLD, 1, 3.5, 11),
        "new": ("new/org/X-8B", 0, None, 7),
        "tabbyapi": ("tabbyapi/X-8B", 0, None, 0),
    }
    assert (result["koboldcpp"].eta, result["koboldcpp"].performance) == (3, 17.5)
    assert result["koboldcpp"].queued_jobs == 3.0


def test_an_engine_with_nothing_but_zeros_is_left_out() -> None:
    result = merged(
        BARE,
        [status(KOBOLD)],
        used({APHRODITE: 0, BARE: 0}),
        [worker("w", "tabbyapi/X-8B", maintenance_mode=True)],
        variations=True,
    )
    assert list(result.backend_variations or {}) == ["koboldcpp"]


def test_without_workers_the_threads_stand_in_for_each_engine() -> None:
    result = merged(BARE, [status(KOBOLD, 3)], variations=True).backend_variations or {}
    assert result["koboldcpp"].worker_count == 3


def test_the_variations_change_nothing_else() -> None:
    sources = [status(KOBOLD, 3)], used({APHRODITE: 4})
    assert {**merged(BARE, *sources, variations=True).to_json(), "backend_variations": None} == (
        merged(BARE, *sources).to_json()
    )


# Sources


def test_sources_may_be_raw_read_or_indexed() -> None:
    statuses, stats, workers = [status(KOBOLD, 2)], used({KOBOLD: 1}), [worker("w", BARE)]
    read = (read_statuses(statuses).value, read_stats(stats).value, read_workers(workers).value)
    indexed = (
        IndexedHordeModelStatus(read[0]),
        IndexedHordeModelStats(read[1]),
        IndexedHordeWorkers(read[2]),
    )
    raw = merge_category_with_horde_data([BARE], statuses, stats, workers)
    assert merge_category_with_horde_data([BARE], *read) == raw
    assert merge_category_with_horde_data([BARE], *indexed) == raw
    assert DataMerger(*indexed).merge([BARE]) == raw


def test_an_empty_index_is_not_an_absent_one() -> None:
    result = merged(BARE, None, None, IndexedHordeWorkers([]))
    assert result.worker_summaries == {}
    assert merged(BARE, None, IndexedHordeModelStats(read_stats({}).value)).usage_known


def test_a_bad_element_does_not_affect_the_others() -> None:
    stats = {"month": {BARE: 3, "y": "?"}}
    result = merged(BARE, [None, status(BARE, 2)], stats, [3, worker("w", BARE)])
    assert (result.threads, result.usage_stats, result.worker_count) == (2, UsageStats(0, 3, 0), 1)


# Indexes


def test_an_index_finds_a_name_in_any_case() -> None:
    statuses = IndexedHordeModelStatus(read_statuses([status(KOBOLD, 2)]).value)
    stats = IndexedHordeModelStats(read_stats({"day": {KOBOLD: 1}, "total": {BARE: 2}}).value)
    workers = IndexedHordeWorkers(read_workers([worker("w", KOBOLD), worker("v")]).value)
    result = statuses.get(KOBOLD.upper())
    assert result is not None and result.count == 2
    assert stats.get(KOBOLD.lower()) == UsageStats(1, 0, 0)
    assert stats.get(BARE) == UsageStats(0, 0, 2)
    assert [worker.id for worker in workers.get(KOBOLD.upper())] == ["w"]
    assert (statuses.get(BARE), stats.get("z"), workers.get(BARE)) == (None, None, [])
    assert (len(statuses), len(stats), list(workers.names())) == (1, 2, [KOBOLD])


def test_a_name_that_is_written_in_two_cases_is_found_with_both() -> None:
    stats = IndexedHordeModelStats(read_stats({"day": {"X": 1}, "month": {"X": 5, "x": 2}}).value)
    workers = IndexedHordeWorkers(read_workers([worker("w", "X"), worker("v", "x", "X")]).value)
    assert stats.get("x") == UsageStats(1, 7, 0)
    assert sorted(worker.id for worker in workers.get("X")) == ["v", "w"]


def test_an_index_finds_the_variants_of_a_model_together() -> None:
    statuses = IndexedHordeModelStatus(
        read_statuses([status(KOBOLD), status("y"), status(APHRODITE)]).value
    )
    assert [(variant.name, variant.backend) for variant in statuses.variants("X-8B")] == [
        (KOBOLD, "koboldcpp"),
        (APHRODITE, "aphrodite"),
    ]
    assert list(statuses.variants("nothing")) == []


def test_all_workers_are_there_once_even_without_a_model() -> None:
    workers = IndexedHordeWorkers(
        read_workers([worker("w", "a", "b"), worker("v"), worker("w", "c")]).value
    )
    assert [worker.id for worker in workers.get_all()] == ["w", "v"]
    assert workers.get("a") == []


def test_a_caller_may_change_the_list_that_an_index_returns() -> None:
    workers = IndexedHordeWorkers(read_workers([worker("w", "a")]).value)
    workers.get("a").clear()
    workers.get_all().clear()
    assert len(workers.get("a")) == len(workers.get_all()) == 1


# Cost


Indexes = tuple[IndexedHordeModelStatus, IndexedHordeModelStats, IndexedHordeWorkers]


def horde_of(models: int) -> tuple[list[str], Indexes]:
    """The names of so many models and the live data of a horde that serves each four times."""
    engines = ("koboldcpp/", "aphrodite/org/", "", "tabbyapi/")
    live = [f"{engines[number % 4]}Some-{number}-8B-Q4_K_M" for number in range(models)]
    statuses = [status(name, 2, performance=9.5, queued=3.5) for name in live]
    workers = [worker(f"w{n}", *live[n * 4 : n * 4 + 8]) for n in range(models // 4)]
    return [f"Some-{number}-8B" for number in range(models)], (
        IndexedHordeModelStatus(read_statuses(statuses).value),
        IndexedHordeModelStats(read_stats(used(dict.fromkeys(live, 3))).value),
        IndexedHordeWorkers(read_workers(workers).value),
    )


@pytest.mark.thorough
def test_the_cost_of_merging_grows_with_the_models_only() -> None:
    hordes = {size: horde_of(size) for size in (31, 125, 500, 2000)}

    def merge(size: int) -> dict[str, Any]:
        names, indexes = hordes[size]
        return merge_category_with_horde_data(names, *indexes)

    assert sum(model.worker_count for model in merge(2000).values()) == 3996
    assert growth(merge, 2000) < 1.5
