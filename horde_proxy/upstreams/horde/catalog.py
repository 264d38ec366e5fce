"""What the horde offers now: its text models with the workers that serve them.

Joined from status/models (queue and speed) and workers (context and length), which the feeds
load in the background; while the horde is down the last good catalog is served.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from horde_proxy.caching.background import PATIENCE
from horde_proxy.caching.redis import Document
from horde_proxy.numbers import finite
from horde_proxy.prompts.fit import Capacity
from horde_proxy.upstreams.horde.documents import HordeDocuments

# A speed that is smaller would make times that JSON cannot hold.
_LEAST = 1e-9
_DEFAULT_CAPACITY = Capacity(max_length=512, max_context_length=2048)


@dataclass(frozen=True)
class CatalogWorker:
    """One online text worker. `speed`: tokens/s, 0 unknown; `uncompleted`: jobs it has dropped.

    `agent` is the name of its software, "" unknown.
    """

    id: str
    capacity: Capacity
    trusted: bool
    threads: int
    name: str = ""
    speed: float = 0
    uncompleted: int = 0
    agent: str = ""


@dataclass(frozen=True)
class ModelEntry:
    """One model: its online workers, their threads, queued tokens, eta (s), tokens/s."""

    name: str
    workers: tuple[CatalogWorker, ...]
    queued: float = 0
    jobs: float = 0
    eta: int = 0
    performance: float = 0
    first_seen: int = 0

    def widest(self) -> Capacity:
        """The pair of the worker with the largest context."""
        pairs = [worker.capacity for worker in self.workers]
        return max(pairs, key=lambda pair: (pair.max_context_length, pair.max_length))


class Catalog:
    """The models of one horde by name, joined once for each pair of documents of its feeds."""

    def __init__(self, feeds: HordeDocuments, *, now: Callable[[], float] = time.time) -> None:
        self.feeds, self._text = feeds, feeds.of("text")
        self._now = now
        self._lock = threading.Lock()
        self._joined: tuple[Document, Document, Mapping[str, ModelEntry]] | None = None

    def models(self) -> Mapping[str, ModelEntry]:
        """All models with an online worker, by name; the last good ones while the horde is down.

        Raises a ProxyError when nothing was ever loaded.
        """
        self._text.status.begin()
        self._text.workers.begin()
        statuses, workers = self._text.status.get(), self._text.workers.get()
        known = self._known(statuses, workers)
        return self._join(statuses, workers) if known is None else known

    def refresh(self, least: float = PATIENCE) -> None:
        """Have them loaded anew for whoever asks next, unless that began within `least` seconds."""
        self._text.status.refresh(least)
        self._text.workers.refresh(least)

    def _known(self, statuses: Document, workers: Document) -> Mapping[str, ModelEntry] | None:
        joined = self._joined
        is_same = joined and joined[0] is statuses and joined[1] is workers
        return joined[2] if joined and is_same else None

    def _join(self, statuses: Document, workers: Document) -> Mapping[str, ModelEntry]:
        with self._lock:
            known = self._known(statuses, workers)
            if known is None:
                before = self._joined[2] if self._joined else {}
                known = join(statuses.value, workers.value, int(self._now()), before)
                self._joined = statuses, workers, known
            return known


def join(
    statuses: Sequence[Mapping[str, Any]],
    workers: Sequence[Mapping[str, Any]],
    now: int,
    before: Mapping[str, ModelEntry],
) -> dict[str, ModelEntry]:
    """Models by name from status/models and workers; those without an online worker are left out.

    The worker list lags: a model that only status/models shows has a worker of unknown size, for
    which the server's defaults are assumed. `before` keeps each model's first_seen.
    """
    serving: dict[str, list[CatalogWorker]] = {}
    for each in workers:
        if each.get("online") and not each.get("maintenance_mode"):
            for name in _names(each.get("models")):
                serving.setdefault(name, []).append(_worker(each))
    by_name = {name: each for each in statuses for name in _names([each.get("name")])}
    for name, status in by_name.items():
        if name not in serving and status.get("count"):
            serving[name] = [CatalogWorker("", _DEFAULT_CAPACITY, False, 1)]
    return {
        name: _entry(name, tuple(found), by_name.get(name, {}), before.get(name), now)
        for name, found in sorted(serving.items())
    }


def _worker(each: Mapping[str, Any]) -> CatalogWorker:
    capacity = Capacity(
        int(number(each.get("max_length"), _DEFAULT_CAPACITY.max_length)),
        int(number(each.get("max_context_length"), _DEFAULT_CAPACITY.max_context_length)),
    )
    threads = int(number(each.get("threads"), 1))
    return CatalogWorker(
        str(each.get("id", "")),
        capacity,
        bool(each.get("trusted")),
        threads,
        name=str(each.get("name", "")),
        speed=_speed(each.get("performance")),
        uncompleted=int(number(each.get("uncompleted_jobs"), 0)),
        agent=str(each.get("bridge_agent") or "").partition(":")[0],
    )


def _speed(performance: Any) -> float:
    """Tokens a second in "73.8 tokens per second"; 0 for "No requests fulfilled yet"."""
    words = str(performance or "").split()
    return number(words[0], 0) if words else 0


def _names(found: Any) -> list[str]:
    names = found if isinstance(found, list) else []
    return [name for name in names if isinstance(name, str) and name and name.isprintable()]


def number(value: Any, default: float) -> float:
    """A positive number that can be computed with, or the default where the horde gives none."""
    try:
        number = finite(float(value))
    except (TypeError, ValueError, OverflowError):
        return default
    return number if number is not None and number >= _LEAST else default


def _entry(
    name: str,
    workers: tuple[CatalogWorker, ...],
    status: Mapping[str, Any],
    before: ModelEntry | None,
    now: int,
) -> ModelEntry:
    return ModelEntry(
        name,
        workers,
        queued=number(status.get("queued"), 0),
        jobs=number(status.get("jobs"), 0),
        eta=int(number(status.get("eta"), 0)),
        performance=number(status.get("performance"), 0),
        first_seen=before.first_seen if before else now,
    )
