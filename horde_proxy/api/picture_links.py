"""Links to pictures that answers show: they are stored, and /v1/files/images/NAME serves them.

Who may fetch a link is not decided here: nobody can guess one, and browsers send no key.
"""

from __future__ import annotations

import logging

from flask import request

from horde_proxy.api.addresses import public_base
from horde_proxy.api.context import AppContext
from horde_proxy.protocol.image_request import Picture
from horde_proxy.store import PictureStore

log = logging.getLogger(__name__)


def public_url(ctx: AppContext) -> str:
    """The address under which the client of the current request knows this proxy."""
    return ctx.serving.public_url or public_base(
        request.remote_addr or "", request.headers, request.host_url, ctx.access.trusted_proxies
    )


def linked(store: PictureStore, base: str, picture: Picture) -> str:
    """The link to a picture, which is stored for it; `base` is the proxy's address.

    "" where the folder takes none, which is logged.
    """
    try:
        return f"{base}/v1/files/images/{store.add(picture.data, picture.kind)}"
    except OSError as exc:
        log.error("a picture cannot be stored: %s", exc.strerror)
        return ""
