"""A server that lists its models as OpenAI's API does, and says nothing else of itself.

Those that make pictures and those that describe them are opened alike.
"""

from __future__ import annotations

import requests

from horde_proxy.printable import without_login
from horde_proxy.protocol.models import as_mapping
from horde_proxy.worker.backends.base import BackendDown, ServerState
from horde_proxy.worker.backends.http_server import HttpServer, get, is_url, new_server_session
from horde_proxy.worker.backends.images.base import ImageOptions
from horde_proxy.worker.backends.images.checkpoints import Checkpoint, chosen

_MODELS = "/v1/models"


class ListingServer(HttpServer):
    """The server at `url`, whose state is that it answers."""

    def state(self) -> ServerState:
        """Whether it answers: it does not say what it does. Raises BackendDown."""
        if self.read(_MODELS) is None:
            raise BackendDown(f"the backend at {self.shown_url} does not answer")
        return ServerState()

    def slots(self) -> int | None:
        """None: it does not say."""
        return None


def listed(
    name: str, options: ImageOptions
) -> tuple[str, requests.Session, list[Checkpoint]] | None:
    """(the URL, a session, the models to offer) of the server that a user names.

    None where that is no URL, or no such server. Raises BackendError.
    """
    if not is_url(name):
        return None
    url = name.rstrip("/").removesuffix("/v1")
    session = new_server_session(options.api_key)
    entries = get(session, url + _MODELS, "data")
    if not isinstance(entries, list):
        return None
    names = [str(entry["id"]) for entry in map(as_mapping, entries) if entry.get("id")]
    models = [Checkpoint(model, model) for model in names]
    return url, session, chosen(models, None, options, without_login(url))
