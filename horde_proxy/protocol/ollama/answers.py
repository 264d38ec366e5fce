"""Writes answers in Ollama's shapes: one JSON object, or a line of JSON for each piece. Pure.

    {"model", "created_at", "message": {"role", "content", "thinking"?}, "done": false}
    {"model", "created_at", "message": {..., "tool_calls": [...]}, "done": false}
    {"model", "created_at", "message": {...}, "done": true, "done_reason", times and counts}

/api/generate has `response` and `thinking` instead of `message`. Every line has all of these:
ollama for Python raises a ValidationError for a line without a message, and a JSONDecodeError for a
blank line. A line with an empty text is what keeps a stream alive.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from horde_proxy.errors import ContentPolicyViolation, ProxyError
from horde_proxy.numbers import finite
from horde_proxy.protocol.chunks import HELD_BACK, Chunk, Head, chunk, fold
from horde_proxy.protocol.ollama.requests import OllamaQuestion
from horde_proxy.protocol.sse import one_line
from horde_proxy.protocol.usage import counts_of

_NANOSECONDS = 1_000_000_000
_LONGEST_SILENCE = 5.0
"""Seconds without a line while what comes is kept for later: thoughts that the client does not
want, and the arguments of calls."""
# Clients know "stop" and "length": the AI SDK's provider maps others to "other", and langchain
# skips an answer that says "load". An answer with tool calls says "stop" as well.
_DONE_REASONS = {"length": "length"}


class OllamaLines:
    """Writes an answer as lines of JSON; see api.front.EventWriter."""

    def __init__(self, question: OllamaQuestion) -> None:
        self._question = question
        [request] = question.requests
        self.shows_progress = request.horde.get("progress") == "reasoning"
        self._chunks: list[Chunk] = []
        self._finish: str | None = None
        self._has_begun = self._has_failed = self._has_text = False
        self._last_line = question.times.clock()
        self._times = _Stopwatch(question)

    @property
    def is_open(self) -> bool:
        return self._has_begun and not self.is_complete

    @property
    def is_complete(self) -> bool:
        return self._finish is not None

    def begin(self) -> Iterator[bytes]:
        """A line with an empty text: Node's fetch gives up after 300 s without a byte."""
        self._has_begun = True
        yield self._line("")

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """A line for each text. Calls and counts are kept for the end."""
        kept = {**chunk, "choices": []}
        is_late = self._question.times.clock() - self._last_line > _LONGEST_SILENCE
        for choice in chunk["choices"]:
            delta = choice["delta"]
            text = (delta.get("content") or "") + (delta.get("refusal") or "")
            thoughts = delta.get("reasoning_content") or ""
            self._has_text = self._has_text or bool(text)
            if text or thoughts:
                self._times.has_text()
            if text or (thoughts and self._question.shows_thoughts) or is_late:
                yield self._line(text, thoughts)
            if delta.get("tool_calls"):
                rest = {"tool_calls": delta["tool_calls"]}
                kept["choices"].append({**choice, "delta": rest})
            self._finish = choice["finish_reason"] or self._finish
        if kept["choices"] or "usage" in kept:
            self._chunks.append(kept)

    def comment(self, text: str) -> bytes:
        """A line with an empty text, since the format has no comments."""
        return self._line("")

    def keep_alive(self) -> bytes:
        """Nothing: the comment was a line already."""
        return b""

    def progress(self, text: str) -> bytes:
        """A line with the text as thoughts."""
        return one_line(_piece(self._question, thinking=text)) + b"\n"

    def error(self, error: ProxyError) -> bytes:
        """{"error": "..."}, for which Ollama's clients raise a ResponseError."""
        self._has_failed = True
        return one_line({"error": error.message}) + b"\n"

    def end(self) -> bytes:
        """The calls in one line, and the last line. Nothing after an error.

        An answer that a filter has emptied ends with an error, since Ollama has no word for it.
        """
        if self._has_failed:
            return b""
        answer = fold(self._chunks) if self._chunks else {"choices": []}
        calls, text = _calls(_message_of(answer))
        if _is_held_back(self._finish, self._has_text or text or calls):
            return self.error(ContentPolicyViolation(HELD_BACK))
        lines = _line(_piece(self._question, text)) if text else b""
        if calls:
            lines += _line(_piece(self._question, calls=calls))
        last = _piece(self._question) | self._times.end(self._finish, answer)
        return lines + _line(last)

    def _line(self, text: str, thoughts: str = "") -> bytes:
        self._last_line = self._question.times.clock()
        thoughts = thoughts if self._question.shows_thoughts else ""
        return _line(_piece(self._question, text, thinking=thoughts))


