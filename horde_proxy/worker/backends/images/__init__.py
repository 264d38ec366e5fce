"""The backends of a worker for images: the built-in painter, and servers that run image models.

Each kind is a module here and a line in `registry`, which opens backends by their name or URL.
"""

from horde_proxy.worker.backends.images.base import (
    ImageBackend,
    ImageOptions,
    MadePicture,
    PictureJob,
)
from horde_proxy.worker.backends.images.registry import image_choices, image_kinds, open_images

__all__ = [
    "ImageBackend",
    "ImageOptions",
    "MadePicture",
    "PictureJob",
    "image_choices",
    "image_kinds",
    "open_images",
]
