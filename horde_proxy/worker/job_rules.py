"""Which jobs a worker refuses, whatever its backend could do. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import re2

from horde_proxy.worker.backends import JobRefused

_REGEX_MEMORY = 8 << 20
"""Bytes for one compiled pattern: a word list of a few thousand words takes one or two MB."""
_NOT_TEXTS = frozenset(
    {"role", "type", "id", "tool_call_id", "image_url", "input_audio", "file", "detail"}
)
"""Fields of messages that no model reads as words: names of kinds, ids, and media in base64."""
_NOT_WORD = r"[^\pL\pN_]"
"""What ends a word, in any language: RE2's own \\b knows ASCII letters only."""


class JobRules:
    """Refuses jobs whose prompts have certain words or match certain patterns.

    Case does not matter. Patterns are RE2's: other people's prompts must not be able to make the
    worker think for ever. Raises ValueError for a pattern that is not valid.
    """

    def __init__(self, words: Sequence[str] = (), patterns: Sequence[str] = ()) -> None:
        self.words = words
        self._words = _of_words(words) if words else None
        self._patterns = [_compiled(pattern) for pattern in patterns]

    def check(self, job: Mapping[str, Any]) -> None:
        """Check a job for a text. Raises JobRefused; the reason does not repeat the prompt."""
        if job.get("extra_source_images") or job.get("source_image"):
            raise JobRefused("it comes with images", "this worker reads no images")
        if job.get("softprompt"):
            raise JobRefused("it needs a soft prompt", "this worker has no soft prompts")
        self.check_prompt(job)

    def check_prompt(self, job: Mapping[str, Any]) -> None:
        """Check the texts of any job. Raises JobRefused."""
        payload = job.get("payload") or {}
        if not isinstance(payload, Mapping):
            raise JobRefused("the job's payload is no object", "the payload is not an object")
        prompt = payload.get("prompt") or ""
        if not isinstance(prompt, str):
            raise JobRefused("its prompt is no text", "the prompt is not a text")
        for text in (prompt, *_chat_texts(payload.get("chat"))):
            self._check_text(text)

    def _check_text(self, text: str) -> None:
        if self._words and self._words.search(text):
            raise JobRefused("a refused word", "the prompt has a word that this worker refuses")
        if any(pattern.search(text) for pattern in self._patterns):
            raise JobRefused("a refused pattern", "this worker refuses such prompts")


def _chat_texts(chat: Any) -> Iterator[str]:
    """The texts in the messages of a chat. Raises JobRefused for what is no chat."""
    if chat is None:
        return
    messages = chat.get("messages") if isinstance(chat, Mapping) else None
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
        raise JobRefused("its chat has no messages", "the chat has no list of messages")
    for message in messages:
        # Whatever is said, by whom and in which field: contents and their parts, reasoning, the
        # arguments of calls.
        yield from _texts_in(message)
    yield from _descriptions_in(chat.get("tools"))


def _texts_in(value: Any) -> Iterator[str]:
    """The texts in a JSON value, but for those of images, audio and files."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            pending += [inner for name, inner in value.items() if name not in _NOT_TEXTS]
        elif isinstance(value, list):
            pending += value


def _descriptions_in(tools: Any) -> Iterator[str]:
    """The descriptions of tools and of their parameters, which a model reads, too."""
    pending = [tools]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            description = value.get("description")
            if isinstance(description, str):
                yield description
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _of_words(words: Sequence[str]) -> Any:
    """A pattern that finds any of the words, each as a whole: "cat" not in "category"."""
    # re2 reads what `re` escapes, but for the space, which needs no escape.
    alternatives = "|".join(re.escape(word).replace("\\ ", " ") for word in words)
    return _compiled(f"(?:^|{_NOT_WORD})(?:{alternatives})(?:{_NOT_WORD}|$)")


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.case_sensitive, options.log_errors, options.max_mem = False, False, _REGEX_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as exc:
        # Its words are bytes: b"missing ): (a"
        reason = exc.args[0].decode("utf-8", "replace")
        raise ValueError(f"{pattern!r} is no pattern of RE2: {reason}") from exc
