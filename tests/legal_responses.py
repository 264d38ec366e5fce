"""What a legal stream of a response is: the rules of the stream helpers of OpenAI's SDKs.

    created, in_progress, (item: added, its events, done)*, completed | incomplete | failed

One response id; numbers from 0 without a gap; one item open at a time, with one id, and no index
twice; deltas add up to what is done; the last object has the same items.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_LAST = ("response.completed", "response.incomplete", "response.failed")
_REQUIRED = {
    "error",
    "incomplete_details",
    "instructions",
    "metadata",
    "model",
    "parallel_tool_calls",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
    "text",
    "reasoning",
    "usage",
}
"""Keys that OpenAI requires, or that a client fails without; null is allowed for most."""


# What repeats the request, and is as strange as that may be.
_REPEATED: dict[str, Any] = {
    "tools": [],
    "tool_choice": "auto",
    "text": {},
    "reasoning": {},
    "instructions": None,
    "service_tier": "default",
}


def parsed(text: str) -> list[dict[str, Any]]:
    """The events of a stream's text, comments left out. Raises for an event of another form."""
    events = []
    for block in text.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            events.append(event)
    return events


def check_response(response: dict[str, Any]) -> None:
    """Raises for a response object that OpenAI would not send."""
    Response.model_validate({**response, **_REPEATED})
    json.dumps(response, allow_nan=False)
    assert response.keys() >= _REQUIRED
    assert (response["object"], response["id"][:5]) == ("response", "resp_")
    assert all(isinstance(response[name], list) for name in ("output", "tools"))
    status = response["status"]
    assert (status == "failed") == (response["error"] is not None)
    assert (status == "incomplete") == (response["incomplete_details"] is not None)
    assert (status == "completed") == (response["completed_at"] is not None)
    if status in ("completed", "incomplete"):
        assert response["output"]
    assert len({item["id"] for item in response["output"]}) == len(response["output"])


def check_stream(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last response object. Raises for a stream that OpenAI would not send."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    *others, last = events
    assert last["type"] in _LAST
    assert not [event for event in others if event["type"] in (*_LAST, "error")]
    objects = [event["response"] for event in events if "response" in event]
    assert len({(made["id"], made["created_at"]) for made in objects}) == 1
    for made in objects:
        check_response(made)
    for event in events:
        without = {"response": {**event["response"], **_REPEATED}} if "response" in event else {}
        _EVENTS.validate_python({**event, **without})
    reader = _Reader()
    for event in others:
        if "response" not in event:
            reader.read(event)
    final: dict[str, Any] = last["response"]
    assert final["output"][: len(reader.done)] == reader.done
    if final["status"] != "failed":
        assert (reader.item, final["output"]) == (None, reader.done)
    return final


class _Reader:
    """Adds up the items of a stream."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []
        self.item: dict[str, Any] | None = None
        self.parts: list[dict[str, Any]] = []
        self.is_part_open = False
        self.text = ""

    def read(self, event: dict[str, Any]) -> None:
        """Check one event. Raises if it may not come now."""
        kind = event["type"].removeprefix("response.")
        assert event["output_index"] == len(self.done)
        if kind == "output_item.added":
            assert self.item is None
            self.item, self.parts, self.text, self.is_part_open = event["item"], [], "", False
            self.is_seen_whole = False
            assert self.item.get("status") in ("in_progress", None)
            assert not (self.item.get("content") or self.item.get("summary"))
            assert not (self.item.get("arguments") and self.item["type"] == "function_call")
            return
        assert self.item is not None
        if kind == "output_item.done":
            self._end(event["item"])
            return
        assert event["item_id"] == self.item["id"]
        self._inner(kind, event)

    def _inner(self, kind: str, event: dict[str, Any]) -> None:
        name, _, what = kind.rpartition(".")
        index = event.get("content_index", event.get("summary_index"))
        if kind == "compaction.compacting":
            return
        if name == "image_generation_call":
            assert what in ("in_progress", "generating", "completed")
        elif what == "added":
            assert not self.is_part_open and index == len(self.parts)
            self.is_part_open, self.text = True, ""
        elif what == "delta":
            assert event["delta"] and index in (None, len(self.parts))
            assert self.is_part_open or index is None
            self.text += event["delta"]
        elif name in ("content_part", "reasoning_summary_part"):
            assert self.is_part_open and index == len(self.parts)
            assert event["part"].get("text", event["part"].get("refusal")) == self.text
            self.parts.append(event["part"])
            self.is_part_open = False
        else:
            [whole] = [
                event[key] for key in ("text", "refusal", "arguments", "input") if key in event
            ]
            assert whole == self.text
            self.is_seen_whole = True

    def _end(self, done: dict[str, Any]) -> None:
        assert self.item is not None and not self.is_part_open
        for name in ("id", "type", "call_id", "name", "namespace"):
            assert done.get(name) == self.item.get(name)
        assert done.get("status") in ("completed", "incomplete", None)
        if done["type"] == "message":
            assert done["content"] == self.parts
        elif done["type"] == "reasoning":
            assert done["summary"] == self.parts
        elif done["type"] == "function_call":
            assert (done["arguments"], self.is_seen_whole) == (self.text, True)
            assert self.text
        elif done["type"] == "custom_tool_call":
            assert (done["input"], self.is_seen_whole) == (self.text, True)
        self.done.append(done)
        self.item = None