def fold_ollama(question: OllamaQuestion, chunks: Sequence[Chunk]) -> dict[str, Any]:
    """The answer in one object; of a model that was only loaded or unloaded without counts.

    Raises ContentPolicyViolation for an answer that a filter has emptied.
    """
    if question.loads_only:
        reason = "unload" if question.unloads else "load"
        return {**_piece(question), "done": True, "done_reason": reason}
    times = _Stopwatch(question)
    completion = fold(chunks)
    message = _message_of(completion)
    calls, unread = _calls(message)
    text = (message.get("content") or "") + (message.get("refusal") or "") + unread
    thoughts = message.get("reasoning_content") or "" if question.shows_thoughts else ""
    finish = completion["choices"][0]["finish_reason"]
    if _is_held_back(finish, text or calls):
        raise ContentPolicyViolation(HELD_BACK)
    return _piece(question, text, thinking=thoughts, calls=calls) | times.end(finish, completion)


def _is_held_back(finish: str | None, answer: object) -> bool:
    """Whether a filter has left nothing: the client would show an empty answer, without a word."""
    return finish == "content_filter" and not answer


def load_chunks(question: OllamaQuestion) -> Sequence[Chunk] | None:
    """The chunks of an answer that no model has to write; None where there is something to answer.

    Clients load a model before they use it, and unload it with `keep_alive` 0.
    """
    head = Head("", 0, question.model)
    return [chunk(head, {}, finish_reason="stop")] if question.loads_only else None


class _Stopwatch:
    """Measures an answer: when its first text came, and when it ended."""

    def __init__(self, question: OllamaQuestion) -> None:
        self._clock, self._began = question.times.clock, question.times.began
        self._first: float | None = None

    def has_text(self) -> None:
        """Note that a text has come."""
        if self._first is None:
            self._first = self._clock()

    def end(self, finish: str | None, completion: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of the last line: counts in tokens, durations in nanoseconds.

        No duration is 0, because clients divide counts by them. `load_duration` is the wait before
        the model began: a horde says how long its queue was, and elsewhere it ends with the first
        text.
        """
        end = self._clock()
        horde = completion.get("horde")
        horde = horde if isinstance(horde, Mapping) else {}
        total = end - self._began
        waited = finite(horde.get("queue_seconds"))
        if waited is None:
            waited = (self._first or end) - self._began
        waited = min(waited, total)
        wrote = min(finite(horde.get("generation_seconds")) or total - waited, total - waited)
        usage = completion.get("usage")
        prompt, written, _ = counts_of(usage if isinstance(usage, dict) else {})
        return {
            "done": True,
            "done_reason": _DONE_REASONS.get(finish or "", "stop"),
            "total_duration": _nanoseconds(total),
            "load_duration": _nanoseconds(waited),
            "prompt_eval_count": prompt,
            "prompt_eval_duration": 1,
            "eval_count": written,
            "eval_duration": _nanoseconds(wrote),
        }


def _nanoseconds(seconds: float) -> int:
    return max(round(seconds * _NANOSECONDS), 1)


def _piece(
    question: OllamaQuestion,
    text: str = "",
    *,
    thinking: str = "",
    calls: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """A piece of an answer, which does not end it."""
    head = {"model": question.model, "created_at": question.times.written_now()}
    thoughts = {"thinking": thinking} if thinking else {}
    if question.route == "generate":
        return {**head, "response": text, **thoughts, "done": False}
    message: dict[str, Any] = {"role": "assistant", "content": text, **thoughts}
    if calls:
        message["tool_calls"] = list(calls)
    return {**head, "message": message, "done": False}


def _line(document: Mapping[str, Any]) -> bytes:
    return one_line(document) + b"\n"


def _message_of(completion: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = completion["choices"]
    return choices[0]["message"] if choices else {}


def _calls(message: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """(Ollama's calls, the text of those that are unreadable).

    Arguments must be an object: a text makes ollama for Python raise a ValidationError, and Zed
    fails to read the line. A call whose arguments broke off is told as it was written.
    """
    calls: list[dict[str, Any]] = []
    unread: list[str] = []
    for call in message.get("tool_calls", ()):
        name, written = call["function"].get("name", ""), call["function"]["arguments"]
        arguments = _object_in(written)
        if arguments is None:
            unread.append(f"\n{name}({written})" if written else f"\n{name}()")
            continue
        function = {"index": len(calls), "name": name, "arguments": arguments}
        calls.append({"id": call["id"], "function": function})
    return calls, "".join(unread)


def _object_in(text: str) -> dict[str, Any] | None:
    """The object in a JSON text; {} for an empty text, and None for what is no object."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_json(constant: str) -> Any:
    """NaN and Infinity, which Python reads and no other client."""
    raise ValueError(constant)
