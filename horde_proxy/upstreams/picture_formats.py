"""Pictures in the format that a request wants, without metadata, whoever made them. Pure."""

from __future__ import annotations

from horde_proxy.pictures import Raster
from horde_proxy.protocol.image_request import ImageRequest


def in_format(data: bytes, raster: Raster, request: ImageRequest) -> bytes:
    """The bytes of a picture in the format of a request: as they came where that is it."""
    is_so = raster.kind == request.output_format and request.compression is None
    # What came as it should still has its metadata, such as a model's prompt.
    if is_so and not raster.is_animated and not _has_metadata(data):
        return data
    return raster.encoded(request.output_format, quality=request.compression)


# The names of parts of PNG and WebP files, and the marker of JPEG, that hold more than pixels.
_METADATA = (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"EXIF", b"XMP ", b"Exif\0\0", b"http://ns.adobe")


def _has_metadata(data: bytes) -> bool:
    return any(name in data for name in _METADATA)
