"""Filters of prompts: regular expressions whose matches are refused, or replaced by other words.

Moderators write them. RE2 takes time in proportion to the prompt's length, whatever the expression
is. AI-Horde gives them types (10, 11, 20) for images; for texts, all types do the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2

from horde_proxy.printable import encodable
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import NEW, HordeAccount, PromptFilter

TYPES = (10, 11, 20)
"""The types that GET filters/regex always lists (capture filters_regex)."""
_MOST = 1000
_MEMORY = 8_000_000
"""Bytes that one expression may take when it is compiled; words need some kilobytes."""
_MOST_ADDED = 100_000
"""Characters that replacements may add to a prompt: as many as a long chat has. A filter that makes
a sentence of each letter would make gigabytes of a large prompt."""


def listed(op: Operation) -> list[PromptFilter]:
    """All filters, in order of their numbers."""
    return op.tx.page(PromptFilter, "id", descending=False, offset=0, limit=_MOST)


def add(op: Operation, author: HordeAccount, fields: dict[str, Any]) -> PromptFilter:
    """A new filter. Raises BadRequest for an expression that `_check` refuses."""
    _check(fields["regex"])
    if len(listed(op)) >= _MOST:
        raise refusal("BadRequest", reason=f"There are {_MOST} filters. Delete one first.")
    record = PromptFilter(
        NEW,
        fields["regex"],
        fields["filter_type"],
        fields["description"] or "",
        fields["replacement"] or "",
        author.id,
    )
    op.tx.add(record)
    return record


def find(op: Operation, filter_id: str) -> PromptFilter:
    """A filter by its number, locked. Raises FilterNotFound (404)."""
    # A database's numbers end at 2^63.
    is_number = filter_id.isascii() and filter_id.isdecimal() and len(filter_id) < 19
    record = op.tx.lock(PromptFilter, int(filter_id)) if is_number else None
    if record is None:
        raise refusal("FilterNotFound", id=filter_id)
    return record


def change(op: Operation, filter_id: str, fields: dict[str, Any]) -> PromptFilter:
    """A filter with other values. Raises FilterNotFound, and BadRequest as `add`."""
    record = find(op, filter_id)
    if fields["regex"] is not None:
        _check(fields["regex"])
    for name, value in fields.items():
        if value is not None:
            setattr(record, name, value)
    op.tx.save(record)
    return record


def matching(op: Operation, prompt: str) -> list[PromptFilter]:
    """The filters that match a prompt."""
    # RE2 searches in UTF-8.
    text = encodable(prompt)
    return [record for record in listed(op) if _compiled(record.regex).search(text)]


def cleaned(op: Operation, prompt: str) -> str:
    """The prompt with the matches of filters replaced.

    Raises CorruptPrompt (400) if a filter without a replacement matches, or replacements make the
    prompt much longer.
    """
    prompt = encodable(prompt)
    most = len(prompt) + _MOST_ADDED
    for record in listed(op):
        expression = _compiled(record.regex)
        if not expression.search(prompt):
            continue
        if not record.replacement:
            raise refusal("CorruptPrompt")
        prompt = _replaced(expression, record.replacement, prompt, most)
    return prompt


def _replaced(expression: Any, replacement: str, prompt: str, most: int) -> str:
    """The prompt with all matches replaced. Raises CorruptPrompt beyond `most` characters."""
    length = len(prompt)

    # A function, because a backslash in a string would mean a group.
    def replace(match: Any) -> str:
        nonlocal length
        length += len(replacement) - len(match[0])
        if length > most:
            raise refusal("CorruptPrompt")
        return replacement

    return str(expression.sub(replace, prompt))


def _check(regex: str) -> None:
    """Raises BadRequest for an expression that RE2 cannot read, or that matches everywhere."""
    if _compiled(regex).search("") is not None:
        reason = "The regex matches an empty text, and so every prompt: let it match some character"
        raise refusal("BadRequest", reason=reason)


@lru_cache(_MOST)
def _compiled(regex: str) -> Any:
    options = re2.Options()
    options.case_sensitive, options.log_errors, options.max_mem = False, False, _MEMORY
    try:
        return re2.compile(regex, options)
    except re2.error as exc:
        # Its words are bytes: b"missing ): (a"
        words = exc.args[0].decode("utf-8", "replace")
        raise refusal("BadRequest", reason=f"The regex is not valid: {words}") from exc
    except UnicodeEncodeError as exc:
        reason = "The regex is not valid: it has half of a character"
        raise refusal("BadRequest", reason=reason) from exc
