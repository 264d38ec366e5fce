"""The pipeline: how every front's request becomes an answer. All stages stand here, in order.

    authenticate -> check_limits -> read_json -> begin_inspection     the body, perhaps kept
      -> with_one_model                                               further models in g
      -> try_proxy                                                    a response, unchanged, or
      -> front.read -> candidates_for -> front.defer                  a response at once, or
      -> own_functions.offered                                        requests, and who may answer
      -> with_caller                                                  who sent them
      -> loop guard -> log -> slot -> watch the client -> share with a retry -> front.record
      -> own_functions.answered(router.stream)                        items, and our own calls run
      -> front.fold, or front.stream                                  one answer, or its events

A stage is added here, never in a front. What happens while an answer is waited for is one loop,
_items; below it are only the shared answer, own functions, the router and the upstream. A chat with
pictures goes to a candidate that sees, if there is one (try_proxy); else the horde that answers has
them described first, within its stream, so that keep-alives and cancelling are those of any wait.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from flask import Response, g, jsonify, request

from horde_proxy.api import own_functions
from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.auth import (
    account_name,
    authenticate,
    check_limits,
    client_name,
    client_weight,
    horde_key,
    kudos_budget,
    read_json,
)
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.event_log import NumberedEvents
from horde_proxy.api.front import EVENT_STREAM, EventWriter, Front, Q, Recorder
from horde_proxy.api.inspections import begin_inspection
from horde_proxy.api.internal_call import current_job
from horde_proxy.api.named_models import name_answerer, with_one_model
from horde_proxy.api.places import allowed_places
from horde_proxy.api.proxying import candidates_for, try_proxy
from horde_proxy.api.received_call import client_socket, read_body
from horde_proxy.api.shared_answer import AnswerReader, RequestInfo
from horde_proxy.api.stream import HEADERS, EventStream, KeepAliveOptions
from horde_proxy.api.uploads import Upload
from horde_proxy.errors import UpstreamFailed
from horde_proxy.protocol.chunks import Chunk, is_complete
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.leniency import warnings_header
from horde_proxy.protocol.stream_start import STARTS, StreamStart
from horde_proxy.router import Candidates
from horde_proxy.upstreams.base import ANSWER_MARGIN, Accepted, Caller, StreamItem, Waiting
from horde_proxy.upstreams.interleave import interleave
from horde_proxy.upstreams.proxying import JsonBody, header_text

_STREAM_SLEEP = 2.0
"""The longest sleep for a stream (s): a keep-alive is due every few seconds."""
_WHOLE_SLEEP = 15.0
"""The longest sleep for an answer in one piece (s), whose client hears nothing meanwhile."""

_NOT_STORED = "store: the answer could not be stored, and cannot be fetched or continued"

# The number of an event in Last-Event-ID: "0", "17". Clients may also send another server's.
_NUMBER = re.compile(r"[0-9]{1,9}")


def run_generation(front: Front[Q]) -> Response:
    """The response to a POST to one front. Raises the ProxyError of the stage that refuses it."""
    ctx = current_context()
    # The page's own route for chats has authenticated its visitor already, by a session.
    if "key" not in g:
        authenticate()
    check_limits(makes_images=front.makes_images)
    body = read_body(ctx) if front.takes_forms else read_json()
    begin_inspection(ctx, body)
    named = with_one_model(body)
    generated = partial(_generated, ctx, front, body, named)
    proxied, candidates = try_proxy(ctx, named, front, partial(generated, is_begun=True))
    if proxied is None:
        return generated(candidates)
    if not front.makes_images and isinstance(body, JsonBody):
        own_functions.warn_of_proxying(proxied, body.document)
    return proxied


def _generated(
    ctx: AppContext,
    front: Front[Q],
    body: JsonBody | Upload,
    named: JsonBody | Upload,
    candidates: Candidates | None,
    *,
    is_begun: bool = False,
) -> Response:
    """The response that endpoints generate where the call could not be proxied.

    `named` is the body with one model. `is_begun`: the response's stream has begun, because the
    endpoints that were tried were silent for long.
    """
    document, content = _decoded(named)
    if isinstance(body, JsonBody):
        content = body.content  # a job sends it again, with all models
    question = front.read(document, ctx.serving)
    find = front.candidates or _candidates_by_model
    routes = [candidates or find(ctx, question.requests[0])]
    # Candidates are used up while they are tried, so that each further prompt has its own.
    routes += [find(ctx, other) for other in question.requests[1:]]
    job = current_job()
    if front.defer and job is None and (deferred := front.defer(ctx, question, content)):
        return deferred
    _go_on_where_begun(routes)
    if job and job.answer:
        question = job.answer.resumed(question)
    # The id that the client sees; a chat has that of its chunks.
    g.record.answer_id = getattr(question, "id", None)
    pairs = zip(question.requests, routes, strict=True)
    requests = [own_functions.offered(ctx, *pair) for pair in pairs]
    recording = _Recording(_recorder(ctx, front, question))
    ready = front.ready(question) if front.ready else None
    if ready is not None:
        items = _ready_items(ready, question.requests[0])
    else:
        items = _items(ctx, requests, routes, content, recording, is_begun=is_begun)
    new_start = STARTS.get(front.proxied_to or "")
    start = new_start(document, g.record.id, int(ctx.now())) if new_start else None
    if is_begun:
        return _streamed(ctx, items, front, recording.writer(front, question), start)
    return _response(ctx, items, front, question, recording, start)


def _decoded(body: JsonBody | Upload) -> tuple[Any, bytes]:
    """(what a front reads, the bytes) of a body."""
    return (body.document, body.content) if isinstance(body, JsonBody) else body.read()


def _response(
    ctx: AppContext,
    items: Generator[StreamItem, None, None],
    front: Front[Q],
    question: Q,
    recording: _Recording,
    start: StreamStart | None,
) -> Response:
    """The answer to a question, whole or as a stream.

    `start` keeps the stream alive while the request is in line, before its first chunk.
    """
    # The first item comes when an upstream has accepted: until then a refusal keeps its status.
    accepted = cast(Accepted, next(items))
    if question.requests[0].stream:
        response = _streamed(ctx, items, front, recording.writer(front, question), start)
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
        response = jsonify(recording.document() or front.fold(question, chunks))
    response.headers.update({name: header_text(value) for name, value in accepted.headers.items()})
    name_answerer(response, accepted.model)
    # A stream has begun before that is known: there, the log alone says it.
    if recording.recorder and recording.recorder.is_lost:
        warnings = [*filter(None, response.headers.getlist("X-Horde-Warnings")), _NOT_STORED]
        response.headers["X-Horde-Warnings"] = warnings_header(warnings)
    return response


def _recorder(ctx: AppContext, front: Front[Q], question: Q) -> Recorder | None:
    """What keeps the answer, if anything does."""
    job = current_job()
    if job is not None and job.answer is not None:
        return job.answer
    return front.record(ctx, question) if front.record else None


@dataclass
class _Recording:
    """The recorder of an answer: a retry that joins one has that of the request it repeats."""

    recorder: Recorder | None

    def writer(self, front: Front[Q], question: Q) -> EventWriter:
        """What writes the events. `Last-Event-ID` says after which one, and asks for numbers."""
        last = request.headers.get("Last-Event-ID")
        numbers = last is not None and front.content_type == EVENT_STREAM
        after = int(last) if last and _NUMBER.fullmatch(last) else -1
        writer = self.recorder.writer(after, numbers=numbers) if self.recorder else None
        if writer is None:
            writer = front.stream(question)
            return NumberedEvents(writer, after) if numbers else writer
        return writer

    def document(self) -> dict[str, Any] | None:
        """The recorder's whole answer, if it has one."""
        return self.recorder.document() if self.recorder else None


