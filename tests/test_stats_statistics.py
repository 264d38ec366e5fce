"""Counts over the models of a category."""

from __future__ import annotations

import json

import pytest

from horde_proxy.errors import InvalidRequest
from horde_proxy.stats.reference import ReferenceRecord
from horde_proxy.stats.statistics import category_statistics, host_of, percentage

B = 1_000_000_000
MODELS = [
    ReferenceRecord(
        "a",
        baseline="one",
        style="chat",
        tags=("x", "y", "x"),
        nsfw=True,
        parameters=8 * B,
        downloads=("https://HuggingFace.co/a", "https://example.invalid/a"),
        size_bytes=100,
        inpainting=True,
        requirements=True,
        trigger=("t",),
        showcases=("s",),
    ),
    ReferenceRecord(
        "b",
        baseline="one",
        style="story",
        tags=("x",),
        nsfw=False,
        parameters=7 * B,
        downloads=("https://huggingface.co/b",),
        size_bytes=201,
    ),
    ReferenceRecord("c", baseline="two", style="chat", parameters=70 * B, downloads=("nonsense",)),
]


def test_the_statistics_have_the_documented_json() -> None:
    result = category_statistics("image", MODELS, 1_795_000_000)
    assert json.loads(json.dumps(result.to_json())) == {
        "category": "image",
        "total_models": 3,
        "has_more": False,
        "returned_models": 3,
        "offset": 0,
        "limit": None,
        "nsfw_count": 1,
        "baseline_distribution": {
            "one": {"baseline": "one", "count": 2, "percentage": 66.67},
            "two": {"baseline": "two", "count": 1, "percentage": 33.33},
        },
        "download_stats": {
            "total_models_with_downloads": 3,
            "total_download_entries": 4,
            "total_size_bytes": 301,
            "models_with_size_info": 2,
            "average_size_bytes": 150.5,
            "hosts": {"huggingface.co": 2, "example.invalid": 1},
        },
        "top_tags": [
            {"tag": "x", "count": 2, "percentage": 66.67},
            {"tag": "y", "count": 1, "percentage": 33.33},
        ],
        "top_styles": [
            {"tag": "chat", "count": 2, "percentage": 66.67},
            {"tag": "story", "count": 1, "percentage": 33.33},
        ],
        "parameter_buckets": [
            {
                "bucket_label": "6B-9B",
                "min_params": 6 * B,
                "max_params": 9 * B,
                "count": 2,
                "percentage": 66.67,
            },
            {
                "bucket_label": ">70B",
                "min_params": 70 * B,
                "max_params": None,
                "count": 1,
                "percentage": 33.33,
            },
        ],
        "models_without_param_info": 0,
        "models_with_trigger_words": 1,
        "models_with_inpainting": 1,
        "models_with_requirements": 1,
        "models_with_showcases": 1,
        "computed_at": 1_795_000_000,
    }


def test_without_models_all_counts_are_zero() -> None:
    result = category_statistics("text", [], 5).to_json()
    assert (result["total_models"], result["returned_models"], result["computed_at"]) == (0, 0, 5)
    assert result["download_stats"] == {
        "total_models_with_downloads": 0,
        "total_download_entries": 0,
        "total_size_bytes": 0,
        "models_with_size_info": 0,
        "average_size_bytes": 0.0,
        "hosts": {},
    }
    assert (result["baseline_distribution"], result["top_tags"], result["parameter_buckets"]) == (
        {},
        [],
        [],
    )


def test_models_without_a_record_are_counted() -> None:
    result = category_statistics("text", [ReferenceRecord("a"), ReferenceRecord("b")], 5)
    assert (result.total_models, result.models_without_param_info, result.nsfw_count) == (2, 2, 0)


@pytest.mark.parametrize(
    ("parameters", "label"),
    [
        (1, "<3B"),
        (3 * B - 1, "<3B"),
        (3 * B, "3B-6B"),
        (6 * B, "6B-9B"),
        (9 * B - 1, "6B-9B"),
        (9 * B, "9B-13B"),
        (13 * B, "13B-20B"),
        (20 * B, "20B-35B"),
        (35 * B, "35B-70B"),
        (70 * B - 1, "35B-70B"),
        (70 * B, ">70B"),
        (480 * B, ">70B"),
    ],
)
def test_a_bucket_begins_with_its_least_number(parameters: int, label: str) -> None:
    result = category_statistics("text", [ReferenceRecord("a", parameters=parameters)], 0)
    assert [bucket["bucket_label"] for bucket in result.parameter_buckets] == [label]


def test_buckets_are_percentages_of_all_models() -> None:
    result = category_statistics("text", [*MODELS, ReferenceRecord("d")], 0)
    assert [bucket["percentage"] for bucket in result.parameter_buckets] == [50.0, 25.0]
    assert result.models_without_param_info == 1


def test_the_twenty_most_frequent_tags_and_styles_are_listed() -> None:
    models = [
        ReferenceRecord(str(number), style=f"s{number:02}", tags=(f"t{number:02}", "all"))
        for number in range(30)
    ]
    result = category_statistics("text", models, 0)
    assert [row["tag"] for row in result.top_tags] == ["all"] + [f"t{n:02}" for n in range(19)]
    assert [row["tag"] for row in result.top_styles] == [f"s{n:02}" for n in range(20)]


@pytest.mark.parametrize(
    ("limit", "offset", "returned", "has_more"),
    [
        (None, 0, 3, False),
        (2, 0, 2, True),
        (2, 2, 1, False),
        (None, 1, 2, False),
        (5, 9, 0, False),
    ],
)
def test_a_page_is_noted_and_changes_no_counts(
    limit: int | None, offset: int, returned: int, has_more: bool
) -> None:
    result = category_statistics("image", MODELS, 0)
    before = result.to_json()
    assert result.paged(limit, offset).to_json() == {
        **before,
        "limit": limit,
        "offset": offset,
        "returned_models": returned,
        "has_more": has_more,
    }
    assert result.to_json() == before


@pytest.mark.parametrize(("limit", "offset", "param"), [(0, 0, "limit"), (None, -1, "offset")])
def test_a_wrong_page_is_refused(limit: int | None, offset: int, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        category_statistics("image", MODELS, 0).paged(limit, offset)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://HuggingFace.co:443/a/b", "huggingface.co"),
        ("http://user@example.invalid", "example.invalid"),
        ("ftp://example.invalid/a", None),
        ("example.invalid/a", None),
        ("https://", None),
        ("https://[::1", None),
        ("", None),
    ],
)
def test_only_a_url_has_a_host(url: str, host: str | None) -> None:
    assert host_of(url) == host


def test_the_percentage_of_zero_is_zero() -> None:
    assert (percentage(0, 0), percentage(1, 3), percentage(1, 3, 4)) == (0.0, 33.33, 33.3333)
