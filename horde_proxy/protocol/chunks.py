"""Chat completion chunks, which all answers consist of inside the proxy, and their chat completion.

One function makes each shape. Pure: callers pass ids and times.
Source: the chat completion and chunk objects of OpenAI's API reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from horde_proxy.errors import ProxyError
from horde_proxy.protocol import sse

Chunk = dict[str, Any]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "function_call"]

HELD_BACK = "The text was held back by a filter of the horde or of the server that wrote it."
"""What `content_filter` means, for APIs without a word for it."""
_PIECE = 4096
"""Characters of a text in one chunk: some clients limit the length of an event."""
_INSTEAD_OF_CONTENT = {"tool_calls", "function_call"}
# A word with the space before it, or the space at the end: " two" of "one two".
_WORD = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True)
class Head:
    """The fields that all chunks of an answer share. `created` is Unix time (s)."""

    id: str
    created: int
    model: str


def chunk(
    head: Head,
    delta: dict[str, Any],
    *,
    index: int = 0,
    finish_reason: FinishReason | None = None,
    logprobs: Sequence[Any] = (),
) -> Chunk:
    """A chat completion chunk with one choice. `logprobs` are those of the delta's tokens."""
    choice = {
        "index": index,
        "delta": delta,
        "logprobs": {"content": [*logprobs], "refusal": None} if logprobs else None,
        "finish_reason": finish_reason,
    }
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
    """The deltas of one tool call: id and name first, then the arguments in pieces."""
    function = {"name": name, "arguments": ""}
    yield {
        "tool_calls": [{"index": number, "id": call_id, "type": "function", "function": function}]
    }
    yield from argument_deltas(number, arguments)


def argument_deltas(number: int, arguments: str) -> Iterator[dict[str, Any]]:
    """The deltas of a tool call's arguments, or of a further part of them."""
    for piece in pieces(arguments):
        yield {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}


def pieces(text: str) -> Iterator[str]:
    """The text in pieces that fit into one event each; none for an empty text."""
    return (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))


def as_legacy(delta: dict[str, Any]) -> dict[str, Any]:
    """A tool call's delta as `function_call`, the older form with at most one call."""
    return {"function_call": delta["tool_calls"][0]["function"]}


def usage_chunk(head: Head, usage: dict[str, Any], horde: dict[str, Any]) -> Chunk:
    """The last chunk: no choices, the usage, and the `horde` object with the cost."""
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


def bare_chunk(chunk: Chunk, delta: dict[str, Any] | None = None, index: int = 0) -> Chunk:
    """A chunk like another, for one choice, with an empty delta or the given one."""
    choice = {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": None}
    return {**chunk, "choices": [choice]}


def words(text: str) -> Iterator[str]:
    """The text in pieces of a word each. Joined, they are the text again."""
    return (match.group() for match in _WORD.finditer(text))


def has_text(chunk: Chunk) -> bool:
    """Whether a chunk has a part of the answer, and not only a role or a finish_reason."""
    return any(
        choice["delta"].get("content") or choice["delta"].get("tool_calls")
        for choice in chunk["choices"]
    )


def is_complete(chunks: Iterable[Chunk]) -> bool:
    """Whether an answer has a choice, and each of its choices a finish_reason."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    finished = {choice["index"] for choice in choices if choice["finish_reason"]}
    return bool(finished) and finished == {choice["index"] for choice in choices}


class ChatEvents:
    """Writes a chat completion as OpenAI's server-sent events; see api.front.EventWriter.

    With `include_usage`, the last chunk has the usage and the others have null, like OpenAI's with
    stream_options.include_usage.
    """

    def __init__(self, *, include_usage: bool, shows_progress: bool = False) -> None:
        self.shows_progress = shows_progress
        self._include_usage = include_usage
        self._first: Chunk | None = None
        self._unfinished: set[int] = set()

    @property
    def is_open(self) -> bool:
        return bool(self._unfinished)

    @property
    def is_complete(self) -> bool:
        return self._first is not None and not self._unfinished

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """The event of one chunk; nothing for a usage that the client has not requested."""
        self._first = self._first or chunk
        for choice in chunk["choices"]:
            self._unfinished.add(choice["index"])
            if choice["finish_reason"]:
                self._unfinished.discard(choice["index"])
        if chunk["choices"] or self._include_usage:
            yield self._event(self.shaped(chunk))

    def begin(self) -> Iterator[bytes]:
        """Nothing: the first chunk comes with the acceptance."""
        return iter(())

    def comment(self, text: str) -> bytes:
        """A comment of server-sent events."""
        return sse.comment(text)

    def keep_alive(self) -> bytes:
        """A chunk with an empty delta: comments would not reset the time-outs of some clients."""
        return self._event(self.shaped(self._empty_chunk({})))

    def progress(self, text: str) -> bytes:
        """A chunk with the text as reasoning, which many clients show beside the answer."""
        return self._event(self.shaped(self._empty_chunk({"reasoning_content": text})))

    def error(self, error: ProxyError) -> bytes:
        """A `data:` line with an `error`, for which OpenAI's SDKs raise an APIError."""
        return sse.event(error.envelope())

    def end(self) -> bytes:
        return sse.DONE

    def shaped(self, chunk: Chunk) -> Chunk:
        """The chunk as this front writes it."""
        return chunk

    def _empty_chunk(self, delta: dict[str, Any]) -> Chunk:
        """A chunk of a choice that is still open, because a finished one must not go on."""
        assert self._first is not None, "nothing is open before the first chunk"
        return bare_chunk(self._first, delta, index=min(self._unfinished))

    def _event(self, chunk: Chunk) -> bytes:
        if self._include_usage and chunk["choices"]:
            chunk = {**chunk, "usage": None}
        return sse.event(chunk)


def fold(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """The chat completion that all chunks of an answer add up to. The last one names the model."""
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        answer = answer or _completion(chunk)
        answer["model"] = chunk["model"]
        answer.update({key: chunk[key] for key in ("usage", "horde") if key in chunk})
        for part in chunk["choices"]:
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
    if part["logprobs"]:
        logprobs = choice["logprobs"] or {"content": [], "refusal": None}
        logprobs["content"] += part["logprobs"]["content"]
        choice["logprobs"] = logprobs
    for call in part["delta"].get("tool_calls", ()):
        _add_call(message.setdefault("tool_calls", []), call)
    if "function_call" in part["delta"]:
        _add_function(message.setdefault("function_call", {}), part["delta"]["function_call"])
    if part["finish_reason"]:
        choice["finish_reason"] = part["finish_reason"]
        # Beside calls and refusals, OpenAI's content is null, not "".
        if (not message["content"] and message.keys() & _INSTEAD_OF_CONTENT) or message["refusal"]:
            message["content"] = None


def _add_call(calls: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    # Only the first part of a call has its id; later parts have only its index.
    if "id" in part:
        calls.append({"id": part["id"], "type": part["type"], "function": {}})
    _add_function(calls[part["index"]]["function"], part["function"])


def _add_function(function: dict[str, Any], part: Mapping[str, Any]) -> None:
    if "name" in part:
        function["name"] = part["name"]
    function["arguments"] = function.get("arguments", "") + part["arguments"]
