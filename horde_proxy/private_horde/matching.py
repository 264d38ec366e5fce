"""Which requests a worker may take. Pure: records in, an answer out."""

from __future__ import annotations

from horde_proxy.aihorde.agents import can_make_images
from horde_proxy.aihorde.limits import least_speed
from horde_proxy.private_horde.image_needs import ImageNeeds
from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.records import ALCHEMY, IMAGE, HordeRequest, Worker

CHAT = "chat"
"""The extension of workers that take chats."""
SKIPPED = frozenset(
    {
        *("worker_id", "untrusted", "performance", "blacklist", "bridge_version"),
        *("max_pixels", "img2img", "painting", "post-processing", "controlnet", "lora"),
        *("nsfw", "step_count", "kudos", "tiles"),
    }
)
"""The obstacles that a pop counts in `skipped`. As in the real horde, lengths, models of texts and
validation are not counted (text_pop_job_too_big)."""
_LEAST_IMAGE_SPEED = 500_000.0
"""Pixel-steps a second of a worker that is not slow (images-api.md 3.6)."""


def fits(worker: Worker, request: HordeRequest, sizes: ModelSizes) -> bool:
    """Whether the worker may take the request, by the rules of both."""
    return obstacle_to(worker, request, sizes) is None


def obstacle_to(worker: Worker, request: HordeRequest, sizes: ModelSizes) -> str | None:
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
    if request.kind == IMAGE and (obstacle := _image_obstacle(worker, request)):
        return obstacle
    if request.kind == ALCHEMY and request.needs["tiles"] > worker.abilities["max_tiles"]:
        return "tiles"
    if not _allowed(worker, request):
        return "worker_id"
    if request.trusted_workers and not worker.trusted:
        return "untrusted"
    is_too_slow = not request.slow_workers and not is_fast(worker, sizes)
    is_extra_slow = bool(worker.abilities.get("extra_slow_worker"))
    if is_too_slow or (is_extra_slow and not request.needs.get("extra_slow")):
        return "performance"
    return None


def _uncounted_obstacle(worker: Worker, request: HordeRequest) -> str | None:
    if worker.kind != request.kind:
        return "kind"
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


def _image_obstacle(worker: Worker, request: HordeRequest) -> str | None:
    """What of an image the worker does not do, in AI-Horde's words (captures image_pop_skipped_*).

    The rules are those of worker.py:66-211.
    """
    needs, can = ImageNeeds.of(request), worker.abilities
    hindrances = {
        "bridge_version": not can_make_images(worker.bridge_agent),
        "max_pixels": needs.pixels > can["max_pixels"],
        "img2img": needs.has_source and not can["allow_img2img"],
        "painting": needs.is_painting and not can["allow_painting"],
        "post-processing": bool(needs.post_processing) and not can["allow_post_processing"],
        "controlnet": needs.has_control and not can["allow_controlnet"],
        "lora": needs.loras > 0 and not can["allow_lora"],
        "nsfw": needs.nsfw and not worker.nsfw,
        "step_count": bool(can["limit_max_steps"]) and needs.exceeds_steps,
        "kudos": bool(can["require_upfront_kudos"]) and not request.held,
    }
    return next((name for name, hinders in hindrances.items() if hinders), None)


def has_listed_word(worker: Worker, prompt: str) -> bool:
    """Whether a prompt contains a word of the worker's blacklist, in upper or lower case."""
    lowered = prompt.casefold()
    return any(word.casefold() in lowered for word in worker.blacklist)


def is_fast(worker: Worker, sizes: ModelSizes) -> bool:
    """Whether the worker is not slow. Without any delivery, it counts as slow."""
    speed = worker.speed
    if worker.kind == IMAGE:
        return speed is not None and speed >= _LEAST_IMAGE_SPEED
    if worker.kind == ALCHEMY:
        return True
    return speed is not None and speed >= least_speed(sizes.largest(worker.models) or 0.0)


def _allowed(worker: Worker, request: HordeRequest) -> bool:
    """Whether the request's list of workers, an allowlist or a blocklist, admits this worker."""
    if not request.workers:
        return True
    return (worker.id in request.workers) != request.worker_blacklist
