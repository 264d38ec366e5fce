"""OpenAI's answers, one function for each shape. Pure: ids and times come in as values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Chunk = dict[str, Any]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "function_call"]

_PIECE = 4096
_INSTEAD = {"tool_calls", "function_call"}
_WORD = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True)
class Head:
    """What all chunks of one answer share: id, unix seconds, the model that serves."""

    id: str
    created: int
    model: str


def chunk(
    head: Head,
    delta: dict[str, Any],
    *,
    index: int = 0,
    finish_reason: FinishReason | None = None,
) -> Chunk:
    """A chat completion chunk with one choice."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
        "choices": [choice],
    }


def role_chunk(head: Head, index: int = 0) -> Chunk:
    """The first chunk of a choice."""
    return chunk(head, {"role": "assistant", "content": "", "refusal": None}, index=index)


def call_deltas(number: int, call_id: str, name: str, arguments: str) -> Iterator[dict[str, Any]]:
    """The deltas of one tool call: who is called first, then the arguments."""
    function = {"name": name, "arguments": ""}
    yield {
        "tool_calls": [{"index": number, "id": call_id, "type": "function", "function": function}]
    }
    for start in range(0, len(arguments), _PIECE):
        piece = {"arguments": arguments[start : start + _PIECE]}
        yield {"tool_calls": [{"index": number, "function": piece}]}


def as_legacy(delta: dict[str, Any]) -> dict[str, Any]:
    """A tool call's delta in the older form, of which there is only one in an answer."""
    return {"function_call": delta["tool_calls"][0]["function"]}


def usage_chunk(head: Head, usage: dict[str, Any], horde: dict[str, Any]) -> Chunk:
    """The last chunk: no choices, the usage, and what the horde told of the request."""
    return {**chunk(head, {}), "choices": [], "usage": usage, "horde": horde}


def usage(prompt_tokens: int, completion_tokens: int, reasoning_tokens: int = 0) -> dict[str, Any]:
    """OpenAI's usage object, in tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def bare_chunk(chunk: Chunk, delta: dict[str, Any] | None = None) -> Chunk:
    """A chunk like another, with nothing in it or with a delta of its own."""
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": None}
    return {**chunk, "choices": [choice]}


def words(text: str) -> Iterator[str]:
    """The text in word-sized pieces; joined they are the text again."""
    return (match.group() for match in _WORD.finditer(text))


def fold(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """The chat completion that a whole stream of chunks amounts to; the last names the model."""
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for each in chunks:
        answer = answer or _completion(each)
        answer["model"] = each["model"]
        answer.update({key: each[key] for key in ("usage", "horde") if key in each})
        for part in each["choices"]:
            _add(choices.setdefault(part["index"], _choice(part["index"])), part)
    answer["choices"] = [choices[index] for index in sorted(choices)]
    return answer


def _completion(first: Chunk) -> dict[str, Any]:
    return {
        "id": first["id"],
        "object": "chat.completion",
        "created": first["created"],
        "model": first["model"],
        "choices": [],
        "usage": None,
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _choice(index: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    message["annotations"] = []
    return {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}


def _add(choice: dict[str, Any], part: dict[str, Any]) -> None:
    message = choice["message"]
    for key in ("content", "reasoning_content"):
        if part["delta"].get(key):
            message[key] = message.get(key, "") + part["delta"][key]
    if part["delta"].get("refusal"):
        message["refusal"] = (message["refusal"] or "") + part["delta"]["refusal"]
    for call in part["delta"].get("tool_calls", ()):
        _add_call(message.setdefault("tool_calls", []), call)
    if "function_call" in part["delta"]:
        _add_function(message.setdefault("function_call", {}), part["delta"]["function_call"])
    if part["finish_reason"]:
        choice["finish_reason"] = part["finish_reason"]
        if (not message["content"] and message.keys() & _INSTEAD) or message["refusal"]:
            message["content"] = None


def _add_call(calls: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    if "id" in part:
        calls.append({"id": part["id"], "type": part["type"], "function": {}})
    _add_function(calls[part["index"]]["function"], part["function"])


def _add_function(function: dict[str, Any], part: Mapping[str, Any]) -> None:
    if "name" in part:
        function["name"] = part["name"]
    function["arguments"] = function.get("arguments", "") + part["arguments"]
