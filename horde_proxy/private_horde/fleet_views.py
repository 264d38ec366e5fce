"""The routes of workers: read, call, return."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from flask import g, request

from horde_proxy.private_horde.errors import HordeError
from horde_proxy.private_horde.horde import PrivateHorde
from horde_proxy.private_horde.routing import HordeRoute, api_key, body, checked_key

Answer = tuple[Any, int]


def _workers(horde: PrivateHorde) -> Answer:
    return horde.fleet.workers(request.args.get("type"), request.args.get("name")), 200


def _worker(horde: PrivateHorde, worker_id: str) -> Answer:
    return horde.fleet.worker(worker_id, _optional_key(horde)), 200


def _change_worker(horde: PrivateHorde, worker_id: str) -> Answer:
    key = checked_key(horde)
    return horde.fleet.change_worker(key, worker_id, body()), 200


def _delete_worker(horde: PrivateHorde, worker_id: str) -> Answer:
    return horde.fleet.delete_worker(checked_key(horde), worker_id), 200


def _worker_named(horde: PrivateHorde, name: str) -> Answer:
    return horde.fleet.worker_named(unquote(name), _optional_key(horde)), 200


def _optional_key(horde: PrivateHorde) -> str | None:
    """The key of a call that needs none: a wrong one gets what everybody sees.

    It is noted as wrong. Otherwise keys could be guessed here, where a right one shows more.
    """
    if key := api_key():
        try:
            g.username = horde.identify(key)
        except HordeError as exc:
            g.refusal = exc.rc
    return key


FLEET_ROUTES = (
    HordeRoute("/workers", {"GET": _workers}),
    HordeRoute(
        "/workers/<worker_id>",
        {"GET": _worker, "PUT": _change_worker, "DELETE": _delete_worker},
        "worker",
    ),
    HordeRoute("/workers/name/<path:name>", {"GET": _worker_named}),
)
"""The routes of workers."""
