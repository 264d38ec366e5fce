"""The output items of an answer, made from chunks, and the events that announce them. Pure.

    chunks --> Output.chunk() --> events of items: added, deltas, done
                    |
                    +--> items(): what is done, and what is still being written

One item is open at a time. It is closed before the next one is opened, and no index is used twice:
the stream helpers of OpenAI's SDKs, and the AI SDK, fail at any other order. Events have no
sequence number here; events.py numbers them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.responses.calls import CallForm, Item, ItemStatus
from horde_proxy.protocol.responses.fenced_input import FencedInput
from horde_proxy.protocol.responses.open_items import (
    Event,
    OpenCall,
    OpenCompaction,
    OpenItem,
    OpenMessage,
    OpenPicture,
    OpenReasoning,
    PartType,
)
from horde_proxy.protocol.responses.question import ResponseQuestion, item_id

_CALL_ID = 29
"""Characters of a call's id, as OpenAI's have: "call_" and 24 more."""


class Output:
    """The items of one response."""

    def __init__(self, question: ResponseQuestion) -> None:
        self._response_id, self._forms = question.id, question.calls
        self._summary = OpenCompaction() if question.compacts else None
        self._done: list[Item] = []
        self._open: OpenItem | None = None
        self._calls: dict[int, OpenCall] = {}
        # What the model wrote in the middle of a call, by PartType or "reasoning".
        self._after_calls: list[tuple[PartType | Literal["reasoning"], str]] = []
        self._fenced = FencedInput(question.calls)

    def items(self, status: ItemStatus = "in_progress") -> list[Item]:
        """The items so far; the one in whose middle the answer is has the given status."""
        return [*self._done, *([self._open.item(status)] if self._open else ())]

    def chunk(self, chunk: Chunk) -> Iterator[Event]:
        """The events of a chunk. Only its first choice counts: a response has no others."""
        for choice in chunk["choices"]:
            if choice["index"] == 0:
                yield from self._add(choice["delta"])

    def reasoning(self, text: str) -> Iterator[Event]:
        """The events of a piece of what the model thinks."""
        if self._is_within_call():
            self._after_calls.append(("reasoning", text))
            return
        yield from self._what_waited()
        if not isinstance(self._open, OpenReasoning):
            yield from self._begin(OpenReasoning())
        assert isinstance(self._open, OpenReasoning)
        yield from self._open.add(text)

    def end(self, status: ItemStatus) -> Iterator[Event]:
        """The events that close what is open, with this status.

        An answer of thoughts only gets an empty message: agents-js sends its request again and
        again for one without messages and calls.
        """
        yield from self._end_text(status)
        yield from self._close(status)
        for call in list(self._calls.values()):
            yield from self._begin(call)
            yield from self._close(status)
        yield from self._what_waited()
        yield from self._close(status)
        if all(item["type"] == "reasoning" for item in self._done):
            yield from self._text("output_text", "")
            yield from self._close(status)

    @property
    def lacks_summary(self) -> bool:
        """Whether a summary was asked for, and the model wrote nothing."""
        return self._summary is not None and self._summary.is_empty

    def _add(self, delta: Mapping[str, Any]) -> Iterator[Event]:
        if self._summary is not None:
            # It is the only item of its response.
            self._summary.add(delta.get("content") or "")
            if self._open is None:
                yield from self._begin(self._summary)
            return
        if text := delta.get("reasoning_content"):
            yield from self.reasoning(text)
        if text := self._fenced.add(delta.get("content") or ""):
            yield from self._text("output_text", text)
        if text := delta.get("refusal"):
            yield from self._text("refusal", text)
        if picture := delta.get("image_generation"):
            yield from self._begin(OpenPicture(picture))
            yield from self._close("completed")
        for part in delta.get("tool_calls") or ():
            yield from self._call(part)

    def _what_waited(self) -> Iterator[Event]:
        """The events of what the model wrote in the middle of a call, which is over."""
        waited, self._after_calls = self._after_calls, []
        for type, text in waited:
            yield from self.reasoning(text) if type == "reasoning" else self._text(type, text)

    def _is_within_call(self) -> bool:
        """Whether the open item is a call whose arguments are not whole yet."""
        return isinstance(self._open, OpenCall) and not self._open.is_whole()

    def _text(self, type: PartType, text: str) -> Iterator[Event]:
        if self._is_within_call():
            self._after_calls.append((type, text))
            return
        yield from self._what_waited()
        if not isinstance(self._open, OpenMessage):
            yield from self._begin(OpenMessage())
        assert isinstance(self._open, OpenMessage)
        yield from self._open.add(type, text)

    def release(self) -> Iterator[Event]:
        """The events of text that was held back, because it could have become a call."""
        if text := self._fenced.rest():
            yield from self._text("output_text", text)

    def _end_text(self, status: ItemStatus) -> Iterator[Event]:
        """The events of text that was held back, or of the call that it is."""
        call = self._fenced.call() if status == "completed" else None
        yield from self.release()
        if call is not None:
            call_id = item_id("call_", self._response_id, "fenced input")
            arguments = json.dumps({"input": call.input})
            yield from self._begin(OpenCall(call.form, call_id[:_CALL_ID], arguments))

    def _call(self, part: Mapping[str, Any]) -> Iterator[Event]:
        """The events of a part of a call.

        A further call waits until the one before it is whole: some servers write several calls at
        once, a piece of each in turn.
        """
        # With calls of its own, what else the model wrote is text.
        yield from self.release()
        number, function = part["index"], part["function"]
        if "id" in part:
            name = function["name"]
            form = self._forms.get(name) or CallForm("function", name)
            self._calls[number] = OpenCall(form, part["id"])
        call = self._calls.get(number)
        # Without one, it was whole before.
        if call is not None:
            yield from call.add(function["arguments"])
        while self._calls and not self._waits():
            yield from self._close("completed")
            for waiting in list(self._calls.values())[:1]:
                yield from self._begin(waiting)

    def _waits(self) -> bool:
        """Whether the open item is a call that may go on, or that no other call waits for."""
        is_last = len(self._calls) == 1 and isinstance(self._open, OpenCall)
        return is_last or self._is_within_call()

    def _begin(self, item: OpenItem) -> Iterator[Event]:
        yield from self._close("completed")
        item.place(self._response_id, len(self._done))
        self._open = item
        yield from item.begin()

    def _close(self, status: ItemStatus) -> Iterator[Event]:
        if self._open is None:
            return
        closed, self._open = self._open, None
        yield from closed.end(status)
        self._done.append(closed.item(status))
        self._calls = {at: call for at, call in self._calls.items() if call is not closed}
