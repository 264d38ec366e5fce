"""Reads the pictures that servers answer with."""

from __future__ import annotations

from typing import Any

from horde_proxy.pictures import BadPicture, Raster, decoded
from horde_proxy.worker.backends.base import BackendError

MOST_BYTES = 150_000_000
"""Of an answer: 3072x3072 pixels, enlarged twice, are a PNG of 100 MB in base64."""


def picture_in(image: Any) -> Raster:
    """The picture of bytes, or of a text in base64. Raises BackendError."""
    try:
        if isinstance(image, str):
            image = decoded(image, most_bytes=MOST_BYTES)
        if isinstance(image, bytes):
            return Raster.read(image, most_bytes=MOST_BYTES)
    except BadPicture as exc:
        raise BackendError(f"the backend's picture cannot be used: {exc}") from exc
    raise BackendError("the backend's answer contains no picture")
