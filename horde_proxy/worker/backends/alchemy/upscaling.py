"""Post-processing as alchemy: AUTOMATIC1111's API enlarges pictures and mends faces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from horde_proxy.numbers import finite
from horde_proxy.pictures import Raster
from horde_proxy.worker.backends.alchemy.base import FormResult
from horde_proxy.worker.backends.base import BackendError, ServerState
from horde_proxy.worker.backends.images.base import ImageOptions
from horde_proxy.worker.backends.images.sdapi import SdapiServer

_MOST_TILES = 8
"""Two megapixels: enlarged four times each way, they are as large as a picture may be."""
_STRENGTH = 0.75


class SdapiAlchemy:
    """The post-processors of a web UI."""

    name = "web-ui"
    max_tiles = _MOST_TILES

    def __init__(self, server: SdapiServer) -> None:
        self._server = server
        self.forms = server.post_processors

    @classmethod
    def open(cls, name: str, options: ImageOptions) -> SdapiAlchemy | None:
        """The web UI at a URL; None where there is none. Raises BackendError."""
        # Which checkpoints it has does not matter here.
        server = SdapiServer.open(name, replace(options, models=["*"], denied_models=()))
        if server is None:
            return None
        if not server.post_processors:
            raise BackendError(f"{server.shown_url} has no post-processors")
        return cls(server)

    def transform(
        self, form: str, source: Raster, payload: Mapping[str, Any], cancelled: Callable[[], bool]
    ) -> FormResult:
        """The picture after a post-processor. Raises BackendError."""
        strength = finite(payload.get("facefixer_strength"), 1.0)
        strength = _STRENGTH if strength is None else strength
        return self._server.processed(source, form, strength, cancelled)[0]

    def state(self) -> ServerState:
        """Whether it makes a picture. Raises BackendDown."""
        return self._server.state()

    def slots(self) -> int:
        """One: it does one thing after another."""
        return self._server.slots()
