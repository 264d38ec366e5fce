"""The kinds of backends for images. Opens a backend by the name or URL that a user gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from horde_proxy.printable import without_login
from horde_proxy.worker.backends.base import BackendDown, BackendError
from horde_proxy.worker.backends.http_server import is_url
from horde_proxy.worker.backends.images.base import ImageBackend, ImageOptions, OpenImages
from horde_proxy.worker.backends.images.comfyui import ComfyServer
from horde_proxy.worker.backends.images.openai_images import OpenAIImagesServer
from horde_proxy.worker.backends.images.painter import open_painter
from horde_proxy.worker.backends.images.sdapi import SdapiServer
from horde_proxy.worker.backends.images.terrain import open_terrain


@dataclass(frozen=True)
class ImageKind:
    """One kind: its word in the settings, and what a user writes for it where that is no URL.

    `is_found`: whether a server of this kind is recognised without its word.
    """

    word: str
    open: OpenImages
    choice: str | None = None
    is_found: bool = True


KINDS: tuple[ImageKind, ...] = (
    ImageKind("sdapi", SdapiServer.open),
    ImageKind("comfyui", ComfyServer.open),
    # It would also be recognised as a server of texts, and the other way round.
    ImageKind("openai-images", OpenAIImagesServer.open, is_found=False),
    ImageKind("painter", open_painter, "painter"),
    ImageKind("terrain", open_terrain, "terrain"),
)
"""The first that recognises the name wins."""


def image_choices() -> Sequence[str]:
    """What a user may write besides URLs, as in "painter"."""
    return [kind.choice for kind in KINDS if kind.choice]


def image_kinds() -> tuple[str, ...]:
    """The words for kinds of backends, as in "sdapi"."""
    return tuple(kind.word for kind in KINDS)


def open_images(name: str, options: ImageOptions) -> ImageBackend | None:
    """The backend of a name or a server's URL; None where no kind recognises it.

    Raises BackendError, also for a URL at which there is no server of the kind that was set.
    """
    for kind in KINDS:
        if kind.word == options.kind or (options.kind is None and kind.is_found):
            backend = kind.open(name, options)
            if backend is not None:
                return backend
    if options.kind is None:
        return None
    if is_url(name):
        raise BackendDown(f"{without_login(name)} is no {options.kind} server, or not running")
    raise BackendError(f"the kind {options.kind} needs the URL of a server")
