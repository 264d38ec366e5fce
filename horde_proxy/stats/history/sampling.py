"""A horde's documents as the facts of one moment. It begins loads that are due, and does no more.

The documents are those that the catalog and the statistics use, so that a sample rarely makes a
call of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from horde_proxy.aihorde.names import canonical, distinct
from horde_proxy.stats.history.records import WHOLE_HORDE, HordeFacts
from horde_proxy.stats.merger import DataMerger
from horde_proxy.stats.model_stats import CombinedModelStatistics
from horde_proxy.stats.records import HordeModelStatus, HordeWorker, read_statuses, read_workers

if TYPE_CHECKING:
    from horde_proxy.upstreams.horde.documents import KindDocuments


def sample(documents: KindDocuments, since: float) -> dict[str, HordeFacts] | None:
    """The facts of each model, by the key of its canonical name, and of all models together.

    None if a document is not newer than `since` (Unix s): what was true before says nothing of now.
    """
    parts = documents.status, documents.workers
    # Both loads begin before the first is waited for.
    for document in parts:
        document.load_if_due()
    status, workers = (document.recent() for document in parts)
    if status is None or workers is None or min(status.at, workers.at) <= since:
        return None
    return facts_of(status.value, workers.value)


def facts_of(status: Any, workers: Any) -> dict[str, HordeFacts]:
    """The same for the two documents themselves, which are read leniently."""
    statuses, servers = read_statuses(status).value, read_workers(workers).value
    names = distinct(
        [*(row.name for row in statuses), *(name for row in servers for name in row.models)]
    )
    merged = DataMerger(statuses, None, servers).merge(names)
    facts = {canonical(name).key: _of_model(name, model) for name, model in merged.items()}
    return {WHOLE_HORDE: _of_all(statuses, servers), **facts}


def _of_model(name: str, model: CombinedModelStatistics) -> HordeFacts:
    return HordeFacts(
        name,
        samples=1,
        workers=model.worker_count,
        threads=model.threads or 0,
        queued=model.queued or 0.0,
        jobs=model.queued_jobs or 0.0,
        speed=model.performance or 0.0,
        # The horde knows no speed of a model that nobody has used within the last hour.
        speed_samples=int(model.performance is not None),
    )


def _of_all(statuses: list[HordeModelStatus], workers: list[HordeWorker]) -> HordeFacts:
    """The sums over the horde. A worker that serves many models counts once."""
    available = {
        worker.id: worker for worker in workers if worker.online and not worker.maintenance_mode
    }
    return HordeFacts(
        WHOLE_HORDE,
        samples=1,
        workers=len(available),
        threads=sum(worker.threads for worker in available.values()),
        queued=sum(row.queued or 0.0 for row in statuses),
        jobs=sum(row.jobs or 0.0 for row in statuses),
    )