def _go_on_where_begun(routes: Sequence[Candidates]) -> None:
    """Have an answer that was begun before a restart go on at the same endpoint and model."""
    job = current_job()
    if job is None or job.journal is None or job.journal.is_empty:
        return
    journal = job.journal
    if not all(route.go_on_at(journal.endpoint, journal.models) for route in routes):
        # Another model would go on in another format, and another horde has other requests.
        journal.forget()


def _ready_items(
    chunks: Sequence[Chunk], generation: GenerationRequest
) -> Generator[StreamItem, None, None]:
    """The items of an answer that needs no upstream."""
    warnings = warnings_header(generation.warnings)
    yield Accepted({"X-Horde-Warnings": warnings} if warnings else {})
    yield from chunks


def _candidates_by_model(ctx: AppContext, generation: GenerationRequest) -> Candidates:
    return candidates_for(ctx, generation.model, generation)


def _items(
    ctx: AppContext,
    requests: Sequence[Any],
    routes: Sequence[Candidates],
    content: bytes,
    recording: _Recording,
    *,
    is_begun: bool,
) -> Generator[StreamItem, None, None]:
    """Accepted, then the chunks of the answer, and a Waiting after each sleep in between.

    A further Accepted brings the request's id, or says that another upstream has taken over.
    With `is_begun`, Waitings come before the first one as well.

    `content` is the body as it came. Only this loop waits; closing it ends all that it began.
    """
    first, log, socket = requests[0], cast(RequestLog, g.record), client_socket()
    callers = [with_caller(ctx, generation) for generation in requests]
    client, is_accepted = callers[0].client, is_begun
    short_ids = ctx.router.short_ids(g.scope)
    guard, job = ctx.live.loop_guard, current_job()
    # Equal lines of a batch are no loop: nobody repeats them.
    if job is None:
        guard.check(first, client)
    log.requested = log.requested or first.model
    with (
        log.recording(ctx.clock),
        ctx.live.slots.held(for_job=job is not None),
        guard.running(first, client),
        ctx.live.disconnects.watch_client(socket) as watch,
        _joined(ctx, requests, routes, callers, content, recording.recorder) as reader,
    ):
        watch.waiter, recording.recorder = reader, reader.recorder
        if job is not None:
            job.control.attach(reader)
        # It may have gone before there was somebody to wake.
        watch.check()
        while (item := reader.next()) is not None:
            if isinstance(item, Waiting):
                watch.check()
                callers[0].check_deadline(ctx.clock())
            log.note(item)
            if job is not None and job.note is not None:
                job.note(item)
            is_accepted = is_accepted or _begins(item, is_job=job is not None)
            if is_accepted:
                yield _with_short_id(item, short_ids)


