"""The models on offer as a table for a terminal; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from horde_proxy.aihorde.names import canonical

Row = dict[str, Any]

COLUMNS: Mapping[str, str] = {
    "model": "MODEL",
    "workers": "WORKERS",
    "context": "CONTEXT",
    "queued": "QUEUED",
    "speed": "TOKENS/S",
    "wait": "WAIT/S",
    "used": "USED/MONTH",
}
"""The keys of a row and their headings."""
_DECIMALS = {"queued": 0, "speed": 1, "wait": 0}


def rows(offered: Iterable[Mapping[str, Any]], merged: Iterable[Mapping[str, Any]]) -> list[Row]:
    """A row for each model of /v1/models, with its use from /v1/horde/models. None: not known."""
    uses = {canonical(each["name"]).key: each.get("usage_stats") for each in merged}
    return [_row(each, uses) for each in offered]


def chosen(rows: Iterable[Row], sort: str | None, words: str) -> list[Row]:
    """The rows whose names hold the words, sorted: names from A, numbers from the largest.

    A wait is best when it is short. What is not known comes last.
    """
    found = [row for row in rows if words.casefold() in row["model"].casefold()]
    if sort is None:
        return found
    if sort == "model":
        return sorted(found, key=lambda row: str(row["model"]).casefold())
    sign = 1 if sort == "wait" else -1
    known = [row for row in found if row[sort] is not None]
    unknown = [row for row in found if row[sort] is None]
    return sorted(known, key=lambda row: float(sign * row[sort])) + unknown


def lines(rows: Sequence[Row]) -> list[str]:
    """The heading and the rows in columns; a column that nothing is known for is left out."""
    shown = [
        key
        for key in COLUMNS
        if key in ("model", "workers", "context", "queued", "speed")
        or any(row[key] is not None for row in rows)
    ]
    cells = [[COLUMNS[key] for key in shown]]
    cells += [[_cell(key, row[key]) for key in shown] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _row(model: Mapping[str, Any], uses: Mapping[str, Any]) -> Row:
    horde = model.get("horde") or {}
    use = uses.get(canonical(model["id"]).key) if horde else None
    return {
        "model": model["id"],
        "workers": horde.get("workers"),
        "context": model.get("context_length"),
        "queued": horde.get("queued_tokens"),
        "speed": horde.get("tokens_per_second"),
        "wait": horde.get("expected_seconds"),
        "used": use["month"] if use else None,
    }


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.{_DECIMALS[key]}f}" if key in _DECIMALS else str(value)
    # A terminal obeys what cannot be printed.
    return text if text.isprintable() else text.encode("unicode_escape").decode()
