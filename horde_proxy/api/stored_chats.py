"""OpenAI's stored chat completions, and those that have only just been asked for. Views only.

    GET /chat/completions                      the list of those with `store: true`
    GET, POST (metadata), DELETE /chat/completions/ID
    GET /chat/completions/ID/messages

Any chat can be fetched by its id while it is made, and for server.reattach_window after its client
left: GET waits for it, as the repeated POST would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, jsonify, request

from horde_proxy.api.auth import account_name, authenticate, read_json
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.kept_elsewhere import fetched_elsewhere
from horde_proxy.api.query import page_wish
from horde_proxy.api.recall import reading_store
from horde_proxy.api.rejoining import rejoin
from horde_proxy.api.shared_answer import SharedAnswer
from horde_proxy.protocol import stored
from horde_proxy.protocol.chunks import fold
from horde_proxy.protocol.files import list_object
from horde_proxy.protocol.lists import page_of, unknown_after
from horde_proxy.store.records import NotStored, StoredChat
from horde_proxy.upstreams.proxying import NO_BODY, Body

if TYPE_CHECKING:
    from horde_proxy.store.chats import ChatStore

blueprint = Blueprint("stored_chats", __name__)
blueprint.before_request(authenticate)


@blueprint.get("/chat/completions")
def list_chats() -> Response:
    """A page of the stored chat completions, the oldest first."""
    ctx, wish = current_context(), page_wish(newest_first=False)
    # "metadata[topic]=x", as OpenAI's SDKs write an object in a query.
    metadata = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in request.args.items()
        if name.startswith("metadata[")
    }
    try:
        with reading_store():
            chats, has_more = _store(ctx).page(
                account_name(ctx),
                limit=wish.limit,
                after=wish.after,
                newest_first=wish.newest_first,
                model=request.args.get("model"),
                metadata=metadata,
            )
    except NotStored as exc:
        raise unknown_after(exc.id) from exc
    return jsonify(list_object(list(map(_object, chats)), has_more=has_more))


@blueprint.get("/chat/completions/<chat_id>")
def get_chat(chat_id: str) -> Response:
    """A chat completion: a stored one, or one that is made now, which is waited for."""
    ctx = current_context()
    if ctx.store.chats is not None:
        with reading_store():
            try:
                return jsonify(_object(ctx.store.chats.get(account_name(ctx), chat_id)))
            except NotStored:
                pass
    owner = account_name(ctx)
    chunks = rejoin(ctx, lambda answer: _is_chat(answer, owner, chat_id))
    return jsonify(fold(chunks)) if chunks is not None else _elsewhere(ctx, chat_id)


@blueprint.post("/chat/completions/<chat_id>")
def update_chat(chat_id: str) -> Response:
    """A stored chat completion with other metadata."""
    ctx, body = current_context(), read_json()
    metadata = stored.read_metadata(body.document)
    try:
        with reading_store():
            return jsonify(_object(_store(ctx).set_metadata(account_name(ctx), chat_id, metadata)))
    except NotStored:
        return _elsewhere(ctx, chat_id, body)


@blueprint.delete("/chat/completions/<chat_id>")
def delete_chat(chat_id: str) -> Response:
    """Delete a stored chat completion with its messages."""
    ctx = current_context()
    with reading_store():
        is_deleted = _store(ctx).delete(account_name(ctx), chat_id)
    if not is_deleted:
        return _elsewhere(ctx, chat_id)
    return jsonify(stored.deleted(chat_id, "chat.completion.deleted"))


@blueprint.get("/chat/completions/<chat_id>/messages")
def list_messages(chat_id: str) -> Response:
    """A page of the messages that a stored chat completion answers, the oldest first."""
    ctx, wish = current_context(), page_wish(newest_first=False)
    try:
        with reading_store():
            chat = _store(ctx).get(account_name(ctx), chat_id)
    except NotStored:
        return _elsewhere(ctx, chat_id)
    return jsonify(page_of(stored.stored_messages(chat_id, chat.messages), wish))


def _object(chat: StoredChat) -> dict[str, Any]:
    return {**chat.completion, "metadata": chat.metadata}


def _is_chat(answer: SharedAnswer, owner: str, chat_id: str) -> bool:
    return answer.info.account == owner and answer.chunk_id == chat_id


def _store(ctx: AppContext) -> ChatStore:
    if ctx.store.chats is None:
        raise stored.KeepsNothing()
    return ctx.store.chats


def _elsewhere(ctx: AppContext, chat_id: str, body: Body = NO_BODY) -> Response:
    return fetched_elsewhere(ctx, chat_id, stored.ChatNotFound(chat_id), body)
