"""Counts over the models of a category: sizes, tags, styles, baselines, downloads. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from horde_proxy.stats.listing import has_more, page
from horde_proxy.stats.reference import ReferenceRecord

# The number and the buckets are those of the documented API (horde-model-reference).
MOST_TAGS = 20
"""How many tags, and styles, are listed: the most frequent ones."""
BILLION = 1_000_000_000
BUCKETS: tuple[tuple[str, int | None, int | None], ...] = (
    ("<3B", None, 3 * BILLION),
    ("3B-6B", 3 * BILLION, 6 * BILLION),
    ("6B-9B", 6 * BILLION, 9 * BILLION),
    ("9B-13B", 9 * BILLION, 13 * BILLION),
    ("13B-20B", 13 * BILLION, 20 * BILLION),
    ("20B-35B", 20 * BILLION, 35 * BILLION),
    ("35B-70B", 35 * BILLION, 70 * BILLION),
    (">70B", 70 * BILLION, None),
)
"""(label, smallest number of parameters, first number that is too large). A model with exactly 13
billion parameters is in "13B-20B"."""


@dataclass(frozen=True)
class DownloadStats:
    """The hosts of the models' files, and the sizes of the files in bytes."""

    total_models_with_downloads: int = 0
    total_download_entries: int = 0
    total_size_bytes: int = 0
    models_with_size_info: int = 0
    average_size_bytes: float = 0.0
    hosts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CategoryStatistics:
    """The counts of one category, with the fields of the documented statistics API.

    Percentages are of all models, with two decimals. `computed_at` is in Unix seconds.
    """

    category: str
    total_models: int
    computed_at: int
    returned_models: int
    offset: int = 0
    limit: int | None = None
    nsfw_count: int = 0
    baseline_distribution: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    download_stats: DownloadStats = DownloadStats()
    top_tags: Sequence[Mapping[str, Any]] = ()
    top_styles: Sequence[Mapping[str, Any]] = ()
    parameter_buckets: Sequence[Mapping[str, Any]] = ()
    models_without_param_info: int = 0
    models_with_trigger_words: int = 0
    models_with_inpainting: int = 0
    models_with_requirements: int = 0
    models_with_showcases: int = 0

    def paged(self, limit: int | None, offset: int) -> CategoryStatistics:
        """The same counts with the fields of the requested page. There is no list to cut.

        Raises InvalidRequest with param for a wrong limit or offset.
        """
        returned = len(page(range(self.total_models), limit, offset))
        return replace(self, limit=limit, offset=offset, returned_models=returned)

    def to_json(self) -> dict[str, Any]:
        """The counts as a client gets them."""
        return {
            **vars(self),
            "has_more": has_more(self.total_models, self.offset, self.returned_models),
            "download_stats": dict(vars(self.download_stats)),
            "top_tags": list(self.top_tags),
            "top_styles": list(self.top_styles),
            "parameter_buckets": list(self.parameter_buckets),
        }


def category_statistics(
    category: str, records: Iterable[ReferenceRecord], computed_at: int
) -> CategoryStatistics:
    """The counts over the records, one record for each model; zeros without any record."""
    models = list(records)
    total = len(models)
    baselines = Counter(model.baseline for model in models if model.baseline)
    # A model that repeats a tag counts once, so that no percentage exceeds 100.
    tags = Counter(tag for model in models for tag in dict.fromkeys(model.tags))
    styles = Counter(model.style for model in models if model.style)
    return CategoryStatistics(
        category=category,
        total_models=total,
        computed_at=computed_at,
        returned_models=total,
        nsfw_count=sum(model.nsfw is True for model in models),
        baseline_distribution={
            name: {"baseline": name, "count": count, "percentage": percentage(count, total)}
            for name, count in _most_first(baselines)
        },
        download_stats=_downloads(models),
        top_tags=_top(tags, total),
        top_styles=_top(styles, total),
        parameter_buckets=_buckets([model.parameters for model in models]),
        models_without_param_info=sum(model.parameters is None for model in models),
        models_with_trigger_words=sum(bool(model.trigger) for model in models),
        models_with_inpainting=sum(model.inpainting for model in models),
        models_with_requirements=sum(model.requirements for model in models),
        models_with_showcases=sum(bool(model.showcases) for model in models),
    )


def percentage(part: float, whole: float, digits: int = 2) -> float:
    """The part as a percentage of the whole, rounded; 0 if the whole is 0."""
    return round(100 * part / whole, digits) if whole else 0.0


def host_of(url: str) -> str | None:
    """The host of a URL in lower case; None if the text is not an http(s) URL."""
    # urlsplit raises for some texts that only look like a URL, e.g. "https://[::1".
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        return None


def _most_first(counts: Counter[str]) -> list[tuple[str, int]]:
    # Equal counts by name, so that the same data always makes the same answer, and ETag.
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _top(counts: Counter[str], total: int) -> list[Mapping[str, Any]]:
    return [
        {"tag": tag, "count": count, "percentage": percentage(count, total)}
        for tag, count in _most_first(counts)[:MOST_TAGS]
    ]


def _buckets(parameters: Sequence[int | None]) -> list[Mapping[str, Any]]:
    """The buckets that contain a model, smallest first."""
    known = [number for number in parameters if number is not None]
    buckets: list[Mapping[str, Any]] = []
    for label, low, high in BUCKETS:
        count = sum((low or 0) <= number and (high is None or number < high) for number in known)
        if count:
            buckets.append(
                {
                    "bucket_label": label,
                    "min_params": low,
                    "max_params": high,
                    "count": count,
                    # Of all models, including those whose size is unknown.
                    "percentage": percentage(count, len(parameters)),
                }
            )
    return buckets


def _downloads(models: Sequence[ReferenceRecord]) -> DownloadStats:
    urls = [url for model in models for url in model.downloads]
    hosts = Counter(filter(None, map(host_of, urls)))
    sizes = [model.size_bytes for model in models if model.size_bytes]
    return DownloadStats(
        total_models_with_downloads=sum(bool(model.downloads) for model in models),
        total_download_entries=len(urls),
        total_size_bytes=sum(sizes),
        models_with_size_info=len(sizes),
        average_size_bytes=round(sum(sizes) / len(sizes), 2) if sizes else 0.0,
        hosts=dict(_most_first(hosts)),
    )
