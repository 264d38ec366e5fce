"""The files of SQLite as operators see them: copied, looked at, moved. It opens no schema.

Everything here works beside a running proxy and changes nothing in a database. SQLite's errors
become DatabaseError.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from horde_proxy.database.errors import DatabaseError

SIDE_FILES = ("-wal", "-shm")
"""What SQLite keeps beside a database: the write-ahead log and its index (sqlite.org/wal.html)."""
_TIMEOUT = 5
"""Seconds to wait for a locked file."""
_STEPS_BETWEEN_LOOKS = 100_000
"""Instructions of SQLite's machine between two looks at the clock: about a millisecond."""


def database_path(url: str | None) -> Path | None:
    """The file of a SQLite URL; None for a database elsewhere, or none."""
    if url is None or not url.startswith("sqlite:///"):
        return None
    return Path(make_url(url).database or "").absolute()


def copy_database(path: Path, copy: Path) -> None:
    """Copy a database with SQLite's online backup, while others read and write it.

    The copy is whole by itself: what is only in the write-ahead log is in it, and it has none.
    """
    create_private(copy)
    with _failures(path), closing(_open(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        # A file in WAL mode makes -wal and -shm beside itself whenever it is opened.
        target.execute("PRAGMA journal_mode=DELETE")


def quick_check(path: Path, seconds: float) -> str | None:
    """What `PRAGMA quick_check` finds first; "" for nothing, None after so many seconds.

    Raises DatabaseError for a file that cannot be read as a database.
    """
    end = time.monotonic() + seconds
    with _failures(path), closing(_open(path)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS_BETWEEN_LOOKS)
        try:
            row = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return None
            raise
    return "" if row == ("ok",) else str(row[0]).replace("\n", " ")


def schema_versions(path: Path) -> dict[str, int]:
    """The versions of the tables of each owner; empty where none are stored yet."""
    with _failures(path), closing(_open(path)) as connection:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_versions'")
        if known.fetchone() is None:
            return {}
        return dict(connection.execute("SELECT owner, version FROM schema_versions"))


def is_open_elsewhere(path: Path) -> bool:
    """Whether another process has a database open.

    Each connection to a file in WAL mode holds a lock, so that the file cannot leave that mode.
    """
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(path, timeout=0)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.OperationalError as exc:
        return exc.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    except sqlite3.Error:
        # A damaged file: that is why somebody restores it.
        return False
    return False


def create_private(path: Path) -> None:
    """Make an empty file that only its owner may read.

    If root makes it in the directory of a service's user, that user becomes the owner.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        folder = path.parent.stat()
        if os.geteuid() == 0 and folder.st_uid != 0:
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
    finally:
        os.close(descriptor)


def _open(path: Path) -> sqlite3.Connection:
    """A connection to a file that there is. Only those that may write can read the log of one."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=_TIMEOUT)


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise DatabaseError(f"The database {path} cannot be read: {exc}") from exc
