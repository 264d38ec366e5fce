"""What waits in the queue and why, in sentences for people. Pure: records in, dicts out.

It repeats no rule: `matching` says what keeps a worker from a request. Prompts are never shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from horde_proxy.private_horde import chats
from horde_proxy.private_horde.matching import has_listed_word, obstacle_to
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import HordeAccount, Job, Payload, TextRequest, Worker

Body = dict[str, Any]

MOST_SHOWN = 100
"""Requests of one report: each is compared with every worker, and nobody reads more."""

_OBSTACLES = {
    "models": "serves none of its models",
    "max_length": "makes at most {max_length} tokens, and it needs {needed_length}",
    "max_context_length": (
        "reads at most {max_context_length} tokens, and it needs {needed_context}"
    ),
    "unvalidated": "runs software that is not validated, which the request excludes",
    "resting": "takes no jobs of others now",
    "bridge_version": "does not offer chats with messages",
    "worker_id": "is excluded by the request's list of workers",
    "untrusted": "is not trusted, as the request demands",
    "performance": "is too slow for the request, or has not been measured yet",
    "blacklist": "refuses a word of the prompt",
}
"""What follows a worker's name, by the obstacles of `matching` and "blacklist"."""
_MOST_NAMED = 3
"""Workers of one sentence that are named."""


def report(op: Operation, requests: Sequence[TextRequest]) -> Body:
    """{"requests": what waits and why, the next in the queue first, "more": the number left out}.

    Those that wait for nothing but running jobs come first, as they were popped first.
    """
    ordered = sorted(requests, key=lambda request: (request.queued, request.order))
    workers = op.view.read(lambda view: list(view.workers.all))
    shown = ordered[:MOST_SHOWN]
    numbers = {request.account_id for request in shown}
    names = {number: _username(op, number) for number in numbers}
    return {
        "requests": [_entry(op, request, workers, names[request.account_id]) for request in shown],
        "more": len(ordered) - len(shown),
    }


def _username(op: Operation, account_id: int) -> str:
    account = op.tx.get(HordeAccount, account_id)
    return "" if account is None else account.username


def _entry(op: Operation, request: TextRequest, workers: Sequence[Worker], username: str) -> Body:
    running = op.tx.find(Job, request_id=request.id) if request.processing else []
    jobs = [job for job in running if job.state == "processing"]
    reasons, has_worker = _reasons(op, request, workers) if request.queued else ([], True)
    return {
        "id": request.id,
        "username": username,
        "is_chat": request.is_chat,
        "models": list(request.models),
        "max_length": request.max_length,
        "max_context_length": request.max_context_length,
        "n": request.n,
        "waiting": request.waiting,
        "processing": request.processing,
        "finished": request.finished,
        "created": request.created,
        "expires": request.expires,
        "position": op.view.position(request),
        "wait_time": op.view.wait_time(request, jobs, op.now),
        "reasons": reasons,
        "has_worker": has_worker,
    }


def _reasons(
    op: Operation, request: TextRequest, workers: Sequence[Worker]
) -> tuple[list[str], bool]:
    """Sentences that say why a request waits, and whether a worker that is online may take it."""
    if not workers:
        return ["No worker is online."], False
    obstacles = {worker.id: _obstacle(op, worker, request) for worker in workers}
    able = [worker for worker in workers if obstacles[worker.id] is None]
    reasons = []
    if able:
        reasons.append(f"It waits for its turn with {_named(able)}.")
    for name in _OBSTACLES:
        kept = [worker for worker in workers if obstacles[worker.id] == name]
        reasons += [_sentence(worker, name, request) for worker in kept[:_MOST_NAMED]]
        if len(kept) > _MOST_NAMED:
            reasons.append(f"The same holds for {len(kept) - _MOST_NAMED} more.")
    return reasons, bool(able)


def _obstacle(op: Operation, worker: Worker, request: TextRequest) -> str | None:
    obstacle = obstacle_to(worker, request, op.rules.sizes)
    # Only here a prompt is read, and only for a worker with a list of words.
    if obstacle is None and worker.blacklist:
        payload = op.tx.get(Payload, request.id)
        if payload is not None and has_listed_word(worker, chats.text_of(payload)):
            return "blacklist"
    return obstacle


def _sentence(worker: Worker, obstacle: str, request: TextRequest) -> str:
    facts = {
        "max_length": worker.max_length,
        "max_context_length": worker.max_context_length,
        "needed_length": request.max_length,
        "needed_context": request.max_context_length,
    }
    return f"{worker.name} {_OBSTACLES[obstacle].format(**facts)}."


def _named(workers: Sequence[Worker]) -> str:
    names = ", ".join(worker.name for worker in workers[:_MOST_NAMED])
    more = len(workers) - _MOST_NAMED
    return f"{names} and {more} more" if more > 0 else names
