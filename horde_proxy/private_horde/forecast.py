"""How long requests will wait: one pass over the queue, which callers keep for a second.

Pure: the queue, the workers and the time come in. It assumes that jobs run to their full length,
and that each goes to the model that would finish it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil

from horde_proxy.private_horde.records import Job, TextRequest
from horde_proxy.private_horde.workers import Workers

UNMEASURED_SPEED = 10.0
"""Tokens a second that are assumed of a worker that has delivered nothing yet."""


class Forecast:
    """The wait of every request in the queue, in seconds, at the time when it was made."""

    def __init__(self, waiting: Iterable[TextRequest], workers: Workers) -> None:
        self._speeds = model_speeds(workers)
        # Grows with each request that is placed, so the order of `waiting` matters.
        self._tokens_ahead = dict.fromkeys(self._speeds, 0.0)
        self._waits = {request.id: self._place(request) for request in waiting}

    def wait_time(self, request: TextRequest, now: float) -> int:
        """Seconds until all of a request should be there; 0 when no worker serves it."""
        # The results come from several workers at once: the last one decides.
        running = (remaining(job, now) for job in request.processing.values())
        wait = max(running, default=0.0)
        if request.waiting and not request.faulted:
            wait = max(wait, self._queued(request))
        return ceil(wait)

    def _queued(self, request: TextRequest) -> float:
        """Its wait; a request that came after this forecast stands behind all that are in it."""
        wait = self._waits.get(request.id)
        return wait if wait is not None else self._quickest(request)[1]

    def _place(self, request: TextRequest) -> float:
        """Add a request to the forecast and return its wait."""
        model, wait = self._quickest(request)
        if model is not None:
            self._tokens_ahead[model] += request.waiting * request.max_length
        return wait

    def _quickest(self, request: TextRequest) -> tuple[str | None, float]:
        """(model, seconds) of the model that would finish the request first; None without one."""
        models = [model for model in request.models if model in self._speeds]
        if not request.models:
            models = list(self._speeds)
        tokens = request.waiting * request.max_length
        waits = [
            (model, (self._tokens_ahead[model] + tokens) / self._speeds[model]) for model in models
        ]
        return min(waits, key=lambda wait: wait[1], default=(None, 0.0))


def model_speeds(workers: Workers) -> Mapping[str, float]:
    """Tokens per second by model, of all threads of the online workers that serve it."""
    return {
        model: sum(
            (worker.speed or UNMEASURED_SPEED) * worker.offer.threads
            for worker in workers.serving(model)
        )
        for model in workers.served()
    }


def remaining(job: Job, now: float) -> float:
    """Seconds that a running job should still take."""
    # A job that takes longer than estimated is taken to be done any moment.
    speed = job.worker.speed or UNMEASURED_SPEED
    return max(0.0, job.request.max_length / speed - (now - job.popped))
