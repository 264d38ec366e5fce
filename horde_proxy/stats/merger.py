"""Status, use and workers of the horde, merged into one entry for each model; pure.

All variants of a model count together: distinct workers, sums, the mean speed over threads and
the shortest wait. Sizes and versions are models of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from horde_proxy.aihorde.names import canonical
from horde_proxy.stats.indexed import (
    IndexedHordeModelStats,
    IndexedHordeModelStatus,
    IndexedHordeWorkers,
    Variant,
)
from horde_proxy.stats.model_stats import (
    BackendVariation,
    CombinedModelStatistics,
    UsageStats,
    WorkerSummary,
)
from horde_proxy.stats.records import (
    HordeModelStatsResponse,
    HordeModelStatus,
    HordeWorker,
    read_stats,
    read_statuses,
    read_workers,
)

GivenStatus = IndexedHordeModelStatus | Sequence[HordeModelStatus | Mapping[str, Any]] | None
GivenStats = IndexedHordeModelStats | HordeModelStatsResponse | Mapping[str, Any] | None
GivenWorkers = IndexedHordeWorkers | Sequence[HordeWorker | Mapping[str, Any]] | None


def merge_category_with_horde_data(
    model_names: Iterable[str],
    horde_status: GivenStatus = None,
    horde_stats: GivenStats = None,
    workers: GivenWorkers = None,
    include_backend_variations: bool = False,
) -> dict[str, CombinedModelStatistics]:
    """One entry for each name in the order given, known to the horde or not.

    Each source is indexed, or as the horde sent it, or None when it was not fetched: that is not
    the same as empty. Names of the same model get the same entry.
    """
    merger = DataMerger(horde_status, horde_stats, workers)
    return merger.merge(model_names, include_backend_variations)


class DataMerger:
    """The three answers of the horde, ready to be merged for any names. Never changes."""

    def __init__(
        self, status: GivenStatus = None, stats: GivenStats = None, workers: GivenWorkers = None
    ) -> None:
        self._status = _status_index(status)
        self._stats = _stats_index(stats)
        self._workers = _workers_index(workers)
        self._has_stats = stats is not None
        self._has_workers = workers is not None
        self._has_either = status is not None or workers is not None
        self._summaries = {
            each.id: _summary(each)
            for each in self._workers.get_all()
            if each.online and not each.maintenance_mode
        }

    def merge(
        self, names: Iterable[str], include_backend_variations: bool = False
    ) -> dict[str, CombinedModelStatistics]:
        """One entry for each name in the order given, known to the horde or not."""
        entries: dict[str, CombinedModelStatistics] = {}
        merged = {}
        for name in names:
            key = canonical(name).key
            if key not in entries:
                entries[key] = self._merged(key, include_backend_variations)
            merged[name] = entries[key]
        return merged

    def _merged(self, key: str, include_backend_variations: bool) -> CombinedModelStatistics:
        found = _Variants(
            self._status.with_key(key), self._stats.with_key(key), self._workers.with_key(key)
        )
        load = _load([each.value for each in found.statuses])
        return CombinedModelStatistics(
            queued_jobs=load.jobs,
            performance=load.performance,
            eta=load.eta,
            queued=load.queued,
            usage_stats=_usage(found.uses),
            worker_summaries=self._able(found.serving) if self._has_workers else None,
            backend_variations=self._variations(found) if include_backend_variations else None,
            threads=load.threads,
            usage_known=self._has_stats,
            workers_known=self._has_either,
        )

    def _able(
        self, serving: Iterable[Variant[Mapping[str, HordeWorker]]]
    ) -> dict[str, WorkerSummary]:
        """Summaries by id of the workers that can be asked now."""
        summaries = self._summaries
        return {
            each: summaries[each]
            for variant in serving
            for each in variant.value
            if each in summaries
        }

    def _variations(self, found: _Variants) -> dict[str, BackendVariation]:
        """What each engine has of a model, by engine; one that has nothing is left out."""
        variations = {}
        for backend, own in _by_backend(found).items():
            variation = self._variation(backend, own)
            if variation:
                variations[backend] = variation
        return variations

    def _variation(self, backend: str, found: _Variants) -> BackendVariation | None:
        load = _load([each.value for each in found.statuses])
        usage = _usage(found.uses)
        workers = self._able(found.serving)
        if not (found.statuses or workers or usage):
            return None
        return BackendVariation(
            backend=backend,
            variant_name=_main_name(found),
            worker_count=len(workers) if self._has_workers else load.threads or 0,
            performance=load.performance,
            queued=load.queued,
            queued_jobs=load.jobs,
            eta=load.eta,
            usage_day=usage.day if usage else 0,
            usage_month=usage.month if usage else 0,
            usage_total=usage.total if usage else 0,
        )


class _Variants(NamedTuple):
    """What the three sources have of one model, or of one engine's share of it."""

    statuses: Sequence[Variant[HordeModelStatus]]
    uses: Sequence[Variant[UsageStats]]
    serving: Sequence[Variant[Mapping[str, HordeWorker]]]


