"""What waits in the queue and why, in sentences for people. Pure: records in, dicts out.

It repeats no rule: `matching` says what keeps a worker from a request. Prompts are never shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from horde_proxy.private_horde import chats
from horde_proxy.private_horde.matching import has_listed_word, obstacle_to
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import (
    ALCHEMY,
    IMAGE,
    TEXT,
    HordeAccount,
    HordeRequest,
    Job,
    Payload,
    Worker,
)

Body = dict[str, Any]

MOST_SHOWN = 100
"""Requests of one report: each is compared with every worker, and nobody reads more."""

_OBSTACLES = {
    "models": "serves none of its `models`",
    "max_length": "makes at most {max_length} tokens, and its `max_length` is {needed_length}",
    "max_context_length": (
        "reads at most {max_context_length} tokens, "
        "and its `max_context_length` is {needed_context}"
    ),
    "unvalidated": (
        "runs software that is not validated: the request needs `validated_backends` = false"
    ),
    "resting": "takes no jobs of others now",
    "bridge_version": "does not offer chats with messages",
    "software": "runs software that cannot make images",
    "max_pixels": "makes images of at most {max_pixels:,} pixels, and it needs {needed_pixels:,}",
    "img2img": "does not change images (`source_image`)",
    "painting": "does not paint parts of images anew (`source_processing`)",
    "post-processing": "does not post-process images (`post_processing`)",
    "controlnet": "does not take control types (`control_type`)",
    "lora": "does not take LoRAs (`loras`)",
    "nsfw": "makes only images that are safe for work (`nsfw`)",
    "step_count": "makes images with fewer `steps` only",
    "kudos": "takes only requests whose kudos are held",
    "tiles": "takes smaller images only",
    "worker_id": "is excluded by the request's list of `workers`",
    "untrusted": "is not trusted: the request needs `trusted_workers` = false",
    "performance": (
        "is slow, or has not been measured yet: the request needs `slow_workers` = true"
    ),
    "blacklist": "refuses a word of the prompt (its `blacklist`)",
}
"""What follows a worker's name, by the obstacles of `matching` and "blacklist"."""
_KINDS = {TEXT: "texts", IMAGE: "images", ALCHEMY: "alchemy"}
_MOST_NAMED = 3
"""Workers of one sentence that are named."""


def report(op: Operation, requests: Sequence[HordeRequest]) -> Body:
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


def why_impossible(op: Operation, request: HordeRequest) -> list[str]:
    """Sentences that say why no worker that is online may take a request."""
    workers = op.view.read(lambda view: list(view.workers.all))
    return _reasons(op, request, workers)[0]


def _username(op: Operation, account_id: int) -> str:
    account = op.tx.get(HordeAccount, account_id)
    return "" if account is None else account.username


def _entry(op: Operation, request: HordeRequest, workers: Sequence[Worker], username: str) -> Body:
    running = op.tx.find(Job, request_id=request.id) if request.processing else []
    jobs = [job for job in running if job.state == "processing"]
    reasons, has_worker = _reasons(op, request, workers) if request.queued else ([], True)
    return {
        "id": request.id,
        "username": username,
        "kind": request.kind,
        "is_chat": request.is_chat,
        "models": list(request.models),
        "size": _size(request),
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


def _size(request: HordeRequest) -> str:
    """What one result of a request is, for people."""
    if request.kind == IMAGE:
        return f"{request.needs['width']} x {request.needs['height']} pixels"
    if request.kind == ALCHEMY:
        return f"{request.models[0]} of an image"
    return f"up to {request.max_length:,} tokens"


def _reasons(
    op: Operation, request: HordeRequest, workers: Sequence[Worker]
) -> tuple[list[str], bool]:
    """Sentences that say why a request waits, and whether a worker that is online may take it."""
    if not workers:
        return ["No worker is online."], False
    workers = [worker for worker in workers if worker.kind == request.kind]
    if not workers:
        return [f"No worker for {_KINDS[request.kind]} is online."], False
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


def _obstacle(op: Operation, worker: Worker, request: HordeRequest) -> str | None:
    obstacle = obstacle_to(worker, request, op.rules.sizes)
    # Only here a prompt is read, and only for a worker with a list of words.
    if obstacle is None and worker.blacklist:
        payload = op.tx.get(Payload, request.id)
        if payload is not None and has_listed_word(worker, chats.text_of(payload)):
            return "blacklist"
    return obstacle


def _sentence(worker: Worker, obstacle: str, request: HordeRequest) -> str:
    if obstacle == "bridge_version" and request.kind == IMAGE:
        obstacle = "software"
    facts = {
        "max_length": worker.max_length,
        "max_context_length": worker.max_context_length,
        "needed_length": request.max_length,
        "needed_context": request.max_context_length,
        "max_pixels": worker.abilities.get("max_pixels", 0),
        "needed_pixels": request.needs.get("width", 0) * request.needs.get("height", 0),
    }
    return f"{worker.name} {_OBSTACLES[obstacle].format(**facts)}."


def _named(workers: Sequence[Worker]) -> str:
    names = ", ".join(worker.name for worker in workers[:_MOST_NAMED])
    more = len(workers) - _MOST_NAMED
    return f"{names} and {more} more" if more > 0 else names
