"""Filtering, sorting and paging of the merged models. Pure.

A page is always a new object, so that cached data is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from horde_proxy.errors import InvalidRequest
from horde_proxy.stats.model_stats import CombinedModelStatistics, UsageStats

T = TypeVar("T")
Entry = tuple[str, CombinedModelStatistics]


@dataclass(frozen=True)
class Listing:
    """One page of the models, and the number of models on all pages."""

    models: Mapping[str, CombinedModelStatistics]
    total_count: int
    offset: int = 0
    limit: int | None = None

    @property
    def has_more(self) -> bool:
        """Whether models follow those of this page."""
        return has_more(self.total_count, self.offset, len(self.models))


def listing(
    merged: Mapping[str, CombinedModelStatistics],
    *,
    min_worker_count: int | None = None,
    sort_by: str | None = None,
    sort_desc: bool = True,
    limit: int | None = None,
    offset: int = 0,
) -> Listing:
    """The models of one page: filtered, then sorted, then paged.

    Without `sort_by`, they keep their order. Models without a value to sort by come last in either
    direction; equal models keep their order. Raises InvalidRequest with param for a wrong value.
    """
    if min_worker_count is not None and min_worker_count < 0:
        raise _invalid("min_worker_count", "it must be 0 or more")
    # `worker_count`, and not the summaries, which may be left out of an answer.
    min_count = min_worker_count or 0
    entries = [entry for entry in merged.items() if entry[1].worker_count >= min_count]
    if sort_by is not None:
        entries = _sort(entries, sort_by, sort_desc)
    return Listing(dict(page(entries, limit, offset)), len(entries), offset, limit)


def page(items: Sequence[T], limit: int | None, offset: int) -> Sequence[T]:
    """At most `limit` items (1 or more, None for all) from `offset` on.

    Raises InvalidRequest with param for a wrong limit or offset.
    """
    if limit is not None and limit < 1:
        raise _invalid("limit", "it must be 1 or more")
    if offset < 0:
        raise _invalid("offset", "it must be 0 or more")
    return items[offset:] if limit is None else items[offset : offset + limit]


def has_more(total: int, offset: int, returned: int) -> bool:
    """Whether items follow those of a page."""
    return offset + returned < total


def one_of(param: str, value: str, choices: Mapping[str, T]) -> T:
    """The choice with this name. Raises InvalidRequest, which lists all choices."""
    if value not in choices:
        raise _invalid(param, "it must be one of " + ", ".join(choices))
    return choices[value]


def _invalid(param: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"`{param}` is wrong: {reason}.", param=param, code="invalid_value")


def _sort(entries: Sequence[Entry], sort_by: str, descending: bool) -> list[Entry]:
    value = one_of("sort_by", sort_by, SORTS)
    # Missing values are appended: None cannot be compared, and a reversed sort would put a
    # replacement first.
    known = [entry for entry in entries if value(entry) is not None]
    missing = [entry for entry in entries if value(entry) is None]
    return sorted(known, key=value, reverse=descending) + missing


def _use(period: Callable[[UsageStats], int]) -> Callable[[Entry], Any]:
    def value(entry: Entry) -> int | None:
        usage = entry[1].usage
        return None if usage is None else period(usage)

    return value


SORTS: Mapping[str, Callable[[Entry], Any]] = {
    "worker_count": lambda entry: entry[1].worker_count,
    "queued": lambda entry: entry[1].queued,
    "queued_jobs": lambda entry: entry[1].queued_jobs,
    "performance": lambda entry: entry[1].performance,
    "eta": lambda entry: entry[1].eta,
    "usage_day": _use(lambda usage: usage.day),
    "usage_month": _use(lambda usage: usage.month),
    "usage_total": _use(lambda usage: usage.total),
    "name": lambda entry: entry[0].casefold(),
}
"""The sort keys by the name in a request. A key of None means that the value is missing."""
