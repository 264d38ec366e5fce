"""What the horde offers now: its text models with the workers that serve them.

Joined from status/models (queue and speed) and workers (context and length), loaded in the
background; while the horde is down the last good catalog is served.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from horde_proxy.errors import ProxyError
from horde_proxy.observing import NOBODY, Observer
from horde_proxy.prompts.fit import Capacity
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.refreshed import PATIENCE, Refreshed, in_background

_DEFAULT_CAPACITY = Capacity(max_length=512, max_context_length=2048)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
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
    workers: tuple[Worker, ...]
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
    """The models of one horde by name. `ttl` and clocks in seconds; `run` runs the loading.

    `name` is that of the horde's endpoint, for the `observer`.
    """

    def __init__(
        self,
        client: HordeClient,
        *,
        ttl: float,
        timer: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        run: Callable[[Callable[[], None]], None] = in_background,
        name: str = "horde",
        observer: Observer = NOBODY,
    ) -> None:
        self._client = client
        self._now = now
        self._last: Mapping[str, ModelEntry] = {}
        self._loaded = Refreshed(
            self._load, ttl=ttl, stale=2 * ttl, clock=timer, run=run, name=f"models:{name}",
            observer=observer,
        )

    def models(self) -> Mapping[str, ModelEntry]:
        """All models with an online worker, by name; the last good ones while the horde is down.

        Raises a ProxyError when nothing was ever loaded.
        """
        return self._loaded.get()

    def refresh(self, least: float = PATIENCE) -> None:
        """Have them loaded anew for whoever asks next, unless that began within `least` seconds."""
        self._loaded.refresh(least)

    def _load(self) -> Mapping[str, ModelEntry]:
        try:
            statuses, workers = self._client.models(), self._client.workers()
        except ProxyError as exc:
            log.warning("the horde's models cannot be loaded: %s", exc)
            raise
        self._last = join(statuses, workers, int(self._now()), self._last)
        return self._last


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
    serving: dict[str, list[Worker]] = {}
    for each in workers:
        if each.get("online") and not each.get("maintenance_mode"):
            for name in _names(each.get("models")):
                serving.setdefault(name, []).append(_worker(each))
    by_name = {name: each for each in statuses for name in _names([each.get("name")])}
    for name, status in by_name.items():
        if name not in serving and status.get("count"):
            serving[name] = [Worker("", _DEFAULT_CAPACITY, False, 1)]
    return {
        name: _entry(name, tuple(found), by_name.get(name, {}), before.get(name), now)
        for name, found in sorted(serving.items())
    }


def _worker(each: Mapping[str, Any]) -> Worker:
    capacity = Capacity(
        int(number(each.get("max_length"), _DEFAULT_CAPACITY.max_length)),
        int(number(each.get("max_context_length"), _DEFAULT_CAPACITY.max_context_length)),
    )
    threads = int(number(each.get("threads"), 1))
    return Worker(
        str(each.get("id", "")), capacity, bool(each.get("trusted")), threads,
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
    """A positive number, or the default where the horde gives none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return number if 0 < number < math.inf else default


def _entry(
    name: str,
    workers: tuple[Worker, ...],
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
