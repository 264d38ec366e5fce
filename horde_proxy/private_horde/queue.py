"""The queue: which request comes next, what becomes of its jobs, and when both end.

Plain state without Flask, I/O or a clock of its own: `now` (seconds) comes in with every call, and
the caller holds the horde's lock.

A request is waiting (some results not popped), processing (all popped) or settled (all delivered,
or faulted), and forgotten once it is cancelled or expired. A job is processing, and then delivered
(`deliver`) or failed (`fail`); a failed one makes its request wait again.

The waiting list is sorted by insertion only: priority grows by 50 every 10 s for everybody alike,
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
    """All requests that are not forgotten, and their jobs; also the running jobs of forgotten ones.

    `job_ttl` and `expiry` are seconds; `max_faults` failed jobs make a request faulted. `open` are
    the requests that are not settled.
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
        # Makes heap entries and orders unique, so that ties are never broken by other fields.
        self._serial = 0

    def add(self, request: TextRequest, now: float) -> None:
        """Put a new request into the queue; the account's held kudos grow by the request's."""
        # The priority that the request would have had at time 0: comparable for all ages.
        start = request.priority - AGEING_KUDOS * (request.created // AGEING_SECONDS)
        request.order = (-start, request.created, self._next_serial())
        request.waiting = request.n
        # Polls do not put the expiry off, only pops and deliveries do (contract: utils.py:110).
        request.expires = now + self.expiry
        request.account.held += request.held
        self.requests[request.id] = self.open[request.id] = request
        request.account.open[request.id] = request
        insort(self.waiting, request, key=_order)
        self._remind(request.expires, "request", request.id)

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
        """A request's place in the whole queue, from 1; 0 when nothing of it waits. O(log n)."""
        if not request.waiting or request.settled:
            return 0
        return bisect_left(self.waiting, request.order, key=_order) + 1

    def next_for(self, favoured: Iterable[HordeAccount], fits: Fits) -> TextRequest | None:
        """The request that a worker gets: those of favoured accounts first, then in order."""
        # A favoured account has few open requests, so they need no order of their own.
        own = (request for account in favoured for request in account.open.values())
        first = min((r for r in own if r.waiting and fits(r)), key=_order, default=None)
        if first is not None:
            return first
        # Lazily: mostly one of the first fits.
        return next((request for request in self.waiting if fits(request)), None)

    def take(
        self,
        request: TextRequest,
        worker: Worker,
        amount: int,
        new_id: Callable[[], str],
        now: float,
    ) -> list[Job]:
        """Up to `amount` new jobs of a waiting request, which has to fit the worker."""
        model = worker.model_for(request)
        assert model is not None
        jobs = []
        for _ in range(min(amount, request.waiting)):
            job = Job(new_id(), request, worker, model, now)
            self.jobs[job.id] = request.processing[job.id] = job
            # Text jobs have a fixed time (processing_generation.py:411-416), whatever their length.
            self._remind(now + self.job_ttl, "job", job.id)
            jobs.append(job)
        request.jobs.extend(jobs)
        request.waiting -= len(jobs)
        request.expires = now + self.expiry
        if not request.waiting:
            self._delist(request)
        return jobs

    def deliver(self, job: Job, state: str, now: float) -> None:
        """Close a job with a result, which is dropped if the request was cancelled meanwhile."""
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
        # A running job of a request that faulted meanwhile: nobody shall pop it again.
        if request.faulted:
            return
        # It was not in the list while all its results were processing.
        if request.waiting == 1:
            insort(self.waiting, request, key=_order)
        if request.restarted >= self._max_faults:
            self._delist(request)
            request.faulted = True
            self._settle(request)

    def forget(self, request: TextRequest) -> None:
        """Drop a request for good. Its running jobs may still be delivered, for their reward."""
        if request.waiting and not request.faulted:
            self._delist(request)
        request.forgotten = True
        self._settle(request)
        del self.requests[request.id]
        # Finished jobs are forgotten with it; a worker that submits one again gets InvalidJobID.
        for job in request.jobs:
            if job.id not in request.processing:
                del self.jobs[job.id]
        request.delivered.clear()

    def sweep(self, now: float) -> None:
        """Abort the jobs and forget the requests whose time is over; O(log n) for each."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, kind, item_id = heappop(self._deadlines)
            if kind == "job":
                self._end_job(item_id)
            else:
                self._end_request(item_id, now)

    def _end_job(self, job_id: str) -> None:
        # Most jobs are delivered by then; their reminders are left in the heap.
        job = self.jobs.get(job_id)
        if job is not None and job.state == "processing":
            self.fail(job, "aborted")

    def _end_request(self, request_id: str, now: float) -> None:
        request = self.requests.get(request_id)
        if request is None:
            return
        # Pops and deliveries put the time off, without a search for the old entry in the heap.
        if request.expires > now:
            self._remind(request.expires, "request", request_id)
        else:
            self.forget(request)

    def _delist(self, request: TextRequest) -> None:
        """Take a request out of the waiting list; `order` is unique, so bisection finds it."""
        del self.waiting[bisect_left(self.waiting, request.order, key=_order)]

    def _settle(self, request: TextRequest) -> None:
        """Release the account's held kudos and its place among the open; idempotent."""
        if self.open.pop(request.id, None) is not None:
            del request.account.open[request.id]
            request.account.held -= request.held

    def _remind(self, when: float, kind: str, item_id: str) -> None:
        heappush(self._deadlines, (when, self._next_serial(), kind, item_id))

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial
