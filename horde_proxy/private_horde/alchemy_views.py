"""The routes of alchemy: read, call, return."""

from __future__ import annotations

from typing import Any

from flask import g

from horde_proxy.private_horde.horde import PrivateHorde
from horde_proxy.private_horde.image_views import base
from horde_proxy.private_horde.routing import HordeRoute, body, caller_address, checked_key

Answer = tuple[Any, int]


def _submit(horde: PrivateHorde) -> Answer:
    # A shared key pays for no alchemy (capture sharedkey_interrogate).
    key = checked_key(horde)
    return horde.alchemy.submit(key, body(), caller_address(), base()), 202


def _status(horde: PrivateHorde, request_id: str) -> Answer:
    g.is_poll = True
    return horde.alchemy.status(request_id, base()), 200


def _cancel(horde: PrivateHorde, request_id: str) -> Answer:
    return horde.alchemy.cancel(request_id, base()), 200


def _pop(horde: PrivateHorde) -> Answer:
    key = checked_key(horde, as_worker=True)
    result = horde.alchemy.pop(key, body(), caller_address(), base())
    g.is_poll = result["forms"] is None
    return result, 200


def _submit_result(horde: PrivateHorde) -> Answer:
    return horde.alchemy.submit_result(checked_key(horde), body()), 200


ALCHEMY_ROUTES = (
    HordeRoute("/interrogate/async", {"POST": _submit}),
    HordeRoute("/interrogate/status/<request_id>", {"GET": _status, "DELETE": _cancel}, "check"),
    HordeRoute("/interrogate/pop", {"POST": _pop}, "worker_queue"),
    HordeRoute("/interrogate/submit", {"POST": _submit_result}, "worker_queue"),
)
"""The routes of alchemy."""
