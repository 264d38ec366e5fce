"""The neutral request for pictures, and the neutral picture, whichever front or upstream. Pure.

A front's reader makes the request, checked and without nulls; upstreams doubt nothing in it. An
upstream gives pictures whose type, size and bytes agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from horde_proxy.pictures import PictureType, Raster

ImageKind = Literal["generation", "edit", "variation"]
OutputFormat = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True)
class ImageRequest:
    """What a client asks for.

    `model`: "" for the default. `style` is the name or id of a style of the horde, which then
    chooses model and parameters, "" for none. `size` (width, height): None for what suits the
    model. `quality` decides the steps; with `is_upscaled` the picture is enlarged after it was
    made. `sources` are the pictures to change, the first of them with its `mask`, whose transparent
    pixels are to be painted anew. `strength` from 0 to 1: how much of a source may change, None for
    the default. `parameters` are those of image models that OpenAI's API does not have, under the
    horde's names and within its ranges; `negative_prompt` is one of them. `horde`: as in a chat.
    `compression` from 0 to 100 is OpenAI's, the quality of JPEG and WebP.
    """

    model: str
    prompt: str
    n: int = 1
    kind: ImageKind = "generation"
    style: str = ""
    size: tuple[int, int] | None = None
    quality: Literal["low", "medium", "high"] = "medium"
    is_upscaled: bool = False
    sources: tuple[Raster, ...] = ()
    mask: Raster | None = None
    strength: float | None = None
    is_transparent: bool = False
    allows_nsfw: bool = False
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: OutputFormat = "png"
    compression: int | None = None
    stream: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    horde: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def repaints(self) -> bool:
        """Whether parts of a picture are painted anew: those of a mask, or its transparent ones.

        A variation is one of the whole picture, and so is what a control makes of it.
        """
        if self.mask is not None:
            return True
        is_edit = self.kind == "edit" and "control_type" not in self.parameters
        return is_edit and bool(self.sources) and self.sources[0].has_alpha


@dataclass(frozen=True)
class Picture:
    """One picture that was made. `kind` is the type of its bytes; `seed` a text, "" if unknown."""

    data: bytes = field(repr=False)
    kind: PictureType
    width: int
    height: int
    model: str = ""
    seed: str = ""
    worker: str = ""
    worker_name: str = ""
