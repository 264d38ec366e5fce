"""The pictures that a client sends with a request: read within bounds before anything is kept.

Only base64 is taken. A URL would make the horde call addresses that a stranger chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.aihorde.image_limits import MOST_SIDE, MOST_SOURCE_BYTES
from horde_proxy.pictures import BadPicture, Raster, decoded, sniffed_type
from horde_proxy.private_horde import stored_pictures
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.stored_pictures import MASK, SOURCE, CheckedPicture

_PAINTING = ("inpainting", "outpainting")
_NOT_AN_IMAGE = (
    "Please ensure the source image payload is either a URL containing an image or a valid base64 "
    "encoded image."
)


@dataclass(frozen=True)
class SourcePictures:
    """The pictures of a request by their part: SOURCE, MASK, "exsrc_0"."""

    parts: Mapping[str, CheckedPicture]

    def types(self) -> dict[str, Any]:
        """Their types, by the names of a pop's answer; None for what is missing."""
        extras = [picture.type for name, picture in self.parts.items() if name.startswith("exsrc")]
        return {
            "source_image": self._type_of(SOURCE),
            "source_mask": self._type_of(MASK),
            "extra_source_images": extras or None,
        }

    def _type_of(self, part: str) -> str | None:
        picture = self.parts.get(part)
        return None if picture is None else picture.type


def read(fields: Mapping[str, Any]) -> SourcePictures:
    """The pictures of a body that was read with `image_schema.SUBMIT`.

    Raises SourceMaskUnnecessary, ControlNetSourceMissing, InpaintingMissingMask,
    SourceImageUrlInvalid and ImageValidationFailed (400).
    """
    source, mask = fields["source_image"], fields["source_mask"]
    _check_fields(fields)
    if source is None:
        return SourcePictures({})
    is_painting = fields["source_processing"] in _PAINTING
    raster = read_picture(source)
    if fields["source_processing"] == "inpainting" and mask is None and not raster.has_alpha:
        raise refusal("InpaintingMissingMask")
    # Its alpha is a mask, which must not change.
    exact = is_painting and mask is None
    parts = {SOURCE: stored_pictures.checked(raster, exact=exact)}
    if mask is not None:
        parts[MASK] = stored_pictures.checked(read_picture(mask), exact=True)
    for number, extra in enumerate(fields["extra_source_images"] or ()):
        picture = read_picture(extra.get("image", ""))
        parts[f"exsrc_{number}"] = stored_pictures.checked(picture)
    return SourcePictures(parts)


def _check_fields(fields: Mapping[str, Any]) -> None:
    """Refuse pictures that do not fit together."""
    has_source, control = fields["source_image"] is not None, fields["params"]["control_type"]
    if fields["source_mask"] is not None and not has_source:
        raise refusal("SourceMaskUnnecessary")
    if control is not None and not has_source:
        raise refusal("ControlNetSourceMissing")
    if control is not None and fields["source_processing"] in _PAINTING:
        raise refusal("ControlNetInpaintingMismatch")


def read_picture(text: str) -> Raster:
    """A picture in base64. Raises SourceImageUrlInvalid and ImageValidationFailed (400)."""
    if text[:8].lower().startswith(("http://", "https://")):
        raise refusal("SourceImageUrlInvalid")
    data = b""
    try:
        data = decoded(text, most_bytes=MOST_SOURCE_BYTES)
        return Raster.read(data, most_bytes=MOST_SOURCE_BYTES, most_pixels=MOST_SIDE * MOST_SIDE)
    except BadPicture as exc:
        # The real horde's sentence for what is no picture at all.
        reason = str(exc) if sniffed_type(data) else _NOT_AN_IMAGE
        raise refusal("ImageValidationFailed", reason=reason) from exc
