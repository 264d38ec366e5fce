"""The bodies of the routes for images: JSON schemas and defaults. See `schema`."""

from __future__ import annotations

from typing import Any

from horde_proxy.aihorde.agents import UNKNOWN_AGENT
from horde_proxy.aihorde.image_limits import (
    IMAGE_PARAMETERS,
    MOST_MODELS_OF_AN_IMAGE_WORKER,
    SOURCE_PROCESSINGS,
)
from horde_proxy.private_horde.schema import BodySchema, Schema

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean", "default": False}
_TRUE: Schema = {"type": "boolean", "default": True}
_TEXTS: Schema = {"type": "array", "items": _TEXT, "default": []}
_STRENGTH: Schema = {"type": "number", "minimum": -5, "maximum": 5}
_MOST_ENTRIES = 100
"""Of a list of objects: more than any rule lets through, so that a long one is not walked."""


def _objects(**fields: Schema) -> Schema:
    return {
        "type": "array",
        "maxItems": _MOST_ENTRIES,
        "items": {"type": "object", "properties": fields},
    }


_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 255}

PARAMS: dict[str, Schema] = {
    **{name: dict(schema) for name, schema in IMAGE_PARAMETERS.items()},
    # Without a default: 20 with a control type, else 30.
    "steps": {key: value for key, value in IMAGE_PARAMETERS["steps"].items() if key != "default"},
    "loras": _objects(
        name=_NAME,
        model=_STRENGTH,
        clip=_STRENGTH,
        inject_trigger={"type": "string", "minLength": 1, "maxLength": 30},
        is_version={"type": "boolean"},
    ),
    "tis": _objects(
        name=_NAME,
        inject_ti={"type": "string", "enum": ["prompt", "negprompt"]},
        strength=_STRENGTH,
    ),
    "extra_texts": _objects(
        text={"type": "string", "minLength": 1, "maxLength": 1000},
        reference={"type": "string", "minLength": 3, "maxLength": 255},
    ),
}

SUBMIT = BodySchema(
    {
        "prompt": {"type": "string", "minLength": 1},
        "params": {"type": "object", "properties": PARAMS, "default": {}},
        # Without any, SD1: that is what clients of AI-Horde expect (images-api.md 3.1).
        "models": {**_TEXTS, "maxItems": 1000, "default": ["stable_diffusion"]},
        "workers": _TEXTS,
        "worker_blacklist": _FLAG,
        "trusted_workers": _FLAG,
        "slow_workers": _TRUE,
        "extra_slow_workers": _FLAG,
        "nsfw": _TRUE,
        "censor_nsfw": _TRUE,
        "r2": _TRUE,
        "shared": _FLAG,
        "replacement_filter": _TRUE,
        "dry_run": _FLAG,
        "allow_downgrade": _FLAG,
        "disable_batching": _FLAG,
        "proxied_account": _TEXT,
        "webhook": _TEXT,
        "style": {"type": "string", "minLength": 3, "maxLength": 1024},
        "source_image": _TEXT,
        "source_mask": _TEXT,
        "source_processing": {
            "type": "string",
            "enum": list(SOURCE_PROCESSINGS),
            "default": "img2img",
        },
        "extra_source_images": _objects(image=_TEXT, strength={"type": "number"}),
    },
    demanded=("prompt",),
)
"""POST generate/async."""

POP = BodySchema(
    {
        "name": {"type": "string", "minLength": 1, "maxLength": 100},
        "models": {
            "type": "array",
            "items": {"type": "string", "minLength": 3, "maxLength": 255},
            "maxItems": MOST_MODELS_OF_AN_IMAGE_WORKER,
            "default": [],
        },
        "bridge_agent": {"type": "string", "maxLength": 1000, "default": UNKNOWN_AGENT},
        "threads": {"type": "integer", "minimum": 1, "maximum": 50, "default": 1},
        "nsfw": _FLAG,
        "max_pixels": {"type": "integer", "minimum": 1, "default": 512 * 512},
        "priority_usernames": _TEXTS,
        "blacklist": _TEXTS,
        "amount": {"type": "integer", "minimum": 1, "maximum": 20, "default": 1},
        "allow_img2img": _TRUE,
        "allow_painting": _TRUE,
        "allow_unsafe_ipaddr": _TRUE,
        "allow_post_processing": _TRUE,
        "allow_controlnet": _FLAG,
        "allow_sdxl_controlnet": _FLAG,
        "allow_lora": _FLAG,
        "require_upfront_kudos": _FLAG,
        "limit_max_steps": _FLAG,
        "extra_slow_worker": _FLAG,
        # Ours: no worker of AI-Horde sends it (docs/private-horde.md).
        "wait": {"type": "number", "minimum": 0, "default": 0},
    },
    required={"name": "The worker's name, unique in the whole horde."},
)
"""POST generate/pop."""

ABILITIES = (
    "max_pixels",
    "allow_img2img",
    "allow_painting",
    "allow_post_processing",
    "allow_controlnet",
    "allow_sdxl_controlnet",
    "allow_lora",
    "require_upfront_kudos",
    "limit_max_steps",
    "extra_slow_worker",
)
"""The fields of a pop that decide which images a worker gets."""

GENERATION = BodySchema(
    {
        "id": _TEXT,
        "generation": _TEXT,
        "seed": {"type": "integer"},
        "state": {"type": "string", "enum": ["ok", "censored", "csam", "faulted"], "default": "ok"},
        "censored": _FLAG,
        "gen_metadata": {
            "type": "array",
            # As for texts: the real horde refuses more.
            "maxItems": 50,
            "items": {
                "type": "object",
                "properties": {"type": _TEXT, "value": _TEXT, "ref": _TEXT},
            },
            "default": [],
        },
    },
    demanded=("id", "generation", "seed"),
)
"""POST generate/submit."""

_LORA: dict[str, Any] = {"model": 1.0, "clip": 1.0, "is_version": False}
_INVERSION: dict[str, Any] = {"strength": 1.0}


def worker_params(params: dict[str, Any], *, seed: int, n: int, censors: bool) -> dict[str, Any]:
    """The payload of a job, with the names and the order of AI-Horde's (captures image_pop_*).

    `params` are those of the request, `n` the images of the job.
    """
    payload: dict[str, Any] = {"ddim_steps": params["steps"], "n_iter": n}
    if censors:
        payload["use_nsfw_censor"] = True
    payload["seed"] = str(seed)
    payload.update((name, params[name]) for name in _PASSED if params[name] is not None)
    for name, defaults in (("loras", _LORA), ("tis", _INVERSION)):
        if name in payload:
            payload[name] = [{**defaults, **entry} for entry in payload[name]]
    return payload


# In the order of the captures.
_PASSED = (
    "control_type",
    "image_is_control",
    "return_control_map",
    "extra_texts",
    "sampler_name",
    "cfg_scale",
    "denoising_strength",
    "hires_fix_denoising_strength",
    "height",
    "width",
    "post_processing",
    "karras",
    "tiling",
    "hires_fix",
    "facefixer_strength",
    "clip_skip",
    "loras",
    "tis",
    "workflow",
    "special",
    "transparent",
)

NO_JOB: dict[str, Any] = {
    "ddim_steps": 30,
    "n_iter": 1,
    "image_is_control": False,
    "return_control_map": False,
    "sampler_name": "k_euler_a",
    "cfg_scale": 7.5,
    "height": 512,
    "width": 512,
    "karras": False,
    "tiling": False,
    "hires_fix": False,
    "transparent": False,
}
"""The payload of a pop without a job: it is not null (capture image_pop_first_no_job)."""
