"""POST /chat/completions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from flask import Blueprint, Response, g, jsonify, request

from horde_proxy.api.connection import is_open, watched
from horde_proxy.api.front import Front, front
from horde_proxy.api.incoming import client_key, client_name, guard, read_json
from horde_proxy.api.record import Record
from horde_proxy.api.running import About
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
    chat = _owned(here, read_chat(read_json(), max_n=here.max_n, strict=here.strict))
    items = here.places.occupied(_watched(here, chat, _followed(here, chat)))
    items = g.record.follow(items)
    accepted = cast(Accepted, next(items))
    response = _streamed(here, chat, items) if chat.stream else _whole(items)
    response.headers.update(accepted.headers)
    return response


def _owned(here: Front, chat: ChatRequest) -> ChatRequest:
    """The chat with what its sender brings: who it is, whose key pays, how long it waits."""
    seconds = here.stream_timeout if chat.stream else here.timeout
    api_key = client_key() or ANONYMOUS_KEY if here.passthrough else None
    return replace(chat, api_key=api_key, client=client_name(), seconds=seconds)


def _followed(here: Front, chat: ChatRequest) -> Iterator[StreamItem]:
    """The chat's items, which the same request of the same client shares."""
    record: Record = g.record
    key = record.id
    if here.reattach:
        key = f"{chat.client} {request.path.removeprefix('/v1')} {g.digest}"
    about = About(record.id, chat.client, chat.model, chat.stream, time.time())
    return here.running.follow(key, about, lambda: here.router.stream(chat))


def _watched(here: Front, chat: ChatRequest, items: Iterator[StreamItem]) -> Iterator[StreamItem]:
    sock = request.environ.get("gunicorn.socket")
    return watched(
        items,
        is_open=lambda: is_open(sock),
        deadline=here.clock() + (chat.seconds or 0),
        clock=here.clock,
        late=TimedOut("The answer did not come within the time that this proxy waits for one."),
    )


def _whole(items: Iterator[StreamItem]) -> Response:
    return jsonify(fold(item for item in items if isinstance(item, dict)))


def _streamed(here: Front, chat: ChatRequest, items: Iterator[StreamItem]) -> Response:
    events = EventStream(
        items, include_usage=chat.include_usage, keepalive=here.keepalive,
        interval=here.keepalive_interval, clock=here.clock,
        tells_progress=chat.horde.get("progress") == "reasoning",
    )
    return Response(events, content_type=CONTENT_TYPE, headers=HEADERS)
