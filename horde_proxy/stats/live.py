"""The horde's live data, indexed once for each fetched document; never an error to who asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from horde_proxy.stats.indexed import (
    IndexedHordeModelStats,
    IndexedHordeModelStatus,
    IndexedHordeWorkers,
)
from horde_proxy.stats.records import read_stats, read_statuses, read_workers

if TYPE_CHECKING:
    from horde_proxy.caching.redis import Document
    from horde_proxy.upstreams.horde.documents import HordeDocuments, LiveDocument

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is known of one kind of models at one moment; None is what was never fetched.

    `observed_at`: when the oldest part was fetched (Unix s). `version` changes with each part.
    """

    kind: str
    status: IndexedHordeModelStatus | None
    stats: IndexedHordeModelStats | None
    workers: IndexedHordeWorkers | None
    observed_at: int | None
    degraded: bool
    version: tuple[int, int, int]


class _Index(Generic[T]):
    """The index of a feed's document; it is made anew when another document came."""

    def __init__(self, feed: LiveDocument, index: Callable[[Any], T]) -> None:
        self.feed, self._index = feed, index
        self._lock = threading.Lock()
        self._made: tuple[Document, T, int] | None = None

    def get(self) -> tuple[Document, T, int] | None:
        """The document, its index and their number; None when there is none."""
        document = self.feed.known()
        if document is None:
            return None
        with self._lock:
            made = self._made
            if made is None or made[0] is not document:
                number = made[2] + 1 if made else 1
                made = self._made = (document, self._index(document.value), number)
            return made


class _Kind:
    def __init__(self, feeds: HordeDocuments, kind: str) -> None:
        found = feeds.of(kind)
        self.feeds = found.all()
        self.status = _Index(
            found.status, lambda value: IndexedHordeModelStatus(read_statuses(value).found)
        )
        self.stats = _Index(
            found.stats, lambda value: IndexedHordeModelStats(read_stats(value).found)
        )
        self.workers = _Index(
            found.workers, lambda value: IndexedHordeWorkers(read_workers(value).found)
        )


class LiveHorde:
    """One horde's status, stats and workers, of "text" and "image" models. One object an app."""

    def __init__(self, feeds: HordeDocuments, *, now: Callable[[], float] = time.time) -> None:
        self._feeds, self._now = feeds, now
        self._kinds: dict[str, _Kind] = {}
        self._lock = threading.Lock()

    def status(self, kind: str, *, force_refresh: bool = False) -> IndexedHordeModelStatus | None:
        """The models' queues and speeds by name; None when they were never fetched."""
        found = _refreshed(self._kind(kind).status, force_refresh).get()
        return found[1] if found else None

    def stats(self, kind: str, *, force_refresh: bool = False) -> IndexedHordeModelStats | None:
        """The models' uses by name; None when they were never fetched."""
        found = _refreshed(self._kind(kind).stats, force_refresh).get()
        return found[1] if found else None

    def workers(self, kind: str, *, force_refresh: bool = False) -> IndexedHordeWorkers | None:
        """The workers by model; None when they were never fetched."""
        found = _refreshed(self._kind(kind).workers, force_refresh).get()
        return found[1] if found else None

    def snapshot(self, kind: str, *, force_refresh: bool = False) -> Snapshot:
        """All three, fetched beside each other where that is due."""
        found = self._kind(kind)
        for feed in found.feeds:
            feed.refresh(0) if force_refresh else feed.begin()
        status, stats, workers = found.status.get(), found.stats.get(), found.workers.get()
        times = [each[0].at for each in (status, stats, workers) if each]
        return Snapshot(
            kind,
            status[1] if status else None,
            stats[1] if stats else None,
            workers[1] if workers else None,
            int(min(times)) if times else None,
            self.degraded(kind),
            (status[2] if status else 0, stats[2] if stats else 0, workers[2] if workers else 0),
        )

    def degraded(self, kind: str) -> bool:
        """Whether any of the three is missing, or could not be renewed."""
        return any(feed.degraded for feed in self._kind(kind).feeds)

    def age(self, kind: str) -> float | None:
        """How long ago the oldest of what is known was fetched (s); None when nothing is."""
        observed_at = self.snapshot(kind).observed_at
        return None if observed_at is None else max(self._now() - observed_at, 0.0)

    def ttl(self, kind: str) -> float:
        """For how long an answer is as good as a new one (s)."""
        return min(feed.ttl for feed in self._kind(kind).feeds)

    def touch(self) -> None:
        """Have fetched what is due of the kinds that were asked for; text in any case."""
        for kind in {"text", *self._kinds}:
            for feed in self._kind(kind).feeds:
                feed.begin()

    def lead(self, seconds: float) -> bool:
        """Whether this proxy keeps the data warm for the others on its Redis."""
        shared = self._feeds.shared
        return shared is None or shared.lead(seconds)

    def _kind(self, kind: str) -> _Kind:
        with self._lock:
            if kind not in self._kinds:
                self._kinds[kind] = _Kind(self._feeds, kind)
            return self._kinds[kind]


def _refreshed(index: _Index[T], force: bool) -> _Index[T]:
    if force:
        index.feed.refresh(0)
    return index
