"""How long requests will wait, computed in one pass over the queue.

Pure: callers pass the queue, the workers and the time, and reuse the result for a second. The
forecast assumes that jobs run to their full length, and that each request goes to the model that
would finish it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil

from horde_proxy.private_horde.online import OnlineWorkers
from horde_proxy.private_horde.records import Job, TextRequest

UNMEASURED_SPEED = 10.0
"""The assumed tokens a second of a worker that has not delivered anything yet."""


class Forecast:
    """The wait of every request in the queue, in seconds from the time of the forecast."""

    def __init__(self, waiting: Iterable[TextRequest], workers: OnlineWorkers) -> None:
        self._speeds = model_speeds(workers)
        self._by_worker = {worker.id: worker.speed for worker in workers.all}
        # It grows with each placed request, so the order of `waiting` matters.
        self._tokens_ahead = dict.fromkeys(self._speeds, 0.0)
        self._waits = {request.id: self._place(request) for request in waiting}

    def wait_time(self, request: TextRequest, running: Iterable[Job], now: float) -> int:
        """Seconds until all results of a request should be there; 0 if no worker serves it."""
        # Several workers work on the results at the same time: the last one decides.
        ends = (self._remaining(job, request.max_length, now) for job in running)
        wait = max(ends, default=0.0)
        if request.waiting and not request.faulted:
            wait = max(wait, self._queued(request))
        return ceil(wait)

    def _remaining(self, job: Job, length: int, now: float) -> float:
        """Seconds that a running job should still take."""
        # A job that takes longer than estimated is assumed to end at any moment.
        speed = self._by_worker.get(job.worker_id) or UNMEASURED_SPEED
        return max(0.0, length / speed - max(0.0, now - job.popped))

    def _queued(self, request: TextRequest) -> float:
        """The wait of a queued request. One that is newer than this forecast comes last in it."""
        wait = self._waits.get(request.id)
        return wait if wait is not None else self._quickest(request)[1]

    def _place(self, request: TextRequest) -> float:
        """Add a request to the forecast and return its wait."""
        model, wait = self._quickest(request)
        if model is not None:
            self._tokens_ahead[model] += request.waiting * request.max_length
        return wait

    def _quickest(self, request: TextRequest) -> tuple[str | None, float]:
        """(model, seconds) of the model that would finish first; (None, 0.0) if none is served."""
        models = [model for model in request.models if model in self._speeds]
        if not request.models:
            models = list(self._speeds)
        tokens = request.waiting * request.max_length
        waits = [
            (model, (self._tokens_ahead[model] + tokens) / self._speeds[model]) for model in models
        ]
        return min(waits, key=lambda wait: wait[1], default=(None, 0.0))


def model_speeds(workers: OnlineWorkers) -> Mapping[str, float]:
    """Tokens per second by model: the sum over all threads of the online workers that serve it."""
    return {
        model: sum(
            (worker.speed or UNMEASURED_SPEED) * worker.threads for worker in workers.serving(model)
        )
        for model in workers.served()
    }
