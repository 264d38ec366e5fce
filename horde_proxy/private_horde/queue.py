"""The queue: which request comes next, what happens to its jobs, and when both end.

A request is waiting (some results not popped), processing (all popped) or settled (all delivered,
or faulted), and forgotten once it is cancelled or expired. A job is processing, and then delivered
(`deliver`) or failed (`fail`); after a failed job, its request waits again.

The place of a request in the queue never changes: every priority grows by 50 in 10 s, so the order
of two requests never does. Callers have locked the request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import merge

from horde_proxy.aihorde.limits import AGEING_KUDOS, AGEING_SECONDS
from horde_proxy.private_horde import continuation, fair_share, reliability, stored_pictures
from horde_proxy.private_horde.balances import release
from horde_proxy.private_horde.errors import refusal, request_not_found
from horde_proxy.private_horde.image_needs import ImageNeeds
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.queue_order import order_of
from horde_proxy.private_horde.records import (
    IMAGE,
    TEXT,
    HordeAccount,
    HordeRequest,
    Job,
    Payload,
    StoredGeneration,
    Worker,
)

Fits = Callable[[HordeRequest], bool]


def rank(priority: float, queued_at: float) -> float:
    """What the queue is sorted by: less is earlier.

    It is the priority that the request would have had at time 0, to compare requests of any age.
    """
    return AGEING_KUDOS * (queued_at // AGEING_SECONDS) - priority


def find(op: Operation, request_id: str, kind: str) -> HordeRequest:
    """A request by its id, in upper or lower case. Raises RequestNotFound (404)."""
    request = op.tx.get(HordeRequest, request_id.lower())
    is_gone = request is None or request.expires is None or request.expires <= op.now
    if request is None or is_gone or request.kind != kind:
        raise request_not_found(request_id, kind)
    return request


def find_locked(op: Operation, request_id: str, kind: str) -> HordeRequest:
    """As `find`, for a request that is to be changed."""
    op.tx.lock(HordeRequest, request_id.lower())
    return find(op, request_id, kind)


def find_job(op: Operation, job_id: str) -> Job:
    """A job by its id, in upper or lower case. Raises InvalidJobID (404)."""
    job = op.tx.get(Job, job_id.lower())
    if job is None:
        raise refusal("InvalidJobID", id=job_id)
    return job


def next_for(
    op: Operation, worker: Worker, favoured: Iterable[HordeAccount], fits: Fits
) -> HordeRequest | None:
    """The request that a worker gets, locked: those of favoured accounts first, then in order."""
    busy: list[HordeRequest] = []
    for candidate in _candidates(op, worker, favoured):
        if not fits(candidate):
            continue
        request = op.tx.try_lock(HordeRequest, candidate.id)
        if request is None:
            busy.append(candidate)
        elif request.queued and fits(request):
            return request
    # Another worker is popping the only requests that fit; they may have results left for this one.
    for candidate in busy[:1]:
        request = op.tx.lock(HordeRequest, candidate.id)
        if request is not None and request.queued and fits(request):
            return request
    return None


def _candidates(
    op: Operation, worker: Worker, favoured: Iterable[HordeAccount]
) -> Iterator[HordeRequest]:
    ids = dict.fromkeys(account.id for account in favoured)
    models, kind = worker.models, worker.kind
    yield from merge(*(op.tx.waiting(models, id, kind) for id in ids), key=order_of)
    yield from op.tx.waiting(models, None, kind)


def take(op: Operation, request: HordeRequest, worker: Worker, amount: int) -> list[Job]:
    """Up to `amount` new jobs of a waiting request, which must fit the worker."""
    model = worker.model_for(request)
    assert model is not None
    jobs: list[Job] = []
    most = min(_batch(request, worker, amount), request.waiting)
    for slot in continuation.free_slots(op, request)[:most]:
        # A worker counts the seeds of its images up.
        if jobs and request.kind == IMAGE and slot != jobs[-1].slot + 1:
            break
        begun = continuation.resumed_text(op, request, slot)
        # The jobs of one pop have one prompt, which may end with what a lost worker wrote.
        if jobs and begun != "":
            break
        job = Job(
            op.rules.new_id(),
            request.id,
            worker.id,
            worker.owner_id,
            model,
            popped=op.now,
            deadline=op.now + _seconds(op, request, worker),
            slot=slot,
            begun=len(begun),
        )
        op.tx.add(job)
        jobs.append(job)
        if begun:
            break
    request.waiting -= len(jobs)
    request.processing += len(jobs)
    # Pops and deliveries postpone the expiry, polls do not (contract: utils.py:110).
    request.expires = op.now + op.rules.expiry
    op.tx.save(request)
    return jobs


def _batch(request: HordeRequest, worker: Worker, amount: int) -> int:
    """The jobs that one pop may take: images of one batch are in memory at the same time."""
    if request.kind != IMAGE:
        return amount
    needs = ImageNeeds.of(request)
    if not needs.batches or needs.seed_variation > 1:
        return 1
    return min(amount, max(int(worker.abilities["max_pixels"]) // needs.pixels, 1))


def _seconds(op: Operation, request: HordeRequest, worker: Worker) -> float:
    """The time for a job. That of a text does not depend on its length (kobold, :411)."""
    seconds = max(op.rules.job_ttl, request.needs.get("seconds", 0.0))
    return float(seconds * (3 if worker.abilities.get("extra_slow_worker") else 1))


def deliver(op: Operation, request: HordeRequest, job: Job, generation: StoredGeneration) -> None:
    """Close a job with a result, which is dropped if the request has been forgotten."""
    job.state, job.deadline = generation.state, None
    request.processing -= 1
    if request.forgotten:
        _drop(op, request, job)
        return
    # The job stays, so that a second delivery of it is a DuplicateGen.
    op.tx.save(job)
    request.finished += 1
    generation.number = request.finished
    op.tx.add(generation)
    request.expires = op.now + op.rules.expiry
    if request.settled:
        release(op, request)
    op.tx.save(request)


def fail(op: Operation, request: HordeRequest, job: Job, state: str) -> None:
    """Close a job without a result: its request waits again, or faults after `max_faults`."""
    job.state, job.deadline = state, None
    request.processing -= 1
    if request.forgotten:
        _drop(op, request, job)
    else:
        op.tx.save(job)
        # What this process knows may also be the text of a job before it, of another process.
        if op.texts.writer(request.id, job.slot) == job.id:
            continuation.keep(op, job, op.texts.text(request.id, job.slot))
        request.waiting += 1
        request.restarted += 1
        if request.restarted >= op.rules.max_faults:
            request.faulted = True
            release(op, request)
        op.tx.save(request)
    worker = op.tx.get(Worker, job.worker_id)
    if worker is not None:
        worker.uncompleted += 1
        reliability.note_fault(worker, op.now)
        op.tx.save(worker)


def forget(op: Operation, request: HordeRequest) -> None:
    """Drop a request. Its running jobs may still be delivered, and earn their reward."""
    request.expires = None
    # Finished jobs are dropped as well: a worker that submits one again gets InvalidJobID.
    for job in op.tx.find(Job, request_id=request.id):
        if job.state != "processing":
            op.tx.delete(job)
    for generation in op.tx.find(StoredGeneration, request_id=request.id):
        op.tx.delete(generation)
    payload = op.tx.get(Payload, request.id)
    if payload is not None:
        op.tx.delete(payload)
    if request.kind != TEXT:
        stored_pictures.forget(op, request.id)
    fair_share.give_back(op, request)
    continuation.forget(op, request)
    release(op, request)
    if request.processing:
        op.tx.save(request)
    else:
        op.tx.delete(request)


def _drop(op: Operation, request: HordeRequest, job: Job) -> None:
    """Remove a job of a forgotten request, and with the last one the request."""
    op.tx.delete(job)
    if request.processing:
        op.tx.save(request)
    else:
        op.tx.delete(request)
