"""The usage of an answer, found in its bytes as they pass, or estimated from its text. Pure.

Servers put a usage into the last chunk, into each, into the first event, before or after the text,
or nowhere. A UsageReader takes the largest counts that it sees, and how much text came.
"""

from __future__ import annotations

import json
import re
from typing import Any

from horde_proxy.numbers import finite
from horde_proxy.protocol.usage import (
    cached_by_timings,
    cached_of,
    counts_of,
    estimate_answer,
    usages_in,
)

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
_BATCH = 16_384
"""Bytes that come before they are read."""
_DECODER = json.JSONDecoder()
# `"finish_reason": "stop"` and the like, but not null.
_FINISHED = re.compile(rb'finish_reason"\s*:\s*"')
# `"finish_reason": "stop"` of a chat, `"stop_reason":"end_turn"` of a message: its value.
_FINISH_REASON = re.compile(rb'"(?:finish|stop)_reason"\s*:\s*"([a-z_]{1,40})"')
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
# The end of a text that was cut: "\u00" of "\u00e4".
_HALF_ESCAPE = re.compile(rb"\\u[0-9a-fA-F]{0,3}$")
# Lists of numbers and of tokens beside the text, and what repeats the request.
_NO_ANSWER = frozenset(
    {"data", "document", "logprobs", "usage", "instructions", "tools", "metadata"}
)


class UsageReader:
    """Reads one answer while it passes; `content_type` is its header. Memory is bounded.

    Pieces are read in batches: a chunk is passed on in less time than it would take to look at it.
    After end(), `is_finished` says that a stream of chats had a finish_reason or [DONE], or one of
    messages its message_stop, `has_failed` that it had an error. `finish_reason` is the first one;
    `cost` is what a server such as OpenRouter says in its usage (USD). `cached_tokens` are those of
    the prompt that were in the server's cache; None where it does not say it.
    """

    def __init__(self, content_type: str) -> None:
        kind = content_type.partition(";")[0].strip().lower()
        self.is_finished = self.has_failed = False
        self.finish_reason: str | None = None
        self.cost: float | None = None
        self._counts = (0, 0, 0)
        self.cached_tokens: int | None = None
        self._characters = self._text_events = 0
        self._is_events = kind == "text/event-stream"
        self._is_lines = self._is_events or kind in ("application/x-ndjson", "application/jsonl")
        # Sound and pictures have no text: "audio/mpeg", "image/png", "application/octet-stream".
        self._is_plain = kind.startswith("text/") and not self._is_lines
        self._is_read = self._is_lines or self._is_plain or kind == "" or "json" in kind
        self._batch: list[bytes] = []
        self._batched = self._size = self._unread = 0
        self._is_cut = False
        self._ending = self._start = self._rest = self._tail = self._last = b""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        if self._is_read:
            self._batch.append(piece)
            self._batched += len(piece)
            if self._batched > _BATCH:
                self._read_batch()

    def end(self) -> None:
        """Read what is left when no more bytes come; may be called again."""
        self._read_batch()
        if self._is_lines:
            self._read_lines(b"\n")
            # The last one stands for those that were not read; it may be an error.
            self._read_event(self._last, self._unread)
            self._last, self._unread = b"", 0
        elif self._start:
            self._note_finish(self._start)
            if not self._counts[1]:
                self._read_whole(self._start)
        self._start = b""

    def ending(self) -> bytes:
        """The last bytes of what came: four, the most that a blank line has."""
        return b"".join([self._ending, *self._batch])[-4:]

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

    def _read_batch(self) -> None:
        text = b"".join(self._batch)
        self._ending = (self._ending + text)[-4:]
        self._batch, self._batched = [], 0
        if self._is_lines:
            self._read_lines(text)
        elif text:
            self._size += len(text)
            self._start += text[: _LONGEST_LINE - len(self._start)]
            self._find_usage(text)

    def _read_lines(self, text: bytes) -> None:
        if self._is_cut:
            self._find_usage(text)
        text = self._rest + text
        # Neither JSON nor the fields of events have other line ends inside.
        end = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        text, self._rest = text[:end], text[end:]
        self._is_cut = (self._is_cut and not end) or len(self._rest) > _LONGEST_LINE
        if len(self._rest) > _LONGEST_LINE:
            self._find_usage(self._rest)
            self._rest = b""
        prefix = b"data:" if self._is_events else b"{"
        is_notable = self._is_notable(text)
        for line in text.splitlines():
            if line.startswith(prefix):
                self._read_line(line, is_notable and self._is_notable(line))

    def _is_notable(self, text: bytes) -> bool:
        """Whether there may be a usage or an end in a text."""
        return (
            not self._is_events
            or b"[DONE]" in text
            or (b"usage" in text and bool(_USAGE.search(text)))
            or bool(_FINISHED.search(text))
            or b"message_stop" in text
        )

    def _read_line(self, line: bytes, is_notable: bool) -> None:
        if is_notable or self._text_events < _ALL_READ or len(line) > _LONG_EVENT:
            self._read_event(line, 1)
        elif self._unread == _STRIDE - 1:
            self._read_event(line, _STRIDE)
            self._unread = 0
        else:
            self._unread += 1
            self._last = line

    def _read_event(self, line: bytes, weight: int) -> None:
        """Read one event, which stands for so many events with a text like its own."""
        line = line.removeprefix(b"data:").strip()
        document = _document(line)
        self._note_finish(line)
        if line == b"[DONE]":
            self.is_finished = True
        if document is None:
            return
        if document.get("type") == "message_stop":
            self.is_finished = True
        self._note_usages(document)
        if document.get("error"):
            self.has_failed = True
        if _has_new_text(document.get("type")):
            count = _answer_characters(document)
            self._characters += count * weight
            self._text_events += weight if count else 0
        choices = document.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("finish_reason"):
                self.is_finished = True

    def _note_finish(self, text: bytes) -> None:
        match = None if self.finish_reason else _FINISH_REASON.search(text)
        if match is not None:
            self.finish_reason = match[1].decode()

    def _note_usages(self, document: dict[str, Any]) -> None:
        for usage in usages_in(document):
            self._note_usage(usage)
        self._note_cached(cached_by_timings(document))

    def _note_cached(self, count: int | None) -> None:
        """Take the largest count, as of the others."""
        if count is not None:
            self.cached_tokens = max(count, self.cached_tokens or 0)

    def _note_usage(self, usage: dict[str, Any]) -> None:
        """Take the largest counts: a usage in each chunk grows, and a late one may be empty."""
        cost = finite(usage.get("cost"))
        self.cost = self.cost if cost is None else cost
        (prompt, completion, total), (*counts,) = self._counts, counts_of(usage)
        self._counts = max(prompt, counts[0]), max(completion, counts[1]), max(total, counts[2])
        self._note_cached(cached_of(usage))

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


def _has_new_text(kind: Any) -> bool:
    """Whether an event of this type may have text that none before had.

    Chunks of chats have no type. Of typed events only deltas are new: response.output_text.done
    repeats all of them. response.output_audio.delta is sound.
    """
    if not isinstance(kind, str):
        return True
    return kind.endswith("delta") and not kind.endswith("audio.delta")


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
