"""Pictures as bytes and pixels: read within bounds, converted, resized, turned into masks.

Whatever comes from clients, workers and servers is a `Raster` only after its type, size and pixels
were checked. Nothing else in the house touches Pillow. Pure: no I/O, no clock.
"""

from horde_proxy.pictures.raster import MOST_PIXELS, BadPicture, PictureType, Raster, sniffed_type
from horde_proxy.pictures.transport import as_data_url, decoded

__all__ = [
    "MOST_PIXELS",
    "BadPicture",
    "PictureType",
    "Raster",
    "as_data_url",
    "decoded",
    "sniffed_type",
]
