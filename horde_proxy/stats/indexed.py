"""The horde's answers by model name: one name in any case, or all variants of a model; pure.

Made once for each fetch and never changed, so threads may share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from horde_proxy.aihorde.names import canonical
from horde_proxy.stats.model_stats import UsageStats
from horde_proxy.stats.records import HordeModelStatsResponse, HordeModelStatus, HordeWorker

T = TypeVar("T")


class Variant(NamedTuple, Generic[T]):
    """What is known under one advertised name of a model."""

    name: str
    backend: str
    value: T


class _Indexed(Generic[T]):
    def __init__(self, by_name: Mapping[str, T]) -> None:
        self._names = tuple(by_name)
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
        """All that is known of the model that the name means, under any of its names."""
        return self.with_key(canonical(name).key)

    def with_key(self, key: str) -> Sequence[Variant[T]]:
        """As `variants`, by the key of a canonical name."""
        return self._variants.get(key, ())

    def _written(self, name: str) -> Sequence[T]:
        """What is known under that very name, once for each case that it is written in."""
        return self._folded.get(name.casefold(), ())


class IndexedHordeModelStatus(_Indexed[HordeModelStatus]):
    """The statuses by name; of two with the very same name the last counts."""

    def __init__(self, statuses: Iterable[HordeModelStatus]) -> None:
        super().__init__({each.name: each for each in statuses})

    def get(self, name: str) -> HordeModelStatus | None:
        """The status under that very name, in any case; the last where it has several."""
        found = self._written(name)
        return found[-1] if found else None


class IndexedHordeModelStats(_Indexed[UsageStats]):
    """The uses by name; a name that a period lacks counts as 0 there."""

    def __init__(self, stats: HordeModelStatsResponse) -> None:
        day, month, total = stats.day, stats.month, stats.total
        super().__init__(
            {
                name: UsageStats(day.get(name, 0), month.get(name, 0), total.get(name, 0))
                for name in {**total, **month, **day}
            }
        )

    def get(self, name: str) -> UsageStats | None:
        """The use under that very name, in all cases together."""
        found = self._written(name)
        return (
            UsageStats(
                sum(each.day for each in found),
                sum(each.month for each in found),
                sum(each.total for each in found),
            )
            if found
            else None
        )


class IndexedHordeWorkers(_Indexed[Mapping[str, HordeWorker]]):
    """The workers by the models that they serve; of two with the same id the last counts."""

    def __init__(self, workers: Iterable[HordeWorker]) -> None:
        self._by_id = {worker.id: worker for worker in workers}
        by_name: dict[str, dict[str, HordeWorker]] = {}
        for worker in self._by_id.values():
            for name in worker.models:
                by_name.setdefault(name, {})[worker.id] = worker
        super().__init__(by_name)

    def get(self, name: str) -> list[HordeWorker]:
        """The workers that advertise that very name, in any case; [] when there are none."""
        by_id = {key: worker for each in self._written(name) for key, worker in each.items()}
        return list(by_id.values())

    def get_all(self) -> list[HordeWorker]:
        """Each worker once, those without a model too."""
        return list(self._by_id.values())
