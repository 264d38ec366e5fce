"""What a stream says before its answer has begun, in each API that is proxied. Pure.

A server that loads a model, or has a line before it, is silent for minutes. Meanwhile the stream
has keep-alives; if no answer comes, it ends with an error. The request was not read by then: a
server may take what this proxy would refuse. So all that is used of it here may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from horde_proxy.errors import ProxyError
from horde_proxy.protocol import sse
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.messages import shapes
from horde_proxy.protocol.responses.events import ResponseEvents
from horde_proxy.protocol.responses.question import ResponseQuestion
from horde_proxy.protocol.responses.request import echo_of_nothing
from horde_proxy.protocol.usage import estimate_prompt


class StreamStart:
    """The start of one stream of images, whose API has no event without news.

    `body` is the request's JSON document, or None for a form. `id` tells the stream apart, and
    `created` is Unix time (s).
    """

    def __init__(self, body: Any, id: str, created: int) -> None:
        self.body = body if isinstance(body, dict) else {}
        self.id, self.created = id, created

    @property
    def model(self) -> str:
        """The model that the request names, or ""."""
        model = self.body.get("model")
        return model if isinstance(model, str) else ""

    def keep_alive(self) -> bytes:
        """An event without news, for clients that take comments for silence; b"" for none."""
        return b""

    def failed(self, error: ProxyError) -> bytes:
        """The whole rest of a stream whose answer never begins."""
        return sse.event({"type": "error", **error.envelope()}, "error")

    def answer_events(self, document: Mapping[str, Any]) -> bytes | None:
        """The events of an answer in one piece, from a server that does not stream.

        None where there are no such events.
        """
        pictures = document.get("data")
        if not isinstance(pictures, list) or not all(
            isinstance(picture, dict) for picture in pictures
        ):
            return None
        facts = {name: value for name, value in document.items() if name not in ("data", "created")}
        name = "image_generation.completed"
        fields = {"type": name, **facts, "created_at": document.get("created", self.created)}
        return b"".join(sse.event({**fields, **picture}, name) for picture in pictures)


class EditStart(StreamStart):
    """The start of a stream of edited images."""

    def answer_events(self, document: Mapping[str, Any]) -> bytes | None:
        """The same events with the name of an edit."""
        events = super().answer_events(document)
        return events and events.replace(b"image_generation.completed", b"image_edit.completed", 2)


class ChatStart(StreamStart):
    """The start of a stream of chat chunks."""

    kind = "chat.completion.chunk"
    nothing: Mapping[str, Any] = {"delta": {}}

    def keep_alive(self) -> bytes:
        """A chunk of nothing: LangChain gives up after 120 s of comments.

        Its id is empty, as that of Azure's first chunk: clients that take the id of an answer from
        the first chunk that has one get the server's.
        """
        choice = {"index": 0, **self.nothing, "logprobs": None, "finish_reason": None}
        return sse.event({**self._head(""), "choices": [choice]})

    def failed(self, error: ProxyError) -> bytes:
        """The error, for which OpenAI's SDKs raise an APIError, and [DONE]."""
        return sse.event(error.envelope()) + sse.DONE

    def answer_events(self, document: Mapping[str, Any]) -> bytes | None:
        """A chunk for each choice, one for its end, and the usage."""
        choices = document.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            return None
        head = {**document, "object": self.kind, "choices": []}
        usage = head.pop("usage", None)
        events = [
            sse.event({**head, "choices": [part]})
            for choice in choices
            for part in self._parts(choice)
        ]
        if usage:
            events.append(sse.event({**head, "usage": usage}))
        return b"".join([*events, sse.DONE])

    def _parts(self, choice: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The choices of the chunks that stand for one choice of a whole answer."""
        message = choice.get("message")
        delta = {} if not isinstance(message, dict) else dict(message)
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            # In deltas each call has its index (OpenAI's specification of the chunk).
            delta["tool_calls"] = [{"index": at, **call} for at, call in enumerate(calls)]
        rest = {name: value for name, value in choice.items() if name != "message"}
        return [{**rest, "delta": delta, "finish_reason": None}, {**rest, "delta": {}}]

    def _head(self, id: str) -> dict[str, Any]:
        return {"id": id, "object": self.kind, "created": self.created, "model": self.model}


class CompletionStart(ChatStart):
    """The start of a stream of text completions."""

    kind = "text_completion"
    nothing: Mapping[str, Any] = {"text": ""}

    def _parts(self, choice: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [dict(choice)]


class ResponseStart(StreamStart):
    """The start of a stream of the Responses API.

    The first event has to be response.created with the id of the response, which the server gives.
    So there are comments only, which Codex takes for silence.
    """

    def failed(self, error: ProxyError) -> bytes:
        """response.created, in_progress and failed: Codex does not see OpenAI's event `error`."""
        request = GenerationRequest(self.model, ())
        question = ResponseQuestion(
            (request,),
            f"resp_{self.id}",
            self.created,
            lambda: self.created,
            echo=echo_of_nothing(),
            store=False,
        )
        return ResponseEvents(question).error(error)

    def answer_events(self, document: Mapping[str, Any]) -> bytes | None:
        """None: no known server has this API and does not stream."""
        return None


class MessageStart(StreamStart):
    """The start of a stream of Anthropic's API."""

    def keep_alive(self) -> bytes:
        """A ping, which may come before message_start: Claude Code waits 300 s for an event."""
        return sse.event({"type": "ping"}, "ping")

    def failed(self, error: ProxyError) -> bytes:
        """message_start and the error: Claude Code sends more requests for an error without it."""
        usage = shapes.begun_usage(estimate_prompt(self.body))
        message = shapes.message_object(f"msg_{self.id}", self.model, (), usage)
        begun = sse.event({"type": "message_start", "message": message}, "message_start")
        return begun + sse.event(shapes.error_object(error), "error")

    def answer_events(self, document: Mapping[str, Any]) -> bytes | None:
        """None: no known server has this API and does not stream."""
        return None


STARTS: Mapping[str, type[StreamStart]] = {
    "chat/completions": ChatStart,
    "completions": CompletionStart,
    "responses": ResponseStart,
    "messages": MessageStart,
    "images/generations": StreamStart,
    "images/edits": EditStart,
}
"""The kind of a stream's start, by the path after /v1/ of its call."""
