"""The queue: which request comes next, what becomes of its jobs, and when both end.

Plain state without Flask, I/O or a clock of its own: `now` (seconds) comes in with every call.
Sorted once: priority grows by 50 every 10 s for everybody alike, so the order never changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.records import HordeAccount, Job, TextRequest, Worker

_AGEING_SECONDS = 10.0
_AGEING_KUDOS = 50.0

Fits = Callable[[TextRequest], bool]


def _order(request: TextRequest) -> tuple[float, float, int]:
    return request.order


class Queue:
    """All requests that are not forgotten, their jobs, and the jobs still out of forgotten ones."""

    def __init__(self, *, job_ttl: float, expiry: float, max_faults: int) -> None:
        self.job_ttl = job_ttl
        self.expiry = expiry
        self._max_faults = max_faults
        self.requests: dict[str, TextRequest] = {}
        self.open: dict[str, TextRequest] = {}
        self.jobs: dict[str, Job] = {}
        self.waiting: list[TextRequest] = []
        self._deadlines: list[tuple[float, int, str, str]] = []
        self._serial = 0

    def add(self, request: TextRequest, now: float) -> None:
        """Put a new request into the queue; its kudos on hold are its account's."""
        start = request.priority - _AGEING_KUDOS * (request.created // _AGEING_SECONDS)
        request.order = (-start, request.created, self._next_serial())
        request.waiting = request.n
        request.expires = now + self.expiry
        request.account.held += request.held
        self.requests[request.id] = self.open[request.id] = request
        request.account.open[request.id] = request
        insort(self.waiting, request, key=_order)
        self._remind(request.expires, "request", request.id)

    def find(self, request_id: str) -> TextRequest:
        """Return a request by its id (any case); raises RequestNotFound (404)."""
        request = self.requests.get(request_id.lower())
        if request is None:
            raise refusal("RequestNotFound", id=request_id)
        return request

    def find_job(self, job_id: str) -> Job:
        """Return a job by its id (any case); raises InvalidJobID (404)."""
        job = self.jobs.get(job_id.lower())
        if job is None:
            raise refusal("InvalidJobID", id=job_id)
        return job

    def position(self, request: TextRequest) -> int:
        """Return its place in the whole queue, from 1; 0 when nothing of it waits. O(log n)."""
        if not request.waiting or request.settled:
            return 0
        return bisect_left(self.waiting, request.order, key=_order) + 1

    def next_for(self, favoured: Iterable[HordeAccount], fits: Fits) -> TextRequest | None:
        """Return the request that a worker gets: of the favoured accounts first, then in order."""
        own = (r for account in favoured for r in account.open.values() if r.waiting and fits(r))
        first = min(own, key=_order, default=None)
        if first is not None:
            return first
        return next((request for request in self.waiting if fits(request)), None)

    def take(
        self,
        request: TextRequest,
        worker: Worker,
        amount: int,
        new_id: Callable[[], str],
        now: float,
    ) -> list[Job]:
        """Return up to `amount` jobs of a waiting request that `worker` fits; they are now out."""
        model = worker.model_for(request)
        assert model is not None
        jobs = []
        for _ in range(min(amount, request.waiting)):
            job = Job(new_id(), request, worker, model, now)
            self.jobs[job.id] = request.processing[job.id] = job
            self._remind(now + self.job_ttl, "job", job.id)
            jobs.append(job)
        request.jobs.extend(jobs)
        request.waiting -= len(jobs)
        request.expires = now + self.expiry
        if not request.waiting:
            self._delist(request)
        return jobs

    def deliver(self, job: Job, state: str, now: float) -> None:
        """Close a job with a result; dropped when the request was cancelled meanwhile."""
        request = job.request
        job.state = state
        del request.processing[job.id]
        if request.forgotten:
            del self.jobs[job.id]
            return
        request.delivered.append(job)
        request.expires = now + self.expiry
        if request.settled:
            self._settle(request)

    def fail(self, job: Job, state: str) -> None:
        """Close a job without a result; it waits again, until the request has had its strikes."""
        request = job.request
        job.state = state
        job.worker.uncompleted += 1
        del request.processing[job.id]
        if request.forgotten:
            del self.jobs[job.id]
            return
        request.waiting += 1
        request.restarted += 1
        if request.faulted:
            return
        if request.waiting == 1:
            insort(self.waiting, request, key=_order)
        if request.restarted >= self._max_faults:
            self._delist(request)
            request.faulted = True
            self._settle(request)

    def forget(self, request: TextRequest) -> None:
        """Drop a request for good; jobs that are out may still be handed in, for their reward."""
        if request.waiting and not request.faulted:
            self._delist(request)
        request.forgotten = True
        self._settle(request)
        del self.requests[request.id]
        for job in request.jobs:
            if job.id not in request.processing:
                del self.jobs[job.id]
        request.delivered.clear()

    def sweep(self, now: float) -> None:
        """Abort the jobs and forget the requests whose time is over; each costs O(log n), once."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _when, _, kind, key = heappop(self._deadlines)
            if kind == "job":
                self._end_job(key)
            else:
                self._end_request(key, now)

    def _end_job(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        if job is not None and job.state == "processing":
            self.fail(job, "aborted")

    def _end_request(self, request_id: str, now: float) -> None:
        request = self.requests.get(request_id)
        if request is None:
            return
        if request.expires > now:
            self._remind(request.expires, "request", request_id)
        else:
            self.forget(request)

    def _delist(self, request: TextRequest) -> None:
        del self.waiting[bisect_left(self.waiting, request.order, key=_order)]

    def _settle(self, request: TextRequest) -> None:
        """Close the account's side of a request; again is harmless."""
        if self.open.pop(request.id, None) is not None:
            del request.account.open[request.id]
            request.account.held -= request.held

    def _remind(self, when: float, kind: str, key: str) -> None:
        heappush(self._deadlines, (when, self._next_serial(), kind, key))

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial
