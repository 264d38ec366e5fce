"""The routes of workers: read, call, return."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from flask import request

from horde_proxy.private_horde.horde import PrivateHorde
from horde_proxy.private_horde.routing import HordeRoute, api_key, body, checked_key

Answer = tuple[Any, int]


def _workers(horde: PrivateHorde) -> Answer:
    return horde.fleet.workers(request.args.get("type"), request.args.get("name")), 200


def _worker(horde: PrivateHorde, worker_id: str) -> Answer:
    return horde.fleet.worker(worker_id, api_key()), 200


def _change_worker(horde: PrivateHorde, worker_id: str) -> Answer:
    key = checked_key(horde)
    return horde.fleet.change_worker(key, worker_id, body()), 200


def _delete_worker(horde: PrivateHorde, worker_id: str) -> Answer:
    return horde.fleet.delete_worker(checked_key(horde), worker_id), 200


def _worker_named(horde: PrivateHorde, name: str) -> Answer:
    return horde.fleet.worker_named(unquote(name), api_key()), 200


FLEET_ROUTES = (
    HordeRoute("/workers", {"GET": _workers}),
    HordeRoute(
        "/workers/<worker_id>",
        {"GET": _worker, "PUT": _change_worker, "DELETE": _delete_worker},
        "worker",
    ),
    HordeRoute("/workers/name/<name>", {"GET": _worker_named}),
)
"""The routes of workers."""
