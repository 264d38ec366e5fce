"""The workers of the horde: check-in, the list of online workers, and which requests they may take.

There is no clock here: callers pass `now` (seconds). `version` grows with every change that may
affect a match, so that the results of matching can be cached until then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, ValuesView

from horde_proxy.aihorde.limits import least_speed
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.records import HordeAccount, TextRequest, Worker, WorkerOffer


class Workers:
    """All workers that ever popped, by id and by name, and those that popped lately."""

    def __init__(self, offline_after: float, sizes: ModelSizes, new_id: Callable[[], str]) -> None:
        self.version = 0
        self._offline_after = offline_after
        self._sizes = sizes
        self._new_id = new_id
        self._by_id: dict[str, Worker] = {}
        self._by_name: dict[str, Worker] = {}
        # In order of their last pop, the oldest first.
        self._online: OrderedDict[str, Worker] = OrderedDict()

    @property
    def online(self) -> ValuesView[Worker]:
        """The workers that popped in the last `offline_after` seconds, as of the last sweep."""
        return self._online.values()

    def check_in(self, name: str, owner: HordeAccount, offer: WorkerOffer, now: float) -> Worker:
        """The worker of this name, registered at its first pop.

        Raises WrongCredentials (403) if the name belongs to another account's worker.
        """
        worker = self._by_name.get(name)
        if worker is None:
            worker = Worker(self._new_id(), name, owner, offer, created=now, last_seen=now)
            self._by_id[worker.id] = self._by_name[name] = worker
        if worker.owner is not owner:
            raise refusal("WrongCredentials")
        # The real horde notices changes only every 30 s (worker.py:361-403).
        if worker.id not in self._online or worker.offer != offer:
            self.version += 1
        if worker.id in self._online:
            # A pause longer than `offline_after` does not count as uptime.
            worker.uptime += now - worker.last_seen
        worker.offer = offer
        worker.last_seen = now
        self._online[worker.id] = worker
        self._online.move_to_end(worker.id)
        return worker

    def sweep(self, now: float) -> None:
        """Take workers offline that have not popped for `offline_after` seconds."""
        while self._online:
            oldest = next(iter(self._online.values()))
            if oldest.last_seen + self._offline_after > now:
                return
            del self._online[oldest.id]
            self.version += 1

    def find(self, worker_id: str) -> Worker:
        """A worker by its id. Raises WorkerNotFound (404)."""
        worker = self._by_id.get(worker_id.lower())
        if worker is None:
            raise refusal("WorkerNotFound", id=worker_id)
        return worker

    def find_named(self, name: str) -> Worker:
        """A worker by its name. Raises WorkerNotFound (404)."""
        worker = self._by_name.get(name)
        if worker is None:
            raise refusal("WorkerNotFound", id=name)
        return worker

    def is_online(self, worker: Worker) -> bool:
        """Whether a worker popped lately, as of the last sweep."""
        return worker.id in self._online

    def owned_by(self, owner: HordeAccount) -> list[Worker]:
        """The workers of one account."""
        return [worker for worker in self._by_id.values() if worker.owner is owner]

    def set_maintenance(self, worker: Worker, maintenance: bool) -> None:
        """Start or end a worker's maintenance."""
        worker.maintenance = maintenance
        self.version += 1

    def record_speed(self, worker: Worker, model: str, speed: float) -> None:
        """Remember the tokens per second of a delivered job."""
        # Some requests exclude slow workers, so a new speed may change a match.
        worker.speeds.append((model, speed))
        self.version += 1

    def threads(self) -> int:
        """The number of jobs that all online workers can run at once."""
        return sum(worker.offer.threads for worker in self.online)

    def serving(self, model: str) -> list[Worker]:
        """The online workers with a model, except those in maintenance."""
        return [w for w in self.online if not w.maintenance and model in w.offer.models]

    def served(self) -> list[str]:
        """The models of the online workers that are not in maintenance, without duplicates."""
        offered = (w.offer.models for w in self.online if not w.maintenance)
        return list(dict.fromkeys(model for models in offered for model in models))

    def fits(self, worker: Worker, request: TextRequest) -> bool:
        """Whether the worker may take the request, by the rules of both.

        The rules are the real horde's (contract: text_functions.py:36-129). Lengths are compared as
        declared, and a worker in maintenance still gets its owner's requests.
        """
        offer = worker.offer
        return (
            request.max_length <= offer.max_length
            and request.max_context_length <= offer.max_context_length
            and worker.model_for(request) is not None
            and _allowed(worker, request)
            and (not request.trusted_workers or worker.owner.trusted)
            and (not request.validated_backends or offer.validated)
            and (request.slow_workers or self._is_fast(worker))
            and (not worker.maintenance or request.account is worker.owner)
        )

    def any_fits(self, request: TextRequest) -> bool:
        """Whether any online worker may take the request: `is_possible` of its status."""
        # Cached, because clients poll the status far more often than workers change.
        version, possible = request.possible
        if version != self.version:
            possible = any(self.fits(worker, request) for worker in self.online)
            request.possible = (self.version, possible)
        return possible

    def _is_fast(self, worker: Worker) -> bool:
        """Whether the worker is not slow. Without any delivery, it counts as slow."""
        largest = self._sizes.largest(worker.offer.models) or 0.0
        return worker.speed is not None and worker.speed >= least_speed(largest)


def _allowed(worker: Worker, request: TextRequest) -> bool:
    """Whether the request's list of workers, an allowlist or a blocklist, admits this worker."""
    if not request.workers:
        return True
    return (worker.id in request.workers) != request.worker_blacklist
