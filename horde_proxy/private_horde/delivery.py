"""The worker's side of the horde: check-in, and what a delivered job pays and costs."""

from __future__ import annotations

from typing import Any

from horde_proxy.aihorde import kudos
from horde_proxy.aihorde.limits import MOST_MODELS_OF_A_WORKER
from horde_proxy.private_horde import (
    accounts,
    balances,
    continuation,
    counters,
    modes,
    queue,
    reliability,
    uptime,
)
from horde_proxy.private_horde.chats import DeliveredChat
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.image_needs import ImageNeeds
from horde_proxy.private_horde.matching import CHAT
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import (
    ALCHEMY,
    IMAGE,
    TEXT,
    HordeAccount,
    HordeRequest,
    HordeSharedKey,
    Job,
    StoredGeneration,
    Worker,
    WorkerOffer,
)

_MOST_WORDS, _LONGEST_WORD = 200, 100
"""Of a worker's blacklist: every prompt is searched for all of its words."""

_MOST_FAVOURED = 25
"""Of the `priority_usernames` of a pop: the queue is searched for each of them."""
_MOST_WORKERS = 1000
"""Of an account: any new name in a pop makes a worker, which stays until it is deleted."""

# Without a least duration, a job that takes no time, as in tests, would have an infinite speed.
_FASTEST_SECONDS = 0.01

_BAD_MODELS = "Unfortunately we cannot accept workers serving unrecognised models at this time"
_TOO_MANY_WORKERS = (
    f"An account may have {_MOST_WORKERS:,} workers. Use the name of one of them, or delete some."
)


def check_in(
    op: Operation, name: str, offer: WorkerOffer, owner: HordeAccount, address: str = ""
) -> tuple[Worker, bool]:
    """(the worker of this name that sent a pop, whether it has to be saved).

    A worker with a new name is added. Another is not saved here: its row would be locked before
    that of a request. Raises AnonForbiddenWorker, WrongCredentials and Forbidden (403), and
    WorkerNameAlreadyExists (400) for a name of another kind of worker (captures text_pop_403_*).
    """
    if owner.anonymous:
        raise refusal("AnonForbiddenWorker")
    worker = next(iter(op.tx.find(Worker, name=name)), None)
    if worker is None:
        modes.check_new_worker(op, owner)
        if len(op.tx.find(Worker, owner_id=owner.id)) >= _MOST_WORKERS:
            raise refusal("Forbidden", reason=_TOO_MANY_WORKERS)
        worker = Worker(
            op.rules.new_id(),
            name,
            owner.id,
            created=op.now,
            last_seen=op.now,
            trusted=owner.trusted,
            address=address,
            **vars(offer),
        )
        op.tx.add(worker)
        return worker, False
    if worker.owner_id != owner.id:
        raise refusal("WrongCredentials")
    if worker.kind != offer.kind:
        raise refusal("WorkerNameAlreadyExists", name=name)
    return worker, _update(op, worker, offer, owner, address)


def favoured(op: Operation, usernames: list[str], owner: HordeAccount) -> list[HordeAccount]:
    """The accounts whose requests a pop gets first: the worker's owner, and those that it names."""
    return [owner, *accounts.named(op, usernames[:_MOST_FAVOURED])]


def _update(
    op: Operation, worker: Worker, offer: WorkerOffer, owner: HordeAccount, address: str
) -> bool:
    """Take over what a known worker offers now. Whether that is worth a write."""
    silence = op.now - worker.last_seen
    # The real horde notices changes only every 30 s (worker.py:361-403).
    is_new = worker.offer != offer or worker.trusted != owner.trusted
    # A clock that was put back makes a silence of less than nothing.
    if not is_new and 0 <= silence < op.rules.check_in_seconds:
        return False
    uptime.count(worker, silence, op.rules.offline_after)
    for name, value in vars(offer).items():
        setattr(worker, name, value)
    worker.trusted, worker.last_seen, worker.address = owner.trusted, op.now, address
    return True


def text_offer(fields: dict[str, Any]) -> WorkerOffer:
    """What a text worker offers. `fields`: see `schema.POP`.

    Raises BadRequest (400) for no models or too many (capture text_pop_400_no_models).
    """
    if not 0 < len(fields["models"]) <= MOST_MODELS_OF_A_WORKER:
        raise refusal("BadRequest", reason=_BAD_MODELS)
    return WorkerOffer(
        # Without duplicates, in the worker's order: its first model serves requests without models.
        models=tuple(dict.fromkeys(fields["models"])),
        max_length=fields["max_length"],
        max_context_length=fields["max_context_length"],
        threads=fields["threads"],
        nsfw=fields["nsfw"],
        bridge_agent=fields["bridge_agent"],
        blacklist=listed_words(fields["blacklist"]),
        # Those that nobody knows are not kept: a pop may name any number of them.
        extensions=tuple(name for name in (CHAT,) if name in fields["extensions"]),
    )


def listed_words(blacklist: list[str]) -> tuple[str, ...]:
    """The words of a worker's blacklist that count."""
    return tuple([word.strip()[:_LONGEST_WORD] for word in blacklist if word.strip()][:_MOST_WORDS])


