"""The horde's statistics as JSON answers. Each answer is made once, until the data changes.

Where the threads meet: every request gets the current StatsView, the same object until the data
changes. The view caches the answers, so they are dropped with it. `StatsService._lock` guards these
caches. It is held while an answer is made, so that only one of many equal requests does the work;
no I/O happens under it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any

from cachetools import LRUCache

from horde_proxy.aihorde.names import canonical, distinct
from horde_proxy.caching.derived import Derived
from horde_proxy.errors import InvalidRequest, ModelNotFound
from horde_proxy.stats.audit import CategoryAudit, audit
from horde_proxy.stats.hydration import Hydrator
from horde_proxy.stats.listing import listing
from horde_proxy.stats.live import LiveHorde, Snapshot
from horde_proxy.stats.merger import DataMerger
from horde_proxy.stats.model_filter import EVERY_MODEL, ModelFilter
from horde_proxy.stats.model_stats import CombinedModelStatistics
from horde_proxy.stats.reference import Reference, by_family, described
from horde_proxy.stats.reference_loading import References
from horde_proxy.stats.statistics import category_statistics

KINDS = ("text", "image")
MAX_BYTES = 16 * 1024 * 1024
"""The memory for the cached answers of each kind. The least recently used are dropped first."""
_ENTRY_BYTES = 1024
"""About what a cached answer takes besides its body: the Query, the ETag, the cache's own records.
Many queries have short answers, e.g. each page behind the last."""
_ETAG_DIGITS = 32
"""Hexadecimal digits: half of a SHA-256 is enough to tell answers apart."""
DEGRADED_AGE = 5
"""The max-age of answers from degraded data (s): short, as the data may be complete again soon."""


@dataclass(frozen=True)
class Query:
    """The parameters of a request, with the defaults of a list."""

    kind: str = "text"
    include_workers: bool = False
    include_backend_variations: bool = False
    group: bool = False
    preset: str | None = None
    min_worker_count: int | None = None
    sort_by: str | None = None
    sort_desc: bool = True
    limit: int | None = None
    offset: int = 0
    filter: ModelFilter = EVERY_MODEL


@dataclass(frozen=True)
class StatsAnswer:
    """The JSON of an answer, its ETag, and the time for which a client may cache it (s)."""

    body: bytes
    etag: str
    max_age: int = 0


def _answer_cache() -> LRUCache[tuple[str, Query], StatsAnswer]:
    return LRUCache(MAX_BYTES, getsizeof=_size)


def _size(answer: StatsAnswer) -> int:
    return len(answer.body) + _ENTRY_BYTES


@dataclass(frozen=True, eq=False)
class StatsView:
    """A snapshot of the horde, the model reference, and the data made from both.

    `answers` and `audits` are caches, guarded by the lock of the service.
    """

    snapshot: Snapshot
    reference: Reference | None
    merger: DataMerger
    answers: LRUCache[tuple[str, Query], StatsAnswer] = field(default_factory=_answer_cache)
    audits: dict[bool, CategoryAudit] = field(default_factory=dict)

    def live_names(self) -> list[str]:
        """One name for each model that has a worker or a queue now."""
        # Not the usage, which also lists the models of former workers.
        parts = (self.snapshot.status, self.snapshot.workers)
        return distinct(name for part in parts if part for name in part.names())

    def known_names(self) -> list[str]:
        """One name for each model that is live, in the reference, or was used this month."""
        stats = self.snapshot.stats
        used = (
            []
            if stats is None
            else [name for name in stats.names() if (usage := stats.get(name)) and usage.month]
        )
        return distinct([*self.live_names(), *self.reference_names(), *used])

    def reference_names(self) -> list[str]:
        """The names in the reference."""
        return self.reference.names() if self.reference else []

    def selected(self, names: list[str], wanted: ModelFilter) -> list[str]:
        """The names that a filter selects. Raises InvalidRequest where tags are not known."""
        if not wanted:
            return names
        if wanted.tags and self.reference is None:
            raise InvalidRequest(
                "`tags` is not usable: tags come from a model reference, and none is loaded. Set "
                f"`stats.{self.snapshot.kind}_reference`.",
                param="tags",
                code="invalid_value",
            )
        record_of = self.reference.get if self.reference else lambda name: None
        return wanted.select(names, record_of, self.merger.backends)


class StatsService:
    """The statistics of one horde. `horde` is the live data, `hydrator` keeps it fresh."""

    def __init__(
        self,
        horde: LiveHorde,
        references: References,
        hydrator: Hydrator,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.horde, self.hydrator = horde, hydrator
        self._references, self._now = references, now
        self._lock = threading.Lock()
        self._views = {kind: Derived(partial(self._data, kind), _make_view) for kind in KINDS}

    def models(self, query: Query) -> StatsAnswer:
        """The live models, merged; one page. Raises InvalidRequest with param."""
        return self._answer("models", query, lambda view: _models(view, query))

    def model(self, name: str, query: Query) -> StatsAnswer:
        """One model by any of its names. Raises ModelNotFound."""
        # Cached by the model, not by the name: any author may stand in a name, so that a client
        # could fill the memory with long names of one model.
        key = canonical(name).key
        return self._answer(f"models/{key}", query, lambda view: _model(view, name, query))

    def statistics(self, query: Query) -> StatsAnswer:
        """The counts over the models that are live or in the reference."""
        return self._answer("statistics", query, lambda view: self._counts(view, query))

    def audit(self, query: Query) -> StatsAnswer:
        """The audit of the known models; one page. Raises InvalidRequest with param."""
        return self._answer("audit", query, lambda view: _audit(view, query))

    def view(self, kind: str) -> StatsView:
        """The current view of "text" or "image"; the same object until the data changes."""
        return self._views[kind].get()

    def _data(self, kind: str) -> tuple[Snapshot, Reference | None]:
        return self.horde.snapshot(kind), self._references.get(kind)

    def _answer(
        self, route: str, query: Query, compute: Callable[[StatsView], Mapping[str, Any]]
    ) -> StatsAnswer:
        view = self.view(query.kind)
        with self._lock:
            answer = view.answers.get((route, query))
            if answer is None:
                answer = self._make_answer(view, query, compute(view))
                # cachetools raises ValueError for a value that exceeds the whole cache.
                if _size(answer) <= view.answers.maxsize:
                    view.answers[route, query] = answer
        # The body stays the same while the snapshot does; how long it may be cached decreases.
        return replace(answer, max_age=self._max_age(view.snapshot))

    def _make_answer(self, view: StatsView, query: Query, data: Mapping[str, Any]) -> StatsAnswer:
        document = {
            "type": query.kind,
            "degraded": view.snapshot.degraded,
            "observed_at": view.snapshot.observed_at,
            **data,
        }
        body = json.dumps(document, separators=(",", ":")).encode()
        return StatsAnswer(body, sha256(body).hexdigest()[:_ETAG_DIGITS])

    def _max_age(self, snapshot: Snapshot) -> int:
        if snapshot.degraded or snapshot.observed_at is None:
            return DEGRADED_AGE
        ttl = self.horde.ttl(snapshot.kind)
        # Until the data is due again: at least 1 s, and at most a ttl if the clock was set back.
        return int(min(max(snapshot.observed_at + ttl - self._now(), 1), max(ttl, 1)))

    def _counts(self, view: StatsView, query: Query) -> Mapping[str, Any]:
        # Both: a reference does not know every model, and not every model has a worker.
        names = distinct([*view.live_names(), *view.reference_names()])
        names = view.selected(names, query.filter)
        records = described(names, view.reference)
        if query.group and query.kind == "text":  # image models have no families
            records = by_family(records)
        counts = category_statistics(query.kind, records.values(), int(self._now()))
        return counts.paged(query.limit, query.offset).to_json()


def _make_view(data: tuple[Snapshot, Reference | None]) -> StatsView:
    snapshot, reference = data
    merger = DataMerger(snapshot.status, snapshot.stats, snapshot.workers)
    return StatsView(snapshot, reference, merger)


def _audit(view: StatsView, query: Query) -> Mapping[str, Any]:
    # All pages and presets are cut from one audit.
    whole = view.audits.get(query.include_backend_variations)
    if whole is None:
        merged = view.merger.merge(view.known_names(), query.include_backend_variations)
        whole = audit(query.kind, merged, view.reference)
        view.audits[query.include_backend_variations] = whole
    # Shares of the usage stay those of the whole category, whatever is filtered.
    names = view.selected([model.name for model in whole.models], query.filter)
    whole = whole.of_models(names) if query.filter else whole
    whole = whole.grouped() if query.group else whole
    return whole.answer(preset=query.preset, limit=query.limit, offset=query.offset).to_json()


def _models(view: StatsView, query: Query) -> Mapping[str, Any]:
    names = view.selected(view.live_names(), query.filter)
    merged = view.merger.merge(names, query.include_backend_variations)
    selection = listing(
        merged,
        min_worker_count=query.min_worker_count,
        sort_by=query.sort_by,
        sort_desc=query.sort_desc,
        limit=query.limit,
        offset=query.offset,
    )
    data = [_row(view, name, entry, query) for name, entry in selection.models.items()]
    return {
        "object": "list",
        "total_count": selection.total_count,
        "returned_count": len(data),
        "offset": selection.offset,
        "limit": selection.limit,
        "has_more": selection.has_more,
        "data": data,
    }


def _model(view: StatsView, name: str, query: Query) -> Mapping[str, Any]:
    snapshot, reference = view.snapshot, view.reference
    parts = (snapshot.status, snapshot.workers, snapshot.stats)
    names: Sequence[str] = [
        variant.name for part in parts if part for variant in part.variants(name)
    ]
    record = reference.get(name) if reference else None
    if not names and record is None:
        raise ModelNotFound(name)
    main_name = distinct([*names, *([record.name] if record else [])])[0]
    merged = view.merger.merge([main_name], query.include_backend_variations)
    return {"object": "horde.model", **_row(view, main_name, merged[main_name], query)}


def _row(
    view: StatsView, name: str, entry: CombinedModelStatistics, query: Query
) -> dict[str, Any]:
    record = view.reference.get(name) if view.reference else None
    return {
        "name": name,
        **entry.to_json(include_workers=query.include_workers),
        "reference": record.to_json() if record else None,
    }
