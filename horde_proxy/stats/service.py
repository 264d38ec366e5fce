"""The answers of the statistics, computed once for each fetched data and each set of parameters."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cachetools import LRUCache

from horde_proxy.aihorde.names import distinct
from horde_proxy.errors import ModelNotFound
from horde_proxy.stats.audit import CategoryAudit, audit
from horde_proxy.stats.hydration import Hydrator
from horde_proxy.stats.listing import listing
from horde_proxy.stats.live import LiveHorde, Snapshot
from horde_proxy.stats.merger import DataMerger
from horde_proxy.stats.model_stats import CombinedModelStatistics
from horde_proxy.stats.reference import Reference, by_family, described
from horde_proxy.stats.sources import References
from horde_proxy.stats.statistics import category_statistics

MOST_BYTES = 32 * 1024 * 1024
"""How much of the answers is kept."""
DEGRADED_AGE = 5
"""For how long a client may take a degraded answer as it is (s)."""


@dataclass(frozen=True)
class Query:
    """What a client asks for; the defaults are those of a list."""

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


@dataclass(frozen=True)
class StatsAnswer:
    """The JSON of an answer, its ETag, and for how long it is good (s)."""

    body: bytes
    etag: str
    max_age: int


@dataclass(frozen=True, eq=False)
class StatsView:
    """One moment of the horde with the reference that is known then, ready to be merged."""

    snapshot: Snapshot
    reference: Reference | None
    merger: DataMerger

    def live(self) -> list[str]:
        """One name for each model that has a worker or a queue now."""
        parts = (self.snapshot.status, self.snapshot.workers)
        return distinct(name for part in parts if part for name in part.names())

    def known(self) -> list[str]:
        """One name for each model that is live, in the reference, or was used in the month."""
        stats = self.snapshot.stats
        used = (
            []
            if stats is None
            else [name for name in stats.names() if (usage := stats.get(name)) and usage.month]
        )
        return distinct([*self.live(), *self.referenced(), *used])

    def referenced(self) -> list[str]:
        """The names that the reference has."""
        return self.reference.names() if self.reference else []


class StatsService:
    """The statistics of one horde. `horde` is the live data, `hydrator` keeps it warm."""

    def __init__(
        self,
        horde: LiveHorde,
        references: References,
        hydrator: Hydrator,
        *,
        now: Callable[[], float] = time.time,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.horde, self.hydrator = horde, hydrator
        self._references, self._now = references, now
        self._lock = threading.Lock()
        self._views: dict[str, StatsView] = {}
        self._audits: LRUCache[tuple[str, bool, bool], tuple[StatsView, CategoryAudit]]
        self._audits = LRUCache(8)
        self._answers: LRUCache[tuple[str, Query], tuple[StatsView, StatsAnswer]]
        self._answers = LRUCache(most_bytes, getsizeof=lambda kept: len(kept[1].body))

    def models(self, query: Query) -> StatsAnswer:
        """The live models, merged; one page. Raises InvalidRequest with param."""
        return self._answer("models", query, lambda view: _models(view, query))

    def model(self, name: str, query: Query) -> StatsAnswer:
        """One model by any of its names. Raises ModelNotFound."""
        return self._answer(f"models/{name}", query, lambda view: _model(view, name, query))

    def statistics(self, query: Query) -> StatsAnswer:
        """The counts over the models that are live or in the reference."""
        return self._answer("statistics", query, lambda view: self._counts(view, query))

    def audit(self, query: Query) -> StatsAnswer:
        """The audit of the known models; one page. Raises InvalidRequest with param."""
        return self._answer("audit", query, lambda view: self._audit(view, query))

    def view(self, kind: str) -> StatsView:
        """What is known now; the same object as long as nothing new came."""
        snapshot, reference = self.horde.snapshot(kind), self._references.get(kind)
        with self._lock:
            return self._view(snapshot, reference)

    def _view(self, snapshot: Snapshot, reference: Reference | None) -> StatsView:
        before = self._views.get(snapshot.kind)
        if (
            before
            and before.reference is reference
            and before.snapshot.version == snapshot.version
            and before.snapshot.degraded == snapshot.degraded
        ):
            return before
        merger = DataMerger(snapshot.status, snapshot.stats, snapshot.workers)
        self._let_go(snapshot.kind)
        found = self._views[snapshot.kind] = StatsView(snapshot, reference, merger)
        return found

    def _let_go(self, kind: str) -> None:
        """Drop what was made of the view before, of which each answer holds all of the data."""
        for route, query in [each for each in self._answers if each[1].kind == kind]:
            del self._answers[route, query]
        for key in [each for each in self._audits if each[0] == kind]:
            del self._audits[key]

    def _answer(
        self, route: str, query: Query, compute: Callable[[StatsView], Mapping[str, Any]]
    ) -> StatsAnswer:
        view, key = self.view(query.kind), (route, query)
        max_age = self._max_age(view.snapshot)
        with self._lock:
            kept = self._answers.get(key)
            if kept and kept[0] is view:
                return StatsAnswer(kept[1].body, kept[1].etag, max_age)
            snapshot = view.snapshot
            document = {
                "type": query.kind,
                "degraded": snapshot.degraded,
                "observed_at": snapshot.observed_at,
                **compute(view),
            }
            body = json.dumps(document, separators=(",", ":")).encode()
            found = StatsAnswer(body, sha256(body).hexdigest()[:32], max_age)
            if len(body) <= self._answers.maxsize:
                self._answers[key] = view, found
            return found

    def _max_age(self, snapshot: Snapshot) -> int:
        if snapshot.degraded or snapshot.observed_at is None:
            return DEGRADED_AGE
        ttl = self.horde.ttl(snapshot.kind)
        return int(min(max(snapshot.observed_at + ttl - self._now(), 1), max(ttl, 1)))

    def _counts(self, view: StatsView, query: Query) -> Mapping[str, Any]:
        records = described(distinct([*view.live(), *view.referenced()]), view.reference)
        if query.group and query.kind == "text":
            records = by_family(records)
        found = category_statistics(query.kind, records.values(), int(self._now()))
        return found.paged(query.limit, query.offset).to_json()

    def _audit(self, view: StatsView, query: Query) -> Mapping[str, Any]:
        key = (query.kind, query.group, query.include_backend_variations)
        kept = self._audits.get(key)
        if kept is None or kept[0] is not view:
            merged = view.merger.merge(view.known(), query.include_backend_variations)
            found = audit(query.kind, merged, view.reference)
            kept = self._audits[key] = view, found.grouped() if query.group else found
        return kept[1].answer(preset=query.preset, limit=query.limit, offset=query.offset).to_json()


def _models(view: StatsView, query: Query) -> Mapping[str, Any]:
    merged = view.merger.merge(view.live(), query.include_backend_variations)
    found = listing(
        merged,
        min_worker_count=query.min_worker_count,
        sort_by=query.sort_by,
        sort_desc=query.sort_desc,
        limit=query.limit,
        offset=query.offset,
    )
    data = [_row(view, name, entry, query) for name, entry in found.models.items()]
    return {
        "object": "list",
        "total_count": found.total_count,
        "returned_count": len(data),
        "offset": found.offset,
        "limit": found.limit,
        "data": data,
    }


def _model(view: StatsView, name: str, query: Query) -> Mapping[str, Any]:
    snapshot, reference = view.snapshot, view.reference
    parts = (snapshot.status, snapshot.workers, snapshot.stats)
    names: Sequence[str] = [each.name for part in parts if part for each in part.variants(name)]
    record = reference.get(name) if reference else None
    if not names and record is None:
        raise ModelNotFound(name)
    own = distinct([*names, *([record.name] if record else [])])[0]
    entry = view.merger.merge([own], query.include_backend_variations)[own]
    return {"object": "horde.model", **_row(view, own, entry, query)}


def _row(
    view: StatsView, name: str, entry: CombinedModelStatistics, query: Query
) -> dict[str, Any]:
    record = view.reference.get(name) if view.reference else None
    return {
        "name": name,
        **entry.to_json(include_workers=query.include_workers),
        "reference": record.to_json() if record else None,
    }
