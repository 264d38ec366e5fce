"""The pictures of a request that are to be changed: files of a form, data URLs or base64. Pure.

Nobody may trust them: their bytes and pixels are bounded before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.aihorde import image_limits
from horde_proxy.pictures import MOST_PIXELS, BadPicture, Raster, decoded, sniffed_type
from horde_proxy.protocol.image_request import ImageKind
from horde_proxy.protocol.validation import invalid, missing_parameter

MOST_SOURCES = 16
_MOST_WEBP_PIXELS = MOST_PIXELS // 2
"""WebP's decoder takes 15 bytes a pixel, however few bytes the file has; others take 4 to 7."""


@dataclass(frozen=True)
class ImageFiles:
    """The files of a form, or what JSON bodies refer to: the pictures, and the mask if any."""

    images: tuple[bytes, ...] = ()
    mask: bytes | None = None


def sources_in(
    body: Mapping[str, Any], kind: ImageKind, files: ImageFiles | None
) -> tuple[tuple[Raster, ...], Raster | None]:
    """(the pictures to change, the mask of the first). Raises InvalidRequest."""
    if kind == "generation":
        return (), None
    files = files or ImageFiles()
    # A form may have a data URL for a file.
    files = ImageFiles(
        files.images or tuple(_referenced(body)),
        _one(body.get("mask") or None, "mask") if files.mask is None else files.mask,
    )
    if not files.images:
        raise missing_parameter("image")
    if len(files.images) > MOST_SOURCES:
        raise invalid(
            f"Invalid value for 'image': at most {MOST_SOURCES} images are allowed.",
            "image",
            "array_above_max_length",
        )
    sources, left = list[Raster](), MOST_PIXELS
    for data in files.images:
        source = _raster(data, "image", left)
        left -= source.size[0] * source.size[1]
        sources.append(source)
    mask = None if files.mask is None else _mask(files.mask, sources[0])
    # A horde takes no larger ones, and each is held while its request waits.
    shrunk = tuple(source.within(image_limits.MOST_SIDE**2) for source in sources)
    return shrunk, mask.within(image_limits.MOST_SIDE**2) if mask else None


def _mask(data: bytes, source: Raster) -> Raster:
    """The mask of a picture. Raises InvalidRequest."""
    mask = _raster(data, "mask")
    if mask.size != source.size:
        raise invalid(
            "The mask must have the same size as the (first) image.", "mask", "invalid_value"
        )
    # Scripts of other APIs send black and white masks, which would leave everything unchanged.
    if not mask.has_alpha:
        raise invalid(
            "The mask has no transparent pixels: those mark what is to be changed.",
            "mask",
            "invalid_value",
        )
    return mask


def _referenced(body: Mapping[str, Any]) -> Iterator[bytes]:
    """The pictures in a JSON body: `image`, or Codex' and newer clients' list `images`."""
    given = body.get("image") or body.get("images") or []
    for reference in given if isinstance(given, list) else [given]:
        data = _one(reference, "image")
        if data is not None:
            yield data


def _one(reference: Any, param: str) -> bytes | None:
    """The bytes that a reference has: base64, a data URL, or {"image_url": one of them}."""
    if isinstance(reference, dict):
        reference = reference.get("image_url") or reference.get("url") or reference.get("b64_json")
        if isinstance(reference, dict):
            reference = reference.get("url")
    if reference is None:
        return None
    if not isinstance(reference, str):
        raise invalid(f"'{param}' must be a data URL or base64.", param, "invalid_type")
    if reference[:8].lower().startswith(("http://", "https://")):
        raise invalid(
            f"'{param}' must be a data URL or base64: links are not fetched.",
            param,
            "unsupported_parameter",
        )
    try:
        return decoded(reference)
    except BadPicture as exc:
        raise invalid(str(exc), param, "invalid_image") from exc


def _raster(data: bytes, param: str, most_pixels: int = MOST_PIXELS) -> Raster:
    """The picture that the bytes are, of so many pixels at most. Raises InvalidRequest."""
    if sniffed_type(data) == "webp":
        most_pixels = min(most_pixels, _MOST_WEBP_PIXELS)
    try:
        return Raster.read(data, most_pixels=max(most_pixels, 0))
    except BadPicture as exc:
        raise invalid(str(exc), param, "invalid_image") from exc
