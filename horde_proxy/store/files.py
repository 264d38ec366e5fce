"""Files of clients, and result files of batches, in the database of stored answers.

Contents are rows of 1 MB, so that all hosts on one database share them, and that nothing holds a
file of 200 MB in memory: it is written and read piece by piece, each in a transaction of its own.
A file is seen once its last piece is there. Calls remove what has expired, at most once a minute.
Another owner's file is answered exactly like an unknown one.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, update

from horde_proxy.database.engine import Database
from horde_proxy.errors import InvalidRequest, UpstreamFailed
from horde_proxy.protocol.files import FileFacts, UnknownFile
from horde_proxy.store.batch_schema import FILE_PIECES, FILES, transaction
from horde_proxy.store.paging import follows, in_order
from horde_proxy.store.stored_text import stored_id

_PIECE = 1_000_000
"""Bytes of a row: large enough to be quick, and small enough for a hundred of them in memory."""
MOST_FILES = 10_000
"""Files of an owner: as many as one page of the list may have."""
MOST_BYTES_OF_OWNER = 2_000_000_000
"""Bytes of all files of an owner: ten of the largest inputs of batches."""
MOST_BYTES = 20_000_000_000
"""Bytes of the files of all owners."""
_DAY = 86_400
_UNFINISHED_SECONDS = 6 * 3600
"""The age (s) at which a file that was never finished is removed: its writer has died."""
_PRUNE_SECONDS = 60.0
"""The least time between two searches for what has expired."""


class FileStore:
    """The files in a database. Thread-safe. Methods raise Unavailable if that fails.

    A file is kept for `days`, or for fewer seconds where its owner says so.
    """

    def __init__(
        self,
        database: Database,
        *,
        days: int,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._database, self._days, self._now, self._new_id = database, days, now, new_id
        # Guards the time of the last search. No I/O happens under it.
        self._lock = threading.Lock()
        self._pruned = float("-inf")

    def add(
        self,
        owner: str,
        filename: str,
        purpose: str,
        content: Iterable[bytes],
        *,
        size: int,
        seconds: int | None = None,
    ) -> FileFacts:
        """Store a client's file of `size` bytes. Raises InvalidRequest where there is no room."""
        self.prune()
        self._check_room(owner, size)
        writer = self.begin(owner, filename, purpose, seconds=seconds)
        try:
            for piece in content:
                writer.write(piece)
            writer.flush()
            with self._begin() as connection:
                return writer.finish(connection)
        except BaseException:
            writer.discard()
            raise

    def begin(
        self, owner: str, filename: str, purpose: str, *, seconds: int | None = None
    ) -> FileWriter:
        """A file that can be written to, and that nobody sees yet."""
        now, longest = self._now(), self._days * _DAY
        row = {
            "id": f"file-{self._new_id()}",
            "owner": owner,
            "filename": filename,
            "purpose": purpose,
            "size": 0,
            "created": now,
            "expires": now + min(longest, seconds or longest),
            "is_complete": False,
        }
        with self._begin() as connection:
            connection.execute(FILES.insert(), row)
        return FileWriter(self._database, row)

    def get(self, owner: str, file_id: str) -> FileFacts:
        """A file of this owner. Raises UnknownFile."""
        self.prune()
        statement = select(FILES).where(FILES.c.id == stored_id(file_id), *self._visible_to(owner))
        with self._begin() as connection:
            row = connection.execute(statement).mappings().first()
        if row is None:
            raise UnknownFile(file_id)
        return _facts(row)

    def page(
        self,
        owner: str,
        *,
        limit: int,
        after: str | None = None,
        purpose: str | None = None,
        oldest_first: bool = False,
    ) -> tuple[list[FileFacts], bool]:
        """(at most `limit` files after another one, whether there are more). Newest first.

        Raises UnknownFile for an `after` that the owner does not have.
        """
        self.prune()
        wanted = self._visible_to(owner)
        if purpose is not None:
            wanted.append(FILES.c.purpose == stored_id(purpose))
        with self._begin() as connection:
            if after is not None:
                wanted.append(self._is_after(connection, owner, after, oldest_first))
            order = in_order(FILES, newest_first=not oldest_first)
            statement = select(FILES).where(*wanted).order_by(*order).limit(limit + 1)
            rows = connection.execute(statement).mappings().all()
        return [_facts(row) for row in rows[:limit]], len(rows) > limit

    def content(self, owner: str, file_id: str) -> Iterator[bytes]:
        """What a file holds, in pieces. Raises UnknownFile at once.

        Raises UpstreamFailed on the way if the file is deleted meanwhile.
        """
        return self._pieces(self.get(owner, file_id))

    def delete(self, owner: str, file_id: str) -> None:
        """Delete a file. Raises UnknownFile."""
        statement = delete(FILES).where(FILES.c.id == stored_id(file_id), *self._visible_to(owner))
        with self._begin() as connection:
            if not connection.execute(statement).rowcount:
                raise UnknownFile(file_id)
            connection.execute(delete(FILE_PIECES).where(FILE_PIECES.c.file_id == file_id))

    def prune(self) -> None:
        """Remove what has expired, and what was never finished; at most once a minute."""
        with self._lock:
            # A clock that was set back must not stop it.
            if 0 <= self._now() - self._pruned < _PRUNE_SECONDS:
                return
            self._pruned = self._now()
        is_dead = and_(
            FILES.c.is_complete.is_(False), FILES.c.created < self._now() - _UNFINISHED_SECONDS
        )
        statement = select(FILES.c.id).where(or_(FILES.c.expires <= self._now(), is_dead))
        with self._begin() as connection:
            ids = [row.id for row in connection.execute(statement)]
        for file_id in ids:
            with self._begin() as connection:
                connection.execute(delete(FILES).where(FILES.c.id == file_id))
                connection.execute(delete(FILE_PIECES).where(FILE_PIECES.c.file_id == file_id))

    def _pieces(self, facts: FileFacts) -> Iterator[bytes]:
        left, number = facts.size, 0
        while left > 0:
            statement = select(FILE_PIECES.c.content).where(
                FILE_PIECES.c.file_id == facts.id, FILE_PIECES.c.number == number
            )
            with self._begin() as connection:
                content = connection.execute(statement).scalar()
            if content is None:
                raise UpstreamFailed("The file was deleted while it was read.")
            left, number = left - len(content), number + 1
            yield bytes(content)

    def _visible_to(self, owner: str) -> list[ColumnElement[bool]]:
        return [
            FILES.c.owner == owner,
            FILES.c.is_complete.is_(True),
            FILES.c.expires > self._now(),
        ]

    def _is_after(
        self, connection: Connection, owner: str, file_id: str, oldest_first: bool
    ) -> ColumnElement[bool]:
        """Whether a row comes after a file. Raises UnknownFile."""
        is_it = FILES.c.id == stored_id(file_id)
        statement = select(FILES.c.created).where(is_it, *self._visible_to(owner))
        created = connection.execute(statement).scalar()
        if created is None:
            raise UnknownFile(file_id)
        return follows(FILES, created, file_id, newest_first=not oldest_first)

    def _check_room(self, owner: str, size: int) -> None:
        total = select(func.coalesce(func.sum(FILES.c.size), 0), func.count())
        with self._begin() as connection:
            everybodys, _ = connection.execute(total).one()
            own, count = connection.execute(total.where(FILES.c.owner == owner)).one()
        if count >= MOST_FILES or own + size > MOST_BYTES_OF_OWNER:
            raise InvalidRequest(
                f"There is no room for this file: at most {MOST_FILES:,} files of together "
                f"{MOST_BYTES_OF_OWNER // 1_000_000_000} GB are kept for you. Delete some first.",
                code="storage_limit_exceeded",
            )
        if everybodys + size > MOST_BYTES:
            raise InvalidRequest(
                "There is no room for this file: the files of all clients have together "
                f"{MOST_BYTES // 1_000_000_000} GB. Ask whoever runs this proxy.",
                code="storage_limit_exceeded",
            )

    def _begin(self) -> AbstractContextManager[Connection]:
        return transaction(self._database)


