"""The workers that are online, as one process sees them.

There is no clock here: callers pass `now` (seconds). `version` grows with every change that may
affect a match, so that the results of matching can be cached until then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, ValuesView

from horde_proxy.private_horde.matching import fits, is_fast
from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.records import TEXT, HordeRequest, Worker


class OnlineWorkers:
    """The workers that popped in the last `offline_after` seconds, as of the last sweep."""

    def __init__(self, offline_after: float, sizes: ModelSizes) -> None:
        self.version = 0
        self._offline_after = offline_after
        self._sizes = sizes
        # In order of their last pop, the oldest first.
        self._workers: OrderedDict[str, Worker] = OrderedDict()

    @property
    def all(self) -> ValuesView[Worker]:
        """All of them, in order of their last pop."""
        return self._workers.values()

    def put(self, worker: Worker) -> None:
        """Take the newest state of a worker."""
        old = self._workers.get(worker.id)
        if old is None or self._matters(old) != self._matters(worker):
            self.version += 1
        self._workers[worker.id] = worker
        if old is None or old.last_seen != worker.last_seen:
            self._workers.move_to_end(worker.id)

    def replace(self, workers: Iterable[Worker]) -> None:
        """Take the workers of the store, in order of their last pop, instead of those here."""
        self._workers = OrderedDict((worker.id, worker) for worker in workers)
        self.version += 1

    def sweep(self, now: float) -> None:
        """Take workers offline that have not popped for `offline_after` seconds.

        So are those that popped that long after `now`: the clock has been put back since.
        """
        for last in (False, True):
            while self._workers:
                worker_id = next(reversed(self._workers) if last else iter(self._workers))
                if abs(now - self._workers[worker_id].last_seen) < self._offline_after:
                    break
                del self._workers[worker_id]
                self.version += 1

    def get(self, worker_id: str) -> Worker | None:
        """An online worker by its id."""
        return self._workers.get(worker_id)

    def of_kind(self, kind: str) -> list[Worker]:
        """Those of a kind, in order of their last pop."""
        return [worker for worker in self.all if worker.kind == kind]

    def threads(self, kind: str = TEXT) -> int:
        """The number of jobs that all online workers of a kind can run at once."""
        return sum(worker.threads for worker in self.of_kind(kind))

    def serving(self, model: str, kind: str = TEXT) -> list[Worker]:
        """The online workers of a kind with a model, except those in maintenance."""
        return [w for w in self.of_kind(kind) if not w.maintenance and model in w.models]

    def served(self, kind: str = TEXT) -> list[str]:
        """The models of a kind's workers that are not in maintenance, without duplicates."""
        offered = (worker.models for worker in self.of_kind(kind) if not worker.maintenance)
        return list(dict.fromkeys(model for models in offered for model in models))

    def any_fits(self, request: HordeRequest) -> bool:
        """Whether any of them may take the request."""
        return any(fits(worker, request, self._sizes) for worker in self.all)

    def _matters(self, worker: Worker) -> tuple[object, ...]:
        """What matching depends on."""
        fast = is_fast(worker, self._sizes)
        return (worker.offer, worker.maintenance, worker.paused, worker.trusted, fast)
