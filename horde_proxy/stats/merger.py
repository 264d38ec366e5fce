"""The horde's status, usage and workers, merged into one entry for each model. Pure.

The variants of a model (engine, author, quantisation) become one entry: its workers without
duplicates, sums, the mean speed over threads, and the shortest wait. Other sizes and versions are
other models.
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
    """One entry for each name in the given order, also for names that the horde does not know.

    Each source is an index, the horde's answer, or None if it was not fetched, which is not the
    same as an empty one. Names of the same model get the same entry.
    """
    merger = DataMerger(horde_status, horde_stats, workers)
    return merger.merge(model_names, include_backend_variations)


class DataMerger:
    """The three answers of the horde, ready to be merged for any names. Immutable."""

    def __init__(
        self, status: GivenStatus = None, stats: GivenStats = None, workers: GivenWorkers = None
    ) -> None:
        self._status = _status_index(status)
        self._stats = _stats_index(stats)
        self._workers = _workers_index(workers)
        self._has_stats = stats is not None
        self._has_workers = workers is not None
        # Either list shows which models are served: the status counts threads, the other workers.
        self._has_either = status is not None or workers is not None
        # Workers in maintenance take no jobs but their owner's, and the status does not count them.
        self._summaries = {
            worker.id: _summary(worker)
            for worker in self._workers.get_all()
            if worker.online and not worker.maintenance_mode
        }

    def merge(
        self, names: Iterable[str], include_backend_variations: bool = False
    ) -> dict[str, CombinedModelStatistics]:
        """One entry for each name in the given order, known to the horde or not."""
        # By key, because several names may be of one model, and merging is the costly part.
        entries: dict[str, CombinedModelStatistics] = {}
        merged = {}
        for name in names:
            key = canonical(name).key
            if key not in entries:
                entries[key] = self._merged(key, include_backend_variations)
            merged[name] = entries[key]
        return merged

    def backends(self, name: str) -> frozenset[str]:
        """The engines by whose names the horde knows the model; "canonical" is without engine."""
        key = canonical(name).key
        sources = (self._status, self._stats, self._workers)
        return frozenset(variant.backend for source in sources for variant in source.with_key(key))

    def _merged(self, key: str, include_backend_variations: bool) -> CombinedModelStatistics:
        variants = _Variants(
            self._status.with_key(key), self._stats.with_key(key), self._workers.with_key(key)
        )
        load = _load([status.value for status in variants.statuses])
        return CombinedModelStatistics(
            queued_jobs=load.jobs,
            performance=load.performance,
            eta=load.eta,
            queued=load.queued,
            usage_stats=_usage(variants.uses),
            worker_summaries=self._available(variants.serving) if self._has_workers else None,
            backend_variations=self._variations(variants) if include_backend_variations else None,
            threads=load.threads,
            usage_known=self._has_stats,
            workers_known=self._has_either,
        )

    def _available(
        self, serving: Iterable[Variant[Mapping[str, HordeWorker]]]
    ) -> dict[str, WorkerSummary]:
        """Summaries by id of the workers that are online and not in maintenance."""
        summaries = self._summaries
        return {
            worker_id: summaries[worker_id]
            for variant in serving
            for worker_id in variant.value
            if worker_id in summaries
        }

    def _variations(self, variants: _Variants) -> dict[str, BackendVariation]:
        """The part that each engine has in a model, by engine; empty parts are left out."""
        variations = {}
        for backend, share in _by_backend(variants).items():
            variation = self._variation(backend, share)
            if variation:
                variations[backend] = variation
        return variations

    def _variation(self, backend: str, share: _Variants) -> BackendVariation | None:
        load = _load([status.value for status in share.statuses])
        usage = _usage(share.uses)
        workers = self._available(share.serving)
        if not (share.statuses or workers or usage):
            return None
        return BackendVariation(
            backend=backend,
            variant_name=_main_name(share),
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
    """The data of the three sources about one model, or about one engine's share of it."""

    statuses: Sequence[Variant[HordeModelStatus]]
    uses: Sequence[Variant[UsageStats]]
    serving: Sequence[Variant[Mapping[str, HordeWorker]]]


class _Load(NamedTuple):
    """Threads, queue and speed of a model. None means that the horde did not report a value."""

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


def _by_backend(variants: _Variants) -> dict[str, _Variants]:
    """The variants of each engine, by engine in alphabetical order."""
    backends = {variant.backend for source in variants for variant in source}
    if len(backends) == 1:
        # The usual case is handled fast, because there are thousands of models.
        return dict.fromkeys(backends, variants)
    return {
        backend: _Variants(
            [status for status in variants.statuses if status.backend == backend],
            [usage for usage in variants.uses if usage.backend == backend],
            [workers for workers in variants.serving if workers.backend == backend],
        )
        for backend in sorted(backends)
    }


def _main_name(share: _Variants) -> str:
    """The name with the most threads; without a status, the first served or used name."""
    if share.statuses:
        return max(share.statuses, key=lambda status: status.value.count).name
    return next(variant.name for source in (share.serving, share.uses) for variant in source)


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
    """The sum over the variants; None if it is 0 in every period."""
    if len(uses) == 1:
        usage = uses[0].value
    else:
        usage = UsageStats(
            sum([variant.value.day for variant in uses]),
            sum([variant.value.month for variant in uses]),
            sum([variant.value.total for variant in uses]),
        )
    return usage if usage.day or usage.month or usage.total else None


def _load(rows: Sequence[HordeModelStatus]) -> _Load:
    """The rows as one: sums, the mean speed, the shortest wait."""
    if not rows:
        return _Load()
    # The usual case, without the cost of the sums.
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
    return round(sum(known), 2) if known else None  # the horde rounds a queue to 2 decimals too


def _mean_speed(rows: Sequence[HordeModelStatus]) -> float | None:
    """The mean of the measured speeds over all threads. A speed of 0 was not measured."""
    measured = [(row.performance, row.count) for row in rows if row.performance]
    if not measured:
        return None
    threads = sum([count for _, count in measured])
    if not threads:  # without weights, each speed counts once
        return round(sum([speed for speed, _ in measured]) / len(measured), 2)
    return round(sum([speed * count for speed, count in measured]) / threads, 2)
