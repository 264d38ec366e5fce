"""Reads the input of a request for a response: its items, and the turns that they make. Pure.

    input --> own_items(): objects with an id and a type, references resolved
    recalled items, own items --> turns(): messages of a chat, each with its path in the body

A reasoning item, a message and calls in a row are one turn of the assistant. Histories are carried
from server to server, so that no item is refused: what no model can read is left out with a
warning. Source: OpenAI's ResponseInputItemParam, and what Codex 0.171 and the AI SDK send.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.chat import MOST_MESSAGES
from horde_proxy.protocol.image_function import GENERATE_IMAGE
from horde_proxy.protocol.leniency import Leniency, plain_name
from horde_proxy.protocol.responses.calls import (
    PREFIXES_OF_TYPES,
    RESULT_TYPES,
    Item,
    past_call,
    past_result,
)
from horde_proxy.protocol.responses.compaction import read_compaction
from horde_proxy.protocol.responses.question import ItemNotFound, Recall, item_id
from horde_proxy.protocol.responses.tools import Place, ResponseTools
from horde_proxy.protocol.tool_call_shapes import json_text, text_id
from horde_proxy.protocol.validation import invalid_type, param_name

COMPACTION_TRIGGER = "compaction_trigger"
"""The type of the last item of an input that is to be summarised."""
# Items that are no turns: tools are read elsewhere, and settings change nothing here.
_WITHOUT_TURN = frozenset(
    {"additional_tools", "configuration_update", "mcp_list_tools", COMPACTION_TRIGGER}
)
_PREFIXES = {"message": "msg_", "reasoning": "rs_", "compaction": "cmp_", **PREFIXES_OF_TYPES}
MOST_REFERENCES = 1_000
"""Each is looked up alone. The AI SDK sends one for each turn of the assistant."""
Turn = tuple[Place, dict[str, Any]]
"""The path of an item, and the chat message that it begins."""


def own_items(given: Any, response_id: str, recall: Recall) -> tuple[Item, ...]:
    """The items of an `input`, each with an id and a type. Raises InvalidRequest, ItemNotFound."""
    if given is None or given == "":
        return ()
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise invalid_type("input", "a string or an array", given)
    if len(given) > MOST_MESSAGES:
        raise InvalidRequest(
            f"Invalid 'input': it has more than {MOST_MESSAGES:,} items.",
            param="input",
            code="array_above_max_length",
        )
    if sum(1 for _ in referenced_ids(given)) > MOST_REFERENCES:
        raise InvalidRequest(
            f"Invalid 'input': it has more than {MOST_REFERENCES:,} references. Send the items "
            "themselves.",
            param="input",
            code="array_above_max_length",
        )
    items = []
    for index, item in enumerate(given):
        if not isinstance(item, dict):
            raise invalid_type(f"input.[{index}]", "an object", item)
        items.append(_own_item(item, item_id("", response_id, f"input {index}"), recall))
    return tuple(items)


def _own_item(item: Mapping[str, Any], new_id: str, recall: Recall) -> Item:
    """The item that one of the input is, or refers to."""
    given_id, type = text_id(item.get("id")), item.get("type")
    if type == "item_reference" or (type is None and "role" not in item and given_id):
        kept = recall.item(given_id or "")
        if kept is None:
            raise ItemNotFound(given_id or "")
        return dict(kept)
    # Only messages come without a type.
    type = type if isinstance(type, str) and type else "message"
    own = {**item, "id": given_id or _PREFIXES.get(type, "item_") + new_id, "type": type}
    if type == "message" and isinstance(item.get("content"), str):
        is_answer = item.get("role") == "assistant"
        text = {"type": "output_text" if is_answer else "input_text", "text": item["content"]}
        own["content"] = [{**text, "annotations": []} if is_answer else text]
    return own


def referenced_ids(given: Any) -> Iterable[str]:
    """The ids that the references of an `input` name; it may be any JSON."""
    for item in given if isinstance(given, list) else ():
        if isinstance(item, dict) and (given_id := text_id(item.get("id"))):
            type = item.get("type")
            if type == "item_reference" or (type is None and "role" not in item):
                yield given_id


def turns(
    items: Iterable[tuple[Place, Item]], tools: ResponseTools, leniency: Leniency
) -> list[Turn]:
    """The messages of a chat that the items are, as OpenAI's chats have them."""
    reader = _TurnReader(tools, leniency)
    for place, item in items:
        reader.add(place, item)
    reader.end()
    return reader.turns


