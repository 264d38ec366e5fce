"""The text of a chat job: a transcript of the deltas that a model server sent, one in each line.

    {"delta": {"reasoning_content": "The user greets."}}
    {"delta": {"content": "Hel"}}
    {"delta": {"content": "lo"}}
    {"finish_reason": "stop", "usage": {"prompt_tokens": 12, "completion_tokens": 9}}

Deltas, finish reasons and usage are those of OpenAI's chat completion chunks. As lines of a text
they grow, are resumed by their offset, are saved and handed on as any text of the horde, which
need not know what they mean. The contract is in docs/private-horde.md, "Chats".

Workers write it, the private horde checks and folds it, the proxy makes chunks of it. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_CALLS = 300
"""Tool calls of one message: as many as are read from a text (docs/security.md)."""
FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter")
_TEXTS = ("content", "reasoning_content", "refusal")
_MOST_TOKENS = 100_000_000
"""Of a usage: beyond it, a number is nonsense, and sums of it would not be exact in JSON."""

_MOST_LEVELS = 4
"""Of log-probabilities: [{"top_logprobs": [{"bytes": [104]}]}]. JSON of hundreds of levels can be
read, but not written where the stack is deeper."""


class BadTranscript(ValueError):
    """A text that is no transcript. The message says what is wrong, and in which line."""


@dataclass(frozen=True)
class Entry:
    """A line of a transcript. Its delta has known fields of the right types only.

    `again`: the model began anew, and nothing of what came before counts.
    """

    delta: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    usage: Mapping[str, int] | None = None
    logprobs: Mapping[str, Any] | None = None
    again: bool = False


@dataclass
class Call:
    """A tool call; its arguments are JSON text, as in OpenAI's API."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class ChatResult:
    """What a transcript amounts to. `finish_reason` is None until the model has ended."""

    content: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: dict[int, Call] = field(default_factory=dict)
    finish_reason: str | None = None
    usage: Mapping[str, int] | None = None
    logprobs: list[Any] = field(default_factory=list)

    @property
    def written(self) -> int:
        """The characters that the model wrote, for which its worker is paid."""
        calls = sum(len(call.name) + len(call.arguments) for call in self.calls.values())
        return len(self.content) + len(self.reasoning) + len(self.refusal) + calls

    def message(self) -> dict[str, Any]:
        """OpenAI's message. Its content is None where there are calls and no content."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.refusal:
            message["refusal"] = self.refusal
        if self.calls:
            message["content"] = self.content or None
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for _, call in sorted(self.calls.items())
            ]
        return message


AGAIN = '{"again": true}\n'
"""The line of a worker that begins anew, where what came before cannot be continued."""


def line(
    delta: Mapping[str, Any] | None = None,
    *,
    finish_reason: str | None = None,
    usage: Mapping[str, int] | None = None,
    logprobs: Mapping[str, Any] | None = None,
) -> str:
    """A line of a transcript, with its line end; fields that are None are left out."""
    fields = {
        "delta": delta,
        "finish_reason": finish_reason,
        "usage": usage,
        "logprobs": logprobs,
    }
    # In ASCII, which has no character that somebody could take for the end of a line.
    return json.dumps({name: value for name, value in fields.items() if value is not None}) + "\n"


def whole_lines(text: str) -> str:
    """The text up to its last line end: the last line of a text that grows may be incomplete."""
    return text[: text.rfind("\n") + 1]


def read(text: str) -> list[Entry]:
    """The entries of a transcript's whole lines. Raises BadTranscript."""
    lines = whole_lines(text).split("\n")[:-1]
    return [_entry(content, number) for number, content in enumerate(lines, 1)]


def fold(entries: Iterable[Entry]) -> ChatResult:
    """What entries amount to."""
    # Joined at the end: a text that grew by each of 100,000 pieces would be copied as often.
    texts: dict[str, list[str]] = {name: [] for name in _TEXTS}
    arguments: dict[int, list[str]] = {}
    result = ChatResult()
    for entry in _since_again(list(entries)):
        for name in _TEXTS:
            texts[name].append(entry.delta.get(name, ""))
        for part in entry.delta.get("tool_calls", ()):
            call = result.calls.setdefault(part["index"], Call())
            call.id = call.id or part.get("id", "")
            call.name = call.name or part["function"].get("name", "")
            written = part["function"].get("arguments", "")
            arguments.setdefault(part["index"], []).append(written)
        result.finish_reason = entry.finish_reason or result.finish_reason
        result.usage = entry.usage or result.usage
        if entry.logprobs:
            result.logprobs.extend(entry.logprobs.get("content", ()))
    result.content, result.reasoning, result.refusal = ("".join(texts[name]) for name in _TEXTS)
    for index, pieces in arguments.items():
        result.calls[index].arguments = "".join(pieces)
    return result


