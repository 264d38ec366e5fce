"""Which image model a request means: a name, one that clients write otherwise, or none.

Pure. Clients hard-code models of OpenAI's that no longer exist, and have no picker for others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from horde_proxy.protocol.image_request import ImageRequest
from horde_proxy.protocol.images import STYLE
from horde_proxy.protocol.models import is_available

# What clients send that name no model of their own choice: OpenAI's models of all years, "auto",
# and nothing. LibreChat hard-codes gpt-image-1, LangChain dall-e-3 (images-api.md 1.1). A style of
# the horde chooses its model itself.
_ANY = re.compile(
    rf"|auto|default|image|(?:gpt-image|chatgpt-image|dall-e|dalle)(?:-.*)?|{STYLE}\s*:.*"
)
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


def default_models(request: ImageRequest, models: Sequence[Mapping[str, Any]]) -> list[str]:
    """The models that may answer a request which names none, the best first.

    `models` are model objects. One that paints parts anew comes first for a mask, and last else.
    """
    wants_inpainting = request.repaints
    preferred = _PREFERRED_INPAINTING if wants_inpainting else _PREFERRED
    available = [model for model in models if is_available(dict(model))]

    def rank(model: Mapping[str, Any]) -> tuple[bool, int, float, str]:
        name, horde = str(model["id"]), model.get("horde")
        facts = horde if isinstance(horde, Mapping) else {}
        is_suited = bool(facts.get("inpainting")) == wants_inpainting
        place = preferred.index(name) if name in preferred else len(preferred)
        seconds = facts.get("expected_seconds")
        wait = float(seconds) if isinstance(seconds, int | float) else 0.0
        return not is_suited, place, wait, name

    return [str(model["id"]) for model in sorted(available, key=rank)]
