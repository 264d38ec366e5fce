"""The tables of files and batches, and the migrations that make them.

One owner for both, since a batch ends in one transaction with its result files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.database.migrations import Schema
from horde_proxy.errors import Unavailable

TIMES = (
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
)
"""The states of a batch whose times are kept."""
COUNTS = (
    "total",
    "succeeded",
    "unsuccessful",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
)
"""What is counted of a batch: lines, and tokens of those that have ended."""

_TABLES = MetaData()
FILES = Table(
    "files",
    _TABLES,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    # False while its pieces are being written; nobody sees it until then.
    Column("is_complete", Boolean, nullable=False),
)
"""Files by id. Times are Unix seconds, `size` is in bytes."""
FILE_PIECES = Table(
    "file_pieces",
    _TABLES,
    Column("file_id", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
"""What files hold, in pieces of 1 MB that are numbered from 0."""
BATCHES = Table(
    "batches",
    _TABLES,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    *(Column(f"{name}_at", Float) for name in TIMES),
    Column("model", Text),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    *(Column(name, BigInteger, nullable=False) for name in COUNTS),
    Column("last_job", BigInteger, nullable=False),
    Column("result_bytes", BigInteger, nullable=False),
    Column("result_seconds", BigInteger),
    Column("metadata", Text),
    Column("faults", Text, nullable=False),
    Column("identity", Text),
)
"""Batches by id; see protocol.batches.BatchFacts. Times are Unix seconds.

`metadata`, `faults` and `identity` are JSON; `identity` is for whom the lines are run, and may have
a client's key for a horde, so that it is erased at the end. `last_job` is the number of the last
line that has become a job.
"""
BATCH_LINES = Table(
    "batch_lines",
    _TABLES,
    Column("batch_id", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("custom_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("result", LargeBinary),
)
"""The lines of batches that have not ended, by their numbers in the input file.

`custom_id` is JSON, since PostgreSQL's texts have no NUL. `result` is the line of a result file.
"""

_BYTES = {"sqlite": "BLOB", "postgresql": "BYTEA"}


def _create_files(connection: Connection) -> None:
    """Version 1."""
    for statement in (
        "CREATE TABLE files (id TEXT PRIMARY KEY, owner TEXT NOT NULL, filename TEXT NOT NULL, "
        "purpose TEXT NOT NULL, size BIGINT NOT NULL, created FLOAT NOT NULL, "
        "expires FLOAT NOT NULL, is_complete BOOLEAN NOT NULL)",
        "CREATE INDEX files_owner ON files (owner, created)",
        "CREATE INDEX files_expires ON files (expires)",
        "CREATE TABLE file_pieces (file_id TEXT NOT NULL, number BIGINT NOT NULL, "
        f"content {_BYTES[connection.dialect.name]} NOT NULL, PRIMARY KEY (file_id, number))",
    ):
        connection.exec_driver_sql(statement)


def _create_batches(connection: Connection) -> None:
    """Version 2."""
    content = _BYTES[connection.dialect.name]
    times = "".join(f"{name}_at FLOAT, " for name in TIMES)
    counts = "".join(f"{name} BIGINT NOT NULL, " for name in COUNTS)
    for statement in (
        "CREATE TABLE batches (id TEXT PRIMARY KEY, owner TEXT NOT NULL, endpoint TEXT NOT NULL, "
        "input_file_id TEXT NOT NULL, status TEXT NOT NULL, created FLOAT NOT NULL, "
        f"expires FLOAT NOT NULL, {times}model TEXT, output_file_id TEXT, error_file_id TEXT, "
        f"{counts}last_job BIGINT NOT NULL, result_bytes BIGINT NOT NULL, "
        "result_seconds BIGINT, metadata TEXT, faults TEXT NOT NULL, identity TEXT)",
        "CREATE INDEX batches_owner ON batches (owner, created)",
        "CREATE INDEX batches_status ON batches (status)",
        "CREATE TABLE batch_lines (batch_id TEXT NOT NULL, number BIGINT NOT NULL, "
        f"custom_id TEXT NOT NULL, state TEXT NOT NULL, body {content} NOT NULL, "
        f"result {content}, PRIMARY KEY (batch_id, number))",
        "CREATE INDEX batch_lines_state ON batch_lines (batch_id, state, number)",
    ):
        connection.exec_driver_sql(statement)


SCHEMA = Schema("batches", [_create_files, _create_batches])


@contextmanager
def transaction(database: Database) -> Iterator[Connection]:
    """A transaction on these tables. Raises Unavailable if the database fails."""
    try:
        with database.begin(SCHEMA) as connection:
            yield connection
    except DatabaseError as exc:
        raise Unavailable("Files and batches cannot be stored now.", code="store_failed") from exc
