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


def listed(op: Operation) -> list[PromptFilter]:
    """All filters, in order of their numbers."""
    return op.tx.page(PromptFilter, "id", descending=False, offset=0, limit=_MOST)


def add(op: Operation, author: HordeAccount, fields: dict[str, Any]) -> PromptFilter:
    """A new filter. Raises BadRequest for an expression that RE2 cannot read."""
    _compiled(fields["regex"])
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
        _compiled(fields["regex"])
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

    Raises CorruptPrompt (400) if a filter without a replacement matches.
    """
    prompt = encodable(prompt)
    for record in listed(op):
        expression = _compiled(record.regex)
        if not expression.search(prompt):
            continue
        if not record.replacement:
            raise refusal("CorruptPrompt")
        prompt = _replaced(expression, record.replacement, prompt)
    return prompt


def _replaced(expression: Any, replacement: str, prompt: str) -> str:
    # A function, because a backslash in a string would mean a group.
    return str(expression.sub(lambda _: replacement, prompt))


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
