"""The ledger's tables, and the migrations that make them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Connection, Float, MetaData, Table, Text, text

from horde_proxy.database.migrations import Schema

COUNTS = ("requests", "errors", "prompt_tokens", "completion_tokens", "images", "kudos")

_TABLES = MetaData()
CLIENT_KEYS = Table(
    "client_keys",
    _TABLES,
    Column("digest", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("models", Text, nullable=False),
    Column("endpoints", Text, nullable=False),
    Column("requests_per_minute", BigInteger),
    Column("concurrent", BigInteger),
    Column("tokens_per_day", BigInteger),
    # FLOAT has double precision in both databases.
    Column("kudos_per_day", Float),
    Column("images_per_day", BigInteger),
    Column("weight", Float, nullable=False),
    Column("horde_key", Text),
    Column("admin", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
    # Rows of revoked keys stay: their names must not come back with another key's usage.
    Column("revoked", BigInteger),
    Column("places", Text, nullable=False),
)
"""Client keys by digest. `models`, `endpoints` and `places` are JSON lists; times are unix seconds.
"""
USAGE = Table(
    "usage",
    _TABLES,
    *(Column(name, Text, primary_key=True) for name in ("day", "name", "model", "endpoint")),
    *(Column(name, BigInteger, nullable=False) for name in COUNTS[:-1]),
    Column("kudos", Float, nullable=False),
)
"""Sums by UTC day (e.g. "2026-01-31"), key name, model and endpoint."""


def _create_tables(connection: Connection) -> None:
    """Version 1. Both SQLite and PostgreSQL accept these types.

    IF NOT EXISTS: the first start of an older release may have been cut short between the tables.
    """
    connection.execute(
        text(
            "CREATE TABLE IF NOT EXISTS client_keys (digest TEXT NOT NULL PRIMARY KEY, "
            "name TEXT NOT NULL UNIQUE, models TEXT NOT NULL, endpoints TEXT NOT NULL, "
            "requests_per_minute BIGINT, concurrent BIGINT, tokens_per_day BIGINT, "
            "kudos_per_day FLOAT, horde_key TEXT, admin BOOLEAN NOT NULL, "
            "created BIGINT NOT NULL, revoked BIGINT)"
        )
    )
    connection.execute(
        text(
            "CREATE TABLE IF NOT EXISTS usage (day TEXT NOT NULL, name TEXT NOT NULL, "
            "model TEXT NOT NULL, endpoint TEXT NOT NULL, requests BIGINT NOT NULL, "
            "errors BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, "
            "completion_tokens BIGINT NOT NULL, kudos FLOAT NOT NULL, "
            "PRIMARY KEY (day, name, model, endpoint))"
        )
    )


def _mark_shortened_addresses(connection: Connection) -> None:
    """Version 2: usage of addresses whose names were cut gets names that no client has.

    Until then, usage in passthrough mode was kept by the first 16 characters of a client's name:
    "address 10.0.0.1" may hold that of 10.0.0.1 and of 10.0.0.12. It becomes "address 10.0.0.1*".
    """
    connection.execute(
        text(
            "UPDATE usage SET name = name || '*' "
            "WHERE length(name) = 16 AND substr(name, 1, 8) = 'address ' "
            "AND name NOT IN (SELECT name FROM client_keys)"
        )
    )


def _count_images(connection: Connection) -> None:
    """Version 3: images are counted, and limited by the day."""
    connection.execute(text("ALTER TABLE usage ADD COLUMN images BIGINT NOT NULL DEFAULT 0"))
    connection.execute(text("ALTER TABLE client_keys ADD COLUMN images_per_day BIGINT"))


def _weigh_keys(connection: Connection) -> None:
    """Version 4: keys have weights in the lines of endpoints and hordes."""
    connection.execute(text("ALTER TABLE client_keys ADD COLUMN weight FLOAT NOT NULL DEFAULT 1"))


def _bind_keys_to_places(connection: Connection) -> None:
    """Version 5: keys may be bound to places; those that exist are not."""
    connection.execute(text("ALTER TABLE client_keys ADD COLUMN places TEXT NOT NULL DEFAULT '[]'"))


SCHEMA = Schema(
    "ledger",
    [
        _create_tables,
        _mark_shortened_addresses,
        _count_images,
        _weigh_keys,
        _bind_keys_to_places,
    ],
    unversioned=("client_keys", "usage"),
)
"""Releases that did not store schema versions made the tables of version 1."""
