"""The token usage of an answer: read from its bytes as they pass, or estimated. Pure.

Servers put a usage into the last chunk, into each, into the first event, before or after the text,
or nowhere. A UsageReader takes the largest counts that it sees, and how much text came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from horde_proxy.numbers import finite

_TEXT_FIELDS = ("messages", "prompt", "input", "instructions", "tools", "functions")
_NOT_TEXT = frozenset({"image_url", "input_audio", "file", "file_data", "image"})
_CHARACTERS = 4
"""Characters in a token: a little less than the average of English and code."""
_MOST_TOKENS = 1e12
"""A larger count is a server's mistake, and would spoil every sum."""
_LONGEST_LINE = 1_000_000
"""Bytes of an event that is parsed, and of a whole answer that is kept. Longer ones are images."""
_LONGEST_USAGE = 8192
"""Bytes of a usage object, with all its details."""
_ALL_READ = 16
"""Events with a text, at the beginning of a stream, that are all read for it."""
_LONG_EVENT = 2000
"""Bytes of an event that is always read: its text is not like that of the others."""
_STRIDE = 17
"""Of the later events, every so many is read for its text, and counts for all: parsing each would
cost an eighth of what passing it on costs. A prime, because other events come at even distances."""
_DECODER = json.JSONDecoder()
# `"finish_reason": "stop"` and the like, but not null.
_FINISHED = re.compile(rb'finish_reason"\s*:\s*"')
_LINE_ENDS = (b"\n", b"\r")

# By what a count means: the names in OpenAI's chats, in its responses and Anthropic's messages, in
# Ollama's own answers (beside the text), and in Google's `usageMetadata`.
_PROMPT = ("prompt_tokens", "input_tokens", "prompt_eval_count", "promptTokenCount")
_COMPLETION = ("completion_tokens", "output_tokens", "eval_count", "candidatesTokenCount")
_TOTAL = ("total_tokens", "totalTokenCount")
# Anthropic counts what it caches beside `input_tokens`; all others count it inside.
_CACHED = ("cache_read_input_tokens", "cache_creation_input_tokens")
# Where an event has its usage: OpenAI's responses, Anthropic's message_start, Groq's last chunk.
_INSIDE = ("response", "message", "x_groq")
# `"usage": {` in JSON, with or without spaces. In a text its quotes would be escaped.
_USAGE = re.compile(rb'"usage(?:Metadata)?"\s*:\s*\{')
# The fields with the model's own text: of messages, deltas, calls, and Ollama's and older answers.
_ANSWER_FIELDS = (
    "content",
    "text",
    "reasoning_content",
    "reasoning",
    "thinking",
    "refusal",
    "arguments",
    "partial_json",
    "response",
    "delta",
)
# `"content": "Hel`, up to the end of the string or of what came.
_ANSWER_TEXT = re.compile(
    rb'"(?:%s)"\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)' % "|".join(_ANSWER_FIELDS).encode(), re.DOTALL
)
# The end of a text that was cut: "\\u00" of "\\u00e4".
_HALF_ESCAPE = re.compile(rb"\\u[0-9a-fA-F]{0,3}$")
# Lists of numbers and of tokens beside the text, and what repeats the request.
_NO_ANSWER = frozenset(
    {"data", "document", "logprobs", "usage", "instructions", "tools", "metadata"}
)


