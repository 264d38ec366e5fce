"""The audit of a category: models that are rarely used, not served or not described. Pure.

A flag needs data: without fetched statistics, no model counts as unused, and without a reference,
none counts as undescribed. A model that is missing in fetched data counts as zero. Fields, flags
and presets are those of the documented audit of horde-model-reference, which later versions call
"deletion risk".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from horde_proxy.aihorde.names import family
from horde_proxy.stats.listing import has_more, one_of, page
from horde_proxy.stats.model_stats import BackendVariation, CombinedModelStatistics, UsageStats
from horde_proxy.stats.reference import Reference, ReferenceRecord
from horde_proxy.stats.statistics import host_of, percentage

_GIGABYTE = 1024**3  # the API's `size_gb` is in GiB
_SHARE_DIGITS = 4
"""The decimals of a share in per cent; the limits for low usage have as many."""
# The limits below are those of the documented audit (horde-model-reference, deletion risk).
_CRITICAL_MONTH = 10
"""A text model without workers is critical if it was used less often than this in a month."""
_CANDIDATE_PERCENTAGE = 0.01
"""A model with a smaller share of the category's monthly usage is a candidate for deletion."""


@dataclass(frozen=True)
class AuditRules:
    """The limit for low usage (percentage of the category's month), and the preferred hosts."""

    low_usage_percentage: float
    preferred_hosts: tuple[str, ...] = ("huggingface.co",)
    judges_downloads: bool = True


RULES: Mapping[str, AuditRules] = {
    "text": AuditRules(low_usage_percentage=0.02, judges_downloads=False),
    "image": AuditRules(low_usage_percentage=0.0065),
}
"""The rules of each category. Workers do not download text models from the reference's URLs."""


@dataclass(frozen=True)
class DeletionRiskFlags:
    """The reasons against keeping a model."""

    zero_usage_day: bool = False
    zero_usage_month: bool = False
    zero_usage_total: bool = False
    no_active_workers: bool = False
    has_multiple_hosts: bool = False
    has_non_preferred_host: bool = False
    has_unknown_host: bool = False
    no_download_urls: bool = False
    missing_description: bool = False
    missing_baseline: bool = False
    low_usage: bool = False

    def flag_count(self) -> int:
        """The number of flags that are set: the risk score."""
        # Every field is a flag, and True counts as 1.
        return sum(vars(self).values())

    def any_flags(self) -> bool:
        """Whether any flag is set."""
        return self.flag_count() > 0

    def about_hosts(self) -> bool:
        """Whether any flag about downloads is set."""
        return (
            self.has_multiple_hosts
            or self.has_non_preferred_host
            or self.has_unknown_host
            or self.no_download_urls
        )


@dataclass(frozen=True)
class UsageTrend:
    """The day's share of the month, and the month's share of the total; None of a zero."""

    day_to_month_ratio: float | None = None
    month_to_total_ratio: float | None = None


@dataclass(frozen=True)
class ModelAuditInfo:
    """A model or family in the audit. `cost_benefit_score` is the month's usage for each GiB.

    `usage_known` and `workers_known` tell whether a zero was counted; they are not in the JSON.
    """

    name: str
    category: str
    deletion_risk_flags: DeletionRiskFlags
    worker_count: int = 0
    usage_day: int = 0
    usage_month: int = 0
    usage_total: int = 0
    usage_percentage_of_category: float = 0.0
    usage_trend: UsageTrend = UsageTrend()
    cost_benefit_score: float | None = None
    size_gb: float | None = None
    baseline: str | None = None
    nsfw: bool | None = None
    has_description: bool = False
    download_count: int = 0
    download_hosts: tuple[str, ...] = ()
    backend_variations: tuple[BackendVariation, ...] | None = None
    usage_known: bool = True
    workers_known: bool = True

    @property
    def at_risk(self) -> bool:
        """Whether any flag is set."""
        return self.deletion_risk_flags.any_flags()

    @property
    def risk_score(self) -> int:
        """The number of flags, 0 to 11."""
        return self.deletion_risk_flags.flag_count()

    @property
    def is_critical(self) -> bool:
        """Whether no worker serves it, and it was rarely (image: never) used in the month."""
        if not (self.usage_known and self.workers_known):
            return False
        # The documented rules differ by category: a text model may have had a few uses.
        if self.category == "text":
            return self.usage_month < _CRITICAL_MONTH and self.worker_count < 1
        flags = self.deletion_risk_flags
        return flags.zero_usage_month and flags.no_active_workers

    @property
    def has_warning(self) -> bool:
        """Whether any flag about its downloads is set."""
        return self.deletion_risk_flags.about_hosts()

    def to_json(self) -> dict[str, Any]:
        """The model as a client gets it."""
        variations = self.backend_variations
        return {
            "name": self.name,
            "category": self.category,
            "deletion_risk_flags": dict(vars(self.deletion_risk_flags)),
            "at_risk": self.at_risk,
            "risk_score": self.risk_score,
            "worker_count": self.worker_count,
            "usage_day": self.usage_day,
            "usage_month": self.usage_month,
            "usage_total": self.usage_total,
            # Always null in the documented API too: the horde's shortest period is a day.
            "usage_hour": None,
            "usage_minute": None,
            "usage_percentage_of_category": self.usage_percentage_of_category,
            "usage_trend": dict(vars(self.usage_trend)),
            "cost_benefit_score": self.cost_benefit_score,
            "size_gb": self.size_gb,
            "baseline": self.baseline,
            "nsfw": self.nsfw,
            "has_description": self.has_description,
            "download_count": self.download_count,
            "download_hosts": list(self.download_hosts),
            "backend_variations": (
                None if variations is None else list(map(_variation_to_json, variations))
            ),
            "is_critical": self.is_critical,
            "has_warning": self.has_warning,
        }


