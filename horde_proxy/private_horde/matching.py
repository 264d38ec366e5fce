"""Which requests a worker may take. Pure: records in, an answer out."""

from __future__ import annotations

from horde_proxy.aihorde.limits import least_speed
from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.records import TextRequest, Worker

CHAT = "chat"
"""The extension of workers that take chats."""
SKIPPED = frozenset({"worker_id", "untrusted", "performance", "blacklist", "bridge_version"})
"""The obstacles that a pop counts in `skipped`. As in the real horde, lengths, models and
validation are not counted (text_pop_job_too_big)."""


def fits(worker: Worker, request: TextRequest, sizes: ModelSizes) -> bool:
    """Whether the worker may take the request, by the rules of both."""
    return obstacle_to(worker, request, sizes) is None


def obstacle_to(worker: Worker, request: TextRequest, sizes: ModelSizes) -> str | None:
    """The first rule that keeps the worker from the request; None if it may take it.

    The rules are the real horde's (contract: text_functions.py:36-129). Lengths are compared as
    declared, and a worker in maintenance still gets its owner's requests. A paused worker gets
    nothing: it is "resting" like one in maintenance, so that its owner cannot tell them apart.
    """
    obstacle = _uncounted_obstacle(worker, request)
    if obstacle is not None:
        return obstacle
    # AI-Horde's word for what a worker's software cannot do.
    if request.is_chat and CHAT not in worker.extensions:
        return "bridge_version"
    if not _allowed(worker, request):
        return "worker_id"
    if request.trusted_workers and not worker.trusted:
        return "untrusted"
    if not request.slow_workers and not is_fast(worker, sizes):
        return "performance"
    return None


def _uncounted_obstacle(worker: Worker, request: TextRequest) -> str | None:
    if worker.model_for(request) is None:
        return "models"
    if request.max_length > worker.max_length:
        return "max_length"
    if request.max_context_length > worker.max_context_length:
        return "max_context_length"
    if request.validated_backends and not worker.validated:
        return "unvalidated"
    if worker.paused or (worker.maintenance and request.account_id != worker.owner_id):
        return "resting"
    return None


def has_listed_word(worker: Worker, prompt: str) -> bool:
    """Whether a prompt contains a word of the worker's blacklist, in upper or lower case."""
    lowered = prompt.casefold()
    return any(word.casefold() in lowered for word in worker.blacklist)


def is_fast(worker: Worker, sizes: ModelSizes) -> bool:
    """Whether the worker is not slow. Without any delivery, it counts as slow."""
    speed = worker.speed
    return speed is not None and speed >= least_speed(sizes.largest(worker.models) or 0.0)


def _allowed(worker: Worker, request: TextRequest) -> bool:
    """Whether the request's list of workers, an allowlist or a blocklist, admits this worker."""
    if not request.workers:
        return True
    return (worker.id in request.workers) != request.worker_blacklist
