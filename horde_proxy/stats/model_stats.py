"""What is known of one model, merged from status, use and workers; pure data and its JSON.

Field names are those of the documented statistics API, so that its clients can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WorkerSummary:
    """One worker of a model. `uptime` is in seconds, lengths are in tokens, `performance` words."""

    id: str
    name: str
    performance: str
    online: bool
    trusted: bool
    uptime: int
    max_length: int | None = None
    max_context_length: int | None = None
    bridge_agent: str | None = None
    nsfw: bool | None = None
    threads: int = 1

    def to_json(self) -> dict[str, Any]:
        """The summary as a client gets it."""
        return dict(vars(self))


@dataclass(frozen=True)
class UsageStats:
    """How often a model was used: on the last day, in the last month, ever."""

    day: int = 0
    month: int = 0
    total: int = 0

    def to_json(self) -> dict[str, int]:
        """The use as a client gets it."""
        return dict(vars(self))


@dataclass(frozen=True)
class BackendVariation:
    """What one engine has of a model. `variant_name` is its name with the most threads."""

    backend: str
    variant_name: str
    worker_count: int
    performance: float | None = None
    queued: float | None = None
    queued_jobs: float | None = None
    eta: int | None = None
    usage_day: int = 0
    usage_month: int = 0
    usage_total: int = 0

    def to_json(self) -> dict[str, Any]:
        """The variation as a client gets it."""
        return dict(vars(self))


@dataclass(frozen=True)
class CombinedModelStatistics:
    """One model over all its variants. None is what the horde did not tell.

    `threads`, `queued` and `queued_jobs` are sums, `performance` is the mean over threads, `eta`
    (s) the least. `usage_stats` is None when it was never used, or when `usage_known` is not set.
    `worker_summaries` is None when the workers were not fetched, {} when nobody serves the model.
    """

    queued_jobs: float | None = None
    performance: float | None = None
    eta: int | None = None
    queued: float | None = None
    usage_stats: UsageStats | None = None
    worker_summaries: Mapping[str, WorkerSummary] | None = None
    backend_variations: Mapping[str, BackendVariation] | None = None
    threads: int | None = None
    usage_known: bool = False
    workers_known: bool = False

    @property
    def worker_count(self) -> int:
        """Distinct workers; the threads of the status stand in where no workers were fetched."""
        if self.worker_summaries is not None:
            return len(self.worker_summaries)
        return self.threads or 0

    @property
    def usage(self) -> UsageStats | None:
        """The use with its zeros; None only when it is not known."""
        if self.usage_known:
            return self.usage_stats or UsageStats()
        return self.usage_stats

    def to_json(self, *, include_workers: bool = True) -> dict[str, Any]:
        """The model as a client gets it; the count of workers stays when they are left out."""
        workers = self.worker_summaries if include_workers else None
        return {
            "worker_count": self.worker_count,
            "queued_jobs": self.queued_jobs,
            "performance": self.performance,
            "eta": self.eta,
            "queued": self.queued,
            "usage_stats": self.usage_stats.to_json() if self.usage_stats else None,
            "worker_summaries": _all_to_json(workers),
            "backend_variations": _all_to_json(self.backend_variations),
            "threads": self.threads,
        }


def _all_to_json(
    found: Mapping[str, WorkerSummary] | Mapping[str, BackendVariation] | None,
) -> dict[str, Any] | None:
    return None if found is None else {key: each.to_json() for key, each in found.items()}
