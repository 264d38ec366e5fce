"""Which image model a request means: a name, one that clients write otherwise, or none.

Pure. Clients hard-code models of OpenAI's that no longer exist, and have no picker for others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from horde_proxy.protocol.image_request import ImageRequest
from horde_proxy.protocol.images import STYLE
from horde_proxy.protocol.models import is_available, makes_images

# What clients send that names no model of their own choice: OpenAI's models of all years, nothing,
# and "auto" and its like, which mean models of texts elsewhere. LibreChat hard-codes gpt-image-1,
# LangChain dall-e-3 (images-api.md 1.1). A style of the horde chooses its model itself.
_ANY = re.compile(
    rf"|auto|fast|large|long|default|image|(?:gpt-image|chatgpt-image|dall-e|dalle)(?:-.*)?|{STYLE}\s*:.*"
)
_OF_TEXTS_AS_WELL = frozenset({"", "auto", "fast", "large", "long", "default"})
_PREFERRED = (
    "AlbedoBase XL (SDXL)",
    "SDXL 1.0",
    "Dreamshaper",
    "stable_diffusion",
    "Flux.1-Schnell fp8 (Compact)",
)
"""General models of the AI Horde that make no nudity by themselves, the best first."""
_PREFERRED_INPAINTING = (
    "DreamShaper Inpainting",
    "Realistic Vision Inpainting",
    "Deliberate Inpainting",
    "stable_diffusion_inpainting",
)


def names_no_model(name: str) -> bool:
    """Whether a client leaves the choice of the model to us, knowingly or not."""
    return _ANY.fullmatch(name.strip().lower()) is not None


def names_style(name: str) -> bool:
    """Whether a name is that of a style of the horde."""
    prefix, is_style, _ = name.partition(":")
    return bool(is_style) and prefix.strip().lower() == STYLE


def may_mean_texts(name: str) -> bool:
    """Whether a name that leaves the choice of the model to us is used for texts as well."""
    return name.strip().lower() in _OF_TEXTS_AS_WELL


def default_models(request: ImageRequest, models: Sequence[Mapping[str, Any]]) -> list[str]:
    """The models that may answer a request which names none, the best first.

    `models` are model objects. One that paints parts anew comes first for a mask, and last else.
    Only a horde's models have its styles.
    """
    wants_inpainting = request.repaints
    preferred = _PREFERRED_INPAINTING if wants_inpainting else _PREFERRED
    available = [
        model
        for model in models
        if is_available(model) and makes_images(model) and (not request.style or "horde" in model)
    ]

    def rank(model: Mapping[str, Any]) -> tuple[bool, bool, int, float, str]:
        name, horde = str(model["id"]), model.get("horde")
        facts = horde if isinstance(horde, Mapping) else {}
        is_suited = bool(facts.get("inpainting")) == wants_inpainting
        place = preferred.index(name) if name in preferred else len(preferred)
        seconds = facts.get("expected_seconds")
        wait = float(seconds) if isinstance(seconds, int | float) else 0.0
        # The horde rewrites each prompt for such a model (images-api.md 3.2).
        is_unwanted = facts.get("nsfw") is True and not request.allows_nsfw
        return not is_suited, is_unwanted, place, wait, name

    return [str(model["id"]) for model in sorted(available, key=rank)]
