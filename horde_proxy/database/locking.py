"""Locks that let only one thread of one process prepare a database at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, func, select

_ADVISORY_LOCK = 0x686F726465
"""An arbitrary number that other programs will not use: "horde" in ASCII."""


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold the exclusive lock on a directory; others wait. A process that dies releases it.

    Locking the directory leaves no lock file behind, and works before the database file exists.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def advisory_lock(connection: Connection) -> None:
    """Hold our advisory lock in PostgreSQL until the transaction ends; others wait.

    Without it, CREATE TABLE IF NOT EXISTS fails when two sessions run it at once.
    """
    connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