@dataclass(frozen=True)
class CategoryAuditSummary:
    """Counts over the models on all pages of an answer."""

    total_models: int
    models_at_risk: int
    models_critical: int
    models_with_warnings: int
    models_with_zero_day_usage: int
    models_with_zero_month_usage: int
    models_with_zero_total_usage: int
    models_with_no_active_workers: int
    models_with_no_downloads: int
    models_with_non_preferred_hosts: int
    models_with_multiple_hosts: int
    models_with_low_usage: int
    average_risk_score: float
    category_total_month_usage: int


@dataclass(frozen=True)
class CategoryAuditResponse:
    """One page of the audit. `total_count` is the number of models that the preset selects."""

    category: str
    category_total_month_usage: int
    total_count: int
    returned_count: int
    offset: int
    limit: int | None
    models: Sequence[ModelAuditInfo]
    summary: CategoryAuditSummary

    def to_json(self) -> dict[str, Any]:
        """The answer as a client gets it."""
        return {
            **vars(self),
            "has_more": has_more(self.total_count, self.offset, self.returned_count),
            "models": [model.to_json() for model in self.models],
            "summary": dict(vars(self.summary)),
        }


@dataclass(frozen=True)
class CategoryAudit:
    """The whole audit of a category, the most used models first. It is worth caching."""

    category: str
    category_total_month_usage: int
    models: tuple[ModelAuditInfo, ...]

    def answer(
        self, *, preset: str | None = None, limit: int | None = None, offset: int = 0
    ) -> CategoryAuditResponse:
        """One page of the models that the preset selects, with the summary of all of them.

        Raises InvalidRequest with param for a wrong preset, limit or offset.
        """
        is_selected = one_of("preset", preset, PRESETS) if preset is not None else _any
        selected = [model for model in self.models if is_selected(model)]
        models = page(selected, limit, offset)
        return CategoryAuditResponse(
            category=self.category,
            category_total_month_usage=self.category_total_month_usage,
            total_count=len(selected),
            returned_count=len(models),
            offset=offset,
            limit=limit,
            models=models,
            summary=summary(selected, self.category_total_month_usage),
        )

    def of_models(self, names: Iterable[str]) -> CategoryAudit:
        """A new audit of these models only; the category's usage stays that of all."""
        wanted = frozenset(names)
        return replace(self, models=tuple(model for model in self.models if model.name in wanted))

    def grouped(self) -> CategoryAudit:
        """A new audit by family; the same one for image models, which have no families."""
        if self.category != "text":
            return self
        families: dict[str, list[ModelAuditInfo]] = {}
        for model in self.models:
            families.setdefault(family(model.name).casefold(), []).append(model)
        total = self.category_total_month_usage
        groups = [_group(members, total) for members in families.values()]
        return replace(self, models=_most_used_first(groups))


