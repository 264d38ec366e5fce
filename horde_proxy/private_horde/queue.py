"""The queue: which request comes next, what happens to its jobs, and when both end.

Plain state without Flask, I/O or a clock: callers pass `now` (seconds), and hold the horde's lock.

A request is waiting (some results not popped), processing (all popped) or settled (all delivered,
or faulted), and forgotten once it is cancelled or expired. A job is processing, and then delivered
(`deliver`) or failed (`fail`); after a failed job, its request waits again.

Requests are sorted into the waiting list once and never moved: every priority grows by 50 in 10 s,
so the order of two requests never changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from horde_proxy.aihorde.limits import AGEING_KUDOS, AGEING_SECONDS
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.records import HordeAccount, Job, TextRequest, Worker

Fits = Callable[[TextRequest], bool]


def _order(request: TextRequest) -> tuple[float, float, int]:
    return request.order


class Queue:
    """All requests that are not forgotten, with their jobs; and running jobs of forgotten requests.

    `job_ttl` and `expiry` are seconds. A request is faulted after `max_faults` failed jobs. `open`
    holds the requests that are not settled.
    """

    def __init__(self, *, job_ttl: float, expiry: float, max_faults: int) -> None:
        self.job_ttl = job_ttl
        self.expiry = expiry
        self._max_faults = max_faults
        self.requests: dict[str, TextRequest] = {}
        self.open: dict[str, TextRequest] = {}
        self.jobs: dict[str, Job] = {}
        self.waiting: list[TextRequest] = []
        # A heap of (time, serial number, "job" or "request", id).
        self._deadlines: list[tuple[float, int, str, str]] = []
        # Makes heap entries and orders unique, so that other fields never decide between them.
        self._serial = 0

    def add(self, request: TextRequest, now: float) -> None:
        """Put a new request into the queue, and hold its kudos on its account."""
        # The priority that the request would have had at time 0, to compare requests of any age.
        start = request.priority - AGEING_KUDOS * (request.created // AGEING_SECONDS)
        request.order = (-start, request.created, self._next_serial())
        request.waiting = request.n
        # Pops and deliveries postpone the expiry, polls do not (contract: utils.py:110).
        request.expires = now + self.expiry
        request.account.held += request.held
        self.requests[request.id] = self.open[request.id] = request
        request.account.open[request.id] = request
        insort(self.waiting, request, key=_order)
        self._add_deadline(request.expires, "request", request.id)

    def find(self, request_id: str) -> TextRequest:
        """A request by its id, in upper or lower case. Raises RequestNotFound (404)."""
        request = self.requests.get(request_id.lower())
        if request is None:
            raise refusal("RequestNotFound", id=request_id)
        return request

    def find_job(self, job_id: str) -> Job:
        """A job by its id, in upper or lower case. Raises InvalidJobID (404)."""
        job = self.jobs.get(job_id.lower())
        if job is None:
            raise refusal("InvalidJobID", id=job_id)
        return job

    def position(self, request: TextRequest) -> int:
        """A request's place in the whole queue, from 1; 0 if it is not waiting. O(log n)."""
        if not request.waiting or request.settled:
            return 0
        return bisect_left(self.waiting, request.order, key=_order) + 1

    def next_for(self, favoured: Iterable[HordeAccount], fits: Fits) -> TextRequest | None:
        """The request that a worker gets: those of favoured accounts first, then in order."""
        # A favoured account has few open requests, so they are not kept sorted.
        own = (request for account in favoured for request in account.open.values())
        first = min((r for r in own if r.waiting and fits(r)), key=_order, default=None)
        if first is not None:
            return first
        # A generator, because usually one of the first requests fits.
        return next((request for request in self.waiting if fits(request)), None)

    def take(
        self,
        request: TextRequest,
        worker: Worker,
        amount: int,
        new_id: Callable[[], str],
        now: float,
    ) -> list[Job]:
        """Up to `amount` new jobs of a waiting request, which must fit the worker."""
        model = worker.model_for(request)
        assert model is not None
        jobs = []
        for _ in range(min(amount, request.waiting)):
            job = Job(new_id(), request, worker, model, now)
            self.jobs[job.id] = request.processing[job.id] = job
            # The time for a text job does not depend on its length (processing_generation.py:411).
            self._add_deadline(now + self.job_ttl, "job", job.id)
            jobs.append(job)
        request.jobs.extend(jobs)
        request.waiting -= len(jobs)
        request.expires = now + self.expiry
        if not request.waiting:
            self._delist(request)
        return jobs

    def deliver(self, job: Job, state: str, now: float) -> None:
        """Close a job with a result, which is dropped if the request has been forgotten."""
        request = job.request
        job.state = state
        del request.processing[job.id]
        if request.forgotten:
            del self.jobs[job.id]
            return
        # The job stays in `jobs`, so that a second delivery of it is a DuplicateGen.
        request.delivered.append(job)
        request.expires = now + self.expiry
        if request.settled:
            self._settle(request)

    def fail(self, job: Job, state: str) -> None:
        """Close a job without a result: its request waits again, or faults after `max_faults`."""
        request = job.request
        job.state = state
        job.worker.uncompleted += 1
        del request.processing[job.id]
        if request.forgotten:
            del self.jobs[job.id]
            return
        request.waiting += 1
        request.restarted += 1
        # The request faulted while this job was running: no worker may pop the result again.
        if request.faulted:
            return
        # A request is not in the waiting list while all its results are being processed.
        if request.waiting == 1:
            insort(self.waiting, request, key=_order)
        if request.restarted >= self._max_faults:
            self._delist(request)
            request.faulted = True
            self._settle(request)

    def forget(self, request: TextRequest) -> None:
        """Drop a request. Its running jobs may still be delivered, and earn their reward."""
        if request.waiting and not request.faulted:
            self._delist(request)
        request.forgotten = True
        self._settle(request)
        del self.requests[request.id]
        # Finished jobs are dropped as well: a worker that submits one again gets InvalidJobID.
        for job in request.jobs:
            if job.id not in request.processing:
                del self.jobs[job.id]
        request.delivered.clear()

    def sweep(self, now: float) -> None:
        """Abort overdue jobs and forget expired requests; O(log n) for each of them."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, kind, item_id = heappop(self._deadlines)
            if kind == "job":
                self._end_job(item_id)
            else:
                self._end_request(item_id, now)

    def _end_job(self, job_id: str) -> None:
        # Most jobs are delivered by then. Delivery does not search the heap for their deadlines.
        job = self.jobs.get(job_id)
        if job is not None and job.state == "processing":
            self.fail(job, "aborted")

    def _end_request(self, request_id: str, now: float) -> None:
        request = self.requests.get(request_id)
        if request is None:
            return
        # Pops and deliveries have postponed the expiry, without moving its entry in the heap.
        if request.expires > now:
            self._add_deadline(request.expires, "request", request_id)
        else:
            self.forget(request)

    def _delist(self, request: TextRequest) -> None:
        """Take a request out of the waiting list; `order` is unique, so bisection finds it."""
        del self.waiting[bisect_left(self.waiting, request.order, key=_order)]

    def _settle(self, request: TextRequest) -> None:
        """Release the held kudos and remove the request from the open ones. Idempotent."""
        if self.open.pop(request.id, None) is not None:
            del request.account.open[request.id]
            request.account.held -= request.held

    def _add_deadline(self, when: float, kind: str, item_id: str) -> None:
        heappush(self._deadlines, (when, self._next_serial(), kind, item_id))

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial
