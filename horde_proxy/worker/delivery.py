"""How pictures come from a horde and get to it: the links of its jobs, and the files in them."""

from __future__ import annotations

from collections.abc import Callable

from horde_proxy.pictures import BadPicture, Raster
from horde_proxy.upstreams.picture_links import PictureLinks
from horde_proxy.worker.backends import BackendError
from horde_proxy.worker.kinds import PoppedJob

OpenLinks = Callable[[PoppedJob], PictureLinks]
_QUALITY = 95
"""Of WebP, as AI-Horde's own image worker has it."""


def links_of(popped: PoppedJob) -> PictureLinks:
    """The links of the horde that a job came from."""
    identity = popped.horde.identity
    return PictureLinks(identity.url, proxy_url=identity.proxy_url)


def webp_of(raster: Raster) -> bytes:
    """The picture as the horde stores it. Raises BackendError."""
    try:
        return raster.encoded("webp", quality=_QUALITY)
    except (BadPicture, OSError, ValueError) as exc:
        raise BackendError(f"the picture cannot be written: {exc}") from exc
