"""The horde's answers by model name: by one advertised name, or for all variants of a model. Pure.

An index is made once for each fetched document and never changed, so threads may share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from horde_proxy.aihorde.names import canonical
from horde_proxy.stats.model_stats import UsageStats
from horde_proxy.stats.records import HordeModelStatsResponse, HordeModelStatus, HordeWorker

T = TypeVar("T")


class Variant(NamedTuple, Generic[T]):
    """The data of one advertised name of a model. `backend` is the engine in that name."""

    name: str
    backend: str
    value: T


class _Indexed(Generic[T]):
    """Values by advertised name. Look-ups ignore upper and lower case."""

    def __init__(self, by_name: Mapping[str, T]) -> None:
        self._names = tuple(by_name)
        # Names are parsed here, once for each document, and not for each request.
        self._folded: dict[str, list[T]] = {}
        self._variants: dict[str, list[Variant[T]]] = {}
        for name, value in by_name.items():
            self._folded.setdefault(name.casefold(), []).append(value)
            parts = canonical(name)
            variant = Variant(name, parts.backend, value)
            self._variants.setdefault(parts.key, []).append(variant)

    def __len__(self) -> int:
        return len(self._names)

    def names(self) -> Sequence[str]:
        """All advertised names."""
        return self._names

    def variants(self, name: str) -> Sequence[Variant[T]]:
        """The data of the model that the name refers to, under all its advertised names."""
        return self.with_key(canonical(name).key)

    def with_key(self, key: str) -> Sequence[Variant[T]]:
        """Like `variants`, for the key of a parsed name."""
        return self._variants.get(key, ())

    def _in_any_case(self, name: str) -> Sequence[T]:
        """The data of this name, a value for each advertised way to write upper and lower case."""
        return self._folded.get(name.casefold(), ())


class IndexedHordeModelStatus(_Indexed[HordeModelStatus]):
    """The statuses by name. Of several with the same name, the last one counts."""

    def __init__(self, statuses: Iterable[HordeModelStatus]) -> None:
        super().__init__({status.name: status for status in statuses})

    def get(self, name: str) -> HordeModelStatus | None:
        """The status of exactly this name, in upper or lower case; the last one of several."""
        statuses = self._in_any_case(name)
        return statuses[-1] if statuses else None


class IndexedHordeModelStats(_Indexed[UsageStats]):
    """The usage by name; 0 in a period that does not list the name."""

    def __init__(self, stats: HordeModelStatsResponse) -> None:
        day, month, total = stats.day, stats.month, stats.total
        # A name counts wherever it is listed: on a new horde `total` lags behind. The capture
        # get_stats_text_models has 24 uses in the month, and 0 in total.
        super().__init__(
            {
                name: UsageStats(day.get(name, 0), month.get(name, 0), total.get(name, 0))
                for name in {**total, **month, **day}
            }
        )

    def get(self, name: str) -> UsageStats | None:
        """The usage of exactly this name, summed over upper and lower case."""
        uses = self._in_any_case(name)
        if not uses:
            return None
        return UsageStats(
            sum(usage.day for usage in uses),
            sum(usage.month for usage in uses),
            sum(usage.total for usage in uses),
        )


class IndexedHordeWorkers(_Indexed[Mapping[str, HordeWorker]]):
    """The workers by the models that they serve. Of several with one id, the last one counts."""

    def __init__(self, workers: Iterable[HordeWorker]) -> None:
        self._by_id = {worker.id: worker for worker in workers}
        by_name: dict[str, dict[str, HordeWorker]] = {}
        for worker in self._by_id.values():
            for name in worker.models:
                by_name.setdefault(name, {})[worker.id] = worker
        super().__init__(by_name)

    def get(self, name: str) -> list[HordeWorker]:
        """The workers that advertise exactly this name, in upper or lower case."""
        # By id, because one worker may advertise the name in two spellings.
        by_id = {
            worker_id: worker
            for workers in self._in_any_case(name)
            for worker_id, worker in workers.items()
        }
        return list(by_id.values())

    def get_all(self) -> list[HordeWorker]:
        """All workers without duplicates, also those without a model."""
        return list(self._by_id.values())
