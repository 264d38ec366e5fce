"""What image and alchemy requests cost, in kudos. Pure.

The real horde asks a neural network. The formula here comes within 4 % of its values, measured at
sizes from 512x512 to 1536x1024 and 4 to 30 steps (images-api.md 3.5).
"""

from __future__ import annotations

from collections.abc import Collection

from horde_proxy.aihorde.baselines import Baseline
from horde_proxy.aihorde.image_limits import (
    POST_PROCESSORS,
    SECOND_ORDER,
    STRIP_BACKGROUND,
    TILE_SIDE,
)

TAX = 1.0
"""The requester pays it at the submit, and once more with each image."""
FORM_KUDOS = 1.0
INTERROGATION_KUDOS = 3.0
POST_PROCESSOR_KUDOS = 3.0
"""For each tile of 512x512 pixels."""
_LORA_KUDOS = 3.0
_INVERSION_KUDOS = 1.0
_PIXELS = 1024 * 1024
_SECOND_ORDER_FACTOR = 1.7
_SOURCE_FACTOR = 1.3
_CONTROL_FACTOR = 1.8
_POST_PROCESSOR_FACTOR = 1.3


def image(
    width: int,
    height: int,
    steps: int,
    baseline: Baseline,
    *,
    sampler: str = "k_euler_a",
    has_source: bool = False,
    has_control: bool = False,
    post_processing: Collection[str] = (),
    loras: int = 0,
    inversions: int = 0,
) -> float:
    """What one image earns its worker, and costs without the taxes."""
    area = width * height / _PIXELS
    # Fitted to the table of images-api.md 3.5, at 1024x1024: 10.3, 11.6, 16.0, 18.3, 21.0 for 4,
    # 8, 20, 25, 30 steps; and 0.36, 0.56, 1, 1.61 times as much for 0.25, 0.56, 1, 1.5 Mpixels.
    by_steps = 9.1 + 0.29 * steps + 0.0036 * steps * steps
    by_area = 0.235 + 0.42 * area + 0.345 * area * area
    kudos = by_steps * by_area
    if sampler in SECOND_ORDER:
        kudos *= _SECOND_ORDER_FACTOR
    if has_control:
        kudos *= _CONTROL_FACTOR
    elif has_source:
        kudos *= _SOURCE_FACTOR
    kudos *= baseline.kudos
    if any(name != STRIP_BACKGROUND for name in post_processing):
        kudos *= _POST_PROCESSOR_FACTOR
    return round(kudos + _LORA_KUDOS * loras + _INVERSION_KUDOS * bool(inversions), 2)


def request(
    image_kudos: float, n: int, *, slow_workers: bool = True, blacklist: bool = False
) -> float:
    """What a request of n such images costs, taxes included: the result of a dry run."""
    factor = (1.0 if slow_workers else 1.2) * (1.1 if blacklist else 1.0)
    return (image_kudos * factor + TAX) * n + TAX


def alchemy(form: str, width: int, height: int) -> float:
    """What one form of alchemy on a source of this size costs."""
    if form == "interrogation":
        return INTERROGATION_KUDOS
    if form in POST_PROCESSORS:
        return POST_PROCESSOR_KUDOS * tiles(width, height)
    return FORM_KUDOS


def tiles(width: int, height: int) -> int:
    """Tiles of 512x512 pixels that cover an image."""
    return max(-(-width // TILE_SIDE), 1) * max(-(-height // TILE_SIDE), 1)
