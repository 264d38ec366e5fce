"""Names that others chose, as any database stores them. Pure."""

from __future__ import annotations

LONGEST_NAME = 200
"""Characters of a stored name. Other servers choose the names of their models."""


def storable_name(name: str) -> str:
    """The name without what a database refuses, cut to LONGEST_NAME characters.

    A single row that is always refused would keep all others from being written.
    """
    # No database stores half a surrogate pair, and PostgreSQL stores no NUL.
    return name.encode("utf-8", "replace").decode().replace("\0", "?")[:LONGEST_NAME]
