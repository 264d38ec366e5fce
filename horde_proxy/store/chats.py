"""Stored chat completions, with the messages that they answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, select, update

from horde_proxy.database.engine import Database
from horde_proxy.store.paging import follows, in_order
from horde_proxy.store.pruning import Pruner
from horde_proxy.store.records import NotStored, StoredChat
from horde_proxy.store.schema import CHATS, SCHEMA
from horde_proxy.store.stored_text import json_text, stored_id


class ChatStore:
    """The stored chat completions of all owners. Methods raise DatabaseError if that fails."""

    def __init__(
        self, database: Database, pruner: Pruner, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database, self._pruner, self._now = database, pruner, now

    def save(self, owner: str, chat: StoredChat) -> None:
        """Store a chat completion. One of the same id and owner is replaced."""
        row: dict[str, Any] = {
            "owner": owner,
            "id": stored_id(chat.completion["id"]),
            "created": int(self._now()),
            "model": stored_id(chat.completion["model"]),
            "metadata": json_text(chat.metadata),
            "completion": json_text(chat.completion),
            "messages": json_text(chat.messages),
        }
        row["bytes"] = len(row["completion"]) + len(row["messages"])
        statement = self._database.insert(CHATS)
        statement = statement.on_conflict_do_update(
            index_elements=list(CHATS.primary_key),
            set_={name: statement.excluded[name] for name in row if name not in ("owner", "id")},
        )
        with self._begin() as connection:
            connection.execute(statement, row)
        self._pruner.added(row["bytes"])

    def get(self, owner: str, chat_id: str) -> StoredChat:
        """A chat completion. Raises NotStored."""
        with self._begin() as connection:
            return _chat(_row(connection, owner, chat_id))

    def set_metadata(self, owner: str, chat_id: str, metadata: Mapping[str, str]) -> StoredChat:
        """A chat completion with other metadata. Raises NotStored."""
        statement = update(CHATS).where(_is(owner, chat_id))
        with self._begin() as connection:
            connection.execute(statement.values(metadata=json_text(metadata)))
            return _chat(_row(connection, owner, chat_id))

    def delete(self, owner: str, chat_id: str) -> bool:
        """Delete a chat completion and its messages. False where there was none."""
        with self._begin() as connection:
            return connection.execute(delete(CHATS).where(_is(owner, chat_id))).rowcount > 0

    def page(
        self,
        owner: str,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = False,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[Sequence[StoredChat], bool]:
        """(chat completions that follow `after`, whether there are more). Raises NotStored."""
        chats: list[StoredChat] = []
        with self._begin() as connection:
            condition = CHATS.c.owner == owner
            if after is not None:
                last = _row(connection, owner, after)
                is_next = follows(CHATS, last.created, last.id, newest_first=newest_first)
                condition = and_(condition, is_next)
            if model is not None:
                condition = and_(condition, CHATS.c.model == stored_id(model))
            order = in_order(CHATS, newest_first=newest_first)
            statement = select(CHATS).where(condition).order_by(*order)
            with connection.execute(statement.execution_options(yield_per=50)) as rows:
                for row in rows:
                    # The metadata is JSON, and what either database knows of that differs.
                    if not _has(json.loads(row.metadata), metadata or {}):
                        continue
                    if len(chats) == limit:
                        return chats, True
                    chats.append(_chat(row))
        return chats, False

    def _begin(self) -> AbstractContextManager[Connection]:
        return self._database.begin(SCHEMA)


def _is(owner: str, chat_id: str) -> ColumnElement[bool]:
    return and_(CHATS.c.owner == owner, CHATS.c.id == stored_id(chat_id))


def _row(connection: Connection, owner: str, chat_id: str) -> Row[Any]:
    row = connection.execute(select(CHATS).where(_is(owner, chat_id))).first()
    if row is None:
        raise NotStored(chat_id)
    return row


def _chat(row: Row[Any]) -> StoredChat:
    return StoredChat(
        json.loads(row.completion), json.loads(row.metadata), json.loads(row.messages)
    )


def _has(metadata: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    return all(metadata.get(name) == value for name, value in wanted.items())
