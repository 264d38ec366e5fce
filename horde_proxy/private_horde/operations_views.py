"""The routes of time-outs, documents, and styles, of which there are none: read, call, return."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import request

from horde_proxy.private_horde import documents
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.horde import PrivateHorde
from horde_proxy.private_horde.routing import HordeRoute, body, checked_key

Answer = tuple[Any, int]


def _timeouts(horde: PrivateHorde) -> Answer:
    return horde.operations.timeouts(checked_key(horde)), 200


def _add_timeout(horde: PrivateHorde) -> Answer:
    return horde.operations.add_timeout(checked_key(horde), body()), 200


def _delete_timeout(horde: PrivateHorde) -> Answer:
    return horde.operations.delete_timeout(checked_key(horde), body()), 200


def _timeouts_of(horde: PrivateHorde, address: str) -> Answer:
    return horde.operations.timeouts_of(checked_key(horde), address), 200


def _block_worker(horde: PrivateHorde, worker_id: str) -> Answer:
    return horde.operations.block_worker(checked_key(horde), worker_id, body()), 200


def _unblock_worker(horde: PrivateHorde, worker_id: str) -> Answer:
    return horde.operations.unblock_worker(checked_key(horde), worker_id), 200


def _document(horde: PrivateHorde, *, name: str) -> Answer:
    # Without a format, the real horde sends HTML (capture documents_privacy_html).
    form = request.args.get("format", "html")
    return documents.document(name, form, horde.documents), 200


def _nothing(horde: PrivateHorde) -> Answer:
    return [], 200


def _no_style(horde: PrivateHorde, name: str) -> Answer:
    raise refusal("StyleNotFound", id=name)


def _no_collection(horde: PrivateHorde, name: str) -> Answer:
    raise refusal("CollectionNotFound", id=name)


OPERATIONS_ROUTES = (
    HordeRoute(
        "/operations/ipaddr",
        {"GET": _timeouts, "POST": _add_timeout, "DELETE": _delete_timeout},
    ),
    # A network has a slash: 198.51.100.0/24.
    HordeRoute("/operations/ipaddr/<path:address>", {"GET": _timeouts_of}),
    HordeRoute(
        "/operations/block_worker_ipaddr/<worker_id>",
        {"PUT": _block_worker, "DELETE": _unblock_worker},
    ),
    *(
        HordeRoute(f"/documents/{name}", {"GET": partial(_document, name=name)})
        for name in documents.NAMES
    ),
    # horde-sdk lists styles and collections. There are none here, of neither kind.
    HordeRoute("/styles/text", {"GET": _nothing}),
    HordeRoute("/styles/image", {"GET": _nothing}),
    HordeRoute("/styles/text/<name>", {"GET": _no_style}),
    HordeRoute("/styles/image/<name>", {"GET": _no_style}),
    HordeRoute("/styles/text_by_name/<path:name>", {"GET": _no_style}),
    HordeRoute("/styles/image_by_name/<path:name>", {"GET": _no_style}),
    HordeRoute("/collections", {"GET": _nothing}),
    HordeRoute("/collections/<name>", {"GET": _no_collection}),
    HordeRoute("/collection_by_name/<path:name>", {"GET": _no_collection}),
)
"""The routes of time-outs, documents, styles and collections."""