def find_job(
    op: Operation, job_id: str, account: HordeAccount, kind: str
) -> tuple[Job, HordeRequest]:
    """A running job, popped by a worker of the account, and its request; the request is locked.

    Raises InvalidJobID (404), WrongCredentials (403), AbortedGen and DuplicateGen (400).
    """
    job = queue.find_job(op, job_id)
    if job.owner_id != account.id:
        raise refusal("WrongCredentials")
    # Another process may have ended it since.
    request, newest = op.tx.lock_each((HordeRequest, job.request_id), (Job, job.id))
    if request is None or newest is None or request.kind != kind:
        raise refusal("InvalidJobID", id=job_id)
    overdue = newest.deadline is not None and newest.deadline <= op.now
    # The code tells a late worker whether its job was taken away or is already submitted.
    if newest.state in ("faulted", "aborted") or overdue:
        ttl = max(op.rules.job_ttl, request.needs.get("seconds", 0.0))
        raise refusal("AbortedGen", id=job.id, ttl=ttl)
    if newest.state != "processing":
        raise refusal("DuplicateGen", id=job.id)
    return newest, request


def deliver(
    op: Operation,
    fields: dict[str, Any],
    job: Job,
    request: HordeRequest,
    chat: DeliveredChat | None = None,
) -> float:
    """Take a job's result, pay the worker's owner, bill the requester. The reward in kudos.

    `fields`: see `schema.GENERATION`; `chat` is their text as it was read, for a chat.
    """
    # All at once: many transactions wait for the accounts, as long as this one holds them.
    op.tx.lock_each(*_rows_of(job, request))
    accounts_of = op.tx.lock_all(HordeAccount, sorted({job.owner_id, request.account_id}))
    worker = op.tx.lock(Worker, job.worker_id)
    if worker is None:
        raise refusal("InvalidJobID", id=job.id)
    generation = _generation(op, fields, job, worker, chat)
    written = chat.written if chat else len(fields["generation"])
    reward = _reward(op, worker, job, request, written)
    # A censored text earns the full reward: the worker did the work.
    # The tax of alchemy is charged once, at the submit.
    tax = 0.0 if request.kind == ALCHEMY else kudos.TAX
    cost = reward + tax if generation.state == "ok" else kudos.CENSORED_COST
    balances.charge(op, accounts_of[request.account_id], request, cost, balances.JOB, job.id)
    queue.deliver(op, request, job, generation)
    owner = accounts_of[job.owner_id]
    is_text = request.kind == TEXT
    done = kudos.counted_tokens(written, request.max_length) if is_text else request.work
    balances.earn(op, owner, reward, balances.REWARD, request_id=request.id, job_id=job.id)
    _count(owner, request, done)
    op.tx.save(owner)
    worker.fulfilled += 1
    worker.work_done += 0 if is_text else done
    worker.kudos += reward
    speed = done / max(op.now - job.popped, _FASTEST_SECONDS)
    worker.add_speed(job.model, speed)
    reliability.note_speed(worker, speed)
    op.tx.save(worker)
    # Totals count requested tokens, not generated ones (contract: stats/text/totals).
    counters.record(op, request, job.model, cost)
    return reward


def _count(owner: HordeAccount, request: HordeRequest, done: int) -> None:
    """Count a delivered job at its worker's owner; `done` is its work."""
    if request.kind == TEXT:
        owner.jobs_done += 1
        owner.tokens_made += done
    elif request.kind == IMAGE:
        owner.images_made += 1
        owner.pixelsteps_made += done
    else:
        owner.forms_made += 1


def _generation(
    op: Operation,
    fields: dict[str, Any],
    job: Job,
    worker: Worker,
    chat: DeliveredChat | None,
) -> StoredGeneration:
    text = chat.transcript if chat else continuation.whole_text(op, job, fields["generation"])
    return StoredGeneration(
        job.id,
        job.request_id,
        0,
        text,
        fields["seed"],
        fields["gen_metadata"],
        fields["state"],
        job.model,
        worker.id,
        worker.name,
        chat.result if chat else {},
    )


def _rows_of(job: Job, request: HordeRequest) -> list[tuple[type[Any], Any]]:
    """What a delivery changes besides its request, in the order of locks."""
    rows: list[tuple[type[Any], Any]] = [
        (HordeAccount, account_id) for account_id in sorted({job.owner_id, request.account_id})
    ]
    if request.shared_key is not None:
        rows.append((HordeSharedKey, request.shared_key))
    return [*rows, (Worker, job.worker_id)]


def _reward(op: Operation, worker: Worker, job: Job, request: HordeRequest, text: int) -> float:
    if request.kind == IMAGE:
        return ImageNeeds.of(request).kudos(job.model)
    if request.kind == ALCHEMY:
        return float(request.needs["kudos"])
    return kudos.reward(
        prompt=request.prompt_length,
        text=text,
        max_length=request.max_length,
        size=op.rules.sizes.of(job.model),
        trusted=worker.trusted,
        validated=worker.validated,
    )
