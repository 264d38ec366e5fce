"""Pops: a worker checks in and takes jobs, the same for texts, images and alchemy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from horde_proxy.private_horde import (
    accounts,
    address_timeouts,
    continuation,
    delivery,
    queue,
    uptime,
    worker_messages,
)
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.job_choice import JobChoice
from horde_proxy.private_horde.operation import Begin, Operation
from horde_proxy.private_horde.records import (
    HordeRequest,
    Job,
    Payload,
    Worker,
    WorkerMessage,
    WorkerOffer,
)
from horde_proxy.private_horde.store.base import KeyTaken

_MAINTENANCE = "This worker has been put into maintenance mode by its owner"


@dataclass(frozen=True)
class WorkerCall:
    """A pop: its key, its fields, what the worker offers, and the worker's address."""

    api_key: str
    fields: Mapping[str, Any]
    offer: WorkerOffer
    address: str


@dataclass(frozen=True)
class TakenJobs:
    """What a pop found: jobs of one request, or none. `skipped` are requests by obstacle."""

    jobs: Sequence[Job]
    request: HordeRequest | None
    payload: Payload | None
    skipped: Mapping[str, int]
    messages: Sequence[WorkerMessage]


def pop(changing: Begin, call: WorkerCall) -> TakenJobs:
    """Check a worker in, registering a new name, and give it up to `amount` jobs of one request.

    Raises what `delivery.check_in` raises, and WorkerMaintenance (403) if it gets none.
    """
    try:
        worker, taken = _pop(changing, call)
    except KeyTaken:
        # Another thread of this worker has registered its name since we looked.
        worker, taken = _pop(changing, call)
    if uptime.is_due(worker):
        with changing() as op:
            uptime.pay(op, worker.id, worker.owner_id)
    # Not earlier: a worker in maintenance still gets its owner's requests, and is online.
    if not taken.jobs and worker.maintenance:
        raise refusal("WorkerMaintenance", message=worker.maintenance_message or _MAINTENANCE)
    return taken


def _pop(changing: Begin, call: WorkerCall) -> tuple[Worker, TakenJobs]:
    with changing() as op:
        owner = accounts.require(op, call.api_key)
        address_timeouts.check(op, call.address)
        name = call.fields["name"]
        worker, has_news = delivery.check_in(op, name, call.offer, owner, call.address)
        messages = worker_messages.current(op, worker)
        usernames = call.fields["priority_usernames"]
        choice = JobChoice(op, worker)
        request = queue.next_for(op, worker, delivery.favoured(op, usernames, owner), choice.fits)
        jobs, payload, begun = _taken(op, request, worker, call.fields["amount"])
        if has_news:
            op.tx.save(worker)
    # After the transaction: others would wait while a long transcript is read.
    payload = payload and continuation.continued(payload, begun)
    return worker, TakenJobs(jobs, request, payload, choice.skipped(), messages)


def _taken(
    op: Operation, request: HordeRequest | None, worker: Worker, amount: int
) -> tuple[list[Job], Payload | None, str]:
    """The jobs that a worker gets of a request, their payload, and what they go on with."""
    if request is None:
        return [], None, ""
    jobs = queue.take(op, request, worker, amount)
    payload = op.tx.get(Payload, request.id)
    assert payload is not None
    return jobs, payload, continuation.begun_text(op, request, jobs[0].slot)
