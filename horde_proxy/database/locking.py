"""One at a time: locks between the threads and processes that prepare the same database."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, func, select

_ADVISORY_LOCK = 0x686F726465
"""Any number of our own: "horde" in ASCII."""


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold the only lock on a directory; others wait. It ends with the process, however that ends.

    A lock on the directory leaves no file behind, and there is one before the database's file is.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def advisory_lock(connection: Connection) -> None:
    """Hold PostgreSQL's lock of that number until the transaction ends; others wait.

    CREATE TABLE IF NOT EXISTS alone fails where two sessions run it at once.
    """
    connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
