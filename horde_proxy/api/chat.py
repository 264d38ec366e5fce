"""POST /chat/completions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from flask import Blueprint, Response, jsonify

from horde_proxy.api.auth import admit, guard, read_json
from horde_proxy.api.context import AppContext, front
from horde_proxy.api.generation import answered, owned
from horde_proxy.api.proxying import candidates_for, passed_on
from horde_proxy.api.stream import CONTENT_TYPE, HEADERS, EventStream
from horde_proxy.protocol.chat import ChatRequest, read_chat
from horde_proxy.protocol.chunks import fold
from horde_proxy.upstreams.base import Accepted, StreamItem

blueprint = Blueprint("chat", __name__)
blueprint.before_request(guard)


@blueprint.post("/chat/completions")
def chat_completions() -> Response:
    """A chat completion, or its chunks as server-sent events."""
    admit()
    here, body = front(), read_json()
    relayed, candidates = passed_on(here, body)
    if relayed is not None:
        return relayed
    chat = owned(here, read_chat(body.document, max_n=here.max_n, strict=here.strict))
    left = candidates or candidates_for(here, chat.model)
    items = answered(here, chat, body.content, lambda: here.router.stream(chat, left))
    accepted = cast(Accepted, next(items))
    response = _streamed(here, chat, items) if chat.stream else _whole(items)
    response.headers.update(accepted.headers)
    return response


def _whole(items: Iterator[StreamItem]) -> Response:
    return jsonify(fold(item for item in items if isinstance(item, dict)))


def _streamed(here: AppContext, chat: ChatRequest, items: Iterator[StreamItem]) -> Response:
    events = EventStream(
        items,
        include_usage=chat.include_usage,
        keepalive=here.keepalive,
        interval=here.keepalive_interval,
        clock=here.clock,
        tells_progress=chat.horde.get("progress") == "reasoning",
    )
    return Response(events, content_type=CONTENT_TYPE, headers=HEADERS)