def _since_again(entries: list[Entry]) -> list[Entry]:
    """The entries that count: those from the last one on with which the model began anew."""
    last = next((n for n in range(len(entries) - 1, 0, -1) if entries[n].again), 0)
    return entries[last:]


def _entry(content: str, number: int) -> Entry:
    try:
        # vLLM writes -Infinity for a token that cannot come, which is no JSON.
        value = json.loads(content, parse_constant=lambda name: None, parse_float=_finite_float)
    except (ValueError, RecursionError) as exc:
        raise BadTranscript(f"line {number} of the transcript is not JSON") from exc
    if not isinstance(value, dict):
        raise BadTranscript(f"line {number} of the transcript is not an object")
    reason, delta = value.get("finish_reason"), value.get("delta") or {}
    if reason is not None and reason not in FINISH_REASONS:
        raise BadTranscript(f"line {number} of the transcript has an unknown finish_reason")
    if not isinstance(delta, dict):
        raise BadTranscript(f"line {number} of the transcript has a delta that is not an object")
    return Entry(
        _delta(delta, number),
        reason,
        _usage(value.get("usage")),
        _logprobs(value.get("logprobs")),
        value.get("again") is True,
    )


def _finite_float(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _delta(delta: dict[str, Any], number: int) -> dict[str, Any]:
    """The known fields of a delta. Raises BadTranscript for one of a wrong type."""
    tidied: dict[str, Any] = {}
    for name in _TEXTS:
        text = delta.get(name)
        if text is not None and not isinstance(text, str):
            raise BadTranscript(f"line {number} of the transcript has a {name} that is no text")
        if text:
            tidied[name] = _without_nul(text)
    parts = delta.get("tool_calls")
    if parts is not None:
        tidied["tool_calls"] = _parts(parts, number)
    return tidied


def _parts(parts: Any, number: int) -> list[dict[str, Any]]:
    if not isinstance(parts, list) or not all(map(_is_part, parts)):
        raise BadTranscript(f"line {number} of the transcript has tool_calls that cannot be read")
    return [_part(part) for part in parts]


def _is_part(part: Any) -> bool:
    """Whether it is the delta of a tool call: an index, a function, and texts."""
    if not isinstance(part, dict) or not isinstance(part.get("function", {}), dict):
        return False
    index, function = part.get("index"), part.get("function", {})
    texts = [part.get("id"), function.get("name"), function.get("arguments")]
    is_index = type(index) is int and 0 <= index < MOST_CALLS
    return is_index and all(text is None or isinstance(text, str) for text in texts)


def _part(part: dict[str, Any]) -> dict[str, Any]:
    given = part.get("function", {})
    function = {
        name: _without_nul(given[name])
        for name in ("name", "arguments")
        if given.get(name) is not None
    }
    named = {"id": _without_nul(part["id"]), "type": "function"} if part.get("id") else {}
    return {"index": part["index"], **named, "function": function}


def _without_nul(text: str) -> str:
    """A text that a client may send back: hordes refuse NUL, which JSON may escape."""
    return text.replace("\0", "")


def _usage(usage: Any) -> dict[str, int] | None:
    """The token counts of a usage; None where one of the two that matter is missing."""
    if not isinstance(usage, dict):
        return None
    counts = {
        name: usage.get(name)
        for name in ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
    }
    known = {
        name: count
        for name, count in counts.items()
        if type(count) is int and 0 <= count <= _MOST_TOKENS
    }
    return known if {"prompt_tokens", "completion_tokens"} <= set(known) else None


def _logprobs(logprobs: Any) -> dict[str, Any] | None:
    """Log-probabilities, one object for each token; None for anything else."""
    if not isinstance(logprobs, dict) or not isinstance(logprobs.get("content"), list):
        return None
    tokens = logprobs["content"]
    is_known = all(isinstance(token, dict) for token in tokens) and not _is_deep(tokens)
    return {"content": tokens} if is_known else None


def _is_deep(values: Iterable[Any]) -> bool:
    """Whether values have more levels of lists and objects than log-probabilities have."""
    for _ in range(_MOST_LEVELS):
        containers = [value for value in values if isinstance(value, dict | list)]
        inner = (value.values() if isinstance(value, dict) else value for value in containers)
        values = [value for some in inner for value in some]
    return any(isinstance(value, dict | list) for value in values)
