"""POST /chat/completions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from flask import Blueprint, Response, g, jsonify, request

from horde_proxy.api.connection import is_open, watched
from horde_proxy.api.front import Front, front
from horde_proxy.api.incoming import client_key, guard, read_json
from horde_proxy.api.record import Record
from horde_proxy.api.stream import CONTENT_TYPE, HEADERS, EventStream
from horde_proxy.errors import TimedOut
from horde_proxy.protocol.chat import ChatRequest, read_chat
from horde_proxy.protocol.completion import fold
from horde_proxy.upstreams import Accepted, StreamItem

ANONYMOUS_KEY = "0000000000"
blueprint = Blueprint("chat", __name__)
blueprint.before_request(guard)


@blueprint.post("/chat/completions")
def chat_completions() -> Response:
    """A chat completion, or its chunks as server-sent events."""
    here = front()
    chat = read_chat(read_json(), max_n=here.max_n, strict=here.strict)
    if here.passthrough:
        chat = replace(chat, api_key=client_key() or ANONYMOUS_KEY)
    items = here.places.occupied(_routed(here, chat, g.record))
    items = g.record.follow(_watched(here, chat, items))
    accepted = cast(Accepted, next(items))
    response = _streamed(here, chat, items) if chat.stream else _whole(items)
    response.headers.update(accepted.headers)
    return response


def _routed(here: Front, chat: ChatRequest, record: Record) -> Iterator[StreamItem]:
    """The best route's items; looking for it may wait for the horde, and so takes a place."""
    route = here.router.candidates(chat.model)[0]
    record.model, record.upstream = route.model, route.upstream.name
    yield from route.upstream.stream(chat, route)


def _watched(here: Front, chat: ChatRequest, items: Iterator[StreamItem]) -> Iterator[StreamItem]:
    seconds = here.stream_timeout if chat.stream else here.timeout
    sock = request.environ.get("gunicorn.socket")
    return watched(
        items,
        is_open=lambda: is_open(sock),
        deadline=here.clock() + seconds,
        clock=here.clock,
        late=TimedOut("The answer did not come within the time that this proxy waits for one."),
    )


def _whole(items: Iterator[StreamItem]) -> Response:
    return jsonify(fold(item for item in items if isinstance(item, dict)))


def _streamed(here: Front, chat: ChatRequest, items: Iterator[StreamItem]) -> Response:
    events = EventStream(
        items, include_usage=chat.include_usage, keepalive=here.keepalive,
        interval=here.keepalive_interval, clock=here.clock,
    )
    return Response(events, content_type=CONTENT_TYPE, headers=HEADERS)