def _begins(item: StreamItem, *, is_job: bool) -> bool:
    """Whether the response begins with an item, after which no refusal has a status of its own.

    Nobody reads the keep-alives of a job, so that it begins when an upstream has answered.
    """
    return isinstance(item, Accepted) and not (is_job and item.is_early)


def _with_short_id(item: StreamItem, short_ids: Mapping[str, str]) -> StreamItem:
    """The item; a chunk names its model as GET /models does."""
    if isinstance(item, dict) and item["model"] in short_ids:
        return {**item, "model": short_ids[item["model"]]}
    return item


def _with_short_ids(
    source: Iterator[StreamItem], short_ids: Mapping[str, str]
) -> Iterator[StreamItem]:
    with closing(cast("Generator[StreamItem, None, None]", source)):
        for item in source:
            yield _with_short_id(item, short_ids)


def with_caller(ctx: AppContext, generation: Any) -> Caller:
    """Who sent the current request, whose key pays, and how long the client waits."""
    seconds = ctx.serving.stream_timeout if generation.stream else ctx.serving.timeout
    job = current_job()
    if job is not None and job.seconds is not None:
        seconds = job.seconds
    deadline = ctx.clock() + seconds
    sleeper = ctx.live.new_sleeper(
        _STREAM_SLEEP if generation.stream else _WHOLE_SLEEP,
        lambda: deadline - ANSWER_MARGIN - ctx.clock(),
    )
    return Caller(
        client_name(),
        horde_key(ctx),
        deadline,
        sleeper,
        journal=job.journal if job else None,
        is_job=job is not None,
        budget=kudos_budget(ctx),
        weight=client_weight(),
        inspection=g.get("inspection"),
    )


def _joined(
    ctx: AppContext,
    requests: Sequence[Any],
    routes: Sequence[Candidates],
    callers: Sequence[Caller],
    content: bytes,
    recorder: Recorder | None,
) -> AnswerReader:
    """A reader of the answer, which a retry shares with the request that it repeats."""
    sleeper = callers[0].sleeper
    own = [replace(caller, sleeper=sleeper) for caller in callers]
    short_ids = ctx.router.short_ids(g.scope)
    maker = own_functions.picture_maker(ctx)

    def start() -> Iterator[StreamItem]:
        streams = [
            own_functions.answered(ctx.router.stream(request, left, caller), request, caller, maker)
            for request, left, caller in zip(requests, routes, own, strict=True)
        ]
        source = streams[0] if len(streams) == 1 else interleave(streams, requests[0].n)
        # What is stored names the model as the client sees it.
        return recorder.watch(_with_short_ids(source, short_ids)) if recorder else source

    info = _info(requests[0], callers[0].client)
    key = info.id
    # A job is called once: two equal lines of a batch are meant to be two.
    if ctx.serving.reattach and current_job() is None:
        digest = hashlib.sha256(content).hexdigest()
        # A bound request must not get the answer of an unbound one, nor the other way round.
        places = ",".join(allowed_places() or ())
        key = f"{info.owner} {request.path.removeprefix('/v1')} {places} {digest}"
    deadline = callers[0].deadline or math.inf
    return ctx.live.in_flight.join(key, info, start, sleeper, recorder, deadline)


def _is_fetched_by_id() -> bool:
    """Whether clients may fetch the answer to the current request by the id of its chunks."""
    return request.path.rstrip("/").endswith("/chat/completions")


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
        account=account_name(current_context()) if _is_fetched_by_id() else "",
    )


def _streamed(
    ctx: AppContext,
    items: Generator[StreamItem, None, None],
    front: Front[Q],
    writer: EventWriter,
    start: StreamStart | None,
) -> Response:
    serving = ctx.serving
    keep_alive = KeepAliveOptions(serving.keepalive, serving.keepalive_interval, ctx.clock)
    events = EventStream(items, writer, keep_alive, start)
    return Response(events, content_type=front.content_type, headers=HEADERS)
