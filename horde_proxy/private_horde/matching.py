"""Which requests a worker may take. Pure: records in, an answer out."""

from __future__ import annotations

from horde_proxy.aihorde.limits import least_speed
from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.records import TextRequest, Worker

UNCOUNTED = ""
"""The obstacle that a pop does not count in `skipped`."""


def fits(worker: Worker, request: TextRequest, sizes: ModelSizes) -> bool:
    """Whether the worker may take the request, by the rules of both."""
    return obstacle(worker, request, sizes) is None


def obstacle(worker: Worker, request: TextRequest, sizes: ModelSizes) -> str | None:
    """Why the worker may not take the request, as `skipped` of a pop names it; None if it may.

    The rules are the real horde's (contract: text_functions.py:36-129). Lengths are compared as
    declared, and a worker in maintenance still gets its owner's requests. A paused worker gets
    nothing. As there, lengths, models and validation are not counted (text_pop_job_too_big).
    """
    is_its_owners = request.account_id == worker.owner_id
    if (
        request.max_length > worker.max_length
        or request.max_context_length > worker.max_context_length
        or worker.model_for(request) is None
        or (request.validated_backends and not worker.validated)
        or worker.paused
        or (worker.maintenance and not is_its_owners)
    ):
        return UNCOUNTED
    if not _allowed(worker, request):
        return "worker_id"
    if request.trusted_workers and not worker.trusted:
        return "untrusted"
    if not request.slow_workers and not is_fast(worker, sizes):
        return "performance"
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
