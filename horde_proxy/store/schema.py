"""The tables of stored responses, conversations and chat completions, and their migrations.

Everything belongs to an owner, whose name is part of each key: an id of another owner is exactly
an unknown one. Files, batches and jobs have schemas of their own.
"""

from __future__ import annotations

import json

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

from horde_proxy.database.migrations import Schema

TABLES = MetaData()
RESPONSES = Table(
    "responses",
    TABLES,
    Column("owner", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("created", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("previous", Text),
    Column("thread", Text, nullable=False),
    Column("conversation", Text),
    Column("place_in_conversation", BigInteger),
    Column("is_streamed", Boolean, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("response", Text, nullable=False),
)
"""Response objects as JSON, their `output` left out: the items are in ITEMS.

`thread` is the id of the first response of a chain of previous_response_id, which is kept and
removed as a whole. `place_in_conversation` is the next free place of the conversation when the
response began: what stood before it was part of the prompt. `created` is unix time (s).
"""
ITEMS = Table(
    "response_items",
    TABLES,
    Column("owner", Text, primary_key=True),
    Column("holder", Text, primary_key=True),
    Column("place", BigInteger, primary_key=True),
    Column("id", Text, nullable=False),
    Column("is_output", Boolean, nullable=False),
    Column("item", Text, nullable=False),
)
"""The items of responses and of conversations (the `holder`), in their order, as JSON.

An item that is sent again with each turn is in each of their holders, under the same id.
"""
EVENTS = Table(
    "response_events",
    TABLES,
    Column("owner", Text, primary_key=True),
    Column("response", Text, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("events", LargeBinary, nullable=False),
)
"""The server-sent events of streamed responses: compressed pieces, by their first event."""
CONVERSATIONS = Table(
    "conversations",
    TABLES,
    Column("owner", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("created", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("next_place", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("writer", Text),
    Column("writer_until", BigInteger),
    Column("places", Text),
)
"""Conversations. `writer` is the response that is being written into it, until `writer_until`.

`places` is a JSON list of those that all requests allow which added to it; NULL: any.
"""
CHATS = Table(
    "stored_chats",
    TABLES,
    Column("owner", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("created", BigInteger, nullable=False),
    Column("model", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("completion", Text, nullable=False),
    Column("messages", Text, nullable=False),
)
"""Chat completions with the messages that they answer, as JSON."""
PROXIED = Table(
    "proxied_responses",
    TABLES,
    Column("owner", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("created", BigInteger, nullable=False),
    Column("endpoint", Text, nullable=False),
)
"""Who may fetch the responses that endpoints store themselves, and from which endpoint."""


def _create_tables(connection: Connection) -> None:
    """Version 1. The indexes have all that pruning reads, so that it reads no text."""
    binary = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    statements = (
        "CREATE TABLE responses (owner TEXT NOT NULL, id TEXT NOT NULL, created BIGINT NOT NULL, "
        "status TEXT NOT NULL, model TEXT NOT NULL, previous TEXT, thread TEXT NOT NULL, "
        "conversation TEXT, place_in_conversation BIGINT, is_streamed BOOLEAN NOT NULL, "
        "bytes BIGINT NOT NULL, response TEXT NOT NULL, PRIMARY KEY (owner, id))",
        "CREATE INDEX responses_by_thread ON responses (owner, thread, created, bytes)",
        "CREATE TABLE response_items (owner TEXT NOT NULL, holder TEXT NOT NULL, "
        "place BIGINT NOT NULL, id TEXT NOT NULL, is_output BOOLEAN NOT NULL, "
        "item TEXT NOT NULL, PRIMARY KEY (owner, holder, place))",
        "CREATE INDEX response_items_by_id ON response_items (owner, id)",
        "CREATE TABLE response_events (owner TEXT NOT NULL, response TEXT NOT NULL, "
        f"first BIGINT NOT NULL, events {binary} NOT NULL, PRIMARY KEY (owner, response, first))",
        "CREATE TABLE conversations (owner TEXT NOT NULL, id TEXT NOT NULL, "
        "created BIGINT NOT NULL, used BIGINT NOT NULL, metadata TEXT NOT NULL, "
        "next_place BIGINT NOT NULL, bytes BIGINT NOT NULL, writer TEXT, writer_until BIGINT, "
        "PRIMARY KEY (owner, id))",
        "CREATE TABLE stored_chats (owner TEXT NOT NULL, id TEXT NOT NULL, "
        "created BIGINT NOT NULL, model TEXT NOT NULL, metadata TEXT NOT NULL, "
        "bytes BIGINT NOT NULL, completion TEXT NOT NULL, messages TEXT NOT NULL, "
        "PRIMARY KEY (owner, id))",
        "CREATE INDEX stored_chats_by_time ON stored_chats (owner, created, bytes)",
        "CREATE TABLE proxied_responses (owner TEXT NOT NULL, id TEXT NOT NULL, "
        "created BIGINT NOT NULL, endpoint TEXT NOT NULL, PRIMARY KEY (owner, id))",
    )
    for statement in statements:
        connection.execute(text(statement))


def _bind_conversations(connection: Connection) -> None:
    """Version 2: a conversation keeps its places, also when its responses are gone."""
    connection.execute(text("ALTER TABLE conversations ADD COLUMN places TEXT"))
    bound: dict[tuple[str, str], list[str]] = {}
    rows = connection.execute(
        text(
            "SELECT owner, conversation, response FROM responses "
            "WHERE place_in_conversation IS NOT NULL AND response LIKE '%\"places\"%'"
        )
    )
    for owner, conversation, response in rows:
        places = json.loads(response).get("places")
        if isinstance(places, list):
            key = owner, conversation
            bound[key] = [place for place in bound.get(key, places) if place in places]
    statement = text("UPDATE conversations SET places = :places WHERE owner = :owner AND id = :id")
    for (owner, conversation), places in bound.items():
        values = {"places": json.dumps(places), "owner": owner, "id": conversation}
        connection.execute(statement, values)


SCHEMA = Schema("answers", [_create_tables, _bind_conversations])
