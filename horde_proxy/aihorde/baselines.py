"""Families of image models ("baselines"): what size, steps and guidance suit each of them.

The names are those of AI-Horde's model reference (images-api.md 3.3, 4.1). A model's baseline is
what the reference says; without it, the name is all there is. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from horde_proxy.aihorde.image_limits import LEAST_SIDE, MOST_SIDE, SIDE_STEP

Quality = Literal["low", "medium", "high"]


@dataclass(frozen=True)
class Baseline:
    """What images of a family are made with where the client does not say.

    `side`: of the square that it was trained on, in pixels. `steps` are for low, medium and high
    quality. `has_negative`: whether a negative prompt has an effect. `kudos`: how many times as
    much an image costs as one of Stable Diffusion 1. `can_control`, `can_be_transparent`,
    `can_fix_hires`: what the horde accepts for it (images-api.md 3.3).
    """

    name: str
    side: int
    steps: tuple[int, int, int]
    cfg_scale: float
    sampler: str
    karras: bool = True
    clip_skip: int = 1
    has_negative: bool = True
    kudos: float = 1.0
    can_control: bool = False
    can_be_transparent: bool = False
    can_fix_hires: bool = True

    def steps_for(self, quality: Quality) -> int:
        """The steps of a quality."""
        return dict(zip(("low", "medium", "high"), self.steps, strict=True))[quality]


SD1 = Baseline(
    "stable diffusion 1",
    512,
    (15, 25, 35),
    7.0,
    "k_euler_a",
    can_control=True,
    can_be_transparent=True,
)
SD2 = Baseline("stable diffusion 2", 768, (20, 30, 40), 7.0, "k_euler_a")
SD2_512 = Baseline("stable diffusion 2 512", 512, (20, 30, 40), 7.0, "k_euler_a")
SDXL = Baseline(
    "stable_diffusion_xl",
    1024,
    (20, 28, 40),
    6.0,
    "k_euler_a",
    kudos=2.0,
    can_be_transparent=True,
)
# Distilled SDXL: Turbo, Lightning, LCM, Hyper. More steps make its images worse, not better.
SDXL_FAST = Baseline(
    "stable_diffusion_xl",
    1024,
    (4, 6, 8),
    2.0,
    "k_dpmpp_sde",
    has_negative=False,
    kudos=2.0,
    can_be_transparent=True,
)
CASCADE = Baseline("stable_cascade", 1024, (20, 25, 30), 4.0, "k_euler_a", kudos=4.0)
FLUX = Baseline(
    "flux_1",
    1024,
    (4, 4, 8),
    1.0,
    "k_euler",
    has_negative=False,
    kudos=8.0,
    can_fix_hires=False,
)
QWEN = Baseline("qwen_image", 1024, (12, 20, 30), 4.0, "k_euler", kudos=12.0, can_fix_hires=False)
Z_IMAGE = Baseline(
    "z_image_turbo",
    1024,
    (8, 8, 9),
    1.0,
    "k_euler",
    karras=False,
    has_negative=False,
    kudos=8.0,
    can_fix_hires=False,
)

BASELINES: Mapping[str, Baseline] = {
    baseline.name: baseline for baseline in (SD1, SD2, SD2_512, SDXL, CASCADE, FLUX, QWEN, Z_IMAGE)
}
"""By the reference's name."""

# "DreamShaper XL Lightning", "SDXL Turbo", "Hyper-SDXL", "LCM XL".
_FAST = re.compile(r"turbo|lightning|hyper|\blcm\b", re.IGNORECASE)
# The families by what their models' names have in them, in the order in which they are looked for:
# "Z-Image-Turbo" before the "turbo" of SDXL, "AlbedoBase XL (SDXL)", "Pony Diffusion XL".
_NAMES: tuple[tuple[re.Pattern[str], Baseline], ...] = (
    (re.compile(r"z[-_ ]?image|\[zmodel\]", re.IGNORECASE), Z_IMAGE),
    (re.compile(r"qwen", re.IGNORECASE), QWEN),
    (re.compile(r"flux", re.IGNORECASE), FLUX),
    (re.compile(r"cascade", re.IGNORECASE), CASCADE),
    (
        re.compile(r"sdxl|\bxl\b|xl$|\bpony\b|illustrious|noob|animagine", re.IGNORECASE),
        SDXL,
    ),
    (re.compile(r"stable[_ ]diffusion[_ ]2|sd[_ ]?2\.", re.IGNORECASE), SD2),
)
_MOST_ASKED = 1_000_000
"""Pixels of a side; beyond it, sizes are shrunk before anything else is calculated."""
_INPAINTING = re.compile(r"inpaint", re.IGNORECASE)


def baseline_of(model: str, known: str | None = None) -> Baseline:
    """The baseline of a model: the one that the reference names, else one by the model's name."""
    baseline = BASELINES.get(known or "") or next(
        (family for pattern, family in _NAMES if pattern.search(model)), SD1
    )
    return SDXL_FAST if baseline is SDXL and _FAST.search(model) else baseline


def is_inpainting(model: str) -> bool:
    """Whether a model is made for inpainting, by its name ("Deliberate Inpainting")."""
    return _INPAINTING.search(model) is not None


def legal_size(width: int, height: int, most_pixels: int) -> tuple[int, int]:
    """The size nearest to this one that the horde accepts, of at most so many pixels.

    Sides become multiples of 64 and keep about their ratio. Any integers are taken: they are
    bounded before anything is calculated with them.
    """
    width, height = max(width, 1), max(height, 1)
    # Integers of any length are first made small, which keeps their ratio: no float holds 10**400.
    shrink = max(width, height) // _MOST_ASKED + 1
    width, height = max(width // shrink, 1), max(height // shrink, 1)
    scale = min(1.0, math.sqrt(most_pixels / (width * height)), MOST_SIDE / max(width, height))
    sides = [_legal_side(side * scale) for side in (width, height)]
    # Rounding up both sides may go beyond the pixels: the longer one gives way.
    while sides[0] * sides[1] > most_pixels and max(sides) > LEAST_SIDE:
        longer = sides.index(max(sides))
        sides[longer] -= SIDE_STEP
    return sides[0], sides[1]


def _legal_side(side: float) -> int:
    rounded = round(side / SIDE_STEP) * SIDE_STEP
    return min(max(rounded, LEAST_SIDE), MOST_SIDE)
