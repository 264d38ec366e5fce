"""The workers of the horde: check-in, who is online, and which request fits which worker.

`version` counts everything that may change a match, so that others can keep what they worked out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, ValuesView

from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.kudos import largest
from horde_proxy.private_horde.records import HordeAccount, Offer, TextRequest, Worker


class Workers:
    """All workers that ever popped, by id and by name, and those who popped lately."""

    def __init__(
        self, offline_after: float, sizes: Mapping[str, float], new_id: Callable[[], str]
    ) -> None:
        self.version = 0
        self._offline_after = offline_after
        self._sizes = sizes
        self._new_id = new_id
        self._by_id: dict[str, Worker] = {}
        self._by_name: dict[str, Worker] = {}
        self._online: OrderedDict[str, Worker] = OrderedDict()

    @property
    def online(self) -> ValuesView[Worker]:
        """Those who popped in the last `offline_after` seconds, as of the last sweep."""
        return self._online.values()

    def check_in(self, name: str, owner: HordeAccount, offer: Offer, now: float) -> Worker:
        """Return the worker of that name, made at its first pop; WrongCredentials if not theirs."""
        worker = self._by_name.get(name)
        if worker is None:
            worker = Worker(self._new_id(), name, owner, offer, created=now, last_seen=now)
            self._by_id[worker.id] = self._by_name[name] = worker
        if worker.owner is not owner:
            raise refusal("WrongCredentials")
        if worker.id not in self._online or worker.offer != offer:
            self.version += 1
        if worker.id in self._online:
            worker.uptime += now - worker.last_seen
        worker.offer = offer
        worker.last_seen = now
        self._online[worker.id] = worker
        self._online.move_to_end(worker.id)
        return worker

    def sweep(self, now: float) -> None:
        """Take those offline who have not popped for too long."""
        while self._online:
            oldest = next(iter(self._online.values()))
            if oldest.last_seen + self._offline_after > now:
                return
            del self._online[oldest.id]
            self.version += 1

    def find(self, worker_id: str) -> Worker:
        """Return a worker by its id; raises WorkerNotFound (404)."""
        worker = self._by_id.get(worker_id.lower())
        if worker is None:
            raise refusal("WorkerNotFound", id=worker_id)
        return worker

    def find_named(self, name: str) -> Worker:
        """Return a worker by its name; raises WorkerNotFound (404)."""
        worker = self._by_name.get(name)
        if worker is None:
            raise refusal("WorkerNotFound", id=name)
        return worker

    def is_online(self, worker: Worker) -> bool:
        """Return whether it popped lately, as of the last sweep."""
        return worker.id in self._online

    def of(self, owner: HordeAccount) -> list[Worker]:
        """Return the workers of one account."""
        return [worker for worker in self._by_id.values() if worker.owner is owner]

    def set_maintenance(self, worker: Worker, maintenance: bool) -> None:
        """Put a worker into maintenance, or take it out."""
        worker.maintenance = maintenance
        self.version += 1

    def record_speed(self, worker: Worker, model: str, speed: float) -> None:
        """Note the tokens per second of a delivered job."""
        worker.speeds.append((model, speed))
        self.version += 1

    def threads(self) -> int:
        """Return the jobs that all online workers can run at once."""
        return sum(worker.offer.threads for worker in self.online)

    def serving(self, model: str) -> list[Worker]:
        """Return the online workers with that model, those in maintenance left out."""
        return [w for w in self.online if not w.maintenance and model in w.offer.models]

    def served(self) -> list[str]:
        """Return the models of the online workers, each once, in order of appearance."""
        offered = (w.offer.models for w in self.online if not w.maintenance)
        return list(dict.fromkeys(model for models in offered for model in models))

    def fits(self, worker: Worker, request: TextRequest) -> bool:
        """Return whether the worker may take the request, by both sides' rules."""
        offer = worker.offer
        return (
            request.max_length <= offer.max_length
            and request.max_context_length <= offer.max_context_length
            and worker.model_for(request) is not None
            and _allowed(worker, request)
            and (not request.trusted_workers or worker.owner.trusted)
            and (not request.validated_backends or offer.validated)
            and (request.slow_workers or self._quick(worker))
            and (not worker.maintenance or request.account is worker.owner)
        )

    def any_fits(self, request: TextRequest) -> bool:
        """Return whether a worker that is online may take the request: its `is_possible`."""
        version, possible = request.possible
        if version != self.version:
            possible = any(self.fits(worker, request) for worker in self.online)
            request.possible = (self.version, possible)
        return possible

    def _quick(self, worker: Worker) -> bool:
        """Return whether it is no slow worker; one that has not delivered yet has to prove it."""
        speed = worker.speed
        return speed is not None and speed >= least_speed(worker.offer.models, self._sizes)


def least_speed(models: Iterable[str], sizes: Mapping[str, float]) -> float:
    """Return the tokens per second below which a worker of those models counts as slow."""
    size = largest(models, sizes) or 0.0
    if size >= 70:
        return 3.0
    return 4.0 if size >= 20 else 5.0


def _allowed(worker: Worker, request: TextRequest) -> bool:
    if not request.workers:
        return True
    return (worker.id in request.workers) != request.worker_blacklist
