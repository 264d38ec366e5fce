"""What an image or alchemy request may contain, and how long the horde keeps images.

The numbers and names are the real horde's (references: horde-api.md 2, images-api.md 3; captures
image_err_*).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

LEAST_SIDE, MOST_SIDE, SIDE_STEP = 64, 3072, 64
"""Pixels: the least and the greatest width and height, which are multiples of SIDE_STEP."""
MOST_IMAGES = 20
"""Images of one request (`n`)."""
MOST_STEPS = 500
MOST_CFG = 100
MOST_LORAS = 5
MOST_INVERSIONS = 20
"""Textual inversions (`tis`) of one request."""
MOST_PROMPT_WORDS = 7500
MOST_SOURCE_BYTES = 5_000_000
"""Of a source image or mask, decoded; its sides are at most MOST_SIDE."""
MOST_MODELS_OF_AN_IMAGE_WORKER = 300
MOST_PIXELS_FREE = 1024 * 1024
"""Pixels that anybody may request without owning kudos, where the queue is short."""
LEAST_PIXELS_FREE = 576 * 576
"""The same, however long the queue is."""
MOST_STEPS_FREE = 50
"""Steps that anybody may request without owning kudos (captures image_err_kudos_*)."""
LINK_SECONDS = 1800.0
"""A link to an image works so long after the status call that it came with."""
NEGATIVE = "###"
"""In a prompt, what follows it is the negative prompt."""

SAMPLERS = (
    "k_lms",
    "k_heun",
    "k_euler",
    "k_euler_a",
    "k_dpm_2",
    "k_dpm_2_a",
    "k_dpm_fast",
    "k_dpm_adaptive",
    "k_dpmpp_2s_a",
    "k_dpmpp_2m",
    "dpmsolver",
    "k_dpmpp_sde",
    "DDIM",
    "lcm",
)
SECOND_ORDER = frozenset({"k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a", "k_dpmpp_sde"})
"""Samplers whose steps count, and cost, double."""

UPSCALERS: Mapping[str, int] = {
    "RealESRGAN_x4plus": 4,
    "RealESRGAN_x2plus": 2,
    "RealESRGAN_x4plus_anime_6B": 4,
    "NMKD_Siax": 4,
    "4x_AnimeSharp": 4,
    "4xNomos8kSC": 4,
    "4xLSDIRplus": 4,
    "4xNomosWebPhoto_RealPLKSR": 4,
    "4xNomos2_realplksr_dysample": 4,
    "4xNomos2_hq_dat2": 4,
    "2xModernSpanimationV1": 2,
}
"""Post-processors that enlarge an image, by how much. A request may have one of them."""
FACE_FIXERS = ("GFPGAN", "GFPGANv1.3", "CodeFormers", "RestoreFormer")
STRIP_BACKGROUND = "strip_background"
POST_PROCESSORS = (*UPSCALERS, *FACE_FIXERS, STRIP_BACKGROUND)

CONTROL_TYPES = (
    "canny",
    "hed",
    "depth",
    "normal",
    "openpose",
    "seg",
    "scribble",
    "fakescribbles",
    "hough",
)
SOURCE_PROCESSINGS = ("img2img", "inpainting", "outpainting", "remix")

INTERROGATIONS = (
    "caption",
    "interrogation",
    "nsfw",
    "vectorize",
    "palette",
    "describe",
    "aesthetic",
)
"""Alchemy that answers with words or numbers."""
ALCHEMY_FORMS = (*INTERROGATIONS, *POST_PROCESSORS)
FORM_SECONDS = 180.0
"""An alchemist that has not submitted a form by then loses it."""
MOST_TILES = 255
"""Tiles of TILE_SIDE squared pixels that a source of an alchemy request may have."""
TILE_SIDE = 512


Schema = Mapping[str, Any]


def _number(least: float, most: float, default: float | None = None) -> Schema:
    return _schema("number", minimum=least, maximum=most, default=default)


def _integer(least: int, most: int, default: int | None = None) -> Schema:
    return _schema("integer", minimum=least, maximum=most, default=default)


def _flag(default: bool) -> Schema:
    return _schema("boolean", default=default)


def _choice(names: tuple[str, ...], default: str | None = None) -> Schema:
    return _schema("string", enum=list(names), default=default)


def _schema(kind: str, **keywords: Any) -> Schema:
    given = {name: value for name, value in keywords.items() if value is not None}
    return {"type": kind, **given}


_SIDE: Mapping[str, Any] = {"minimum": LEAST_SIDE, "maximum": MOST_SIDE, "multipleOf": SIDE_STEP}

# JSON schemas by name. The defaults are those that the horde really applies, not those of its
# documentation: cfg_scale 5.0, karras true (images-api.md 3.1).
IMAGE_PARAMETERS: Mapping[str, Schema] = {
    "n": _integer(1, MOST_IMAGES, 1),
    "width": _schema("integer", default=512, **_SIDE),
    "height": _schema("integer", default=512, **_SIDE),
    "steps": _integer(1, MOST_STEPS, 30),
    "cfg_scale": _number(0, MOST_CFG, 5.0),
    "sampler_name": _choice(SAMPLERS, "k_euler_a"),
    # A text: digits are a number, anything else is hashed (capture image_err_seed_int).
    "seed": _schema("string"),
    "seed_variation": _integer(1, 1000),
    "denoising_strength": _number(0.01, 1.0),
    "karras": _flag(True),
    "hires_fix": _flag(False),
    "hires_fix_denoising_strength": _number(0.01, 1.0),
    "clip_skip": _integer(1, 12),
    "tiling": _flag(False),
    "transparent": _flag(False),
    "facefixer_strength": _number(0.0, 1.0),
    "control_type": _choice(CONTROL_TYPES),
    "image_is_control": _flag(False),
    "return_control_map": _flag(False),
    "post_processing": _schema(
        "array", items={"type": "string", "enum": list(POST_PROCESSORS)}, uniqueItems=True
    ),
    "loras": _schema("array", items={"type": "object"}),
    "tis": _schema("array", items={"type": "object"}),
    "workflow": _choice(("qr_code",)),
    "extra_texts": _schema("array", items={"type": "object"}),
    "special": _schema("object"),
}

# The limit in a refusal: "for requests over 1032x1032 or over 50 steps" (capture
# image_err_kudos_slow_workers), and the kudos: "This request requires 9.112 kudos to fulfil."
_REFUSED_SIZE = re.compile(r"requests over (\d{2,4})x(\d{2,4}) or over (\d{1,3}) steps")
_REQUIRED = re.compile(r"requires (\d+(?:\.\d+)?) kudos")


class UpfrontLimit(NamedTuple):
    """What a KudosUpfront refusal says may be requested without kudos, and what it would need."""

    side: int
    steps: int
    kudos: float | None


def upfront_limit(message: str) -> UpfrontLimit | None:
    """The limit that the message of a KudosUpfront refusal names: the only place that shows it."""
    size = _REFUSED_SIZE.search(message)
    required = _REQUIRED.search(message)
    if size is None:
        return None
    return UpfrontLimit(
        min(int(size[1]), int(size[2])), int(size[3]), float(required[1]) if required else None
    )


def without_negative(prompt: str) -> str:
    """The prompt with its `###` broken up: what follows would become the negative prompt."""
    # A run of four or more would leave a "###" behind, were only the first three replaced.
    return re.sub(r"#{3,}", lambda match: " ".join(match[0]), prompt)


def accurate_steps(steps: int, sampler: str) -> int:
    """The steps that count: twice as many for samplers of second order."""
    return steps * 2 if sampler in SECOND_ORDER else steps
