"""The history's tables, and the migration that makes them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Float, MetaData, Table, Text, text

from horde_proxy.database.migrations import Schema

_TABLES = MetaData()
HORDE_SUMS = ("samples", "workers", "threads", "queued", "jobs", "speed", "speed_samples")
HORDES = Table(
    "history_hordes",
    _TABLES,
    Column("hour", BigInteger, primary_key=True),
    *(Column(name, Text, primary_key=True) for name in ("horde", "kind", "model")),
    Column("name", Text, nullable=False),
    *(
        # FLOAT has double precision in both databases.
        Column(name, Float if name in ("queued", "jobs", "speed") else BigInteger, nullable=False)
        for name in HORDE_SUMS
    ),
)
"""Sums over the samples of an hour (Unix s of its beginning), by horde, kind and model."""
ENDPOINT_SUMS = (
    "requests",
    "failures",
    "prompt_tokens",
    "completion_tokens",
    "known_tokens",
    "warm_tokens",
)
_ENDPOINT_KEY = ("endpoint", "model", "key")
ENDPOINTS = Table(
    "history_endpoints",
    _TABLES,
    Column("hour", BigInteger, primary_key=True),
    *(Column(name, Text, primary_key=True) for name in _ENDPOINT_KEY),
    *(Column(name, BigInteger, nullable=False) for name in ENDPOINT_SUMS),
)
"""Counts of an hour by endpoint, model and the name of the client's key."""
DURATIONS = Table(
    "history_durations",
    _TABLES,
    Column("hour", BigInteger, primary_key=True),
    *(Column(name, Text, primary_key=True) for name in (*_ENDPOINT_KEY, "measure")),
    Column("step", BigInteger, primary_key=True),
    Column("count", BigInteger, nullable=False),
)
"""How many answers took how long (records.duration_step), by the same and what was measured."""


def _create_tables(connection: Connection) -> None:
    """Version 1. Both SQLite and PostgreSQL accept these types."""
    connection.execute(
        text(
            "CREATE TABLE history_hordes (hour BIGINT NOT NULL, horde TEXT NOT NULL, "
            "kind TEXT NOT NULL, model TEXT NOT NULL, name TEXT NOT NULL, "
            "samples BIGINT NOT NULL, workers BIGINT NOT NULL, threads BIGINT NOT NULL, "
            "queued FLOAT NOT NULL, jobs FLOAT NOT NULL, speed FLOAT NOT NULL, "
            "speed_samples BIGINT NOT NULL, PRIMARY KEY (horde, kind, model, hour))"
        )
    )
    # Pruning goes by the hour alone.
    connection.execute(text("CREATE INDEX history_hordes_hour ON history_hordes (hour)"))
    connection.execute(
        text(
            "CREATE TABLE history_endpoints (hour BIGINT NOT NULL, endpoint TEXT NOT NULL, "
            "model TEXT NOT NULL, key TEXT NOT NULL, requests BIGINT NOT NULL, "
            "failures BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, "
            "completion_tokens BIGINT NOT NULL, known_tokens BIGINT NOT NULL, "
            "warm_tokens BIGINT NOT NULL, PRIMARY KEY (hour, endpoint, model, key))"
        )
    )
    connection.execute(
        text(
            "CREATE TABLE history_durations (hour BIGINT NOT NULL, endpoint TEXT NOT NULL, "
            "model TEXT NOT NULL, key TEXT NOT NULL, measure TEXT NOT NULL, "
            "step BIGINT NOT NULL, count BIGINT NOT NULL, "
            "PRIMARY KEY (hour, endpoint, model, key, measure, step))"
        )
    )


SCHEMA = Schema("history", [_create_tables])
