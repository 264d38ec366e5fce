"""The routes of alchemy: read, call, return."""

from __future__ import annotations

from horde_proxy.private_horde.horde import PrivateHorde
from horde_proxy.private_horde.picture_routes import Answer, base, cancelled, popped, shown
from horde_proxy.private_horde.routing import HordeRoute, body, caller_address, checked_key


def _submit(horde: PrivateHorde) -> Answer:
    # A shared key pays for no alchemy (capture sharedkey_interrogate).
    key = checked_key(horde)
    return horde.alchemy.submit(key, body(), caller_address(), base()), 202


def _status(horde: PrivateHorde, request_id: str) -> Answer:
    return shown(horde.alchemy, request_id)


def _cancel(horde: PrivateHorde, request_id: str) -> Answer:
    return cancelled(horde.alchemy, request_id)


def _pop(horde: PrivateHorde) -> Answer:
    return popped(horde, horde.alchemy, "forms")


def _submit_result(horde: PrivateHorde) -> Answer:
    return horde.alchemy.submit_result(checked_key(horde), body()), 200


ALCHEMY_ROUTES = (
    HordeRoute("/interrogate/async", {"POST": _submit}),
    HordeRoute("/interrogate/status/<request_id>", {"GET": _status, "DELETE": _cancel}, "check"),
    HordeRoute("/interrogate/pop", {"POST": _pop}, "worker_queue"),
    HordeRoute("/interrogate/submit", {"POST": _submit_result}, "worker_queue"),
)
"""The routes of alchemy."""
