"""Flags, scores, presets, groups and pages of the audit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from horde_proxy.errors import InvalidRequest
from horde_proxy.stats.audit import (
    AuditRules,
    CategoryAudit,
    DeletionRiskFlags,
    ModelAuditInfo,
    audit,
)
from horde_proxy.stats.merger import merge_category_with_horde_data
from horde_proxy.stats.model_stats import BackendVariation, CombinedModelStatistics, UsageStats
from horde_proxy.stats.reference import Reference, ReferenceRecord

GIB = 1024**3
HUGGING = "https://huggingface.co/a"


def entry(
    month: int | None = 0,
    *,
    day: int = 0,
    total: int | None = None,
    workers: int = 1,
    **fields: Any,
) -> CombinedModelStatistics:
    """A model that both lists tell of; month None: its use was not fetched."""
    usage = None if month is None else UsageStats(day, month, month if total is None else total)
    is_used = usage is not None and usage != UsageStats()
    return CombinedModelStatistics(
        **{
            "usage_stats": usage if is_used else None,
            "usage_known": usage is not None,
            "threads": workers,
            "workers_known": True,
            **fields,
        }
    )


def record(name: str, **fields: Any) -> ReferenceRecord:
    return ReferenceRecord(name, **{"description": "d", "baseline": "b", **fields})


def flags_of(model: ModelAuditInfo) -> set[str]:
    return {name for name, is_set in vars(model.deletion_risk_flags).items() if is_set}


def audited(
    merged_model: CombinedModelStatistics,
    category: str = "text",
    known: ReferenceRecord | None = None,
    others: int = 0,
) -> ModelAuditInfo:
    """The audit of one model, beside one with so many uses a month."""
    reference = None if known is None else Reference([known, record("other")])
    whole = audit(category, {"m": merged_model, "other": entry(others, day=1)}, reference)
    return next(model for model in whole.models if model.name == "m")


# The documented shape


def test_a_model_has_the_documented_json() -> None:
    variation = BackendVariation("koboldcpp", "koboldcpp/m", 1, 9.5, 3.0, 1.0, 4, 50, 100, 400)
    result = audited(
        entry(100, day=50, total=400, backend_variations={"koboldcpp": variation}),
        "image",
        record("m", downloads=(HUGGING,), size_bytes=5 * GIB, nsfw=True),
        others=300,
    )
    assert json.loads(json.dumps(result.to_json())) == {
        "name": "m",
        "category": "image",
        "deletion_risk_flags": {
            "zero_usage_day": False,
            "zero_usage_month": False,
            "zero_usage_total": False,
            "no_active_workers": False,
            "has_multiple_hosts": False,
            "has_non_preferred_host": False,
            "has_unknown_host": False,
            "no_download_urls": False,
            "missing_description": False,
            "missing_baseline": False,
            "low_usage": False,
        },
        "at_risk": False,
        "risk_score": 0,
        "worker_count": 1,
        "usage_day": 50,
        "usage_month": 100,
        "usage_total": 400,
        "usage_hour": None,
        "usage_minute": None,
        "usage_percentage_of_category": 25.0,
        "usage_trend": {"day_to_month_ratio": 0.5, "month_to_total_ratio": 0.25},
        "cost_benefit_score": 20.0,
        "size_gb": 5.0,
        "baseline": "b",
        "nsfw": True,
        "has_description": True,
        "download_count": 1,
        "download_hosts": ["huggingface.co"],
        "backend_variations": [
            {
                "backend": "koboldcpp",
                "variant_name": "koboldcpp/m",
                "worker_count": 1,
                "performance": 9.5,
                "usage_day": 50,
                "usage_month": 100,
                "usage_total": 400,
            }
        ],
        "is_critical": False,
        "has_warning": False,
    }


def test_an_answer_has_the_documented_json() -> None:
    result = audit("text", {"a": entry(0, workers=0), "b": entry(5, day=1)}).answer(limit=1)
    answer = json.loads(json.dumps(result.to_json()))
    assert [model["name"] for model in answer.pop("models")] == ["b"]
    assert answer == {
        "category": "text",
        "category_total_month_usage": 5,
        "total_count": 2,
        "returned_count": 1,
        "offset": 0,
        "limit": 1,
        "has_more": True,
        "summary": {
            "total_models": 2,
            "models_at_risk": 1,
            "models_critical": 1,
            "models_with_warnings": 0,
            "models_with_zero_day_usage": 1,
            "models_with_zero_month_usage": 1,
            "models_with_zero_total_usage": 1,
            "models_with_no_active_workers": 1,
            "models_with_no_downloads": 0,
            "models_with_non_preferred_hosts": 0,
            "models_with_multiple_hosts": 0,
            "models_with_low_usage": 1,
            "average_risk_score": 2.5,
            "category_total_month_usage": 5,
        },
    }


def test_without_models_all_counts_are_zero() -> None:
    answer = audit("image", {}).answer().to_json()
    assert (answer["total_count"], answer["models"]) == (0, [])
    assert set(answer["summary"].values()) == {0}


# Use


@pytest.mark.parametrize(
    ("merged_model", "flags"),
    [
        (entry(9, day=1), set()),
        (entry(9), {"zero_usage_day"}),
        (entry(0, total=9), {"zero_usage_day", "zero_usage_month"}),
        (entry(0), {"zero_usage_day", "zero_usage_month", "zero_usage_total"}),
        (entry(None), set()),
    ],
)
def test_a_model_that_was_never_used_counts_as_zero_when_the_use_is_known(
    merged_model: CombinedModelStatistics, flags: set[str]
) -> None:
    assert flags_of(audited(merged_model)) == flags


@pytest.mark.parametrize(
    ("category", "month", "others", "is_low"),
    [
        ("text", 2, 9_998, False),
        ("text", 1, 9_999, True),
        ("text", 0, 1, True),
        ("text", 0, 0, False),
        ("image", 65, 999_935, False),
        ("image", 64, 999_936, True),
    ],
)
def test_use_below_the_share_of_its_category_is_low(
    category: str, month: int, others: int, is_low: bool
) -> None:
    result = audited(entry(month, day=1), category, others=others)
    assert result.deletion_risk_flags.low_usage is is_low


def test_other_rules_may_be_given() -> None:
    merged = {"a": entry(9, day=1), "b": entry(11, day=1), "c": entry(9_980, day=1)}
    result = audit("text", merged, rules=AuditRules(low_usage_percentage=0.1))
    assert {model.name: flags_of(model) for model in result.models} == {
        "c": set(),
        "b": set(),
        "a": {"low_usage"},
    }


@pytest.mark.parametrize(
    ("usage", "day_to_month", "month_to_total"),
    [
        ((1, 4, 8), 0.25, 0.5),
        ((0, 4, 8), 0.0, 0.5),
        ((1, 0, 8), None, 0.0),
        ((1, 4, 0), 0.25, None),
        ((0, 0, 0), None, None),
    ],
)
def test_a_trend_without_use_is_null(
    usage: tuple[int, int, int], day_to_month: float | None, month_to_total: float | None
) -> None:
    trend = audited(entry(usage[1], day=usage[0], total=usage[2])).usage_trend
    assert (trend.day_to_month_ratio, trend.month_to_total_ratio) == (day_to_month, month_to_total)


def test_the_share_has_four_decimals_and_is_zero_without_use() -> None:
    assert audited(entry(1), others=2).usage_percentage_of_category == 33.3333
    assert audited(entry(0), others=0).usage_percentage_of_category == 0.0


@pytest.mark.parametrize(
    ("category", "month", "size", "score"),
    [
        ("image", 1000, 5 * GIB, 200.0),
        ("image", 0, 5 * GIB, 0.0),
        ("image", 1, 3 * GIB, 0.33),
        ("image", 1000, None, None),
        ("image", None, 5 * GIB, None),
        ("text", 1000, 5 * GIB, None),
    ],
)
def test_the_benefit_is_the_use_for_each_gigabyte_of_an_image_model(
    category: str, month: int | None, size: int | None, score: float | None
) -> None:
    known = record("m", size_bytes=size)
    assert audited(entry(month), category, known).cost_benefit_score == score


# Workers


@pytest.mark.parametrize(
    ("merged_model", "is_set"),
    [
        (entry(workers=1), False),
        (entry(workers=0), True),
        (entry(workers=3, worker_summaries={}), True),
        (entry(workers=0, workers_known=False), False),
    ],
)
def test_a_model_lacks_workers_only_if_workers_were_fetched(
    merged_model: CombinedModelStatistics, is_set: bool
) -> None:
    assert audited(merged_model).deletion_risk_flags.no_active_workers is is_set


@pytest.mark.parametrize(
    ("category", "month", "workers", "is_critical"),
    [
        ("text", 9, 0, True),
        ("text", 10, 0, False),
        ("text", 0, 1, False),
        ("text", None, 0, False),
        ("image", 0, 0, True),
        ("image", 1, 0, False),
        ("image", 0, 1, False),
        ("image", None, 0, False),
    ],
)
def test_a_model_is_critical_without_use_and_workers(
    category: str, month: int | None, workers: int, is_critical: bool
) -> None:
    assert audited(entry(month, workers=workers), category).is_critical is is_critical


# The reference


@pytest.mark.parametrize(
    ("downloads", "flags"),
    [
        ((HUGGING,), set()),
        (("https://cdn.huggingface.co/a",), set()),
        ((), {"no_download_urls"}),
        (("https://example.invalid/a",), {"has_non_preferred_host"}),
        (("https://huggingface.co.example.invalid/a",), {"has_non_preferred_host"}),
        ((HUGGING, "https://example.invalid/a"), {"has_multiple_hosts"}),
        ((HUGGING, f"{HUGGING}/b"), set()),
        ((HUGGING, "nonsense"), {"has_unknown_host"}),
        (("https://[::1",), {"has_unknown_host", "no_download_urls"}),
    ],
)
def test_only_the_downloads_of_image_models_are_judged(
    downloads: tuple[str, ...], flags: set[str]
) -> None:
    known = record("m", downloads=downloads)
    image = audited(entry(5, day=1), "image", known)
    assert (flags_of(image), image.has_warning) == (flags, bool(flags))
    assert flags_of(audited(entry(5, day=1), "text", known)) == set()


@pytest.mark.parametrize(
    ("known", "flags"),
    [
        (record("m"), set()),
        (record("m", description=None), {"missing_description"}),
        (record("m", baseline=None), {"missing_baseline"}),
        (record("somebody-else"), {"missing_description", "missing_baseline"}),
        (None, set()),
    ],
)
def test_a_model_lacks_a_description_only_if_there_is_a_reference(
    known: ReferenceRecord | None, flags: set[str]
) -> None:
    assert flags_of(audited(entry(5, day=1), "text", known)) == flags


def test_an_image_model_that_the_reference_does_not_know_has_no_downloads() -> None:
    assert flags_of(audited(entry(5, day=1), "image", record("else"))) == {
        "missing_description",
        "missing_baseline",
        "no_download_urls",
    }
    assert flags_of(audited(entry(5, day=1), "image")) == set()


def test_the_score_is_the_number_of_flags() -> None:
    result = audited(entry(0, workers=0), "image", record("else"), others=9)
    assert (result.risk_score, result.at_risk) == (8, True)
    assert DeletionRiskFlags().flag_count() == 0
    assert not DeletionRiskFlags().any_flags()


# Order, presets and pages


WHOLE = audit(
    "image",
    {
        "popular": entry(99_990, day=9),
        "quiet": entry(6, day=1),
        "abandoned": entry(0, workers=0),
        "unserved": entry(500, day=1, workers=0),
        "undescribed": entry(600, day=1),
        "elsewhere": entry(700, day=1),
    },
    Reference(
        [
            record("popular", downloads=(HUGGING,)),
            record("quiet", downloads=(HUGGING,)),
            record("abandoned", downloads=(HUGGING,)),
            record("unserved", downloads=(HUGGING,)),
            record("undescribed", downloads=(HUGGING,), description=None),
            record("elsewhere", downloads=("https://example.invalid/a",)),
        ]
    ),
)


def names(**options: Any) -> list[str]:
    return [model.name for model in WHOLE.answer(**options).models]


def test_the_most_used_comes_first() -> None:
    assert names() == ["popular", "elsewhere", "undescribed", "unserved", "quiet", "abandoned"]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("deletion_candidates", ["elsewhere", "undescribed", "unserved", "quiet", "abandoned"]),
        ("zero_usage", ["abandoned"]),
        ("no_workers", ["unserved", "abandoned"]),
        ("missing_data", ["undescribed"]),
        ("host_issues", ["elsewhere"]),
        ("critical", ["abandoned"]),
        ("low_usage", ["quiet", "abandoned"]),
    ],
)
def test_a_preset_selects_its_models(preset: str, expected: list[str]) -> None:
    answer = WHOLE.answer(preset=preset)
    assert [model.name for model in answer.models] == expected
    assert answer.summary.total_models == answer.total_count == len(expected)


def test_models_with_unknown_use_are_not_deletion_candidates() -> None:
    result = audit("text", {"a": entry(None)})
    assert result.answer(preset="deletion_candidates").models == []
    assert result.answer(preset="zero_usage").models == []


@pytest.mark.parametrize(
    ("limit", "offset", "expected"),
    [
        (2, 0, ["popular", "elsewhere"]),
        (2, 5, ["abandoned"]),
        (None, 4, ["quiet", "abandoned"]),
        (3, 6, []),
    ],
)
def test_each_page_has_the_same_totals(limit: int | None, offset: int, expected: list[str]) -> None:
    answer = WHOLE.answer(limit=limit, offset=offset)
    assert [model.name for model in answer.models] == expected
    assert (answer.total_count, answer.returned_count) == (6, len(expected))
    assert (answer.offset, answer.limit) == (offset, limit)
    assert answer.summary == WHOLE.answer().summary


def test_a_page_of_a_preset_has_the_totals_of_the_preset() -> None:
    answer = WHOLE.answer(preset="no_workers", limit=1, offset=1)
    assert [model.name for model in answer.models] == ["abandoned"]
    assert (answer.total_count, answer.summary.total_models) == (2, 2)
    assert answer.category_total_month_usage == 101_796


def test_no_answer_changes_the_audit() -> None:
    before = (WHOLE.models, WHOLE.answer().to_json())
    WHOLE.answer(preset="critical", limit=1, offset=1)
    WHOLE.grouped()
    assert (WHOLE.models, WHOLE.answer().to_json()) == before


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"preset": "all"}, "preset"),
        ({"preset": ""}, "preset"),
        ({"limit": 0}, "limit"),
        ({"offset": -1}, "offset"),
    ],
)
def test_a_wrong_value_is_refused_by_name(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        WHOLE.answer(**options)
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


def test_a_category_without_rules_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="text, image") as caught:
        audit("sound", {})
    assert caught.value.param == "type"


# Groups


def family() -> CategoryAudit:
    return audit(
        "text",
        {
            "Foo-8B-v1": entry(30, day=3, total=300, workers=2),
            "foo-70b": entry(10, day=5, total=20, workers=5),
            "Foo-8B-v2": entry(0, workers=0),
            "Bar-8B": entry(60, day=6, total=60),
        },
        Reference(
            [
                record("Foo-8B-v1", description=None, baseline="first", nsfw=False),
                record("foo-70b", baseline="second", nsfw=True),
                record("Foo-8B-v2"),
                record("Bar-8B"),
            ]
        ),
    ).grouped()


def test_a_family_is_one_entry() -> None:
    result = family()
    assert [model.name for model in result.models] == ["Bar", "Foo"]
    foo = result.models[1]
    assert (foo.usage_day, foo.usage_month, foo.usage_total, foo.worker_count) == (8, 40, 320, 5)
    assert (foo.baseline, foo.nsfw, foo.has_description) == ("first", False, False)
    assert foo.usage_percentage_of_category == 40.0
    assert flags_of(foo) == {
        "zero_usage_day",
        "zero_usage_month",
        "zero_usage_total",
        "no_active_workers",
        "missing_description",
        "low_usage",
    }


def test_the_trends_of_a_family_are_weighted_by_the_month() -> None:
    trend = family().models[1].usage_trend
    assert trend.day_to_month_ratio == pytest.approx((0.1 * 30 + 0.5 * 10) / 40)
    assert trend.month_to_total_ratio == pytest.approx((0.1 * 30 + 0.5 * 10) / 40)


def test_a_family_without_use_has_no_trends() -> None:
    result = audit("text", {"Foo-8B": entry(0), "Foo-9B": entry(0, total=5)}).grouped().models[0]
    assert (result.usage_trend.day_to_month_ratio, result.usage_trend.month_to_total_ratio) == (
        None,
        None,
    )


def test_a_group_has_no_variations_and_image_models_no_groups() -> None:
    merged = {"Foo-8B": entry(3, backend_variations={})}
    assert audit("text", merged).models[0].backend_variations == ()
    assert audit("text", merged).grouped().models[0].backend_variations is None
    image = audit("image", merged)
    assert image.grouped() is image


def test_the_total_of_the_category_stays_when_it_is_grouped() -> None:
    assert family().category_total_month_usage == 100
    assert family().answer().total_count == 2


# From the horde's own answers


def test_merged_models_are_audited() -> None:
    merged = merge_category_with_horde_data(
        ["X-8B", "Y-8B"],
        [{"name": "koboldcpp/X-8B", "count": 1}],
        {"day": {"koboldcpp/X-8B": 1}, "month": {"koboldcpp/X-8B": 40}},
        [{"id": "w", "models": ["koboldcpp/X-8B"]}],
    )
    result = audit("text", merged)
    assert {model.name: flags_of(model) for model in result.models} == {
        "X-8B": {"zero_usage_total"},
        "Y-8B": {
            "zero_usage_day",
            "zero_usage_month",
            "zero_usage_total",
            "no_active_workers",
            "low_usage",
        },
    }
