"""Entries of GET /v1/models with the fields of Anthropic's API beside those of all others. Pure.

Source: "List Models" and "Get a Model" in Anthropic's API reference. Its clients send a header
`anthropic-version`. One whose list is in pages reads on while `has_more` is true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from horde_proxy.numbers import finite
from horde_proxy.protocol.models import facts_in

Date = Callable[[float], str]
"""The date of a Unix time in the form of RFC 3339."""
_LAST_SECOND = 253_402_300_799
"""Unix time of the end of the year 9999, after which there is no date of RFC 3339."""


def anthropic_model(entry: Mapping[str, Any], date: Date) -> dict[str, Any]:
    """A model object with Anthropic's fields, which go before another server's of the same name."""
    facts = facts_in(entry)
    name, created = entry.get("name"), finite(entry.get("created")) or 0.0
    return {
        **entry,
        "type": "model",
        "display_name": name if isinstance(name, str) and name else entry["id"],
        # Anthropic's own word for an unknown time is the epoch.
        "created_at": date(created if 0 <= created <= _LAST_SECOND else 0.0),
        "lifecycle": "active",
        "max_input_tokens": facts.length,
        "max_tokens": facts.max_output,
        "capabilities": {
            "batch": {"supported": facts.writes_text},
            "citations": {"supported": False},
            "code_execution": {"supported": False},
            "image_input": {"supported": "image" in facts.inputs},
            "pdf_input": {"supported": False},
            "structured_outputs": {"supported": facts.writes_text},
            "thinking": {"supported": bool(facts.reasoning)},
        },
        "line": None,
        "deprecated_at": None,
        "retires_at": None,
    }


def anthropic_page(
    entries: Sequence[Mapping[str, Any]],
    date: Date,
    *,
    limit: int | None = None,
    after_id: str | None = None,
    before_id: str | None = None,
) -> dict[str, Any]:
    """A page of a list of models: all that there are, unless a limit is given.

    Nothing follows a model that has gone: from the start again, a client would read without end.
    """
    ids = [entry["id"] for entry in entries]
    last = ids.index(before_id) if before_id in ids else len(ids)
    first = ids.index(after_id) + 1 if after_id in ids else 0 if after_id is None else last
    if before_id is not None and limit is not None:
        begin = max(last - limit, first)
        page, has_more = entries[begin:last], begin > first
    else:
        end = last if limit is None else min(first + limit, last)
        page, has_more = entries[first:end], end < last
    return {
        "object": "list",
        "data": [anthropic_model(entry, date) for entry in page],
        "has_more": has_more,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }
