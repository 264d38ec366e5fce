"""Removes what is older than its days, and the oldest of what is beyond the budgets.

Whoever stores something says how much; every so often, the one who did has the tables pruned in
the background. Several processes may do so at once: each deletion is a short transaction.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, and_, delete, func, select, update

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.store.schema import (
    CHATS,
    CONVERSATIONS,
    EVENTS,
    ITEMS,
    PROXIED,
    RESPONSES,
    SCHEMA,
)

_DAY = 24 * 3600
_INTERVAL = 3600.0
"""Seconds between two prunings."""
_BYTES_BETWEEN = 64 * 1024 * 1024
"""What may be added before the next pruning, however soon that is."""
MOST_BYTES_OF_ANSWER = 64_000_000
"""Twice the largest body (server.max_body)."""
MOST_BYTES_OF_OWNER = 1_000_000_000
MOST_BYTES = 8_000_000_000
_AT_ONCE = 200
"""Threads, conversations or chats that one transaction removes. It keeps SQLite locked."""

Identity = tuple[str, str]
"""An owner, and an id: of a thread of responses, a conversation or a chat completion."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """How much may be stored: in one answer, by one owner, by all together (bytes).

    The last two are for each kind of thing: responses, conversations, chat completions.
    """

    answer: int = MOST_BYTES_OF_ANSWER
    owner: int = MOST_BYTES_OF_OWNER
    total: int = MOST_BYTES


@dataclass(frozen=True)
class _Kind:
    """A kind of thing that is removed as a whole: its table, its id, its time, its deletion."""

    table: Table
    id: str
    time: str
    remove: Callable[[Connection, str, Sequence[str]], object]


class Pruner:
    """Prunes the tables of one database. Thread-safe. `now` is unix time (s).

    `run` starts a call that nobody waits for.
    """

    def __init__(
        self,
        database: Database,
        days: int,
        *,
        now: Callable[[], float] = time.time,
        run: Callable[[Callable[[], None]], None] = lambda call: call(),
        budget: Budget | None = None,
    ) -> None:
        self.budget = budget or Budget()
        self._database, self._days, self._now, self._run = database, days, now, run
        # Guards the next two. The pruning itself happens without it.
        self._lock = threading.Lock()
        self._pruned, self._added = float("-inf"), 0

    def added(self, size: int) -> None:
        """Note that so many bytes were stored, and prune in the background when it is time."""
        with self._lock:
            self._added += size
            # A clock that was set back must not stop it.
            is_early = 0 <= self._now() - self._pruned < _INTERVAL
            is_due = not is_early or self._added >= _BYTES_BETWEEN
            if not is_due:
                return
            self._pruned, self._added = self._now(), 0
        self._run(self._prune_quietly)

    def prune(self) -> None:
        """Remove what is too old or too much. Raises DatabaseError."""
        oldest = int(self._now()) - self._days * _DAY
        for kind in _KINDS:
            while expired := self._expired(kind, oldest):
                self._remove(kind, expired)
            for owner in self._owners_above(kind):
                self._remove(kind, self._beyond(kind, self.budget.owner, owner))
            self._remove(kind, self._beyond(kind, self.budget.total))
        with self._begin() as connection:
            connection.execute(delete(PROXIED).where(PROXIED.c.created < oldest))

    def _prune_quietly(self) -> None:
        try:
            self.prune()
        except DatabaseError as exc:
            log.warning("stored answers could not be pruned: %s", exc)

    def _expired(self, kind: _Kind, oldest: int) -> list[Identity]:
        statement = _newest_first(kind).having(func.max(kind.table.c[kind.time]) < oldest)
        with self._begin() as connection:
            rows = connection.execute(statement.limit(_AT_ONCE))
            return [(row.owner, row.id) for row in rows]

    def _owners_above(self, kind: _Kind) -> list[str]:
        size, owner = func.sum(kind.table.c.bytes), kind.table.c.owner
        statement = select(owner).group_by(owner).having(size > self.budget.owner)
        with self._begin() as connection:
            return list(connection.execute(statement).scalars())

    def _beyond(self, kind: _Kind, most: int, owner: str | None = None) -> list[Identity]:
        """The oldest of an owner, or with None of all, that have no room within so many bytes."""
        statement = _newest_first(kind)
        if owner is not None:
            statement = statement.where(kind.table.c.owner == owner)
        size, beyond = 0, []
        with self._begin() as connection:
            total = select(func.coalesce(func.sum(kind.table.c.bytes), 0))
            if owner is None and connection.execute(total).scalar_one() <= most:
                return []
            for row in connection.execute(statement):
                size += int(row.size)
                if size > most:
                    beyond.append((row.owner, row.id))
        return beyond

    def _remove(self, kind: _Kind, identities: Sequence[Identity]) -> None:
        for owner, ids in _in_portions(identities):
            with self._begin() as connection:
                kind.remove(connection, owner, ids)

    def _begin(self) -> AbstractContextManager[Connection]:
        return self._database.begin(SCHEMA)


def remove_responses(connection: Connection, owner: str, ids: Sequence[str]) -> int:
    """Delete responses with their items and events. How many there were."""
    for table, column in ((ITEMS, ITEMS.c.holder), (EVENTS, EVENTS.c.response)):
        connection.execute(delete(table).where(table.c.owner == owner, column.in_(ids)))
    responses = delete(RESPONSES).where(RESPONSES.c.owner == owner, RESPONSES.c.id.in_(ids))
    return connection.execute(responses).rowcount


def remove_conversations(connection: Connection, owner: str, ids: Sequence[str]) -> int:
    """Delete conversations with their items. How many there were."""
    connection.execute(delete(ITEMS).where(ITEMS.c.owner == owner, ITEMS.c.holder.in_(ids)))
    statement = delete(CONVERSATIONS)
    statement = statement.where(CONVERSATIONS.c.owner == owner, CONVERSATIONS.c.id.in_(ids))
    return connection.execute(statement).rowcount


def _remove_threads(connection: Connection, owner: str, threads: Sequence[str]) -> None:
    is_in_thread = and_(RESPONSES.c.owner == owner, RESPONSES.c.thread.in_(threads))
    # SQLite refuses to write after a read, if others wrote in between. This changes nothing, but
    # begins the transaction with a write.
    connection.execute(update(RESPONSES).where(RESPONSES.c.id == "").values(id=""))
    ids = list(connection.execute(select(RESPONSES.c.id).where(is_in_thread)).scalars())
    for begin in range(0, len(ids), _AT_ONCE):
        remove_responses(connection, owner, ids[begin : begin + _AT_ONCE])


def _remove_chats(connection: Connection, owner: str, ids: Sequence[str]) -> None:
    connection.execute(delete(CHATS).where(CHATS.c.owner == owner, CHATS.c.id.in_(ids)))


# A chain of responses is needed as a whole by whoever continues it, so that it goes as a whole,
# by the age of its newest response. A conversation goes by its last use.
_KINDS = (
    _Kind(RESPONSES, "thread", "created", _remove_threads),
    _Kind(CONVERSATIONS, "id", "used", remove_conversations),
    _Kind(CHATS, "id", "created", _remove_chats),
)


def _newest_first(kind: _Kind) -> Any:
    """SELECT owner, id, size: all things of a kind."""
    identity, newest = kind.table.c[kind.id], func.max(kind.table.c[kind.time])
    size = func.sum(kind.table.c.bytes).label("size")
    statement = select(kind.table.c.owner, identity.label("id"), size)
    return statement.group_by(kind.table.c.owner, identity).order_by(newest.desc())


def _in_portions(identities: Iterable[Identity]) -> Iterator[tuple[str, list[str]]]:
    """(an owner, some of its ids), for all of them."""
    by_owner: dict[str, list[str]] = {}
    for owner, identity in identities:
        by_owner.setdefault(owner, []).append(identity)
    for owner, ids in by_owner.items():
        for begin in range(0, len(ids), _AT_ONCE):
            yield owner, ids[begin : begin + _AT_ONCE]
