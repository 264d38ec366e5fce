"""A proxied stream that began before its server said anything: keep-alives, then what comes.

    silence        keep-alives, while router.proxy tries one endpoint after another
    an answer      its bytes, as a proxied stream that began with them
    a refusal      an event with the error: the status 200 was sent already
    only endpoints
    that generate  the rest of the pipeline, whose events follow in the same stream

It only writes. proxied_call.py decides when a stream begins early, and the router which endpoint is
tried.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, cast

from flask import Response
from flask.globals import app_ctx, request_ctx

from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.front import EVENT_STREAM
from horde_proxy.api.proxied_body import ProxiedBody, is_events
from horde_proxy.api.stream import HEADERS, KeepAliveOptions, start_events
from horde_proxy.errors import ClientGone, InvalidRequest, ProxyError, ServerBug, UpstreamFailed
from horde_proxy.json_reading import parse_json
from horde_proxy.protocol.stream_start import StreamStart
from horde_proxy.router.candidates import named
from horde_proxy.upstreams.base import Waiting
from horde_proxy.upstreams.openai.errors import refusal_of, server_error
from horde_proxy.upstreams.proxying import ProxyResponse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LateAnswer:
    """What may follow the silence.

    `steps` are Waitings, then the response, or None where only endpoints that generate are left.
    `body` makes the body that passes a response on. `generated` is the response of the rest of the
    pipeline; None where there is no such rest.
    """

    steps: Generator[Waiting, None, ProxyResponse | None]
    body: Callable[[ProxyResponse], ProxiedBody]
    generated: Callable[[], Response] | None


def begun_response(
    answer: LateAnswer,
    waiting: Waiting,
    start: StreamStart,
    keep_alive: KeepAliveOptions,
    record: RequestLog,
) -> Response:
    """The response with a first keep-alive; `waiting` is the last one that came."""
    stream = _KeptAliveStream(answer, waiting, start, keep_alive, record)
    return Response(stream, content_type=EVENT_STREAM, headers=HEADERS)


class _KeptAliveStream:
    """The bytes of one such stream.

    A class and not a generator, because a generator that was never started ignores close(): it
    must reach the call even before the first byte.
    """

    def __init__(
        self,
        answer: LateAnswer,
        waiting: Waiting,
        start: StreamStart,
        keep_alive: KeepAliveOptions,
        record: RequestLog,
    ) -> None:
        self._answer, self._waiting, self._start = answer, waiting, start
        self._keep_alive, self._record = keep_alive, record
        # The stages of the pipeline use Flask's request, which ends for Flask with the view.
        proxy: Any = app_ctx
        self._contexts = (proxy._get_current_object(), request_ctx._get_current_object())  # type: ignore[attr-defined]
        self._events = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._events)

    def close(self) -> None:
        """End the call, wherever it is."""
        try:
            self._events.close()
        finally:
            self._answer.steps.close()

    def _run(self) -> Generator[bytes, None, None]:
        with ExitStack() as contexts:
            for context in self._contexts:
                contexts.enter_context(context)
            try:
                proxied = yield from self._silence()
                yield from self._generated() if proxied is None else self._passed(proxied)
            except ProxyError as exc:
                self._record.error = exc.code or exc.type
                if not isinstance(exc, ClientGone):
                    yield self._start.failed(exc)
            # The last guard: the status was sent long ago, so the stream itself has to say it.
            except Exception:
                log.exception("a stream failed")
                self._record.error = ServerBug.type
                yield self._start.failed(ServerBug())

    def _silence(self) -> Generator[bytes, None, ProxyResponse | None]:
        """Keep-alives until the call has an answer, or None."""
        options = self._keep_alive
        waiting, sent = self._waiting, -options.interval
        while True:
            if options.clock() - sent >= options.interval:
                yield start_events(self._start, options.kind, waiting)
                sent = options.clock()
            try:
                waiting = next(self._answer.steps)
            except StopIteration as end:
                return cast("ProxyResponse | None", end.value)

    def _passed(self, proxied: ProxyResponse) -> Iterator[bytes]:
        """An endpoint's answer as events."""
        with closing(proxied):
            if proxied.status >= 400:
                raise named(proxied.header("x-endpoint"), _refusal(proxied))
            with closing(self._answer.body(proxied)) as body:
                if is_events(proxied.header("content-type")):
                    yield from body
                else:
                    yield self._whole(b"".join(body))

    def _whole(self, content: bytes) -> bytes:
        """The events of an answer in one piece. Raises UpstreamFailed."""
        try:
            document = parse_json(content)
        except ValueError:
            document = None
        events = self._start.answer_events(document) if isinstance(document, dict) else None
        if events is None:
            raise UpstreamFailed("The endpoint answered without a stream. Send `stream: false`.")
        return events

    def _generated(self) -> Iterator[bytes]:
        """The events of the rest of the pipeline."""
        if self._answer.generated is None:
            raise UpstreamFailed("No endpoint that is left takes such a request.")
        response = self._answer.generated()
        with closing(response):
            yield from cast("Iterator[bytes]", response.response)


def _refusal(proxied: ProxyResponse) -> ProxyError:
    """The error for an answer with an error's status, which would have passed unchanged."""
    error = server_error(proxied)
    if error is not None:
        return error
    if proxied.status >= 500:
        return UpstreamFailed(f"it answered with status {proxied.status}: {refusal_of(proxied)}")
    return InvalidRequest(refusal_of(proxied))
