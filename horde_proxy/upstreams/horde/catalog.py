"""The horde's text models with the workers that serve them, as one catalog.

Joined from the documents status/models (queue and speed) and workers (context and length), which
are loaded in the background. While the horde is down, the catalog of its last good documents stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from horde_proxy.aihorde.agents import is_validated
from horde_proxy.aihorde.limits import least_speed
from horde_proxy.aihorde.names import is_name, size_of
from horde_proxy.caching.background import PATIENCE
from horde_proxy.caching.derived import Derived
from horde_proxy.caching.redis import Document
from horde_proxy.errors import ProxyError
from horde_proxy.numbers import finite
from horde_proxy.prompts.fit import Capacity
from horde_proxy.upstreams.horde.documents import HordeDocuments

CHAT = "chat"
"""The horde's extension for chats; see docs/private-horde.md."""
# A smaller speed would make times that JSON cannot hold.
_LEAST = 1e-9
# What AI-Horde assumes of a text worker that names no limits, and so what such a worker gets.
_DEFAULT_CAPACITY = Capacity(max_length=512, max_context_length=2048)


@dataclass(frozen=True)
class CatalogWorker:
    """One online text worker. `speed` is in tokens/s, 0 if unknown.

    `uncompleted`: the number of jobs that it dropped. `validated`: whether the horde trusts its
    software. `is_slow`: whether the horde gives it no request with `slow_workers` false.
    `in_maintenance`: its owner, or the horde after many failures, has it take no requests.
    `takes_chats`: it can do what the horde's extension `chat` needs. What else is unknown of a
    worker counts for it.
    """

    id: str
    capacity: Capacity
    trusted: bool
    threads: int
    name: str = ""
    speed: float = 0
    uncompleted: int = 0
    validated: bool = True
    is_slow: bool = False
    in_maintenance: bool = False
    takes_chats: bool = False


@dataclass(frozen=True)
class ModelEntry:
    """One model with its online workers.

    `queued` is in tokens, `jobs` counts requests, `eta` is in seconds, `performance` in tokens/s,
    `first_seen` in Unix seconds.
    """

    name: str
    workers: tuple[CatalogWorker, ...]
    queued: float = 0
    jobs: float = 0
    eta: int = 0
    performance: float = 0
    first_seen: int = 0

    def largest_context_worker(self) -> CatalogWorker:
        """The worker with the largest context; of several, the one with the longest answers."""
        return max(self.workers, key=_context_and_length)


class Catalog:
    """The text models of one horde by name, joined once for each pair of documents."""

    def __init__(self, documents: HordeDocuments, *, now: Callable[[], float] = time.time) -> None:
        self.documents, self._text = documents, documents.of("text")
        self._now = now
        self._entries: Derived[tuple[Document, Document], Mapping[str, ModelEntry]]
        self._entries = Derived(self._load, self._build)

    def models(self) -> Mapping[str, ModelEntry]:
        """The models with an online worker; the last good ones while the horde is down.

        The same object until another document arrives. Raises a ProxyError when nothing was ever
        loaded.
        """
        return self._entries.get()

    def refresh(self, min_interval: float = PATIENCE) -> None:
        """Load both documents anew now; at most once in `min_interval` seconds."""
        self._text.status.refresh(min_interval)
        self._text.workers.refresh(min_interval)

    def error(self) -> ProxyError | None:
        """Why the models could not be loaded the last time; None when they were."""
        return self._text.status.error

    def _load(self) -> tuple[Document, Document]:
        # Both begin before one is waited for, so that they load side by side.
        self._text.status.load_if_due()
        self._text.workers.load_if_due()
        return self._text.status.get(), self._text.workers.get()

    def _build(self, documents: tuple[Document, Document]) -> Mapping[str, ModelEntry]:
        statuses, workers = documents
        before = self._entries.peek() or {}
        return build_catalog(statuses.value, workers.value, int(self._now()), before)


def build_catalog(
    statuses: Sequence[Mapping[str, Any]],
    workers: Sequence[Mapping[str, Any]],
    now: int,
    before: Mapping[str, ModelEntry],
) -> dict[str, ModelEntry]:
    """The models that have an online worker, by name; `before` keeps each one's `first_seen`.

    A worker in maintenance is online too: the pool of workers leaves it out, so that a request for
    its model learns why. The worker list lags behind: a model that only status/models counts a
    worker of gets one of the server's default size.
    """
    serving: dict[str, list[CatalogWorker]] = {}
    for worker in workers:
        if worker.get("online"):
            for name in _names(worker.get("models")):
                serving.setdefault(name, []).append(_read_worker(worker))
    by_name = {name: status for status in statuses for name in _names([status.get("name")])}
    for name, status in by_name.items():
        known = serving.setdefault(name, []) if status.get("count") else None
        if known is not None and all(worker.in_maintenance for worker in known):
            known.append(CatalogWorker("", _DEFAULT_CAPACITY, False, 1))
    return {
        name: _entry(name, tuple(online), by_name.get(name, {}), before.get(name), now)
        for name, online in sorted(serving.items())
    }


def _read_worker(worker: Mapping[str, Any]) -> CatalogWorker:
    capacity = Capacity(
        int(number(worker.get("max_length"), _DEFAULT_CAPACITY.max_length)),
        int(number(worker.get("max_context_length"), _DEFAULT_CAPACITY.max_context_length)),
    )
    threads = int(number(worker.get("threads"), 1))
    speed, agent = _speed(worker.get("performance")), worker.get("bridge_agent")
    # The horde demands a speed by the size of the worker's largest model, also of an idle worker.
    largest = max((size_of(name) or 0.0 for name in _names(worker.get("models"))), default=0.0)
    return CatalogWorker(
        str(worker.get("id", "")),
        capacity,
        bool(worker.get("trusted")),
        threads,
        name=str(worker.get("name", "")),
        speed=speed,
        uncompleted=int(number(worker.get("uncompleted_jobs"), 0)),
        # "KoboldCppEmbedWorker:2:https://github.com/...": name, version and address.
        validated=agent is None or is_validated(str(agent)),
        is_slow=speed < least_speed(largest),
        in_maintenance=bool(worker.get("maintenance_mode")),
        takes_chats=CHAT in _names(worker.get("extensions")),
    )


def _context_and_length(worker: CatalogWorker) -> tuple[int, int]:
    return worker.capacity.max_context_length, worker.capacity.max_length


def _speed(performance: Any) -> float:
    """Tokens/s in "73.8 tokens per second"; 0 for "No requests fulfilled yet"."""
    words = str(performance or "").split()
    return number(words[0], 0) if words else 0


def _names(value: Any) -> list[str]:
    """The usable model names in a list; names come from workers and may be anything."""
    names = value if isinstance(value, list) else []
    return [name for name in names if is_name(name)]


def number(value: Any, default: float) -> float:
    """The value as a positive number of a sane size; the default for anything else."""
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
