"""What every answer of the Messages API must be, whole or as events: the checks of all its tests.

Source: Anthropic's reference of streaming messages, and what its SDKs, the AI SDK and Claude Code
break at (each rule names one).
"""

from __future__ import annotations

import json
from typing import Any

STOP_REASONS = {
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "refusal",
    "model_context_window_exceeded",
}
_DELTAS = {
    "text": {"text_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}
_BEGINNINGS: dict[str, set[str]] = {
    "text": {"type", "text"},
    "thinking": {"type", "thinking", "signature"},
    "tool_use": {"type", "id", "name", "input"},
}


def events_of(text: str) -> list[tuple[str, Any]]:
    """(name, data) of all events; comments are left out."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        name, data = lines
        # Anthropic's SDK for Python asserts the name.
        assert name.startswith("event: ") and data.startswith("data: "), block
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def check_usage(usage: Any) -> None:
    """Counts that are whole numbers; the first two have to be there."""
    assert {"input_tokens", "output_tokens"} <= usage.keys()
    assert all(
        type(value) is int and value >= 0 for value in usage.values() if not isinstance(value, dict)
    )


def check_end(end: Any) -> None:
    assert end["stop_reason"] in STOP_REASONS
    assert (end["stop_sequence"] is not None) == (end["stop_reason"] == "stop_sequence")
    assert (end["stop_details"] is not None) == (end["stop_reason"] == "refusal")


def check_message(message: Any) -> None:
    """A whole message."""
    assert message["id"].startswith("msg_")
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert isinstance(message["model"], str)
    for block in message["content"]:
        assert block.keys() == _BEGINNINGS[block["type"]]
        assert block["type"] != "tool_use" or isinstance(block["input"], dict)
    # Programs read content[0].
    assert message["content"]
    check_end(message)
    check_usage(message["usage"])


def checked_stream(text: str) -> dict[str, Any] | None:
    """The message that a stream adds up to; None for one that ends with an error."""
    events = events_of(text)
    names = [name for name, _ in events]
    assert all(data["type"] == name for name, data in events)
    events = [event for event in events if event[0] != "ping"]
    assert names[0] == "message_start"
    assert names.count("message_start") == 1
    if names[-1] == "error":
        assert set(events[-1][1]["error"]) == {"type", "message"}
        assert names.count("error") == 1 and "message_stop" not in names
        _Fold(events[0][1]["message"]).read(events[1:-1])
        return None
    assert names[-1] == "message_stop"
    assert names.count("message_stop") == names.count("message_delta") == 1
    fold = _Fold(events[0][1]["message"])
    fold.read(events[1:-2])
    assert fold.open is None, "a block was not closed"
    name, data = events[-2]
    assert name == "message_delta"
    check_usage(data["usage"])
    message = {**fold.message, **data["delta"], "usage": data["usage"]}
    check_message(message)
    return message


class _Fold:
    """Adds the blocks of a stream up, and checks their order."""

    def __init__(self, message: Any) -> None:
        assert message["content"] == []
        assert message["stop_reason"] is None
        check_usage(message["usage"])
        self.message: Any = message
        self.open: Any = None
        self._json = ""

    def read(self, events: list[tuple[str, Any]]) -> None:
        for name, data in events:
            getattr(self, f"_{name}")(data)

    def _content_block_start(self, data: Any) -> None:
        assert self.open is None, "one block is open at a time"
        # Anthropic's SDK for Python raises IndexError at a gap.
        assert data["index"] == len(self.message["content"])
        self.open = data["content_block"]
        assert self.open.keys() == _BEGINNINGS[self.open["type"]]
        assert self.open.get("input", {}) == {}
        self.message["content"].append(self.open)
        self._json = ""

    def _content_block_delta(self, data: Any) -> None:
        delta = data["delta"]
        assert data["index"] == len(self.message["content"]) - 1
        assert self.open is not None and delta["type"] in _DELTAS[self.open["type"]]
        if delta["type"] == "input_json_delta":
            self._json += delta["partial_json"]
        elif delta["type"] == "signature_delta":
            assert self.open["signature"] == "" and delta["signature"]
            self.open["signature"] = delta["signature"]
        else:
            kind = self.open["type"]
            assert "signature" not in self.open or self.open["signature"] == ""
            self.open[kind] += delta[kind]

    def _content_block_stop(self, data: Any) -> None:
        assert self.open is not None and data["index"] == len(self.message["content"]) - 1
        if self.open["type"] == "tool_use":
            try:
                self.open["input"] = json.loads(self._json or "{}")
            except ValueError:
                # Only a limit may cut a call off, as with Anthropic's own models.
                self.open["input"] = {"cut off": self._json}
        self.open = None
