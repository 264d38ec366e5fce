"""Responses that are fetched later, by their ids. Views only.

    GET /responses/ID                          the object; with ?stream=true its events
    DELETE /responses/ID                       GET /responses/ID/input_items

POST /responses/ID/cancel is in background.py.

Where a response is looked for, in this order: those that this process is making, the store, and
the endpoint that made it and keeps it itself. An id of another owner is an unknown one.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from horde_proxy.api.auth import account_name, authenticate
from horde_proxy.api.background import followed
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.front import EVENT_STREAM
from horde_proxy.api.kept_elsewhere import fetched_elsewhere
from horde_proxy.api.query import page_wish, whole_number
from horde_proxy.api.recall import reading_store
from horde_proxy.api.received_call import client_socket
from horde_proxy.api.recording import running_response
from horde_proxy.api.replay import live_events
from horde_proxy.api.stream import HEADERS
from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol import stored
from horde_proxy.protocol.lists import page_of
from horde_proxy.protocol.responses.calls import Item
from horde_proxy.store.records import NotStored, StoredResponse

blueprint = Blueprint("stored_responses", __name__)
blueprint.before_request(authenticate)


@blueprint.get("/responses/<response_id>")
def get_response(response_id: str) -> Response:
    """A response as it stands; with `stream=true` its events, those to come as well."""
    ctx = current_context()
    if request.args.get("stream", "").lower() == "true":
        return _replayed(ctx, response_id)
    running = running_response(ctx, response_id)
    if running is not None:
        return jsonify(running.response)
    kept = _kept(ctx, response_id)
    return jsonify(kept.response) if kept else _elsewhere(ctx, response_id)


@blueprint.delete("/responses/<response_id>")
def delete_response(response_id: str) -> Response:
    """Delete a response with its items and events. One that is being made is not stored."""
    ctx = current_context()
    running = running_response(ctx, response_id)
    if running is not None:
        running.forget()
    store = ctx.store.responses
    with reading_store():
        is_deleted = store is not None and store.delete(account_name(ctx), response_id)
    if not is_deleted and running is None:
        return _elsewhere(ctx, response_id)
    return jsonify(stored.deleted(response_id, "response"))


@blueprint.get("/responses/<response_id>/input_items")
def list_input_items(response_id: str) -> Response:
    """A page of the items of a response's own input, the newest first."""
    ctx, wish = current_context(), page_wish()
    items = _input_items(ctx, response_id)
    if items is None:
        return _elsewhere(ctx, response_id)
    return jsonify(page_of(list(map(stored.listed_item, items)), wish))


def _kept(ctx: AppContext, response_id: str) -> StoredResponse | None:
    store = ctx.store.responses
    with reading_store():
        return store.get(account_name(ctx), response_id) if store is not None else None


def _input_items(ctx: AppContext, response_id: str) -> list[Item] | None:
    running, store = running_response(ctx, response_id), ctx.store.responses
    if running is not None:
        return list(running.input_items)
    try:
        with reading_store():
            return store.input_items(account_name(ctx), response_id) if store else None
    except NotStored:
        return None


def _replayed(ctx: AppContext, response_id: str) -> Response:
    """The events of a response that follow `starting_after`, and those to come."""
    after = whole_number("starting_after", 0)
    after = -1 if after is None else after
    running = running_response(ctx, response_id)
    if running is not None:
        _check_streamed(is_streamed=running.is_streamed)
        # It occupies a thread until the answer is complete, as a chat does.
        free = ctx.live.slots.acquire()
        events = live_events(ctx, running.log, after, client_socket())
        response = Response(events, content_type=EVENT_STREAM, headers=HEADERS)
        response.call_on_close(free)
        return response
    kept = _kept(ctx, response_id)
    if kept is None:
        return _elsewhere(ctx, response_id)
    _check_streamed(is_streamed=kept.is_streamed)
    return followed(ctx, account_name(ctx), response_id, after)


def _check_streamed(*, is_streamed: bool) -> None:
    if not is_streamed:
        raise InvalidRequest(
            "This response was not created with stream=true, so that it has no events. Fetch it "
            "without `stream`.",
            param="stream",
            code="invalid_value",
        )


def _elsewhere(ctx: AppContext, response_id: str) -> Response:
    return fetched_elsewhere(ctx, response_id, stored.ResponseNotFound(response_id))
