"""What every answer has in common: whose it is, who shares it, a place, the client's patience."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator

from flask import g, request

from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.auth import client_key, client_name
from horde_proxy.api.connection import is_open, watched
from horde_proxy.api.context import AppContext
from horde_proxy.api.in_flight import RequestInfo
from horde_proxy.protocol.chat import GenerationRequest
from horde_proxy.upstreams.base import Caller, DeadlinePassed, StreamItem


def caller_of(ctx: AppContext, chat: GenerationRequest) -> Caller:
    """Who sent the current request, whose key pays, and how long the client waits."""
    seconds = ctx.serving.stream_timeout if chat.stream else ctx.serving.timeout
    return Caller(client_name(), horde_key(ctx), ctx.clock() + seconds)


def horde_key(ctx: AppContext) -> str | None:
    """The horde key that pays for this client, where it is not the proxy's own."""
    if ctx.access.passthrough:
        return client_key() or ANONYMOUS_KEY
    return g.key.horde_key if g.key else None


def answered(
    ctx: AppContext,
    chat: GenerationRequest,
    caller: Caller,
    content: bytes,
    start: Callable[[], Iterator[StreamItem]],
) -> Iterator[StreamItem]:
    """The items of an answer, which the same request of the same client shares.

    `content` is the request as it came. Raises Repeated for what a client in a loop sends.
    """
    ctx.live.loop_guard.check(chat, caller.client)
    record: RequestLog = g.record
    record.asked = record.asked or chat.model
    items = _watched(ctx, caller, _followed(ctx, chat, caller, content, start))
    items = ctx.live.slots.occupied(ctx.live.loop_guard.counted(chat, caller.client, items))
    return record.follow(items, ctx.clock)


def _followed(
    ctx: AppContext,
    chat: GenerationRequest,
    caller: Caller,
    content: bytes,
    start: Callable[[], Iterator[StreamItem]],
) -> Iterator[StreamItem]:
    record: RequestLog = g.record
    key = record.id
    if ctx.serving.reattach:
        digest = hashlib.sha256(content).hexdigest()
        key = f"{caller.client} {request.path.removeprefix('/v1')} {digest}"
    about = RequestInfo(record.id, caller.client, chat.model, chat.stream, time.time())
    return ctx.live.in_flight.follow(key, about, start)


def _watched(ctx: AppContext, caller: Caller, items: Iterator[StreamItem]) -> Iterator[StreamItem]:
    sock = request.environ.get("gunicorn.socket")
    return watched(
        items,
        is_open=lambda: is_open(sock),
        deadline=caller.deadline or ctx.clock(),
        clock=ctx.clock,
        late=DeadlinePassed(),
    )
