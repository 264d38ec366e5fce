"""Writes an answer as Anthropic's message, whole or as its server-sent events. Pure.

    message_start
      content_block_start, content_block_delta ..., content_block_stop    for each block, in order
    message_delta (stop reason, usage), message_stop
    ping between any two of them; error instead of what is still to come

One block is open at a time, and indexes have no gaps: clients drop blocks that are not closed, and
Anthropic's Python SDK fails at a gap. A thought is closed before the text, the text before calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.errors import ProxyError
from horde_proxy.protocol import chunks as chat
from horde_proxy.protocol import sse
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.messages import shapes
from horde_proxy.protocol.messages.request import MessagesQuestion
from horde_proxy.protocol.messages.shapes import MessageEnd

_DELTA_NAMES = {"thinking": "thinking_delta", "text": "text_delta"}


@dataclass
class _PendingCall:
    """A call that waits until the one before it is closed. `arguments` came in pieces."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The arguments so far."""
        return "".join(self.arguments)


class MessageEvents:
    """Writes the events of one message; see api.front.EventWriter.

    Servers may write several calls at the same time, and text after calls. The first call is
    written as it comes; the others, and such a text, wait in memory until it is complete.
    """

    def __init__(self, question: MessagesQuestion) -> None:
        [request] = question.requests
        self._question = question
        self.shows_progress = (
            question.shows_thinking and request.horde.get("progress") == "reasoning"
        )
        self.is_complete = self._has_begun = self._has_failed = False
        self._end = MessageEnd()
        self._index, self._open = -1, ""
        # Calls by their index in chunks; the open one is `_current_call`.
        self._current_call: int | None = None
        self._pending: dict[int, _PendingCall] = {}
        self._late_text: list[str] = []

    @property
    def is_open(self) -> bool:
        return self._has_begun and not self.is_complete

    def begin(self) -> Iterator[bytes]:
        """message_start, with an estimate of the input tokens: meters of clients need it here."""
        if self._has_begun:
            return
        self._has_begun = True
        question = self._question
        usage = shapes.begun_usage(question.input_tokens)
        message = shapes.message_object(question.id, question.model, (), usage)
        yield _event("message_start", message=message)

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """The events of one chunk."""
        yield from self.begin()
        self._end.usage = chunk.get("usage") or self._end.usage
        self._end.horde = chunk.get("horde") or self._end.horde
        for choice in chunk["choices"]:
            yield from self._delta(choice["delta"])
            if choice["finish_reason"]:
                self._end.reason, self.is_complete = choice["finish_reason"], True

    def comment(self, text: str) -> bytes:
        """A comment of server-sent events."""
        return sse.comment(text)

    def keep_alive(self) -> bytes:
        """A ping: Claude Code gives up on a stream that is silent for 300 s."""
        return _event("ping")

    def progress(self, text: str) -> bytes:
        """The text as a thought; a ping once the answer has begun, as it would be part of that."""
        if self._open not in ("", "thinking") or (not self._open and self._index >= 0):
            return self.keep_alive()
        return b"".join(self._text("thinking", text))

    def error(self, error: ProxyError) -> bytes:
        """An error event, after which nothing follows."""
        self._has_failed = True
        return _event(**shapes.error_object(error))

    def end(self) -> bytes:
        """The end of the last blocks, the stop reason with the usage, and message_stop."""
        return b"" if self._has_failed else b"".join(self._ending())

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[bytes]:
        """The events of what is new in the answer."""
        if (thought := delta.get("reasoning_content")) and self._question.shows_thinking:
            yield from self._late_or_now("thinking", thought)
        if text := delta.get("content"):
            yield from self._late_or_now("text", text)
        if refusal := delta.get("refusal"):
            self._end.refusal += refusal
            yield from self._late_or_now("text", refusal)
        for call in delta.get("tool_calls") or ():
            yield from self._call(call)

    def _late_or_now(self, kind: str, text: str) -> Iterator[bytes]:
        if self._current_call is None:
            # A model that thinks again after its text begins another block.
            yield from self._text(kind, text)
        elif kind == "text":
            self._late_text.append(text)

    def _text(self, kind: str, text: str) -> Iterator[bytes]:
        """A piece of the open block, or of a new one, of text or thinking."""
        if self._open != kind:
            block = {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}
            yield from self._begin_block(kind, block)
        yield self._block_delta({"type": _DELTA_NAMES[kind], kind: text})

    def _call(self, part: Mapping[str, Any]) -> Iterator[bytes]:
        """A piece of a call; of one that is not the first, once that is complete."""
        number, function = part["index"], part["function"]
        if "id" in part:
            if self._current_call is not None:
                call_id = shapes.tool_use_id(part["id"])
                self._pending[number] = _PendingCall(call_id, function["name"])
            else:
                self._current_call = number
                yield from self._begin_call(shapes.tool_use_id(part["id"]), function["name"])
        arguments = function.get("arguments", "")
        if number in self._pending:
            self._pending[number].arguments.append(arguments)
        elif arguments and number == self._current_call:
            yield self._block_delta({"type": "input_json_delta", "partial_json": arguments})

    def _begin_call(self, call_id: str, name: str) -> Iterator[bytes]:
        block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        yield from self._begin_block("tool_use", block)

    def _begin_block(self, kind: str, block: Mapping[str, Any]) -> Iterator[bytes]:
        yield from self._close_block()
        self._index, self._open = self._index + 1, kind
        yield _event("content_block_start", index=self._index, content_block=block)

    def _close_block(self) -> Iterator[bytes]:
        if not self._open:
            return
        if self._open == "thinking":
            # Once, whole and last, as Anthropic sends it.
            signature = {"type": "signature_delta", "signature": shapes.SIGNATURE}
            yield self._block_delta(signature)
        self._open = ""
        yield _event("content_block_stop", index=self._index)

    def _block_delta(self, delta: Mapping[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _ending(self) -> Iterator[bytes]:
        yield from self._close_block()
        if text := "".join(self._late_text).strip():
            yield from self._text("text", text)
        if self._question.requests[0].parallel_tool_calls:
            for call in _whole_calls(self._pending, self._end.reason):
                yield from self._begin_call(call.id, call.name)
                arguments = {"type": "input_json_delta", "partial_json": call.text or "{}"}
                yield self._block_delta(arguments)
        # Programs read content[0].text without a look at the number of blocks.
        if self._index < 0:
            yield from self._begin_block("text", shapes.text_block(""))
        yield from self._close_block()
        end = self._end
        fields = end.fields(self._question.requests[0].stop)
        yield _event("message_delta", delta=fields, usage=shapes.usage_object(end.usage))
        yield _event("message_stop")


def fold_message(question: MessagesQuestion, chunks: Sequence[Chunk]) -> dict[str, Any]:
    """The message that all chunks of an answer add up to."""
    answer = chat.fold(chunks)
    [choice] = answer["choices"]
    message, request = choice["message"], question.requests[0]
    content: list[dict[str, Any]] = []
    if question.shows_thinking and message.get("reasoning_content"):
        content.append(shapes.thinking_block(message["reasoning_content"]))
    refusal = message.get("refusal") or ""
    if text := (message["content"] or "") + refusal:
        content.append(shapes.text_block(text))
    calls = {
        index: _PendingCall(call["id"], call["function"]["name"], [call["function"]["arguments"]])
        for index, call in enumerate(message.get("tool_calls") or ())
        if index == 0 or request.parallel_tool_calls
    }
    content += [
        shapes.tool_use_block(shapes.tool_use_id(call.id), call.name, call.text)
        for call in _whole_calls(calls, choice["finish_reason"])
    ]
    end = MessageEnd(
        choice["finish_reason"], refusal, answer["usage"] or {}, answer.get("horde", {})
    )
    return shapes.message_object(
        question.id,
        question.model,
        content or [shapes.text_block("")],
        shapes.usage_object(end.usage),
        end.fields(request.stop),
    )


def _whole_calls(calls: Mapping[int, _PendingCall], reason: str) -> Iterator[_PendingCall]:
    """The calls in their order, without one that a limit cut off: an agent would run it."""
    for _, call in sorted(calls.items()):
        if reason != "length" or shapes.is_object(call.text):
            yield call


def _event(type: str, **fields: Any) -> bytes:
    """An event, which has its type as its name, too: Anthropic's SDKs skip those without one."""
    return sse.event({"type": type, **fields}, type)
