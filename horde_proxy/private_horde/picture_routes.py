"""What the routes of images and of alchemy have in common: answers with links to pictures."""

from __future__ import annotations

from typing import Any

from flask import g, request

from horde_proxy.private_horde.alchemy import Alchemy
from horde_proxy.private_horde.horde import PrivateHorde
from horde_proxy.private_horde.images import Images
from horde_proxy.private_horde.routing import body, caller_address, checked_key

Answer = tuple[Any, int]


def base() -> str:
    """The root of the URL that the caller used, without a slash at its end: links begin with it.

    The application may set `g.public_base`, where a proxy in front has another name.
    """
    return str(g.get("public_base", request.host_url)).rstrip("/")


def shown(kind: Images | Alchemy, request_id: str) -> Answer:
    """The status of a request."""
    g.is_poll = True
    return kind.status(request_id, base()), 200


def cancelled(kind: Images | Alchemy, request_id: str) -> Answer:
    """The last status of a request that is forgotten."""
    return kind.cancel(request_id, base()), 200


def popped(horde: PrivateHorde, kind: Images | Alchemy, field: str) -> Answer:
    """The jobs for a worker; without one, `field` is null."""
    key = checked_key(horde, as_worker=True)
    result = kind.pop(key, body(), caller_address(), base())
    g.is_poll = result[field] is None
    return result, 200
