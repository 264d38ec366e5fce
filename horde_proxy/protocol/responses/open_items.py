"""Items that are being written: messages, reasoning and calls, each with its events. Pure.

The names and the order of events are those that OpenAI sends; output.py decides which item is open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from horde_proxy.json_reading import parse_json
from horde_proxy.protocol.chunks import pieces
from horde_proxy.protocol.responses.calls import CallForm, Item, ItemStatus
from horde_proxy.protocol.responses.compaction import write_compaction
from horde_proxy.protocol.responses.question import item_id

Event = dict[str, Any]
"""An event without its sequence number."""
PartType = Literal["output_text", "refusal"]


class OpenItem(ABC):
    """An item that is being written; `id` and `index` are known once it is placed."""

    prefix = ""
    id = ""
    index = 0

    def place(self, response_id: str, index: int) -> None:
        """Give it its place among the items of a response."""
        self.id, self.index = item_id(self.prefix, response_id, f"output {index}"), index

    def begin(self) -> Iterator[Event]:
        """The events that open it."""
        yield self._of_item("added", self.item("in_progress"))

    def end(self, status: ItemStatus) -> Iterator[Event]:
        """The events that close it."""
        yield self._of_item("done", self.item(status))

    @abstractmethod
    def item(self, status: ItemStatus) -> Item:
        """The item with all that came so far."""

    def _of_item(self, what: str, item: Item) -> Event:
        return {"type": f"response.output_item.{what}", "output_index": self.index, "item": item}

    def _event(self, type: str, **fields: Any) -> Event:
        return {
            "type": f"response.{type}",
            "item_id": self.id,
            "output_index": self.index,
            **fields,
        }


class OpenMessage(OpenItem):
    """What the model says. Text and a refusal are parts of their own."""

    prefix = "msg_"

    def __init__(self) -> None:
        self._parts: list[tuple[PartType, list[str]]] = []

    def add(self, type: PartType, text: str) -> Iterator[Event]:
        """The events of a piece of text, or of a refusal."""
        if not self._parts or self._parts[-1][0] != type:
            yield from self._end_part()
            self._parts.append((type, []))
            yield self._of_part("content_part.added", part=_part(type, ""))
        self._parts[-1][1].append(text)
        extra: dict[str, Any] = {"logprobs": []} if type == "output_text" else {}
        for piece in pieces(text):
            yield self._of_part(f"{type}.delta", delta=piece, **extra)

    def end(self, status: ItemStatus) -> Iterator[Event]:
        """The events that close it, and its last part."""
        yield from self._end_part()
        yield from super().end(status)

    def item(self, status: ItemStatus) -> Item:
        """The message with all that came so far."""
        content = [_part(type, "".join(texts)) for type, texts in self._parts]
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _end_part(self) -> Iterator[Event]:
        if not self._parts:
            return
        type, texts = self._parts[-1]
        text = "".join(texts)
        if type == "output_text":
            yield self._of_part("output_text.done", text=text, logprobs=[])
        else:
            yield self._of_part("refusal.done", refusal=text)
        yield self._of_part("content_part.done", part=_part(type, text))

    def _of_part(self, type: str, **fields: Any) -> Event:
        return self._event(type, content_index=len(self._parts) - 1, **fields)


def _part(type: PartType, text: str) -> dict[str, Any]:
    if type == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class OpenReasoning(OpenItem):
    """What the model thinks, as a summary: Codex, the AI SDK and LangChain show nothing else."""

    prefix = "rs_"

    def __init__(self) -> None:
        self._texts: list[str] = []

    def begin(self) -> Iterator[Event]:
        """The events that open it, and its only part."""
        yield from super().begin()
        yield self._of_summary("part.added", part=self._part(""))

    def add(self, text: str) -> Iterator[Event]:
        """The events of a piece of text."""
        self._texts.append(text)
        for piece in pieces(text):
            yield self._of_summary("text.delta", delta=piece)

    def end(self, status: ItemStatus) -> Iterator[Event]:
        """The events that close it, and its part."""
        text = "".join(self._texts)
        yield self._of_summary("text.done", text=text)
        yield self._of_summary("part.done", part=self._part(text))
        yield from super().end(status)

    def item(self, status: ItemStatus) -> Item:
        """The reasoning with all that came so far."""
        text = "".join(self._texts)
        summary = [self._part(text)] if text else []
        return {"id": self.id, "type": "reasoning", "status": status, "summary": summary}

    def _of_summary(self, type: str, **fields: Any) -> Event:
        return self._event(f"reasoning_summary_{type}", summary_index=0, **fields)

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "summary_text", "text": text}


class OpenPicture(OpenItem):
    """A picture that the proxy has made for the model. It comes whole, as `delta` has it."""

    prefix = "ig_"

    def __init__(self, delta: Mapping[str, Any]) -> None:
        self._delta = delta

    def begin(self) -> Iterator[Event]:
        """The events that open it."""
        begun = {"id": self.id, "type": "image_generation_call", "status": "in_progress"}
        yield self._of_item("added", {**begun, "result": None})
        yield self._event("image_generation_call.in_progress")
        yield self._event("image_generation_call.generating")

    def end(self, status: ItemStatus) -> Iterator[Event]:
        """The events that close it."""
        yield self._event("image_generation_call.completed")
        yield from super().end(status)

    def item(self, status: ItemStatus) -> Item:
        """The picture in base64, with its prompt, size and format."""
        whole = {"id": self.id, "type": "image_generation_call", "status": "completed"}
        return {**whole, **self._delta}


class OpenCompaction(OpenItem):
    """The summary of a conversation, which only its client keeps."""

    prefix = "cmp_"

    def __init__(self) -> None:
        self._texts: list[str] = []

    def begin(self) -> Iterator[Event]:
        """The events that open it."""
        yield from super().begin()
        yield self._event("compaction.compacting")

    def add(self, text: str) -> None:
        """Take a piece of the summary, for which there is no event."""
        self._texts.append(text)

    @property
    def is_empty(self) -> bool:
        """Whether the model wrote nothing: with it, the conversation would be lost."""
        return not "".join(self._texts).strip()

    def item(self, status: ItemStatus) -> Item:
        """The summary so far; OpenAI's type of this item has no status."""
        blob = "" if self.is_empty else write_compaction("".join(self._texts).strip())
        return {"id": self.id, "type": "compaction", "encrypted_content": blob}


