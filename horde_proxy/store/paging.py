"""The order of rows in lists, and where the next page begins: by the time `created`, then by `id`.

Which rows an owner may see is not known here.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Table, and_, or_


def in_order(table: Table, *, newest_first: bool) -> tuple[ColumnElement[Any], ...]:
    """What to order rows by. Ids order those of one moment."""
    columns = (table.c.created, table.c.id)
    return tuple(column.desc() for column in columns) if newest_first else columns


def follows(
    table: Table, created: float, identity: str, *, newest_first: bool
) -> ColumnElement[bool]:
    """The condition for rows that follow one, in the same order."""
    columns = table.c
    is_same = columns.created == created
    if newest_first:
        return or_(columns.created < created, and_(is_same, columns.id < identity))
    return or_(columns.created > created, and_(is_same, columns.id > identity))
