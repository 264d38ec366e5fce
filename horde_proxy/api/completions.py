"""POST /completions: the older form, raw prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from flask import Blueprint, Response, jsonify

from horde_proxy.api.auth import admit, guard, read_json
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.generation import answered, caller_of
from horde_proxy.api.proxying import candidates_for, passed_on
from horde_proxy.api.stream import CONTENT_TYPE, HEADERS, EventStream
from horde_proxy.protocol.completions import (
    CompletionRequest,
    bare_chunk,
    fold_text,
    read_text,
    text_chunk,
)
from horde_proxy.upstreams.base import Accepted, StreamItem
from horde_proxy.upstreams.interleave import several

blueprint = Blueprint("completions", __name__)
blueprint.before_request(guard)


@blueprint.post("/completions")
def completions() -> Response:
    """A text completion for each prompt, or its chunks as server-sent events."""
    admit()
    ctx, body = current_context(), read_json()
    relayed, _ = passed_on(ctx, body)
    if relayed is not None:
        return relayed
    asked = read_text(
        body.document,
        default_tokens=ctx.serving.completion_tokens,
        max_n=ctx.serving.max_n,
        strict=ctx.serving.strict,
    )
    chats = asked.requests
    caller = caller_of(ctx, chats[0])
    # They are used up in being asked: each prompt has its own.
    asking = [(chat, candidates_for(ctx, chat.model), caller_of(ctx, chat)) for chat in chats]
    items = answered(
        ctx,
        chats[0],
        caller,
        body.content,
        lambda: several([ctx.router.stream(*each) for each in asking], chats[0].n),
    )
    accepted = cast(Accepted, next(items))
    texts = _as_text(items, asked)
    response = _streamed(ctx, asked, texts) if chats[0].stream else _whole(texts)
    response.headers.update(accepted.headers)
    return response


def _as_text(items: Iterator[StreamItem], asked: CompletionRequest) -> Iterator[StreamItem]:
    begins = asked.echoed()
    try:
        for item in items:
            yield text_chunk(item, begins) if isinstance(item, dict) else item
    finally:
        close = getattr(items, "close", None)
        if close:
            close()


def _whole(items: Iterator[StreamItem]) -> Response:
    return jsonify(fold_text(item for item in items if isinstance(item, dict)))


def _streamed(ctx: AppContext, asked: CompletionRequest, items: Iterator[StreamItem]) -> Response:
    events = EventStream(
        items,
        include_usage=asked.requests[0].include_usage,
        keepalive=ctx.serving.keepalive,
        interval=ctx.serving.keepalive_interval,
        clock=ctx.clock,
        bare=bare_chunk,
    )
    return Response(events, content_type=CONTENT_TYPE, headers=HEADERS)
