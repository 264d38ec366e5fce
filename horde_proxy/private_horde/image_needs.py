"""What decides about a request for images: its size, steps and features. Pure.

A request keeps them beside its payload, so that no pop and no poll reads prompts and parameters.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from horde_proxy.aihorde import image_kudos
from horde_proxy.aihorde.baselines import FLUX, QWEN, Z_IMAGE, baseline_of
from horde_proxy.aihorde.image_limits import accurate_steps
from horde_proxy.private_horde.records import HordeRequest

_PAINTING = ("inpainting", "outpainting")
_MODEST_STEPS = 40
"""Accurate steps that a worker with `limit_max_steps` makes (requirements.max_steps, or 40)."""
_MOST_SEED = 2**32
_TILE = 512 * 512


@dataclass(frozen=True)
class ImageNeeds:
    """One image of a request. `work` are pixel-steps; `steps` count double for some samplers.

    `processing` is "" without a source. `seed` is that of the first image, and each next one adds
    `seed_variation`. With `batches`, a worker may make several at once; with `extra_slow`, very
    slow workers may take it. `seconds` is the time for a job. Without `r2`, the client gets base64.
    `base` is the root of the URL that its client called.
    """

    width: int
    height: int
    plain_steps: int
    sampler: str
    processing: str
    has_control: bool
    post_processing: list[str]
    loras: int
    inversions: int
    batches: bool
    extra_slow: bool
    nsfw: bool
    censor_nsfw: bool
    r2: bool
    seed: int
    seed_variation: int
    seconds: float
    work: int
    base: str

    @classmethod
    def of(cls, request: HordeRequest) -> ImageNeeds:
        """Those of a stored request."""
        return cls(**request.needs)

    @property
    def as_dict(self) -> dict[str, Any]:
        """The form in which a request keeps them."""
        return asdict(self)

    @property
    def pixels(self) -> int:
        """The pixels of an image."""
        return self.width * self.height

    @property
    def has_source(self) -> bool:
        """Whether an image is changed or guides the new one."""
        return self.processing != ""

    @property
    def is_painting(self) -> bool:
        """Whether only a part of the source is changed, or its surroundings are."""
        return self.processing in _PAINTING

    @property
    def exceeds_steps(self) -> bool:
        """Whether it takes more steps than a worker makes that limits them."""
        return accurate_steps(self.plain_steps, self.sampler) > _MODEST_STEPS

    def kudos(self, model: str) -> float:
        """What an image by this model earns."""
        return image_kudos.image(
            self.width,
            self.height,
            self.plain_steps,
            baseline_of(model),
            sampler=self.sampler,
            has_source=self.has_source,
            has_control=self.has_control,
            post_processing=self.post_processing,
            loras=self.loras,
            inversions=self.inversions,
        )

    def seed_of(self, slot: int) -> int:
        """The seed of one of the request's images."""
        return (self.seed + slot * self.seed_variation) % _MOST_SEED


def read(fields: Mapping[str, Any], request_id: str, base: str) -> ImageNeeds:
    """The needs of a request. `fields`: see `image_schema.SUBMIT`."""
    params = fields["params"]
    steps = accurate_steps(params["steps"], params["sampler_name"])
    pixels = params["width"] * params["height"]
    has_control = params["control_type"] is not None
    return ImageNeeds(
        width=params["width"],
        height=params["height"],
        plain_steps=params["steps"],
        sampler=params["sampler_name"],
        processing=fields["source_processing"] if fields["source_image"] is not None else "",
        has_control=has_control,
        post_processing=list(params["post_processing"] or ()),
        loras=len(params["loras"] or ()),
        inversions=len(params["tis"] or ()),
        batches=not fields["disable_batching"],
        extra_slow=fields["extra_slow_workers"],
        nsfw=fields["nsfw"],
        censor_nsfw=fields["censor_nsfw"],
        r2=fields["r2"],
        seed=seed_number(params["seed"], request_id),
        seed_variation=params["seed_variation"] or 1,
        seconds=_seconds(fields["models"], steps, pixels, has_control),
        work=pixels * steps,
        base=base,
    )


def seed_number(seed: str | None, request_id: str) -> int:
    """The number of a seed: digits are one, other text is hashed. Without a seed, any number."""
    if not seed:
        return zlib.crc32(request_id.encode())
    if seed.isascii() and seed.isdecimal():
        # Python refuses to read more than 4,300 digits; 20 are more than 64 bits.
        return int(seed[-20:]) % _MOST_SEED
    return int(sha256(seed.encode("utf-8", "replace")).hexdigest(), 16) % _MOST_SEED


def _seconds(models: list[str], steps: int, pixels: int, has_control: bool) -> float:
    """The time for a job, besides the least one (processing_generation.py:185-204)."""
    seconds = 30 + 2 * steps * pixels / _TILE
    if has_control:
        seconds *= 2
    if any(baseline_of(model) in (FLUX, QWEN, Z_IMAGE) for model in models):
        seconds *= 3
    return seconds
