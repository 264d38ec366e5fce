"""The merged data of one model: status, usage and workers, and their JSON. Pure.

The fields have the names of the documented statistics API (horde-model-reference), so that its
clients can read the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WorkerSummary:
    """One worker of a model.

    `uptime` is in seconds, lengths are in tokens. `performance` is the horde's text, such as
    "73.8 tokens per second" or "No requests fulfilled yet".
    """

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
        """The usage as a client gets it."""
        return dict(vars(self))


@dataclass(frozen=True)
class BackendVariation:
    """The share of one engine (backend) in a model.

    `variant_name` is the advertised name with the most threads.
    """

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
    """One model over all its variants. None means that the horde did not report a value.

    `threads`, `queued` and `queued_jobs` are sums, `performance` is the mean over threads, `eta`
    (s) the smallest. `usage_stats` is None if the model was never used, or if `usage_known` is
    false. `worker_summaries` is None if the workers were not fetched, and {} if no worker serves
    the model.
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
        """The number of workers, or if they were not fetched, the status's number of threads."""
        # An empty list was fetched: no worker serves the model, whatever the status says.
        if self.worker_summaries is not None:
            return len(self.worker_summaries)
        return self.threads or 0

    @property
    def usage(self) -> UsageStats | None:
        """The usage, which may be zero; None only if it is unknown."""
        # `usage_stats` is null for a model without uses, as in the documented API. The audit and
        # the sorting need the zeros.
        if self.usage_known:
            return self.usage_stats or UsageStats()
        return self.usage_stats

    def to_json(self, *, include_workers: bool = True) -> dict[str, Any]:
        """The model as a client gets it. The number of workers is always included."""
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
    by_key: Mapping[str, WorkerSummary] | Mapping[str, BackendVariation] | None,
) -> dict[str, Any] | None:
    return None if by_key is None else {key: value.to_json() for key, value in by_key.items()}
