"""OpenAI's conversations: lists of items that responses continue. Views only.

    POST /conversations                        GET, POST (metadata), DELETE /conversations/ID
    POST, GET /conversations/ID/items          GET, DELETE /conversations/ID/items/ITEM

POST /responses with `conversation` reads one and appends to it: api/recall.py and api/recording.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, jsonify

from horde_proxy.api.auth import account_name, authenticate, read_json
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.places import allowed_places
from horde_proxy.api.query import page_wish
from horde_proxy.api.recall import bind_as_stored, reading_store, recall
from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol import stored
from horde_proxy.protocol.files import list_object
from horde_proxy.protocol.lists import page_of
from horde_proxy.protocol.responses.calls import Item
from horde_proxy.protocol.responses.items import own_items
from horde_proxy.protocol.responses.question import ConversationNotFound
from horde_proxy.store.records import NotStored

if TYPE_CHECKING:
    from horde_proxy.store.conversations import ConversationStore

blueprint = Blueprint("conversations", __name__)
blueprint.before_request(authenticate)


@blueprint.post("/conversations")
def create_conversation() -> Response:
    """A new conversation, with items to begin with."""
    ctx, body = current_context(), read_json().document
    store = _store(ctx)
    items, metadata = _read_items(ctx, body), stored.read_metadata(body)
    conversation_id = f"conv_{secrets.token_hex(24)}"
    with reading_store():
        made = store.create(
            account_name(ctx), conversation_id, items, metadata, places=allowed_places()
        )
    return jsonify(made)


@blueprint.get("/conversations/<conversation_id>")
def get_conversation(conversation_id: str) -> Response:
    """A conversation, without its items."""
    ctx = current_context()
    with _finding(conversation_id):
        return jsonify(_store(ctx).get(account_name(ctx), conversation_id))


@blueprint.post("/conversations/<conversation_id>")
def update_conversation(conversation_id: str) -> Response:
    """A conversation with other metadata."""
    ctx, metadata = current_context(), stored.read_metadata(read_json().document)
    with _finding(conversation_id):
        return jsonify(_store(ctx).set_metadata(account_name(ctx), conversation_id, metadata))


@blueprint.delete("/conversations/<conversation_id>")
def delete_conversation(conversation_id: str) -> Response:
    """Delete a conversation. Responses that were written into it stay."""
    ctx = current_context()
    with _finding(conversation_id):
        if not _store(ctx).delete(account_name(ctx), conversation_id):
            raise NotStored(conversation_id)
    return jsonify(stored.deleted(conversation_id, "conversation.deleted"))


@blueprint.post("/conversations/<conversation_id>/items")
def add_items(conversation_id: str) -> Response:
    """A list of the items that were appended."""
    ctx, body = current_context(), read_json().document
    items = _read_items(ctx, body)
    if not items:
        raise InvalidRequest(
            "Missing required parameter: 'items'.", param="items", code="missing_required_parameter"
        )
    owner = account_name(ctx)
    if ctx.store.responses is not None:
        # Else it could leave the conversation without any place to be continued at.
        bind_as_stored(ctx.store.responses, owner, conversation_id)
    with _finding(conversation_id):
        _store(ctx).add_items(owner, conversation_id, items, places=allowed_places())
    return jsonify(list_object(list(map(stored.listed_item, items)), has_more=False))


@blueprint.get("/conversations/<conversation_id>/items")
def list_items(conversation_id: str) -> Response:
    """A page of a conversation's items, the newest first."""
    ctx, wish = current_context(), page_wish()
    with _finding(conversation_id):
        items = _store(ctx).items(account_name(ctx), conversation_id)
    return jsonify(page_of(list(map(stored.listed_item, items)), wish))


@blueprint.get("/conversations/<conversation_id>/items/<item_id>")
def get_item(conversation_id: str, item_id: str) -> Response:
    """One item of a conversation."""
    ctx = current_context()
    with _finding(conversation_id):
        items = _store(ctx).items(account_name(ctx), conversation_id)
    for item in items:
        if item["id"] == item_id:
            return jsonify(stored.listed_item(item))
    raise stored.ConversationItemNotFound(item_id)


@blueprint.delete("/conversations/<conversation_id>/items/<item_id>")
def delete_item(conversation_id: str, item_id: str) -> Response:
    """The conversation, without the item. Responses that have the item keep it."""
    ctx = current_context()
    with _finding(conversation_id):
        store, owner = _store(ctx), account_name(ctx)
        return jsonify(store.delete_item(owner, conversation_id, item_id))


def _store(ctx: AppContext) -> ConversationStore:
    if ctx.store.conversations is None:
        raise stored.KeepsNothing()
    return ctx.store.conversations


def _read_items(ctx: AppContext, body: Any) -> list[Item]:
    """The items of a body, each with an id. Raises InvalidRequest and ItemNotFound."""
    # Any id that is new: it makes those of items that have none.
    items = own_items(stored.read_items(body), secrets.token_hex(24), recall(ctx))
    return list(items)


@contextmanager
def _finding(conversation_id: str) -> Iterator[None]:
    """Within it, what the store does not have is a 404."""
    try:
        with reading_store():
            yield
    except NotStored as exc:
        if exc.id == conversation_id:
            raise ConversationNotFound(conversation_id) from exc
        raise stored.ConversationItemNotFound(exc.id) from exc
