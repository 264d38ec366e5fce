"""Filtering, sorting and paging of merged models."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.errors import InvalidRequest
from horde_proxy.stats.listing import listing
from horde_proxy.stats.model_stats import CombinedModelStatistics, UsageStats

MERGED = {
    "b": CombinedModelStatistics(
        queued=5.5,
        queued_jobs=1,
        performance=10.0,
        eta=30,
        threads=2,
        usage_stats=UsageStats(1, 20, 300),
        usage_known=True,
    ),
    "A": CombinedModelStatistics(
        queued=0.0,
        queued_jobs=3,
        performance=30.0,
        eta=10,
        threads=5,
        usage_stats=UsageStats(3, 10, 500),
        usage_known=True,
    ),
    "never": CombinedModelStatistics(usage_known=True),
    "unknown": CombinedModelStatistics(threads=2),
}


def names(**options: Any) -> list[str]:
    return list(listing(MERGED, **options).models)


def test_without_parameters_all_models_stay_in_their_order() -> None:
    result = listing(MERGED)
    assert (list(result.models), result.total_count) == (["b", "A", "never", "unknown"], 4)
    assert result.models["b"] is MERGED["b"]


@pytest.mark.parametrize(
    ("sort_by", "descending", "ascending"),
    [
        ("worker_count", ["A", "b", "unknown", "never"], ["never", "b", "unknown", "A"]),
        ("queued", ["b", "A", "never", "unknown"], ["A", "b", "never", "unknown"]),
        ("queued_jobs", ["A", "b", "never", "unknown"], ["b", "A", "never", "unknown"]),
        ("performance", ["A", "b", "never", "unknown"], ["b", "A", "never", "unknown"]),
        ("eta", ["b", "A", "never", "unknown"], ["A", "b", "never", "unknown"]),
        ("usage_day", ["A", "b", "never", "unknown"], ["never", "b", "A", "unknown"]),
        ("usage_month", ["b", "A", "never", "unknown"], ["never", "A", "b", "unknown"]),
        ("usage_total", ["A", "b", "never", "unknown"], ["never", "b", "A", "unknown"]),
        ("name", ["unknown", "never", "b", "A"], ["A", "b", "never", "unknown"]),
    ],
)
def test_models_without_the_value_come_last_in_either_direction(
    sort_by: str, descending: list[str], ascending: list[str]
) -> None:
    assert names(sort_by=sort_by) == descending
    assert names(sort_by=sort_by, sort_desc=False) == ascending


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (None, ["b", "A", "never", "unknown"]),
        (0, ["b", "A", "never", "unknown"]),
        (2, ["b", "A", "unknown"]),
        (5, ["A"]),
        (6, []),
    ],
)
def test_models_of_few_workers_are_left_out(least: int | None, expected: list[str]) -> None:
    assert names(min_worker_count=least) == expected


@pytest.mark.parametrize(
    ("limit", "offset", "expected"),
    [
        (None, 0, ["b", "A", "never", "unknown"]),
        (2, 0, ["b", "A"]),
        (2, 3, ["unknown"]),
        (9, 1, ["A", "never", "unknown"]),
        (None, 3, ["unknown"]),
        (1, 4, []),
        (None, 99, []),
    ],
)
def test_a_page_is_cut_from_the_whole(limit: int | None, offset: int, expected: list[str]) -> None:
    result = listing(MERGED, limit=limit, offset=offset)
    assert list(result.models) == expected
    assert (result.total_count, result.limit, result.offset) == (4, limit, offset)


def test_it_is_filtered_then_sorted_then_paged() -> None:
    result = listing(MERGED, min_worker_count=1, sort_by="name", sort_desc=False, limit=2, offset=1)
    assert (list(result.models), result.total_count) == (["b", "unknown"], 3)


def test_the_merged_models_are_never_changed() -> None:
    before = dict(MERGED)
    listing(MERGED, sort_by="name", limit=1, offset=1)
    assert list(MERGED.items()) == list(before.items())


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        (
            {"sort_by": "kudos"},
            "sort_by",
            "worker_count, queued, queued_jobs, performance, eta, "
            "usage_day, usage_month, usage_total, "
            "name",
        ),
        ({"sort_by": ""}, "sort_by", "one of"),
        ({"limit": 0}, "limit", "1 or more"),
        ({"limit": -1}, "limit", "1 or more"),
        ({"offset": -1}, "offset", "0 or more"),
        ({"min_worker_count": -1}, "min_worker_count", "0 or more"),
    ],
)
def test_a_wrong_value_is_refused_by_name(options: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        listing(MERGED, **options)
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


def test_an_empty_list_can_be_listed() -> None:
    result = listing({}, sort_by="eta", limit=1)
    assert (result.models, result.total_count) == ({}, 0)