class _Load(NamedTuple):
    threads: int | None = None
    queued: float | None = None
    jobs: float | None = None
    performance: float | None = None
    eta: int | None = None


def _status_index(given: GivenStatus) -> IndexedHordeModelStatus:
    if isinstance(given, IndexedHordeModelStatus):
        return given
    return IndexedHordeModelStatus(read_statuses(given or []).value)


def _stats_index(given: GivenStats) -> IndexedHordeModelStats:
    if isinstance(given, IndexedHordeModelStats):
        return given
    return IndexedHordeModelStats(read_stats(given or {}).value)


def _workers_index(given: GivenWorkers) -> IndexedHordeWorkers:
    if isinstance(given, IndexedHordeWorkers):
        return given
    return IndexedHordeWorkers(read_workers(given or []).value)


def _by_backend(found: _Variants) -> dict[str, _Variants]:
    """The variants of each engine, by engine in alphabetical order."""
    backends = {each.backend for source in found for each in source}
    if len(backends) == 1:
        return dict.fromkeys(backends, found)
    return {
        backend: _Variants(
            [each for each in found.statuses if each.backend == backend],
            [each for each in found.uses if each.backend == backend],
            [each for each in found.serving if each.backend == backend],
        )
        for backend in sorted(backends)
    }


def _main_name(found: _Variants) -> str:
    """The name with the most threads; without a status, the first that is served or was used."""
    if found.statuses:
        return max(found.statuses, key=lambda each: each.value.count).name
    return next(each.name for source in (found.serving, found.uses) for each in source)


def _summary(worker: HordeWorker) -> WorkerSummary:
    return WorkerSummary(
        id=worker.id,
        name=worker.name,
        performance=worker.performance,
        online=worker.online,
        trusted=worker.trusted,
        uptime=worker.uptime,
        max_length=worker.max_length,
        max_context_length=worker.max_context_length,
        bridge_agent=worker.bridge_agent or None,
        nsfw=worker.nsfw,
        threads=worker.threads,
    )


def _usage(uses: Sequence[Variant[UsageStats]]) -> UsageStats | None:
    """The sum of all; None when it is 0 in each period."""
    if len(uses) == 1:
        usage = uses[0].value
    else:
        usage = UsageStats(
            sum([each.value.day for each in uses]),
            sum([each.value.month for each in uses]),
            sum([each.value.total for each in uses]),
        )
    return usage if usage.day or usage.month or usage.total else None


def _load(rows: Sequence[HordeModelStatus]) -> _Load:
    """The rows as one: sums, the mean speed, the least wait."""
    if not rows:
        return _Load()
    if len(rows) == 1:
        row = rows[0]
        return _Load(row.count, row.queued, row.jobs, row.performance or None, row.eta)
    return _Load(
        sum([row.count for row in rows]),
        _sum([row.queued for row in rows]),
        _sum([row.jobs for row in rows]),
        _mean_speed(rows),
        min([row.eta for row in rows if row.eta is not None], default=None),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 2) if known else None


def _mean_speed(rows: Sequence[HordeModelStatus]) -> float | None:
    """The mean over threads of the speeds that were measured; 0 is what was not."""
    measured = [(row.performance, row.count) for row in rows if row.performance]
    if not measured:
        return None
    threads = sum([count for _, count in measured])
    if not threads:
        return round(sum([speed for speed, _ in measured]) / len(measured), 2)
    return round(sum([speed * count for speed, count in measured]) / threads, 2)
