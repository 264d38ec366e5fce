"""The pipeline: how every front's request becomes an answer. All stages stand here, in order.

    authenticate -> check_limits -> read_json -> try_proxy            a response, unchanged, or
      -> front.read -> candidates_for -> with_caller                  requests, and who sent them
      -> loop guard -> log -> slot -> watch the client -> share with a retry -> router.stream
      -> front.fold, or front.stream                                  one answer, or its events

A stage is added here, never in a front. What happens while an answer is waited for is one loop,
_items; below it are only the shared answer, the router and the upstream. A chat with
pictures goes to a candidate that sees, if there is one (try_proxy); else the horde that answers has
them described first, within its stream, so that keep-alives and cancelling are those of any wait.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from flask import Response, g, jsonify, request

from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.auth import authenticate, check_limits, client_key, client_name, read_json
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.front import Front, Q
from horde_proxy.api.proxying import candidates_for, client_socket, read_body, try_proxy
from horde_proxy.api.shared_answer import AnswerReader, RequestInfo
from horde_proxy.api.stream import CONTENT_TYPE, HEADERS, EventStream, KeepAliveOptions
from horde_proxy.errors import UpstreamFailed
from horde_proxy.protocol.chunks import Chunk, is_complete
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.router import Candidates
from horde_proxy.upstreams.base import ANSWER_MARGIN, Accepted, Caller, StreamItem, Waiting
from horde_proxy.upstreams.interleave import interleave
from horde_proxy.upstreams.proxying import JsonBody, header_text

_STREAM_SLEEP = 2.0
"""The longest sleep for a stream (s): a keep-alive is due every few seconds."""
_WHOLE_SLEEP = 15.0
"""The longest sleep for an answer in one piece (s), whose client hears nothing meanwhile."""


def run_generation(front: Front[Q]) -> Response:
    """The response to a POST to one front. Raises the ProxyError of the stage that refuses it."""
    ctx = current_context()
    # The page's own route for chats has authenticated its visitor already, by a session.
    if "key" not in g:
        authenticate()
    check_limits(makes_images=front.makes_images)
    body = read_body(ctx) if front.takes_forms else read_json()
    proxied, candidates = try_proxy(ctx, body, front)
    if proxied is not None:
        return proxied
    document, content = (body.document, body.content) if isinstance(body, JsonBody) else body.read()
    question = front.read(document, ctx.serving)
    find = front.candidates or _candidates_by_model
    routes = [candidates or find(ctx, question.requests[0])]
    # Candidates are used up while they are tried, so that each further prompt has its own.
    routes += [find(ctx, other) for other in question.requests[1:]]
    items = _items(ctx, question.requests, routes, content)
    # The first item comes when an upstream has accepted: until then a refusal keeps its status.
    accepted = cast(Accepted, next(items))
    if question.requests[0].stream:
        response = _streamed(ctx, items, front, question)
    else:
        chunks: list[Chunk] = []
        for item in items:
            if isinstance(item, dict):
                chunks.append(item)
            elif isinstance(item, Accepted):
                accepted = item  # another upstream has taken over
        # EventStream has the same guard. A server may give fewer choices than a horde began.
        if not is_complete(chunks):
            raise UpstreamFailed("The answer broke off.")
        response = jsonify(front.fold(question, chunks))
    response.headers.update({name: header_text(value) for name, value in accepted.headers.items()})
    return response


def _candidates_by_model(ctx: AppContext, generation: GenerationRequest) -> Candidates:
    return candidates_for(ctx, generation.model)


def _items(
    ctx: AppContext,
    requests: Sequence[Any],
    routes: Sequence[Candidates],
    content: bytes,
) -> Generator[StreamItem, None, None]:
    """Accepted, then the chunks of the answer, and a Waiting after each sleep in between.

    A further Accepted brings the request's id, or says that another upstream has taken over.

    `content` is the body as it came. Only this loop waits; closing it ends all that it began.
    """
    first, log, socket = requests[0], cast(RequestLog, g.record), client_socket()
    callers = [with_caller(ctx, generation) for generation in requests]
    client, is_accepted = callers[0].client, False
    short_ids = ctx.router.short_ids(g.scope)
    guard = ctx.live.loop_guard
    guard.check(first, client)
    log.requested = log.requested or first.model
    with (
        log.recording(ctx.clock),
        ctx.live.slots.held(),
        guard.running(first, client),
        ctx.live.disconnects.watch_client(socket) as watch,
        _joined(ctx, requests, routes, callers, content) as reader,
    ):
        watch.waiter = reader
        # It may have gone before there was somebody to wake.
        watch.check()
        while (item := reader.next()) is not None:
            if isinstance(item, Waiting):
                watch.check()
                callers[0].check_deadline(ctx.clock())
            log.note(item)
            is_accepted = is_accepted or isinstance(item, Accepted)
            if is_accepted:
                yield _with_short_id(item, short_ids)


def _with_short_id(item: StreamItem, short_ids: Mapping[str, str]) -> StreamItem:
    """The item; a chunk names its model as GET /models does."""
    if isinstance(item, dict) and item["model"] in short_ids:
        return {**item, "model": short_ids[item["model"]]}
    return item


def with_caller(ctx: AppContext, generation: Any) -> Caller:
    """Who sent the current request, whose key pays, and how long the client waits."""
    seconds = ctx.serving.stream_timeout if generation.stream else ctx.serving.timeout
    deadline = ctx.clock() + seconds
    sleeper = ctx.live.new_sleeper(
        _STREAM_SLEEP if generation.stream else _WHOLE_SLEEP,
        lambda: deadline - ANSWER_MARGIN - ctx.clock(),
    )
    return Caller(client_name(), horde_key(ctx), deadline, sleeper)


def horde_key(ctx: AppContext) -> str | None:
    """The client's own horde key, which pays for its requests; None: the proxy's key pays."""
    if ctx.access.passthrough:
        return client_key() or ANONYMOUS_KEY
    return g.key.horde_key if g.key else None


def _joined(
    ctx: AppContext,
    requests: Sequence[Any],
    routes: Sequence[Candidates],
    callers: Sequence[Caller],
    content: bytes,
) -> AnswerReader:
    """A reader of the answer, which a retry shares with the request that it repeats."""
    sleeper = callers[0].sleeper
    own = [replace(caller, sleeper=sleeper) for caller in callers]

    def start() -> Iterator[StreamItem]:
        streams = [ctx.router.stream(*parts) for parts in zip(requests, routes, own, strict=True)]
        return streams[0] if len(streams) == 1 else interleave(streams, requests[0].n)

    info = _info(requests[0], callers[0].client)
    key = info.id
    if ctx.serving.reattach:
        digest = hashlib.sha256(content).hexdigest()
        key = f"{info.owner} {request.path.removeprefix('/v1')} {digest}"
    return ctx.live.in_flight.join(key, info, start, sleeper)


def _info(generation: Any, client: str) -> RequestInfo:
    """What is known of the current request. Stainless' SDKs, OpenAI's among them, count retries."""
    retries = request.headers.get("X-Stainless-Retry-Count", "")
    return RequestInfo(
        g.record.id,
        client,
        generation.model,
        generation.stream,
        current_context().now(),
        is_retry=retries.isdecimal() and int(retries) > 0,
        idempotency_key=request.headers.get("Idempotency-Key"),
    )


def _streamed(
    ctx: AppContext, items: Generator[StreamItem, None, None], front: Front[Q], question: Q
) -> Response:
    serving = ctx.serving
    keep_alive = KeepAliveOptions(serving.keepalive, serving.keepalive_interval, ctx.clock)
    events = EventStream(items, front.stream(question), keep_alive)
    return Response(events, content_type=CONTENT_TYPE, headers=HEADERS)
