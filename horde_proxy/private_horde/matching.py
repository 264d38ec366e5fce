"""Which requests a worker may take. Pure: records in, an answer out."""

from __future__ import annotations

from horde_proxy.aihorde.limits import least_speed
from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.records import TextRequest, Worker


def fits(worker: Worker, request: TextRequest, sizes: ModelSizes) -> bool:
    """Whether the worker may take the request, by the rules of both.

    The rules are the real horde's (contract: text_functions.py:36-129). Lengths are compared as
    declared, and a worker in maintenance still gets its owner's requests.
    """
    return (
        request.max_length <= worker.max_length
        and request.max_context_length <= worker.max_context_length
        and worker.model_for(request) is not None
        and _allowed(worker, request)
        and (not request.trusted_workers or worker.trusted)
        and (not request.validated_backends or worker.validated)
        and (request.slow_workers or is_fast(worker, sizes))
        and (not worker.maintenance or request.account_id == worker.owner_id)
    )


def is_fast(worker: Worker, sizes: ModelSizes) -> bool:
    """Whether the worker is not slow. Without any delivery, it counts as slow."""
    speed = worker.speed
    return speed is not None and speed >= least_speed(sizes.largest(worker.models) or 0.0)


def _allowed(worker: Worker, request: TextRequest) -> bool:
    """Whether the request's list of workers, an allowlist or a blocklist, admits this worker."""
    if not request.workers:
        return True
    return (worker.id in request.workers) != request.worker_blacklist