class FileWriter:
    """A file that is being written, by one thread."""

    def __init__(self, database: Database, row: dict[str, Any]) -> None:
        self._database, self._row = database, row
        self._rest = bytearray()
        self._number = 0
        self.id: str = row["id"]

    @property
    def size(self) -> int:
        """The bytes that were written so far."""
        return int(self._row["size"])

    def write(self, content: bytes) -> None:
        """Add to the end of the file. Whole pieces are stored at once."""
        self._row["size"] += len(content)
        self._rest += content
        while len(self._rest) >= _PIECE:
            self._store(bytes(self._rest[:_PIECE]))
            del self._rest[:_PIECE]

    def flush(self) -> None:
        """Store what is left. Nothing may be written after it."""
        if self._rest:
            self._store(bytes(self._rest))
            self._rest.clear()

    def finish(self, connection: Connection) -> FileFacts:
        """Let the file be seen, within a transaction of the caller's; call `flush` before."""
        values = {"size": self.size, "is_complete": True}
        connection.execute(update(FILES).where(FILES.c.id == self.id).values(values))
        return _facts(self._row)

    def discard(self) -> None:
        """Delete what was written."""
        with transaction(self._database) as connection:
            connection.execute(delete(FILES).where(FILES.c.id == self.id))
            connection.execute(delete(FILE_PIECES).where(FILE_PIECES.c.file_id == self.id))

    def _store(self, content: bytes) -> None:
        row = {"file_id": self.id, "number": self._number, "content": content}
        with transaction(self._database) as connection:
            connection.execute(FILE_PIECES.insert(), row)
        self._number += 1


def _facts(row: Any) -> FileFacts:
    return FileFacts(
        row["id"],
        row["filename"],
        row["purpose"],
        int(row["size"]),
        int(row["created"]),
        int(row["expires"]),
    )