class UsageReader:
    """Reads one answer while it passes; `content_type` is its header. Memory is bounded.

    `is_finished`: a stream of chats had a finish_reason or [DONE]. `has_failed`: it had an error.
    """

    def __init__(self, content_type: str) -> None:
        kind = content_type.partition(";")[0].strip().lower()
        self.is_finished = self.has_failed = False
        self._counts = (0, 0, 0)
        self._characters = self._text_events = 0
        self._is_events = kind == "text/event-stream"
        self._is_lines = self._is_events or kind in ("application/x-ndjson", "application/jsonl")
        # Sound and pictures have no text: "audio/mpeg", "image/png", "application/octet-stream".
        self._is_plain = kind.startswith("text/") and not self._is_lines
        self._is_read = self._is_lines or self._is_plain or kind == "" or "json" in kind
        self._pieces: list[bytes] = []
        self._kept = self._size = self._unread = 0
        self._tail = self._last = b""

    def feed(self, piece: bytes) -> None:
        """Read the next bytes."""
        if not self._is_read:
            return
        if not self._is_lines:
            self._feed_whole(piece)
        elif piece.endswith(_LINE_ENDS) or b"\n" in piece or b"\r" in piece:
            self._feed_lines(piece)
        else:
            self._keep(piece)

    def end(self) -> None:
        """Read what is left when no more bytes come; may be called again."""
        rest, self._pieces = b"".join(self._pieces), []
        if self._is_lines:
            self._read_line(rest)
            # The last one stands for those that were not read; it may be an error.
            self._read_event(self._last, self._unread)
            self._last, self._unread = b"", 0
        elif self._is_read and not self._counts[1]:
            self._read_whole(rest)
        self._kept = 0

    def tokens(self, prompt_estimate: int) -> tuple[int, int]:
        """(prompt tokens, completion tokens). What no usage tells is estimated.

        `prompt_estimate` are the tokens of the request's texts; see estimate_prompt.
        """
        prompt, completion, total = self._counts
        has_text = bool(self._characters)
        if (rest := total - prompt - completion) > 0:
            if not prompt:
                prompt = min(prompt_estimate, rest) if has_text or completion else rest
                rest -= prompt
            completion += rest
        if has_text and not completion:
            # Most servers send an event for each token, and count the token that ends the answer.
            tokens = max(self._text_events, estimate_answer(self._characters))
            completion = tokens + self.is_finished
        return prompt or prompt_estimate, completion

    @property
    def has_usage(self) -> bool:
        """Whether a server told any count."""
        return any(self._counts)

    def _feed_lines(self, piece: bytes) -> None:
        if self._kept > _LONGEST_LINE:
            self._find_usage(piece)
        elif self._kept:
            piece = b"".join([*self._pieces, piece])
        self._pieces, self._kept = [], 0
        # Neither JSON nor the fields of events have other line ends inside.
        lines = piece.splitlines()
        if not piece.endswith(_LINE_ENDS):
            self._keep(lines.pop())
        for line in lines:
            self._read_line(line)

    def _keep(self, piece: bytes) -> None:
        """Keep a part of a line; in one that is too long, only a usage is looked for."""
        self._kept += len(piece)
        self._pieces.append(piece)
        if self._kept > _LONGEST_LINE:
            self._find_usage(b"".join(self._pieces))
            self._pieces = []

    def _read_line(self, line: bytes) -> None:
        if not line.startswith(b"data:" if self._is_events else b"{"):
            return
        # "data: [DONE]" has twelve bytes; a longer line is no end of a stream.
        if _FINISHED.search(line) or (len(line) < 20 and line[5:].strip() == b"[DONE]"):
            self.is_finished = True
            self._read_event(line, 1)
        elif self._text_events < _ALL_READ or len(line) > _LONG_EVENT:
            self._read_event(line, 1)
        elif self._unread == _STRIDE - 1:
            self._read_event(line, _STRIDE)
            self._unread = 0
        elif b"usage" in line or not self._is_events:
            self._read_event(line, 1)
        else:
            self._unread += 1
            self._last = line

    def _read_event(self, line: bytes, weight: int) -> None:
        """Read one event, which stands for so many events with a text like its own."""
        document = _document(line.removeprefix(b"data:"))
        if document is None:
            return
        self._note_usages(document)
        if document.get("error"):
            self.has_failed = True
        # Of typed events only deltas have new text: response.output_text.done repeats all of it.
        kind = document.get("type")
        if not isinstance(kind, str) or kind.endswith("delta"):
            count = _answer_characters(document)
            self._characters += count * weight
            self._text_events += weight if count else 0

    def _note_usages(self, document: dict[str, Any]) -> None:
        for usage in _usages(document):
            self._note_usage(usage)

    def _note_usage(self, usage: dict[str, Any]) -> None:
        """Take the largest counts: a usage in each chunk grows, and a late one may be empty."""
        (prompt, completion, total), (*counts,) = self._counts, _counts(usage)
        self._counts = max(prompt, counts[0]), max(completion, counts[1]), max(total, counts[2])

    def _feed_whole(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._kept < _LONGEST_LINE:
            self._pieces.append(piece[: _LONGEST_LINE - self._kept])
            self._kept += len(self._pieces[-1])
        if not self._is_plain:
            self._find_usage(piece)

    def _find_usage(self, piece: bytes) -> None:
        """Look for usage objects in bytes that are not parsed, also across two pieces."""
        text = self._tail + piece
        for match in _USAGE.finditer(text):
            begin = match.end() - 1
            usage = _object_at(text[begin : begin + _LONGEST_USAGE])
            self._note_usage(usage)
        self._tail = text[-_LONGEST_USAGE:]

    def _read_whole(self, start: bytes) -> None:
        """Find usage and text in a whole answer, or in its first part where it is long or cut."""
        # With a usage, it is only to be known whether there is a text at all: parsing costs more.
        is_json = self._size == len(start) and not self._is_plain and not self.has_usage
        document = _document(start) if is_json else None
        if document is not None:
            self._note_usages(document)
            self._characters += _answer_characters(document)
        elif start:
            texts = [start] if self._is_plain else _ANSWER_TEXT.findall(start)
            count = sum(len(_unescaped(text)) for text in texts)
            self._characters += count * self._size // len(start)


def tidy_usage(usage: Any) -> dict[str, Any]:
    """OpenAI's usage object, made from a server's; a count that is not a number becomes 0."""
    usage = usage if isinstance(usage, dict) else {}
    prompt, completion, total = _counts(usage)
    completion = max(completion, total - prompt)
    return {
        **usage,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def estimate_prompt(document: Any) -> int:
    """The estimated number of tokens of the texts in a request body. Pictures do not count."""
    if not isinstance(document, dict):
        return 0
    return sum(_characters(document.get(name)) for name in _TEXT_FIELDS) // _CHARACTERS


def estimate_answer(characters: int) -> int:
    """The estimated number of tokens of an answer with so many characters; none has no token."""
    return -(-characters // _CHARACTERS)


def _characters(value: Any) -> int:
    """The number of characters in all texts of a JSON value, names of fields included.

    This is a loop, because the nesting of a body could be too deep for recursion.
    """
    count, pending = 0, [value]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += [inner for name, inner in value.items() if name not in _NOT_TEXT]
            count += sum(map(len, value))
    return count


def _answer_characters(document: dict[str, Any]) -> int:
    """The number of characters that the model wrote, in an event or a whole answer."""
    count = 0
    pending: list[Any] = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, str):
                    count += len(inner) if name in _ANSWER_FIELDS else 0
                elif isinstance(inner, dict | list) and name not in _NO_ANSWER:
                    pending.append(inner)
    return count


def _usages(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All that may be a usage: in the document, one level inside, or in a choice (Moonshot)."""
    if "eval_count" in document or "prompt_eval_count" in document:
        yield document
    choices = document.get("choices")
    parts: Iterable[Any] = (document, *map(document.get, _INSIDE))
    for part in (*parts, *(choices if isinstance(choices, list) else ())):
        if isinstance(part, dict):
            for name in ("usage", "usageMetadata"):
                if isinstance(usage := part.get(name), dict):
                    yield usage


def _counts(usage: dict[str, Any]) -> tuple[int, int, int]:
    """(prompt, completion, total), with 0 for what is missing or no count."""
    prompt = _count(usage, _PROMPT)
    if "prompt_tokens" not in usage:
        prompt += sum(_count(usage, (name,)) for name in _CACHED)
    return prompt, _count(usage, _COMPLETION), _count(usage, _TOTAL)


def _count(usage: dict[str, Any], names: tuple[str, ...]) -> int:
    """The first usable count under one of the names, else 0."""
    counts = (finite(usage.get(name), _MOST_TOKENS) for name in names)
    return int(next(filter(None, counts), 0))


def _document(text: bytes) -> dict[str, Any] | None:
    """The JSON object that a text is; None for all else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _object_at(text: bytes) -> dict[str, Any]:
    """The JSON object at the beginning of a text; {} if it is broken, or not yet complete."""
    try:
        value, _ = _DECODER.raw_decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _unescaped(text: bytes) -> str:
    r"""A JSON string's characters: "\u00e4" is one. A string that was cut may end in a half."""
    try:
        return str(json.loads(b'"%s"' % _HALF_ESCAPE.sub(b"", text)))
    except ValueError:
        return text.decode("utf-8", "replace")
