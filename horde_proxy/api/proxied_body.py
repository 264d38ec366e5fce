"""The body of a proxied answer: bytes that pass unchanged, while their usage is read.

How a call came to its endpoint is not known here (proxying.py).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.proxied_ids import IdNote
from horde_proxy.api.uploads import Upload
from horde_proxy.errors import ClientGone, ProxyError, UpstreamFailed
from horde_proxy.protocol import error_shapes, sse
from horde_proxy.protocol.responses.proxied_stream import ProxiedResponseStream
from horde_proxy.protocol.stream_start import StreamStart
from horde_proxy.protocol.usage import estimate_prompt
from horde_proxy.protocol.usage_reader import UsageReader
from horde_proxy.upstreams.proxying import JsonBody, ProxyRequest, ProxyResponse

_EVENTS = "text/event-stream"
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
"""The blank line that ends an event, in all line ends that the HTML standard allows."""
# Streams that end with a finish_reason or [DONE], or message_stop. opencode repeats a chat without,
# for ever; Anthropic's SDK for Python takes what is there for the whole message.
_MUST_FINISH = frozenset({"chat/completions", "completions", "messages"})
# Count the tokens of a request, and generate nothing: Anthropic, OpenAI, vLLM and llama.cpp.
_COUNT_ONLY = frozenset({"count_tokens", "input_tokens", "tokenize", "detokenize"})
_MOST_IMAGES = 10
"""Pictures of one call, as OpenAI's API allows: a server makes no more, whatever `n` is."""


class ProxiedBody:
    """The bytes of an answer to a call. Its tokens are noted in the record.

    A stream that breaks off ends with an error event; a stream of chunks does so, too, when it ends
    without a finish_reason. `start` writes that event where the answer has not begun.
    """

    def __init__(
        self,
        proxied: ProxyResponse,
        record: RequestLog,
        call: ProxyRequest,
        ids: IdNote | None = None,
        start: StreamStart | None = None,
    ) -> None:
        self._response, self._record, self._ids = proxied, record, ids
        self._start = start
        self._prompt_estimate = prompt_estimate(call)
        kind = proxied.header("content-type")
        self._is_stream = is_events(kind)
        self._must_finish = self._is_stream and _plain_path(call) in _MUST_FINISH
        self._is_message = _plain_path(call) == "messages"
        is_response = self._is_stream and call.method == "POST" and _plain_path(call) == "responses"
        self._events = ProxiedResponseStream() if is_response else None
        self._usage = UsageReader(kind)
        # A stored response tells the usage of its generation again, each time it is fetched.
        self._is_counted = call.method == "POST" and proxied.status < 400
        self._generates = _generates(call)
        self._images = _image_count(call)

    def __iter__(self) -> Iterator[bytes]:
        feed = self._usage.feed
        try:
            for chunk in self._response:
                feed(chunk)
                if self._events is not None:
                    self._events.feed(chunk)
                if self._ids is not None:
                    self._ids.feed(chunk)
                yield chunk
            self._check_finished()
        except ProxyError as exc:
            yield from self._broken(exc)

    def close(self) -> None:
        """End the call and log its usage. May be called again."""
        self._response.close()
        self._usage.end()
        if self._is_counted and (self._generates or self._usage.has_usage):
            self._record.note_tokens(*self._usage.tokens(self._prompt_estimate))
            self._record.finish_reason = self._usage.finish_reason
            self._record.cost = self._usage.cost
            self._record.cached_tokens = self._usage.cached_tokens
        if self._is_counted and self._images:
            self._record.images = self._images

    def _check_finished(self) -> None:
        """Raises UpstreamFailed for a stream that ended in the middle of the answer."""
        if self._events is not None and self._response.status < 400 and not self._events.has_ended:
            raise UpstreamFailed("The answer broke off.")
        if self._must_finish and self._response.status < 400:
            self._usage.end()
            if not self._usage.is_finished and not self._usage.has_failed:
                raise UpstreamFailed("The answer broke off.")

    def _broken(self, exc: ProxyError) -> Iterator[bytes]:
        self._record.error = exc.code or exc.type
        if isinstance(exc, ClientGone):
            return
        if not self._is_stream:
            # The server then closes the connection, and the client sees that bytes are missing.
            raise ConnectionResetError(errno.ECONNRESET, str(exc)) from exc
        # It may have died in the middle of a line, which the error must not be read as a part of.
        ending = self._usage.ending()
        is_within = ending and not ending.endswith(_EVENT_ENDS)
        yield (b"\n\n" if is_within else b"") + self._error_event(exc)

    def _error_event(self, exc: ProxyError) -> bytes:
        """The end of a stream that broke off, in the shape of its API."""
        if self._is_message:
            return sse.event(error_shapes.anthropic(error_shapes.facts_of(exc)), "error")
        # Comments may have passed, which begin no response.
        if self._events is not None and self._start is not None and not self._events.has_begun:
            return self._start.failed(exc)
        if self._events is not None and (failed := self._events.failed(exc)) is not None:
            return failed
        return sse.event(exc.envelope()) + sse.DONE


def is_events(content_type: str) -> bool:
    """Whether a Content-Type is that of server-sent events."""
    return content_type.lower().startswith(_EVENTS)


def prompt_estimate(call: ProxyRequest) -> int:
    """About how many tokens the prompt has; 0 for an upload, and for what generates nothing."""
    if not isinstance(call.body, JsonBody) or not _generates(call):
        return 0
    return estimate_prompt(call.body.document)


def _generates(call: ProxyRequest) -> bool:
    """Whether tokens are estimated where no usage tells them. Generations always name a model."""
    return (
        call.method == "POST"
        and call.model is not None
        and _plain_path(call).rpartition("/")[2] not in _COUNT_ONLY
    )


def _plain_path(call: ProxyRequest) -> str:
    """The path without query and slash at its end."""
    return call.path.partition("?")[0].rstrip("/")


def _image_count(call: ProxyRequest) -> int:
    """How many pictures a call asks for."""
    if not _plain_path(call).startswith("images/"):
        return 0
    if isinstance(call.body, Upload):
        return min(call.body.n, _MOST_IMAGES)
    document = call.body.document if isinstance(call.body, JsonBody) else None
    count = document.get("n") if isinstance(document, dict) else None
    return min(max(count, 1), _MOST_IMAGES) if isinstance(count, int) else 1
