"""Snapshots of the horde's live data: its documents, each indexed once.

Reading a snapshot never raises: data that was never fetched is None, and `degraded` marks old data.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from horde_proxy.caching.derived import Derived
from horde_proxy.stats.indexed import (
    IndexedHordeModelStats,
    IndexedHordeModelStatus,
    IndexedHordeWorkers,
)
from horde_proxy.stats.records import read_stats, read_statuses, read_workers

if TYPE_CHECKING:
    from horde_proxy.caching.redis import Document
    from horde_proxy.upstreams.horde.documents import HordeDocuments, KindDocuments, LiveDocument

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The data about one kind of models at one moment; a part is None if it was never fetched.

    `observed_at` is the time when the oldest part was fetched (Unix s). `degraded`: a part is
    missing, or could not be renewed.
    """

    kind: str
    status: IndexedHordeModelStatus | None
    stats: IndexedHordeModelStats | None
    workers: IndexedHordeWorkers | None
    observed_at: int | None
    degraded: bool


class LiveHorde:
    """One horde's status, stats and workers, of "text" and "image" models."""

    def __init__(self, documents: HordeDocuments) -> None:
        self._documents = documents
        self._kinds: dict[str, _KindData] = {}
        self._lock = threading.Lock()  # guards `_kinds`; no I/O under it

    def snapshot(self, kind: str) -> Snapshot:
        """The current data: the same object until another document arrives.

        Documents that are due load at the same time; see LiveDocument.recent for the time it takes.
        """
        return self._of(kind).snapshot()

    def ttl(self, kind: str) -> float:
        """The time until a snapshot is outdated (s)."""
        return min(document.ttl for document in self._of(kind).documents)

    def load_if_due(self) -> None:
        """Begin the loads that are due: for text models, and for all kinds used before."""
        with self._lock:
            kinds = {"text", *self._kinds}
        for kind in kinds:
            for document in self._of(kind).documents:
                document.load_if_due()

    def try_lead(self, seconds: float) -> bool:
        """Whether this proxy keeps the data fresh for all proxies on its Redis."""
        return self._documents.try_lead(seconds)

    def _of(self, kind: str) -> _KindData:
        with self._lock:
            if kind not in self._kinds:
                self._kinds[kind] = _KindData(kind, self._documents.of(kind))
            return self._kinds[kind]


class _IndexedDocument(NamedTuple, Generic[T]):
    """The index of a document, and the time when that was fetched (Unix s)."""

    content: T
    at: float


_Status = _IndexedDocument[IndexedHordeModelStatus] | None
_Stats = _IndexedDocument[IndexedHordeModelStats] | None
_Workers = _IndexedDocument[IndexedHordeWorkers] | None


class _KindData:
    """The documents of one kind, with their indexes and the snapshot made from them."""

    def __init__(self, kind: str, documents: KindDocuments) -> None:
        self._kind, self.documents = kind, documents.all()
        self._status = _derived_index(
            documents.status, lambda value: IndexedHordeModelStatus(read_statuses(value).value)
        )
        self._stats = _derived_index(
            documents.stats, lambda value: IndexedHordeModelStats(read_stats(value).value)
        )
        self._workers = _derived_index(
            documents.workers, lambda value: IndexedHordeWorkers(read_workers(value).value)
        )
        self._snapshot: Derived[tuple[_Status, _Stats, _Workers, bool], Snapshot]
        self._snapshot = Derived(self._parts, self._make_snapshot)

    def snapshot(self) -> Snapshot:
        return self._snapshot.get()

    def _parts(self) -> tuple[_Status, _Stats, _Workers, bool]:
        # All loads begin before the first is waited for.
        for document in self.documents:
            document.load_if_due()
        parts = self._status.get(), self._stats.get(), self._workers.get()
        return (*parts, any(document.is_degraded for document in self.documents))

    def _make_snapshot(self, parts: tuple[_Status, _Stats, _Workers, bool]) -> Snapshot:
        status, stats, workers, is_degraded = parts
        times = [part.at for part in (status, stats, workers) if part]
        return Snapshot(
            self._kind,
            status.content if status else None,
            stats.content if stats else None,
            workers.content if workers else None,
            # A snapshot is as old as its oldest part.
            int(min(times)) if times else None,
            is_degraded,
        )


def _derived_index(
    document: LiveDocument, index: Callable[[Any], T]
) -> Derived[tuple[Document | None], _IndexedDocument[T] | None]:
    def make(source: tuple[Document | None]) -> _IndexedDocument[T] | None:
        # The index belongs to this document: it is made once, and replaced with the document.
        [fetched] = source
        return None if fetched is None else _IndexedDocument(index(fetched.value), fetched.at)

    return Derived(lambda: (document.recent(),), make)