class OpenCall(OpenItem):
    """A call of a tool. Arguments of functions are streamed; all others are known at the end.

    The raw input of a custom tool is inside of JSON, and other tools have no events of their own.
    Text may be added before the call is placed: it waits for the calls before it.
    """

    def __init__(self, form: CallForm, call_id: str, arguments: str = "") -> None:
        self.prefix = form.prefix
        self._form, self._call_id = form, call_id
        self._texts = [arguments]

    def begin(self) -> Iterator[Event]:
        """The events that open it, with the arguments that came already.

        Arguments are "" at first: LangChain puts the deltas behind what is there.
        """
        if self._form.kind in ("function", "custom"):
            begun = self._form.item(self.id, self._call_id, "", "in_progress")
            yield self._of_item("added", begun)
        yield from self._deltas("".join(self._texts))

    def add(self, text: str) -> Iterator[Event]:
        """The events of a piece of the arguments."""
        self._texts.append(text)
        if self.id:
            yield from self._deltas(text)

    def end(self, status: ItemStatus) -> Iterator[Event]:
        """The events that close it."""
        item = self.item(status)
        if self._form.kind == "function":
            if not any(self._texts):
                # LangChain takes the arguments from deltas only.
                yield from self.add("{}")
                item = self.item(status)
            # OpenAI's SDKs before 3.1 require the name.
            names = {name: item[name] for name in ("name", "arguments")}
            yield self._event("function_call_arguments.done", **names)
        elif self._form.kind == "custom":
            for piece in pieces(item["input"]):
                yield self._event("custom_tool_call_input.delta", delta=piece)
            yield self._event("custom_tool_call_input.done", input=item["input"])
        else:
            yield self._of_item("added", self.item("in_progress"))
        yield self._of_item("done", item)

    def item(self, status: ItemStatus) -> Item:
        """The call with all that came so far."""
        arguments = "".join(self._texts)
        if self._form.kind == "custom":
            arguments = self._form.raw_input(arguments)
        return self._form.item(self.id, self._call_id, arguments, status)

    def is_whole(self) -> bool:
        """Whether the arguments are a whole JSON object, so that nothing can follow."""
        text = "".join(self._texts)
        if not text.rstrip().endswith("}"):
            return False
        try:
            parse_json(text.encode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            return False
        return True

    def _deltas(self, text: str) -> Iterator[Event]:
        if self._form.kind == "function":
            for piece in pieces(text):
                yield self._event("function_call_arguments.delta", delta=piece)
