"""Which models of a category are hardly used, served or described; pure.

A flag is set only for what was looked at: without fetched statistics no model counts as unused,
and without a reference none as undescribed. What is known to be absent counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from horde_proxy.aihorde.names import family
from horde_proxy.stats.listing import one_of, page
from horde_proxy.stats.model_stats import BackendVariation, CombinedModelStatistics, UsageStats
from horde_proxy.stats.reference import Reference, ReferenceRecord
from horde_proxy.stats.statistics import host_of, percentage

_GIGABYTE = 1024**3
_CRITICAL_MONTH = 10
_CANDIDATE_PERCENTAGE = 0.01


@dataclass(frozen=True)
class AuditRules:
    """What counts as little use (per cent of the category's month), and which hosts are good."""

    low_usage_percentage: float
    preferred_hosts: tuple[str, ...] = ("huggingface.co",)
    judges_downloads: bool = True


RULES: Mapping[str, AuditRules] = {
    "text": AuditRules(low_usage_percentage=0.02, judges_downloads=False),
    "image": AuditRules(low_usage_percentage=0.0065),
}
"""The rules of each category. Text models are not downloaded from where the reference says."""


@dataclass(frozen=True)
class DeletionRiskFlags:
    """What speaks against keeping a model."""

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
        """How many flags are set: the risk score."""
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
    """The use of a day within its month, and of the month within all; None of nothing."""

    day_to_month_ratio: float | None = None
    month_to_total_ratio: float | None = None


@dataclass(frozen=True)
class ModelAuditInfo:
    """One model (or family) of the audit. `cost_benefit_score` is uses a month for each GiB.

    `usage_known` and `workers_known` tell whether a zero was counted; clients do not get them.
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
        """Whether nobody serves it and hardly anybody (image: nobody) used it in the month."""
        if not (self.usage_known and self.workers_known):
            return False
        if self.category == "text":
            return self.usage_month < _CRITICAL_MONTH and self.worker_count < 1
        flags = self.deletion_risk_flags
        return flags.zero_usage_month and flags.no_active_workers

    @property
    def has_warning(self) -> bool:
        """Whether anything is wrong with where it is downloaded from."""
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
                None if variations is None else [_variation_to_json(each) for each in variations]
            ),
            "is_critical": self.is_critical,
            "has_warning": self.has_warning,
        }


@dataclass(frozen=True)
class CategoryAuditSummary:
    """How many models of the answer (on all its pages) have what."""

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
    """One page of the audit. `total_count` are the models of all pages, after the preset."""

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
            "models": [model.to_json() for model in self.models],
            "summary": dict(vars(self.summary)),
        }


@dataclass(frozen=True)
class CategoryAudit:
    """The whole audit of a category, most used first. This is what is worth caching."""

    category: str
    category_total_month_usage: int
    models: tuple[ModelAuditInfo, ...]

    def answer(
        self, *, preset: str | None = None, limit: int | None = None, offset: int = 0
    ) -> CategoryAuditResponse:
        """One page of the models that the preset picks, with the summary of all of them.

        Raises InvalidRequest with param for a preset, a limit or an offset that is none.
        """
        picks = one_of("preset", preset, PRESETS) if preset is not None else _any
        picked = [model for model in self.models if picks(model)]
        shown = page(picked, limit, offset)
        return CategoryAuditResponse(
            category=self.category,
            category_total_month_usage=self.category_total_month_usage,
            total_count=len(picked),
            returned_count=len(shown),
            offset=offset,
            limit=limit,
            models=shown,
            summary=summary(picked, self.category_total_month_usage),
        )

    def grouped(self) -> CategoryAudit:
        """A new audit with one entry for each family of text models; others are as they are."""
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
    """The audit over merged models, one name for each of them ("text" or "image").

    `reference` is None when it was not loaded. The rules default to those of the category; raises
    InvalidRequest for a category that has none.
    """
    uses = [each.usage for each in merged.values()]
    total = sum(usage.month for usage in uses if usage)
    chosen = rules or one_of("type", category, RULES)
    models = [
        _audited(category, name, entry, reference, chosen, total) for name, entry in merged.items()
    ]
    return CategoryAudit(category, total, _most_used_first(models))


def summary(models: Sequence[ModelAuditInfo], total_month_usage: int) -> CategoryAuditSummary:
    """The counts over the models; no models give zeros."""
    flags = [model.deletion_risk_flags for model in models]
    count = len(models)
    score = sum(model.risk_score for model in models)
    return CategoryAuditSummary(
        total_models=count,
        models_at_risk=sum(model.at_risk for model in models),
        models_critical=sum(model.is_critical for model in models),
        models_with_warnings=sum(model.has_warning for model in models),
        models_with_zero_day_usage=sum(each.zero_usage_day for each in flags),
        models_with_zero_month_usage=sum(each.zero_usage_month for each in flags),
        models_with_zero_total_usage=sum(each.zero_usage_total for each in flags),
        models_with_no_active_workers=sum(each.no_active_workers for each in flags),
        models_with_no_downloads=sum(each.no_download_urls for each in flags),
        models_with_non_preferred_hosts=sum(each.has_non_preferred_host for each in flags),
        models_with_multiple_hosts=sum(each.has_multiple_hosts for each in flags),
        models_with_low_usage=sum(each.low_usage for each in flags),
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
"""What an answer may be narrowed down to."""


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
    known = None if reference is None else reference.get(name) or ReferenceRecord(name)
    record = known or ReferenceRecord(name)
    usage = entry.usage or UsageStats()
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
        usage_percentage_of_category=percentage(usage.month, total, 4),
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
    """`record` is None when there is no reference to look into."""
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
        "low_usage": total > 0 and 100 * usage.month / total < rules.low_usage_percentage,
    }


def _download_flags(record: ReferenceRecord, rules: AuditRules) -> dict[str, bool]:
    hosts = _hosts(record)
    return {
        "no_download_urls": not hosts,
        "has_multiple_hosts": len(hosts) > 1,
        "has_non_preferred_host": bool(hosts)
        and not any(
            host == good or host.endswith(f".{good}")
            for host in hosts
            for good in rules.preferred_hosts
        ),
        "has_unknown_host": any(host_of(url) is None for url in record.downloads),
    }


def _hosts(record: ReferenceRecord) -> tuple[str, ...]:
    """The hosts of the downloads, each once, in alphabetical order."""
    return tuple(sorted({host for host in map(host_of, record.downloads) if host}))


def _trend(usage: UsageStats) -> UsageTrend:
    return UsageTrend(
        usage.day / usage.month if usage.month else None,
        usage.month / usage.total if usage.total else None,
    )


def _group(members: Sequence[ModelAuditInfo], total: int) -> ModelAuditInfo:
    """A family: uses summed, the most workers of a member, each flag that any member has."""
    month = sum(each.usage_month for each in members)
    sizes = [each.size_gb for each in members if each.size_gb is not None]
    first = members[0]
    return replace(
        first,
        name=family(first.name),
        deletion_risk_flags=_joined([each.deletion_risk_flags for each in members]),
        worker_count=max(each.worker_count for each in members),
        usage_day=sum(each.usage_day for each in members),
        usage_month=month,
        usage_total=sum(each.usage_total for each in members),
        usage_percentage_of_category=percentage(month, total, 4),
        usage_trend=UsageTrend(
            _weighted([(e.usage_trend.day_to_month_ratio, e.usage_month) for e in members]),
            _weighted([(e.usage_trend.month_to_total_ratio, e.usage_month) for e in members]),
        ),
        size_gb=sum(sizes) / len(sizes) if sizes else None,
        has_description=all(each.has_description for each in members),
        download_count=sum(each.download_count for each in members),
        download_hosts=tuple(sorted({host for each in members for host in each.download_hosts})),
        backend_variations=None,
    )


def _joined(flags: Sequence[DeletionRiskFlags]) -> DeletionRiskFlags:
    names = [each.name for each in fields(DeletionRiskFlags)]
    return DeletionRiskFlags(**{name: any(getattr(e, name) for e in flags) for name in names})


def _weighted(pairs: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in pairs if value is not None]
    weight = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / weight if weight else None


def _variation_to_json(variation: BackendVariation) -> dict[str, Any]:
    """A variation without its queue, which the audit does not tell."""
    queue = ("queued", "queued_jobs", "eta")
    return {key: value for key, value in variation.to_json().items() if key not in queue}