def audit(
    category: str,
    merged: Mapping[str, CombinedModelStatistics],
    reference: Reference | None = None,
    rules: AuditRules | None = None,
) -> CategoryAudit:
    """The audit of a category ("text" or "image"); `merged` has one name for each model.

    `reference` is None if it was not loaded. The rules default to those of the category. Raises
    InvalidRequest for a category without rules.
    """
    uses = [entry.usage for entry in merged.values()]
    total = sum(usage.month for usage in uses if usage)
    chosen = rules or one_of("type", category, RULES)
    models = [
        _audited(category, name, entry, reference, chosen, total) for name, entry in merged.items()
    ]
    return CategoryAudit(category, total, _most_used_first(models))


def summary(models: Sequence[ModelAuditInfo], total_month_usage: int) -> CategoryAuditSummary:
    """The counts over the models; zeros without any model."""
    flags = [model.deletion_risk_flags for model in models]
    count = len(models)
    score = sum(model.risk_score for model in models)
    return CategoryAuditSummary(
        total_models=count,
        models_at_risk=sum(model.at_risk for model in models),
        models_critical=sum(model.is_critical for model in models),
        models_with_warnings=sum(model.has_warning for model in models),
        models_with_zero_day_usage=sum(flag.zero_usage_day for flag in flags),
        models_with_zero_month_usage=sum(flag.zero_usage_month for flag in flags),
        models_with_zero_total_usage=sum(flag.zero_usage_total for flag in flags),
        models_with_no_active_workers=sum(flag.no_active_workers for flag in flags),
        models_with_no_downloads=sum(flag.no_download_urls for flag in flags),
        models_with_non_preferred_hosts=sum(flag.has_non_preferred_host for flag in flags),
        models_with_multiple_hosts=sum(flag.has_multiple_hosts for flag in flags),
        models_with_low_usage=sum(flag.low_usage for flag in flags),
        average_risk_score=round(score / count, 2) if count else 0.0,
        category_total_month_usage=total_month_usage,
    )


def _any(model: ModelAuditInfo) -> bool:
    return True


def _is_candidate(model: ModelAuditInfo) -> bool:
    is_rare = model.usage_percentage_of_category < _CANDIDATE_PERCENTAGE
    return model.at_risk or (model.usage_known and is_rare)


def _lacks_data(model: ModelAuditInfo) -> bool:
    flags = model.deletion_risk_flags
    return flags.missing_description or flags.missing_baseline


PRESETS: Mapping[str, Callable[[ModelAuditInfo], bool]] = {
    "deletion_candidates": _is_candidate,
    "zero_usage": lambda model: model.deletion_risk_flags.zero_usage_month,
    "no_workers": lambda model: model.deletion_risk_flags.no_active_workers,
    "missing_data": _lacks_data,
    "host_issues": lambda model: model.has_warning,
    "critical": lambda model: model.is_critical,
    "low_usage": lambda model: model.deletion_risk_flags.low_usage,
}
"""The selections that a client may request, by name."""


def _most_used_first(models: Iterable[ModelAuditInfo]) -> tuple[ModelAuditInfo, ...]:
    return tuple(sorted(models, key=lambda model: (-model.usage_month, model.name.casefold())))


def _audited(
    category: str,
    name: str,
    entry: CombinedModelStatistics,
    reference: Reference | None,
    rules: AuditRules,
    total: int,
) -> ModelAuditInfo:
    # A model that is missing in a loaded reference has no description. Without a reference, this is
    # unknown, and the flags stay unset.
    known = None if reference is None else reference.get(name) or ReferenceRecord(name)
    record = known or ReferenceRecord(name)
    usage = entry.usage or UsageStats()
    # The documented audit gives text models neither a size nor a benefit for it.
    size = record.size_bytes / _GIGABYTE if record.size_bytes and category != "text" else None
    variations = entry.backend_variations
    return ModelAuditInfo(
        name=name,
        category=category,
        deletion_risk_flags=_flags(entry, known, rules, total),
        worker_count=entry.worker_count,
        usage_day=usage.day,
        usage_month=usage.month,
        usage_total=usage.total,
        usage_percentage_of_category=percentage(usage.month, total, _SHARE_DIGITS),
        usage_trend=_trend(usage),
        cost_benefit_score=round(usage.month / size, 2) if size and entry.usage else None,
        size_gb=size,
        baseline=record.baseline,
        nsfw=record.nsfw,
        has_description=bool(record.description),
        download_count=len(record.downloads),
        download_hosts=_hosts(record),
        backend_variations=None if variations is None else tuple(variations.values()),
        usage_known=entry.usage is not None,
        workers_known=entry.workers_known,
    )


