"""One call on its way to an endpoint: its slot, its client and its deadline, until it is answered.

    router.proxy ... Waitings ... a response     -> a Flask response that passes it on
                 ... silence for an interval     -> a stream that begins at once (kept_alive.py)

proxying.py decides which endpoints may answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import cast

from flask import Response, g

from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.auth import client_name, client_weight
from horde_proxy.api.context import AppContext
from horde_proxy.api.in_flight import ProxiedRequest
from horde_proxy.api.internal_call import current_job
from horde_proxy.api.kept_alive import LateAnswer, begun_response
from horde_proxy.api.named_models import name_answerer
from horde_proxy.api.proxied_body import ProxiedBody, is_events, prompt_estimate
from horde_proxy.api.proxied_ids import id_note
from horde_proxy.api.shared_answer import RequestInfo
from horde_proxy.api.stream import KeepAliveOptions
from horde_proxy.errors import ClientGone
from horde_proxy.protocol.stream_start import STARTS, StreamStart
from horde_proxy.router import Candidates
from horde_proxy.upstreams.base import LONGEST_SLEEP, Caller, Waiting
from horde_proxy.upstreams.disconnects import is_open
from horde_proxy.upstreams.proxying import JsonBody, ProxyRequest, ProxyResponse


def proxy(
    ctx: AppContext,
    call: ProxyRequest,
    candidates: Candidates,
    generated: Callable[[], Response] | None = None,
) -> Response | None:
    """The response of the first of the candidates that can proxy and answers.

    None when a candidate comes next that cannot proxy the call. Raises AllEndpointsFailed and the
    like when no candidate is left. A stream that is made beside begins its response after
    `server.keepalive_interval` of silence; `generated` is then what follows instead of None.
    """
    began, steps = ctx.clock(), _steps(ctx, call, candidates)
    may_begin = call.helper is not None and can_keep_alive(ctx, call)
    while True:
        try:
            waiting = next(steps)
        except StopIteration as end:
            proxied = cast("ProxyResponse | None", end.value)
            return None if proxied is None else _response(ctx, proxied, call)
        if may_begin and ctx.clock() - began >= ctx.serving.keepalive_interval:
            return _begun(
                ctx, call, waiting, LateAnswer(steps, partial(_body, ctx, call), generated)
            )


def can_keep_alive(ctx: AppContext, call: ProxyRequest) -> bool:
    """Whether the response to a call may begin before an endpoint answers.

    A job has no listener, and needs the true status, which says when to try again.
    """
    return (
        ctx.serving.keepalive != "off"
        and call.path.partition("?")[0] in STARTS
        and call.body.is_stream
        and current_job() is None
    )


def _steps(
    ctx: AppContext, call: ProxyRequest, candidates: Candidates
) -> Generator[Waiting, None, ProxyResponse | None]:
    """Waitings, then the response, or None where a candidate comes next that cannot proxy.

    The slot is given back at its end, or at that of the response.
    """
    record, began, client = cast(RequestLog, g.record), ctx.clock(), client_name()
    free, request = _begin(ctx, call, record, client)
    caller = _caller(ctx, call, client)
    try:
        proxied = yield from _watched(ctx, call, caller, request, candidates)
    except BaseException as exc:
        free()
        if isinstance(exc, ClientGone | GeneratorExit):
            record.error = ClientGone.code
            _note_left(record, call, candidates)
        raise
    if proxied is None:
        free()
        if candidates:
            return None
        raise candidates.error()
    proxied.on_close.append(free)
    record.model, record.upstream = proxied.model, proxied.header("x-endpoint")
    if proxied.status >= 400:
        record.error = f"status_{proxied.status}"
    elif record.requested:
        record.first_text = round(ctx.clock() - began, 3)
    return proxied


def _watched(
    ctx: AppContext,
    call: ProxyRequest,
    caller: Caller,
    request: ProxiedRequest,
    candidates: Candidates,
) -> Generator[Waiting, None, ProxyResponse | None]:
    """The same, with a look at the client and at the clock at each Waiting."""
    steps, watch = ctx.router.proxy(call, candidates, caller), None
    try:
        while True:
            request.waiting = waiting = next(steps)
            if watch is None:
                # It notices the end of the proxy: nothing else does while a request is in line.
                watch = ctx.live.disconnects.watch_client(None)
                watch.waiter = caller.sleeper
            watch.check()
            # In a line nothing else watches the client; a call at a server has its guard.
            if not is_open(call.client):
                raise ClientGone()
            caller.check_deadline(ctx.clock())
            yield waiting
    except StopIteration as end:
        return cast("ProxyResponse | None", end.value)
    finally:
        request.waiting = None
        steps.close()
        if watch is not None:
            watch.close()


def _caller(ctx: AppContext, call: ProxyRequest, client: str) -> Caller:
    """Who makes the call, and how long the client waits for its turn."""
    serving, job = ctx.serving, current_job()
    seconds = serving.stream_timeout if call.body.is_stream else serving.timeout
    if job is not None and job.seconds is not None:
        seconds = job.seconds
    sleeper = ctx.live.new_sleeper(LONGEST_SLEEP, lambda: math.inf)
    return Caller(
        client,
        deadline=ctx.clock() + seconds,
        sleeper=sleeper,
        is_job=job is not None,
        weight=client_weight(),
    )


def _begin(
    ctx: AppContext, call: ProxyRequest, record: RequestLog, client: str
) -> tuple[Callable[[], None], ProxiedRequest]:
    """Take a slot and note the request; (what ends both, the note). Raises Unavailable."""
    free = ctx.live.slots.acquire()
    info = RequestInfo(record.id, client, call.model or "", call.body.is_stream, time.time())
    request = ctx.live.in_flight.track_proxied(info)

    def end() -> None:
        ctx.live.in_flight.forget_proxied(request)
        free()

    return end, request


def _note_left(record: RequestLog, call: ProxyRequest, candidates: Candidates) -> None:
    """Count the prompt of a client that left before the first byte: it was read by then."""
    candidate = candidates.current
    if candidate is not None:
        record.model, record.upstream = candidate.model, candidate.endpoint.name
        record.note_tokens(prompt_estimate(call), 0)


def _begun(ctx: AppContext, call: ProxyRequest, waiting: Waiting, answer: LateAnswer) -> Response:
    """A response that begins before an endpoint answers."""
    serving, record = ctx.serving, cast(RequestLog, g.record)
    options = KeepAliveOptions(serving.keepalive, serving.keepalive_interval, ctx.clock)
    start = _stream_start(ctx, call, record)
    assert start is not None, "only such calls are made beside"
    return begun_response(answer, waiting, start, options, record)


def _stream_start(ctx: AppContext, call: ProxyRequest, record: RequestLog) -> StreamStart | None:
    """What the stream of a call says before its answer begins; None for other calls."""
    kind = STARTS.get(call.path.partition("?")[0]) if call.body.is_stream else None
    document = call.body.document if isinstance(call.body, JsonBody) else None
    return kind(document, record.id, int(ctx.now())) if kind else None


def _body(ctx: AppContext, call: ProxyRequest, proxied: ProxyResponse) -> ProxiedBody:
    record = cast(RequestLog, g.record)
    note, start = id_note(ctx, call, proxied, record), _stream_start(ctx, call, record)
    return ProxiedBody(proxied, record, call, note, start)


def _response(ctx: AppContext, proxied: ProxyResponse, call: ProxyRequest) -> Response:
    try:
        response = Response(_body(ctx, call, proxied), proxied.status, proxied.headers)
    except BaseException:
        proxied.close()
        raise
    name_answerer(response, proxied.model)
    content_type = proxied.header("content-type")
    if not content_type:
        response.headers.pop("Content-Type", None)
    if is_events(content_type):
        response.headers["X-Accel-Buffering"] = "no"
        response.headers.setdefault("Cache-Control", "no-cache")
    return response
