"""Counts of tokens in the objects of all servers, and estimates where there are none. Pure.

How they are found in an answer that is passed on is usage_reader.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from horde_proxy.numbers import finite
from horde_proxy.protocol.models import as_mapping

_TEXT_FIELDS = ("messages", "prompt", "input", "instructions", "tools", "functions")
_NOT_TEXT = frozenset({"image_url", "input_audio", "file", "file_data", "image"})
_CHARACTERS = 4
"""Characters in a token: a little less than the average of English and code."""
_MOST_TOKENS = 1e12
"""A larger count is a server's mistake, and would spoil every sum."""
# By what a count means: the names in OpenAI's chats, in its responses and Anthropic's messages, in
# Ollama's own answers (beside the text), and in Google's `usageMetadata`.
_PROMPT = ("prompt_tokens", "input_tokens", "prompt_eval_count", "promptTokenCount")
_COMPLETION = ("completion_tokens", "output_tokens", "eval_count", "candidatesTokenCount")
_TOTAL = ("total_tokens", "totalTokenCount")
# Anthropic counts what it caches beside `input_tokens`; all others count it inside.
_CACHED = ("cache_read_input_tokens", "cache_creation_input_tokens")
# How many tokens of the prompt the server had read before, beside the other counts: Anthropic's,
# DeepSeek's, Google's and Moonshot's names.
_WARM = (
    "cache_read_input_tokens",
    "prompt_cache_hit_tokens",
    "cachedContentTokenCount",
    "cached_tokens",
)
_DETAILS = ("prompt_tokens_details", "input_tokens_details")
# Where an event has its usage: OpenAI's responses, Anthropic's message_start, Groq's last chunk.
_INSIDE = ("response", "message", "x_groq")


def tidy_usage(usage: Any) -> dict[str, Any]:
    """OpenAI's usage object, made from a server's; a count that is not a number becomes 0."""
    usage = usage if isinstance(usage, dict) else {}
    prompt, completion, total = counts_of(usage)
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


def usages_in(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
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


def counts_of(usage: dict[str, Any]) -> tuple[int, int, int]:
    """(prompt, completion, total), with 0 for what is missing or no count."""
    prompt = _count(usage, _PROMPT)
    if "prompt_tokens" not in usage:
        prompt += sum(_count(usage, (name,)) for name in _CACHED)
    return prompt, _count(usage, _COMPLETION), _count(usage, _TOTAL)


def cached_of(usage: Mapping[str, Any]) -> int | None:
    """The tokens of the prompt that were in the server's cache; None where a usage does not say it.

    A server that has read nothing of it says 0.
    """
    details = [as_mapping(usage.get(name)).get("cached_tokens") for name in _DETAILS]
    counts = (finite(value, _MOST_TOKENS) for value in (*details, *map(usage.get, _WARM)))
    return next((int(count) for count in counts if count is not None), None)


def cached_by_timings(document: Mapping[str, Any]) -> int | None:
    """The same by llama.cpp's `timings`, beside the usage; its versions before 2026 have no other.

    None where there are none.
    """
    count = finite(as_mapping(document.get("timings")).get("cache_n"), _MOST_TOKENS)
    return None if count is None else int(count)


def _count(usage: dict[str, Any], names: tuple[str, ...]) -> int:
    """The first usable count under one of the names, else 0."""
    counts = (finite(usage.get(name), _MOST_TOKENS) for name in names)
    return int(next(filter(None, counts), 0))
