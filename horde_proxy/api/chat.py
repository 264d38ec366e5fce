"""POST /chat/completions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from flask import Blueprint, Response, jsonify

from horde_proxy.api.auth import admit, guard, read_json
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.generation import answered, caller_of
from horde_proxy.api.proxying import candidates_for, passed_on
from horde_proxy.api.stream import CONTENT_TYPE, HEADERS, EventStream
from horde_proxy.protocol.chat import GenerationRequest, read_chat
from horde_proxy.protocol.chunks import fold
from horde_proxy.upstreams.base import Accepted, StreamItem

blueprint = Blueprint("chat", __name__)
blueprint.before_request(guard)


@blueprint.post("/chat/completions")
def chat_completions() -> Response:
    """A chat completion, or its chunks as server-sent events."""
    admit()
    ctx, body = current_context(), read_json()
    relayed, candidates = passed_on(ctx, body)
    if relayed is not None:
        return relayed
    chat = read_chat(body.document, max_n=ctx.serving.max_n, strict=ctx.serving.strict)
    caller = caller_of(ctx, chat)
    left = candidates or candidates_for(ctx, chat.model)
    items = answered(ctx, chat, caller, body.content, lambda: ctx.router.stream(chat, left, caller))
    accepted = cast(Accepted, next(items))
    response = _streamed(ctx, chat, items) if chat.stream else _whole(items)
    response.headers.update(accepted.headers)
    return response


def _whole(items: Iterator[StreamItem]) -> Response:
    return jsonify(fold(item for item in items if isinstance(item, dict)))


def _streamed(ctx: AppContext, chat: GenerationRequest, items: Iterator[StreamItem]) -> Response:
    events = EventStream(
        items,
        include_usage=chat.include_usage,
        keepalive=ctx.serving.keepalive,
        interval=ctx.serving.keepalive_interval,
        clock=ctx.clock,
        tells_progress=chat.horde.get("progress") == "reasoning",
    )
    return Response(events, content_type=CONTENT_TYPE, headers=HEADERS)
