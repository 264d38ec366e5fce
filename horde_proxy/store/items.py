"""The rows of items, which responses and conversations hold alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, func, insert, select, update

from horde_proxy.store.records import Item
from horde_proxy.store.schema import CONVERSATIONS, ITEMS
from horde_proxy.store.stored_text import json_text, stored_id

_AT_ONCE = 500
"""Holders of one statement: SQLite takes 32,766 parameters, older releases 999."""


def item_rows(
    owner: str, holder: str, items: Iterable[Item], *, first: int = 0, is_output: bool = False
) -> list[dict[str, Any]]:
    """The rows of these items, from a place on. Each item has an id."""
    return [
        {
            "owner": owner,
            "holder": stored_id(holder),
            "place": first + number,
            "id": stored_id(item["id"]),
            "is_output": is_output,
            "item": json_text(item),
        }
        for number, item in enumerate(items)
    ]


def rows_size(rows: Iterable[Mapping[str, Any]]) -> int:
    """How much the items of these rows count, in characters of JSON."""
    return sum(len(row["item"]) for row in rows)


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, if there are any."""
    if rows:
        connection.execute(insert(table), rows)


def held_by(owner: str, holder: str) -> ColumnElement[bool]:
    """The condition for the items of a response or a conversation."""
    return and_(ITEMS.c.owner == owner, ITEMS.c.holder == stored_id(holder))


def held_items(
    connection: Connection, owner: str, holder: str, *conditions: ColumnElement[bool]
) -> list[tuple[bool, Item]]:
    """(whether it is output, the item) for the items of a holder, in their order."""
    statement = select(ITEMS.c.is_output, ITEMS.c.item)
    statement = statement.where(held_by(owner, holder), *conditions).order_by(ITEMS.c.place)
    return [(row.is_output, json.loads(row.item)) for row in connection.execute(statement)]


def items_of_all(
    connection: Connection, owner: str, holders: Sequence[str]
) -> list[tuple[bool, Item]]:
    """(whether it is output, the item) for the items of all holders, in the order of both."""
    by_holder: dict[str, list[tuple[bool, Item]]] = {holder: [] for holder in holders}
    for begin in range(0, len(holders), _AT_ONCE):
        is_held = ITEMS.c.holder.in_(holders[begin : begin + _AT_ONCE])
        statement = select(ITEMS.c.holder, ITEMS.c.is_output, ITEMS.c.item)
        statement = statement.where(ITEMS.c.owner == owner, is_held).order_by(ITEMS.c.place)
        for row in connection.execute(statement):
            by_holder[row.holder].append((row.is_output, json.loads(row.item)))
    return [pair for holder in holders for pair in by_holder[holder]]


def held_size(connection: Connection, owner: str, *conditions: ColumnElement[bool]) -> int:
    """How much the items of an owner for which this holds count, in characters of JSON."""
    size = select(func.coalesce(func.sum(func.length(ITEMS.c.item)), 0))
    return int(connection.execute(size.where(ITEMS.c.owner == owner, *conditions)).scalar_one())


def size_of_all(connection: Connection, owner: str, holders: Sequence[str]) -> int:
    """`held_size` of all items of these holders."""
    portions = (holders[begin : begin + _AT_ONCE] for begin in range(0, len(holders), _AT_ONCE))
    return sum(held_size(connection, owner, ITEMS.c.holder.in_(portion)) for portion in portions)


def append_items(
    connection: Connection,
    owner: str,
    conversation_id: str,
    items: Sequence[Item],
    now: int,
    places: Sequence[str] | None,
) -> int | None:
    """Append items to a conversation. The place of the first; None for an unknown conversation.

    `places`: where the items may go. The conversation is bound to them from then on; None: any.
    """
    is_it = and_(CONVERSATIONS.c.owner == owner, CONVERSATIONS.c.id == stored_id(conversation_id))
    texts = item_rows(owner, conversation_id, items)
    # The update comes first: it locks the conversation until the transaction ends.
    statement = (
        update(CONVERSATIONS)
        .where(is_it)
        .values(
            next_place=CONVERSATIONS.c.next_place + len(items),
            bytes=CONVERSATIONS.c.bytes + rows_size(texts),
            used=now,
        )
    )
    if not connection.execute(statement).rowcount:
        return None
    columns = select(CONVERSATIONS.c.next_place, CONVERSATIONS.c.places).where(is_it)
    end, bound = connection.execute(columns).one()
    if places is not None:
        allowed = json.loads(bound) if bound is not None else places
        common = json_text([place for place in allowed if place in places])
        connection.execute(update(CONVERSATIONS).where(is_it).values(places=common))
    first = int(end) - len(items)
    insert_rows(connection, ITEMS, [row | {"place": first + row["place"]} for row in texts])
    return first
