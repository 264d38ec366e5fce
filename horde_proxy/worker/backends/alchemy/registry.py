"""The kinds of backends for alchemy. Opens a backend by the URL of its server."""

from __future__ import annotations

from horde_proxy.printable import without_login
from horde_proxy.worker.backends.alchemy.base import AlchemyBackend
from horde_proxy.worker.backends.alchemy.upscaling import SdapiAlchemy
from horde_proxy.worker.backends.alchemy.vision import VisionServer
from horde_proxy.worker.backends.base import BackendDown, BackendError
from horde_proxy.worker.backends.http_server import is_url
from horde_proxy.worker.backends.images.base import ImageOptions

_WEB_UI = "sdapi"
"""The word of the settings for a web UI; those of all servers of texts mean a vision model."""


def open_alchemy(name: str, options: ImageOptions) -> AlchemyBackend:
    """The backend at a server's URL. Raises BackendError."""
    if not is_url(name):
        raise BackendError("alchemy needs the URL of a server: with a vision model, or of a web UI")
    backend: AlchemyBackend | None = None
    # KoboldCpp has both APIs: its vision model comes first.
    if options.kind != _WEB_UI:
        backend = VisionServer.open(name, options)
    if backend is None and options.kind in (None, _WEB_UI):
        backend = SdapiAlchemy.open(name, options)
    if backend is not None:
        return backend
    raise BackendDown(f"{without_login(name)} is no server for alchemy, or it is not running")
