"""The objects of Anthropic's answers: one function makes each shape. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.errors import ProxyError
from horde_proxy.protocol.chunks import HELD_BACK
from horde_proxy.protocol.error_shapes import anthropic, facts_of

SIGNATURE = "aG9yZGUtcHJveHk="
"""The signature of our thinking blocks, "horde-proxy" in base64. Nobody checks it here. With none,
the AI SDK would not send a thought back, and the model would lose it between its tool calls."""
_STOP_REASONS: Mapping[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""Anthropic's reasons, by OpenAI's. pause_turn is never sent: clients resend the turn for ever."""

_NO_END: Mapping[str, Any] = {"stop_reason": None, "stop_sequence": None, "stop_details": None}


@dataclass
class MessageEnd:
    """How an answer ended. `refusal` is what the model said instead of the answer; "" for none.

    `horde` are the facts of an answer of a horde: see AnswerCost.summary.
    """

    reason: str = "stop"
    refusal: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    horde: Mapping[str, Any] = field(default_factory=dict)

    def fields(self, stops: Sequence[str]) -> dict[str, Any]:
        """stop_reason, stop_sequence and stop_details. `stops` are those of the request."""
        stop = self.horde.get("stop_sequence") if self.reason == "stop" else None
        is_stopped = stop in stops and not self.refusal
        reason = "stop_sequence" if is_stopped else self._reason()
        return {
            "stop_reason": reason,
            "stop_sequence": stop if is_stopped else None,
            "stop_details": self._refusal() if reason == "refusal" else None,
        }

    def _reason(self) -> str:
        if self.refusal:
            return "refusal"
        # Not max_tokens, after which Claude Code sends the answer back with a larger max_tokens.
        if self.reason == "length" and self.horde.get("cut_off_by") == "context":
            return "model_context_window_exceeded"
        return _STOP_REASONS.get(self.reason, "end_turn")

    def _refusal(self) -> dict[str, Any]:
        explanation = self.refusal or HELD_BACK
        return {"type": "refusal", "category": None, "explanation": explanation}


def message_object(
    id: str,
    model: str,
    content: Sequence[Mapping[str, Any]],
    usage: Mapping[str, Any],
    end: Mapping[str, Any] = _NO_END,
) -> dict[str, Any]:
    """A message. `end` are the fields of a MessageEnd; without them, it has not ended."""
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(content),
        **end,
        "usage": usage,
    }


def begun_usage(input_tokens: int) -> dict[str, Any]:
    """The usage of a message that begins: an estimate, which meters of clients start from."""
    return _usage(input_tokens, 0, 0, 0)


def usage_object(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Anthropic's usage, made from OpenAI's. Clients add the cached tokens to `input_tokens`."""
    inputs, outputs = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    thinking = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    return _usage(max(inputs - cached, 0), min(cached, inputs), outputs, thinking)


def _usage(inputs: int, cached: int, outputs: int, thinking: int) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "input_tokens": inputs,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": outputs,
    }
    return {**usage, "output_tokens_details": {"thinking_tokens": thinking}} if thinking else usage


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    count = details.get(name) if isinstance(details, Mapping) else None
    return int(count) if isinstance(count, int | float) and count > 0 else 0


def text_block(text: str) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": text}


def thinking_block(thinking: str) -> dict[str, Any]:
    """What the model thought."""
    return {"type": "thinking", "thinking": thinking, "signature": SIGNATURE}


def tool_use_block(id: str, name: str, arguments: str) -> dict[str, Any]:
    """A call; `arguments` are JSON text."""
    return {"type": "tool_use", "id": id, "name": name, "input": input_object(arguments)}


def input_object(arguments: str) -> dict[str, Any]:
    """The arguments of a call as an object. Others become a value in one.

    The client answers that its arguments are wrong, and the model tries again.
    """
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = arguments
    return value if isinstance(value, dict) else {"input": value}


def is_object(arguments: str) -> bool:
    """Whether the arguments of a call are complete."""
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def tool_use_id(call_id: str) -> str:
    """An id as Anthropic's: "toolu_..." for "call_..."; an id of another form stays."""
    return f"toolu_{call_id.removeprefix('call_')}" if call_id.startswith("call_") else call_id


def error_object(error: ProxyError) -> dict[str, Any]:
    """The data of an error event, and the body of an error."""
    return anthropic(facts_of(error))
