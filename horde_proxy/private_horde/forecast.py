"""How long requests will wait: one pass over the queue, to be kept for a second by who asks.

Pure: the queue, the workers and the time come in. An estimate; it assumes that jobs run to their
full length and that each goes to the model that would be done with it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil

from horde_proxy.private_horde.records import Job, TextRequest
from horde_proxy.private_horde.workers import Workers

UNMEASURED_SPEED = 10.0


class Forecast:
    """The wait of every request in the queue, in seconds, as things stood when it was made."""

    def __init__(self, waiting: Iterable[TextRequest], workers: Workers) -> None:
        self._speeds = model_speeds(workers)
        self._ahead = dict.fromkeys(self._speeds, 0.0)
        self._waits = {request.id: self._place(request) for request in waiting}

    def wait_time(self, request: TextRequest, now: float) -> int:
        """Return the seconds until all of a request should be there; 0 when nothing serves it."""
        running = (remaining(job, now) for job in request.processing.values())
        wait = max(running, default=0.0)
        if request.waiting and not request.faulted:
            wait = max(wait, self._queued(request))
        return ceil(wait)

    def _queued(self, request: TextRequest) -> float:
        """Return its wait; one that came after this forecast stands behind everything in it."""
        known = self._waits.get(request.id)
        return known if known is not None else self._best(request)[1]

    def _place(self, request: TextRequest) -> float:
        model, wait = self._best(request)
        if model is not None:
            self._ahead[model] += request.waiting * request.max_length
        return wait

    def _best(self, request: TextRequest) -> tuple[str | None, float]:
        names = [m for m in request.models if m in self._speeds]
        if not request.models:
            names = list(self._speeds)
        tokens = request.waiting * request.max_length
        waits = ((model, (self._ahead[model] + tokens) / self._speeds[model]) for model in names)
        return min(waits, key=lambda each: each[1], default=(None, 0.0))


def model_speeds(workers: Workers) -> Mapping[str, float]:
    """Return tokens per second by model: of all threads of the online workers that serve it."""
    return {
        model: sum((w.speed or UNMEASURED_SPEED) * w.offer.threads for w in workers.serving(model))
        for model in workers.served()
    }


def remaining(job: Job, now: float) -> float:
    """Return the seconds that a job in flight should still take."""
    speed = job.worker.speed or UNMEASURED_SPEED
    return max(0.0, job.request.max_length / speed - (now - job.popped))
