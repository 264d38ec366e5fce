"""Stored conversations: lists of items that responses continue, one at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, update

from horde_proxy.database.engine import Database
from horde_proxy.store.items import (
    append_items,
    held_by,
    held_items,
    insert_rows,
    item_rows,
    rows_size,
)
from horde_proxy.store.pruning import Pruner, remove_conversations
from horde_proxy.store.records import ConversationInUse, Item, NotStored, TooLong
from horde_proxy.store.schema import CONVERSATIONS, ITEMS, SCHEMA
from horde_proxy.store.stored_text import json_text, stored_id

LEASE = 60
"""Seconds of a response's claim on its conversation, unless it renews that."""


class ConversationStore:
    """The stored conversations of all owners. Every method raises DatabaseError if that fails."""

    def __init__(
        self, database: Database, pruner: Pruner, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database, self._pruner, self._now = database, pruner, now

    def create(
        self,
        owner: str,
        conversation_id: str,
        items: Sequence[Item],
        metadata: Mapping[str, Any],
        *,
        places: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """The object of a new conversation with these items, which may go to these places only."""
        rows, now = item_rows(owner, conversation_id, items), int(self._now())
        row: dict[str, Any] = {
            "owner": owner,
            "id": stored_id(conversation_id),
            "created": now,
            "used": now,
            "metadata": json_text(metadata),
            "next_place": len(rows),
            "bytes": rows_size(rows),
            "places": None if places is None else json_text(places),
        }
        with self._begin() as connection:
            connection.execute(insert(CONVERSATIONS), row)
            insert_rows(connection, ITEMS, rows)
        self._pruner.added(row["bytes"])
        return _object(conversation_id, now, dict(metadata))

    def get(self, owner: str, conversation_id: str) -> dict[str, Any]:
        """The object of a conversation. Raises NotStored."""
        with self._begin() as connection:
            return _found(connection, owner, conversation_id)

    def set_metadata(
        self, owner: str, conversation_id: str, metadata: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The object of a conversation, with other metadata. Raises NotStored."""
        statement = update(CONVERSATIONS).where(_is(owner, conversation_id))
        with self._begin() as connection:
            connection.execute(statement.values(metadata=json_text(metadata)))
            return _found(connection, owner, conversation_id)

    def delete(self, owner: str, conversation_id: str) -> bool:
        """Delete a conversation with its list of items. False where there was none.

        Responses that were written into it keep their own items.
        """
        with self._begin() as connection:
            return remove_conversations(connection, owner, [stored_id(conversation_id)]) > 0

    def items(self, owner: str, conversation_id: str) -> list[Item]:
        """The items of a conversation, the oldest first. Raises NotStored."""
        with self._begin() as connection:
            _found(connection, owner, conversation_id)
            return [item for _, item in held_items(connection, owner, conversation_id)]

    def add_items(
        self,
        owner: str,
        conversation_id: str,
        items: Sequence[Item],
        *,
        places: Sequence[str] | None = None,
    ) -> None:
        """Append items, which may go to these places only.

        Raises NotStored, ConversationInUse during a response, and TooLong.
        """
        now = int(self._now())
        is_free = _is_free(now)
        statement = select(is_free).where(_is(owner, conversation_id))
        with self._begin() as connection:
            # Before the question, so that no response begins in between.
            if append_items(connection, owner, conversation_id, items, now, places) is None:
                raise NotStored(conversation_id)
            if not connection.execute(statement).scalar_one():
                raise ConversationInUse(conversation_id)
            self._check_size(connection, owner, conversation_id)
        self._pruner.added(sum(len(json_text(item)) for item in items))

    def delete_item(self, owner: str, conversation_id: str, item_id: str) -> dict[str, Any]:
        """The object of a conversation, without that item. Raises NotStored, also for the item."""
        is_it = and_(held_by(owner, conversation_id), ITEMS.c.id == stored_id(item_id))
        size = select(func.coalesce(func.sum(func.length(ITEMS.c.item)), 0)).where(is_it)
        smaller = CONVERSATIONS.c.bytes - size.scalar_subquery()
        statement = update(CONVERSATIONS).where(_is(owner, conversation_id))
        with self._begin() as connection:
            connection.execute(statement.values(bytes=smaller))
            deleted = connection.execute(delete(ITEMS).where(is_it)).rowcount
            conversation = _found(connection, owner, conversation_id)
        if not deleted:
            raise NotStored(item_id)
        return conversation

    def claim(self, owner: str, conversation_id: str, writer: str, seconds: float = LEASE) -> None:
        """Let nobody but this writer (any id) add to a conversation for so many seconds.

        The same writer may claim it again. Raises NotStored, ConversationInUse and TooLong.
        """
        now = int(self._now())
        is_it = _is(owner, conversation_id)
        statement = update(CONVERSATIONS).where(
            is_it, or_(_is_free(now), CONVERSATIONS.c.writer == writer)
        )
        with self._begin() as connection:
            claimed = connection.execute(
                statement.values(writer=writer, writer_until=now + int(seconds))
            )
            if not claimed.rowcount:
                _found(connection, owner, conversation_id)
                raise ConversationInUse(conversation_id)
            self._check_size(connection, owner, conversation_id)

    def release(self, owner: str, conversation_id: str, writer: str) -> None:
        """Let others add to a conversation again."""
        is_it = and_(_is(owner, conversation_id), CONVERSATIONS.c.writer == writer)
        with self._begin() as connection:
            connection.execute(update(CONVERSATIONS).where(is_it).values(writer=None))

    def _check_size(self, connection: Connection, owner: str, conversation_id: str) -> None:
        statement = select(CONVERSATIONS.c.bytes).where(_is(owner, conversation_id))
        if connection.execute(statement).scalar_one() > self._pruner.budget.answer:
            raise TooLong(conversation_id)

    def _begin(self) -> AbstractContextManager[Connection]:
        return self._database.begin(SCHEMA)


def _is(owner: str, conversation_id: str) -> ColumnElement[bool]:
    return and_(CONVERSATIONS.c.owner == owner, CONVERSATIONS.c.id == stored_id(conversation_id))


def _is_free(now: int) -> ColumnElement[bool]:
    return or_(CONVERSATIONS.c.writer.is_(None), CONVERSATIONS.c.writer_until < now)


def _found(connection: Connection, owner: str, conversation_id: str) -> dict[str, Any]:
    row = connection.execute(select(CONVERSATIONS).where(_is(owner, conversation_id))).first()
    if row is None:
        raise NotStored(conversation_id)
    return _object(row.id, row.created, json.loads(row.metadata))


def _object(conversation_id: str, created: int, metadata: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's conversation object."""
    return {
        "id": conversation_id,
        "object": "conversation",
        "created_at": created,
        "metadata": metadata,
    }