@dataclass
class _TurnReader:
    """Makes turns of items. `calls` are the ids of calls so far, `thoughts` those of the next turn.

    `is_open`: further items of the assistant join its last turn.
    """

    tools: ResponseTools
    leniency: Leniency
    turns: list[Turn] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)
    thoughts: list[str] = field(default_factory=list)
    is_open: bool = False

    def add(self, place: Place, item: Item) -> None:
        """Add an item. Raises InvalidRequest only in strict mode."""
        type = item.get("type")
        if type == "message" or (type is None and "role" in item):
            self._add_message(place, item)
        elif type == "reasoning":
            self._add_thoughts(item)
        elif (past := past_call(item)) is not None:
            form, arguments = past
            self._add_call(place, item, self.tools.name_of(form), arguments)
        elif type in RESULT_TYPES:
            self._add_result(place, item, past_result(item))
        elif type == "mcp_call":
            name = item.get("name")
            self._add_call(place, item, str(name or "mcp_call"), item.get("arguments"))
            self._add_result(place, item, item.get("output") or item.get("error"))
        elif type == "image_generation_call":
            self._add_picture(place, item)
        elif type == "compaction" and (summary := read_compaction(item.get("encrypted_content"))):
            text = f"Summary of our conversation so far:\n\n{summary}"
            self._begin(place, {"role": "user", "content": text})
        elif type not in _WITHOUT_TURN:
            self._leave_out(place, item)

    def end(self) -> None:
        """Drop thoughts that led to nothing."""
        self.thoughts.clear()

    def _add_message(self, place: Place, item: Item) -> None:
        # The id and the type are the item's, and mean nothing in a chat.
        message = {name: value for name, value in item.items() if name not in ("id", "type")}
        if message.get("role") != "assistant":
            self._begin(place, message)
            return
        for call in _objects(message.get("tool_calls")):
            self.calls.add(text_id(call.get("id")) or "")
        turn = self._assistant(place)
        turn["content"] = _joined(turn["content"], message.pop("content", None))
        turn |= {name: value for name, value in message.items() if name not in turn}

    def _add_thoughts(self, item: Item) -> None:
        """Keep what was thought for the assistant's next turn: models may see it again."""
        parts = [*_objects(item.get("summary")), *_objects(item.get("content"))]
        self.thoughts += [part["text"] for part in parts if isinstance(part.get("text"), str)]

    def _add_call(self, place: Place, item: Item, name: str, arguments: Any) -> None:
        call_id = text_id(item.get("call_id")) or text_id(item.get("id")) or name
        self.calls.add(call_id)
        function = {"name": name, "arguments": arguments if isinstance(arguments, str) else "{}"}
        call = {"id": call_id, "type": "function", "function": function}
        self._assistant(place).setdefault("tool_calls", []).append(call)

    def _add_picture(self, place: Place, item: Item) -> None:
        """A picture that was made, as the call that led to it: the model cannot see it."""
        prompt = item.get("revised_prompt")
        arguments = {"prompt": prompt if isinstance(prompt, str) else ""}
        self._add_call(place, item, GENERATE_IMAGE.name, json.dumps(arguments))
        is_made = item.get("status") in ("completed", None)
        self._add_result(place, item, "Made, and shown to the user." if is_made else "Failed.")

    def _add_result(self, place: Place, item: Item, result: Any) -> None:
        # The id of a local shell's output is that of its call.
        ids = (text_id(item.get("call_id")), text_id(item.get("id")))
        call_id = next((given for given in ids if given in self.calls), None)
        if call_id is not None:
            self._begin(place, {"role": "tool", "tool_call_id": call_id, "content": result})
            return
        # OpenAI refuses a result without its call. Clients that cut their history send such ones.
        name = item.get("name")
        of = f" of {name}" if isinstance(name, str) and name else ""
        note = {"type": "text", "text": f"Result{of} from before:"}
        self._begin(place, {"role": "user", "content": [note, *_result_parts(result)]})

    def _assistant(self, place: Place) -> dict[str, Any]:
        """The assistant's turn that an item belongs to."""
        if not self.is_open:
            self._begin(place, {"role": "assistant", "content": None})
            self.is_open = True
        turn = self.turns[-1][1]
        if self.thoughts:
            before = turn.get("reasoning_content")
            turn["reasoning_content"] = "\n\n".join([*([before] if before else ()), *self.thoughts])
            self.thoughts.clear()
        return turn

    def _begin(self, place: Place, message: dict[str, Any]) -> None:
        self.turns.append((place, message))
        self.is_open = False
        if message.get("role") != "assistant":
            self.thoughts.clear()

    def _leave_out(self, place: Place, item: Item) -> None:
        shown = plain_name(item.get("type"))
        error = InvalidRequest(
            f"Items of type '{shown}' cannot be read here.",
            param=param_name(place),
            code="unsupported_value",
        )
        self.leniency.tolerate(error, f"item of type '{shown}' left out")


def _joined(content: Any, more: Any) -> Any:
    """The content of one message, which was that of two."""
    if not content or not more:
        return content or more
    return [*_parts(content), *_parts(more)]


def _result_parts(result: Any) -> list[Any]:
    """The parts of a result; data become a text."""
    if isinstance(result, list) and all(
        isinstance(_object(part).get("type"), str) for part in result
    ):
        return result
    text = result if isinstance(result, str) else json_text(result, "input")
    return [{"type": "text", "text": text}]


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []
