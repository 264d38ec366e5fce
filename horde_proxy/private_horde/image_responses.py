"""The JSON objects of answers about images, each made by one function. See `responses`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from horde_proxy.private_horde import image_schema, responses, stored_pictures
from horde_proxy.private_horde.fleet_responses import popped_message
from horde_proxy.private_horde.image_needs import ImageNeeds
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.picture_links import GET, PUT
from horde_proxy.private_horde.popping import TakenJobs
from horde_proxy.private_horde.records import HordeRequest, Job, StoredGeneration
from horde_proxy.private_horde.stored_pictures import MASK, SOURCE, StoredPicture

Body = dict[str, Any]

MISSING = "N/A"
"""What AI-Horde says in place of an image that is gone."""
_ALWAYS_COUNTED = (
    "unsafe_ip",
    "img2img",
    "painting",
    "post-processing",
    "lora",
    "controlnet",
    "worker_id",
    "performance",
    "nsfw",
    "untrusted",
    "models",
    "bridge_version",
)
"""The reasons that an empty pop names, even where they kept the worker from nothing."""
_MIDDLE = "untrusted"
"""The real horde counts "blacklist" before it (capture image_pop_skipped_blacklist)."""


def status(request: HordeRequest, generations: list[Body], outlook: Mapping[str, Any]) -> Body:
    """GET generate/status/{id}; the generations are in order of delivery."""
    return {
        "generations": generations,
        # Images are given to nobody else.
        "shared": False,
        **responses.progress(request, **outlook),
    }


def generation(op: Operation, request: HordeRequest, result: StoredGeneration, base: str) -> Body:
    """One image, an element of `generations` in the status: a link to it, or base64."""
    censored = any(entry.get("type") == "censorship" for entry in result.gen_metadata)
    return {
        "img": _image(op, request, result.job_id, base),
        "seed": str(result.seed),
        "id": result.job_id,
        "censored": result.state in ("censored", "csam") or censored,
        "gen_metadata": result.gen_metadata,
        "worker_id": result.worker_id,
        "worker_name": result.worker_name,
        "model": result.model,
        # Also of a censored image (capture image_status_censored_csam).
        "state": "ok",
    }


def _image(op: Operation, request: HordeRequest, picture_id: str, base: str) -> str:
    if not ImageNeeds.of(request).r2:
        data = stored_pictures.data_of(op, picture_id)
        return MISSING if data is None else base64.b64encode(data).decode("ascii")
    picture = op.tx.get(StoredPicture, picture_id)
    if picture is None:
        return MISSING
    return op.rules.links.link(GET, base, picture_id, picture.type, op.now)


def popped(op: Operation, taken: TakenJobs, base: str) -> Body:
    """POST generate/pop: jobs of one request, or no job."""
    first = taken.jobs[0] if taken.jobs else None
    payload = image_schema.NO_JOB if first is None else _payload(taken, first)
    uploads = [op.rules.links.link(PUT, base, job.id, "webp", op.now) for job in taken.jobs]
    return {
        "payload": payload,
        "id": first.id if first else None,
        "ids": [job.id for job in taken.jobs],
        "messages": [popped_message(message) for message in taken.messages],
        "ttl": round((first.deadline or 0.0) - first.popped) if first else None,
        "skipped": {} if first else _skipped(taken.skipped),
        "model": first.model if first else None,
        **_sources(op, taken, base),
        "r2_upload": uploads[0] if uploads else None,
        "r2_uploads": uploads or None,
    }


def _payload(taken: TakenJobs, first: Job) -> Body:
    request, payload = taken.request, taken.payload
    assert request is not None
    assert payload is not None
    needs = ImageNeeds.of(request)
    params = image_schema.worker_params(
        payload.params,
        seed=needs.seed_of(first.slot),
        n=len(taken.jobs),
        censors=needs.censor_nsfw,
    )
    return {"prompt": payload.prompt, **params}


def _sources(op: Operation, taken: TakenJobs, base: str) -> Body:
    """Links to the pictures that the client sent."""
    params = taken.payload.params if taken.payload else {}
    request_id = taken.request.id if taken.request else ""

    def link(part: str, kind: str | None) -> str | None:
        if kind is None:
            return None
        picture_id = stored_pictures.source_id(request_id, part)
        return op.rules.links.link(GET, base, picture_id, kind, op.now)

    extras = [
        {"image": link(f"exsrc_{number}", kind), "strength": 1.0}
        for number, kind in enumerate(params.get("extra_source_images") or ())
    ]
    return {
        "source_image": link(SOURCE, params.get("source_image")),
        "source_processing": params.get("source_processing", "img2img"),
        "source_mask": link(MASK, params.get("source_mask")),
        "extra_source_images": extras or None,
    }


def _skipped(counts: Mapping[str, int]) -> dict[str, int]:
    """The reasons of an empty pop in the real horde's order (captures image_pop_skipped_*)."""
    ordered = {"max_pixels": counts["max_pixels"]} if counts.get("max_pixels") else {}
    for name in _ALWAYS_COUNTED:
        if name == _MIDDLE and counts.get("blacklist"):
            ordered["blacklist"] = counts["blacklist"]
        ordered[name] = counts.get(name, 0)
    return {**ordered, **{name: count for name, count in counts.items() if name not in ordered}}
