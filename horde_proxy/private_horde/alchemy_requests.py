"""Requests for alchemy: a picture with several forms, each a request of its own in the queue.

    AlchemyRequest  -->  HordeRequest of kind ALCHEMY for each form  -->  Job
         results    <--  what an alchemist handed in

So any alchemist does the forms that it can, and one that fails takes nothing else with it. Locks
are taken in this order: forms, in order of their ids, then their AlchemyRequest, then accounts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.aihorde import image_kudos
from horde_proxy.aihorde.image_limits import FORM_SECONDS, POST_PROCESSORS
from horde_proxy.private_horde import queue, stored_pictures
from horde_proxy.private_horde.errors import request_not_found
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.picture_links import GET
from horde_proxy.private_horde.records import ALCHEMY, HordeRequest
from horde_proxy.private_horde.stored_pictures import StoredPicture

Body = dict[str, Any]

WAITING, PROCESSING, DONE = "waiting", "processing", "done"
FAULTED, CANCELLED, PARTIAL = "faulted", "cancelled", "partial"
"""States of a form, and of a request; only a request is partial."""


@dataclass(eq=False)
class AlchemyRequest:
    """A picture and the forms that a client wants of it.

    `forms` are their names, `form_ids` the ids of their requests in the queue, in the same order.
    `results` has what was handed in, by that id. It is deleted at `expires`.
    """

    id: str
    account_id: int
    created: float
    expires: float | None
    forms: tuple[str, ...]
    form_ids: tuple[str, ...] = ()
    results: dict[str, Any] = field(default_factory=dict, repr=False)
    is_cancelled: bool = False


def form_needs(group_id: str, form: Body, size: tuple[int, int], base: str) -> Body:
    """The `needs` of the request for one form of a picture of this size.

    `base` is the root of the URL that the client called.
    """
    return {
        "group": group_id,
        "base": base,
        "payload": form.get("payload") or {},
        "kudos": image_kudos.alchemy(form["name"], *size),
        "tiles": image_kudos.tiles(*size),
        "seconds": FORM_SECONDS,
        "work": 1,
    }


def find(op: Operation, request_id: str) -> AlchemyRequest:
    """A request by its id, in upper or lower case. Raises RequestNotFound (404)."""
    group = op.tx.get(AlchemyRequest, request_id.lower())
    if group is None or group.expires is None or group.expires <= op.now:
        raise request_not_found(request_id, ALCHEMY)
    return group


def postpone(op: Operation, group_id: str) -> AlchemyRequest | None:
    """A request of which something was popped or handed in, locked: it lasts longer now."""
    group = op.tx.lock(AlchemyRequest, group_id)
    if group is not None:
        group.expires = op.now + op.rules.expiry
        op.tx.save(group)
    return group


def finish(op: Operation, request: HordeRequest, result: Body) -> None:
    """Keep the result of a form, which is locked."""
    group = postpone(op, request.needs["group"])
    if group is not None and not request.forgotten:
        group.results = {**group.results, request.id: result}


def cancel(op: Operation, group: AlchemyRequest) -> None:
    """Take the open forms out of the queue. Running jobs may still be handed in, and are paid."""
    _forget_forms(op, group)
    locked = op.tx.lock(AlchemyRequest, group.id)
    if locked is not None:
        locked.is_cancelled = True
        op.tx.save(locked)


def expire(op: Operation, group: AlchemyRequest) -> None:
    """Delete a request whose time has come, with its pictures."""
    newest = op.tx.get(AlchemyRequest, group.id)
    if newest is None or newest.expires is None or newest.expires > op.now:
        return
    _forget_forms(op, newest)
    stored_pictures.forget(op, newest.id)
    op.tx.delete(newest)


def _forget_forms(op: Operation, group: AlchemyRequest) -> None:
    forms = op.tx.lock_all(HordeRequest, sorted(set(group.form_ids)))
    for request in forms.values():
        if not request.forgotten and request.id not in group.results:
            queue.forget(op, request)


def status(op: Operation, group: AlchemyRequest, base: str) -> Body:
    """GET interrogate/status/{id}, with new links to post-processed pictures."""
    forms = [
        _form(op, group, name, form_id, base)
        for name, form_id in zip(group.forms, group.form_ids, strict=True)
    ]
    return {"state": _state([form["state"] for form in forms]), "forms": forms}


def _form(op: Operation, group: AlchemyRequest, name: str, form_id: str, base: str) -> Body:
    result = group.results.get(form_id)
    if result is not None:
        return {"form": name, "state": DONE, "result": shown(op, name, result, base)}
    return {"form": name, "state": _form_state(op, group, form_id)}


def _form_state(op: Operation, group: AlchemyRequest, form_id: str) -> str:
    if group.is_cancelled:
        return CANCELLED
    request = op.tx.get(HordeRequest, form_id)
    if request is None or request.forgotten or request.faulted:
        return FAULTED
    return PROCESSING if request.processing else WAITING


def _state(states: Sequence[str]) -> str:
    """The state of a whole request (captures interrogate_status_*); faulted without forms."""
    for state in (PROCESSING, WAITING):
        if state in states:
            return state
    if all(state == FAULTED for state in states):
        return FAULTED
    return DONE if all(state == DONE for state in states) else PARTIAL


def shown(op: Operation, name: str, result: Body, base: str) -> Body:
    """A result as clients see it: a picture is a link."""
    if name not in POST_PROCESSORS:
        return result
    picture = op.tx.get(StoredPicture, result[name])
    if picture is None:
        return {name: "N/A"}
    return {name: op.rules.links.link(GET, base, picture.id, picture.type, op.now)}


def as_text(result: Body) -> str:
    """A result as the text of a stored generation."""
    return json.dumps(result)