def _flags(
    entry: CombinedModelStatistics, record: ReferenceRecord | None, rules: AuditRules, total: int
) -> DeletionRiskFlags:
    """`record` is None without a reference."""
    judged = record if rules.judges_downloads else None
    return DeletionRiskFlags(
        **_usage_flags(entry.usage, rules, total),
        **(_download_flags(judged, rules) if judged else {}),
        no_active_workers=entry.workers_known and entry.worker_count == 0,
        missing_description=record is not None and not record.description,
        missing_baseline=record is not None and not record.baseline,
    )


def _usage_flags(usage: UsageStats | None, rules: AuditRules, total: int) -> dict[str, bool]:
    if usage is None:
        return {}
    return {
        "zero_usage_day": usage.day == 0,
        "zero_usage_month": usage.month == 0,
        "zero_usage_total": usage.total == 0,
        # Not rounded as the shown share is: the limit is exact, and only "less" counts as low.
        "low_usage": total > 0 and 100 * usage.month / total < rules.low_usage_percentage,
    }


def _download_flags(record: ReferenceRecord, rules: AuditRules) -> dict[str, bool]:
    hosts = _hosts(record)
    return {
        "no_download_urls": not hosts,
        "has_multiple_hosts": len(hosts) > 1,
        # Whole labels are compared: cdn.huggingface.co is preferred, but
        # huggingface.co.example.org and nothuggingface.co are not.
        "has_non_preferred_host": bool(hosts)
        and not any(
            host == preferred or host.endswith(f".{preferred}")
            for host in hosts
            for preferred in rules.preferred_hosts
        ),
        "has_unknown_host": any(host_of(url) is None for url in record.downloads),
    }


def _hosts(record: ReferenceRecord) -> tuple[str, ...]:
    """The hosts of the downloads, without duplicates, in alphabetical order."""
    return tuple(sorted({host for host in map(host_of, record.downloads) if host}))


def _trend(usage: UsageStats) -> UsageTrend:
    return UsageTrend(
        usage.day / usage.month if usage.month else None,
        usage.month / usage.total if usage.total else None,
    )


def _group(members: Sequence[ModelAuditInfo], total: int) -> ModelAuditInfo:
    """A family: the sums of usage, the largest number of workers, and every member's flags."""
    # The number of workers cannot be a sum, because one worker may serve several members. Trends
    # are weighted by usage, so that a rarely used member does not distort the family's.
    month = sum(member.usage_month for member in members)
    sizes = [member.size_gb for member in members if member.size_gb is not None]
    first = members[0]
    return replace(
        first,
        name=family(first.name),
        deletion_risk_flags=_any_flag([member.deletion_risk_flags for member in members]),
        worker_count=max(member.worker_count for member in members),
        usage_day=sum(member.usage_day for member in members),
        usage_month=month,
        usage_total=sum(member.usage_total for member in members),
        usage_percentage_of_category=percentage(month, total, _SHARE_DIGITS),
        usage_trend=UsageTrend(
            _weighted([(m.usage_trend.day_to_month_ratio, m.usage_month) for m in members]),
            _weighted([(m.usage_trend.month_to_total_ratio, m.usage_month) for m in members]),
        ),
        size_gb=sum(sizes) / len(sizes) if sizes else None,
        has_description=all(member.has_description for member in members),
        download_count=sum(member.download_count for member in members),
        download_hosts=tuple(
            sorted({host for member in members for host in member.download_hosts})
        ),
        backend_variations=None,
    )


def _any_flag(flags: Sequence[DeletionRiskFlags]) -> DeletionRiskFlags:
    names = [field.name for field in fields(DeletionRiskFlags)]
    return DeletionRiskFlags(**{name: any(getattr(flag, name) for flag in flags) for name in names})


def _weighted(pairs: Sequence[tuple[float | None, int]]) -> float | None:
    """The mean of (value, weight) pairs; None if no value is known, or all weights are 0."""
    known = [(value, weight) for value, weight in pairs if value is not None]
    weight = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / weight if weight else None


def _variation_to_json(variation: BackendVariation) -> dict[str, Any]:
    """A variation without its queue, which is not in the audit API."""
    queue = ("queued", "queued_jobs", "eta")
    return {key: value for key, value in variation.to_json().items() if key not in queue}
