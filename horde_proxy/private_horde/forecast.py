"""How long requests will wait, computed in one pass over the queue.

Pure: callers pass the queue of a kind, the workers and the time, and reuse the result for a second.
The forecast assumes that jobs run to their full length, and that each request goes to the model
that would finish it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil

from horde_proxy.private_horde.online import OnlineWorkers
from horde_proxy.private_horde.records import ALCHEMY, IMAGE, TEXT, HordeRequest, Job

UNMEASURED_SPEED = 10.0
"""The assumed tokens a second of a worker that has not delivered anything yet."""
_UNMEASURED = {TEXT: UNMEASURED_SPEED, IMAGE: 1_000_000.0, ALCHEMY: 0.2}
"""The same by kind: a small graphics card makes a million pixel-steps a second."""


class Forecast:
    """The wait of every request in the queue, in seconds from the time of the forecast."""

    def __init__(
        self, waiting: Iterable[HordeRequest], workers: OnlineWorkers, kind: str = TEXT
    ) -> None:
        self._unmeasured = _UNMEASURED[kind]
        self._speeds = model_speeds(workers, kind)
        self._by_worker = {worker.id: worker.speed for worker in workers.all}
        # It grows with each placed request, so the order of `waiting` matters.
        self._work_ahead = dict.fromkeys(self._speeds, 0.0)
        self._waits = {request.id: self._place(request) for request in waiting}

    def wait_time(self, request: HordeRequest, running: Iterable[Job], now: float) -> int:
        """Seconds until all results of a request should be there; 0 if no worker serves it."""
        # Several workers work on the results at the same time: the last one decides.
        ends = (self._remaining(job, request.work, now) for job in running)
        wait = max(ends, default=0.0)
        if request.waiting and not request.faulted:
            wait = max(wait, self._queued(request))
        return ceil(wait)

    def _remaining(self, job: Job, work: int, now: float) -> float:
        """Seconds that a running job should still take."""
        # A job that takes longer than estimated is assumed to end at any moment.
        speed = self._by_worker.get(job.worker_id) or self._unmeasured
        return max(0.0, work / speed - max(0.0, now - job.popped))

    def _queued(self, request: HordeRequest) -> float:
        """The wait of a queued request. One that is newer than this forecast comes last in it."""
        wait = self._waits.get(request.id)
        return wait if wait is not None else self._quickest(request)[1]

    def _place(self, request: HordeRequest) -> float:
        """Add a request to the forecast and return its wait."""
        model, wait = self._quickest(request)
        if model is not None:
            self._work_ahead[model] += request.waiting * request.work
        return wait

    def _quickest(self, request: HordeRequest) -> tuple[str | None, float]:
        """(model, seconds) of the model that would finish first; (None, 0.0) if none is served."""
        models = [model for model in request.models if model in self._speeds]
        if not request.models:
            models = list(self._speeds)
        work = request.waiting * request.work
        waits = [
            (model, (self._work_ahead[model] + work) / self._speeds[model]) for model in models
        ]
        return min(waits, key=lambda wait: wait[1], default=(None, 0.0))


def model_speeds(workers: OnlineWorkers, kind: str = TEXT) -> Mapping[str, float]:
    """The speed of each model: the sum over all threads of the online workers that serve it."""
    unmeasured = _UNMEASURED[kind]
    return {
        model: sum(
            (worker.speed or unmeasured) * worker.threads for worker in workers.serving(model, kind)
        )
        for model in workers.served(kind)
    }
