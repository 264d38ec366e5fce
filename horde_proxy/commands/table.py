"""Rows of text in columns, for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from horde_proxy.printable import one_line


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, with its cells padded to the widest of their column."""
    shown = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
