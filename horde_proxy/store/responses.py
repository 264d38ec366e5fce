"""Stored responses: the objects, their items and the events of their streams.

Each method is one transaction. A response is written once when it is complete (`save`). One in the
background is saved as queued, and replaced (`update`) as it grows: readers see it as of the last
write, with the items and events that belong to it.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from horde_proxy.database.engine import Database
from horde_proxy.store.items import (
    append_items,
    held_by,
    held_items,
    held_size,
    insert_rows,
    item_rows,
    items_of_all,
    rows_size,
    size_of_all,
)
from horde_proxy.store.pruning import Pruner, remove_responses
from horde_proxy.store.records import (
    RUNNING,
    Item,
    NotStored,
    StillRunning,
    StoredResponse,
    TooLong,
)
from horde_proxy.store.schema import CONVERSATIONS, EVENTS, ITEMS, RESPONSES, SCHEMA
from horde_proxy.store.stored_text import json_text, stored_id

_APPENDED = ("completed", "incomplete")
"""The statuses with which a response becomes a part of its conversation."""
_OUTPUT_PLACE = 1_000_000
"""The place of the first output item: after any input, whose body has a bound (server.max_body)."""
_LINK = tuple(
    RESPONSES.c[name]
    for name in ("id", "previous", "status", "thread", "conversation", "place_in_conversation")
)
"""What is read of each response of a chain: the objects are long."""
_EVENT_END = b"\n\n"
_ZLIB_LEVEL = 1
"""The fastest: events repeat the same keys, so that even it leaves a tenth of them."""


class ResponseStore:
    """The stored responses of all owners. Every method raises DatabaseError if that fails."""

    def __init__(
        self, database: Database, pruner: Pruner, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database, self._pruner, self._now = database, pruner, now

    @property
    def most_bytes(self) -> int:
        """How large a response may be with its items, in bytes of JSON."""
        return self._pruner.budget.answer

    def save(
        self,
        owner: str,
        response: Mapping[str, Any],
        input_items: Sequence[Item],
        *,
        events: Sequence[bytes] | None = None,
        also: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        """Store a response, with the events of its stream if it is one.

        Where it is complete and belongs to a conversation, its items are appended to that. `also`
        does what must be done in the same transaction.
        """
        rows = item_rows(owner, response["id"], input_items) + _output_rows(owner, response)
        row = _row(owner, response) | {"is_streamed": events is not None}
        piece = zlib.compress(b"".join(events or ()), _ZLIB_LEVEL)
        size = rows_size(rows) + len(row["response"]) + len(piece)
        with self._begin() as connection:
            place = self._append_to_conversation(
                connection, owner, response, [*input_items, *response["output"]]
            )
            row |= {"bytes": size, "place_in_conversation": place, "thread": _thread(owner, row)}
            connection.execute(insert(RESPONSES).values(row))
            insert_rows(connection, ITEMS, rows)
            if events:
                insert_rows(connection, EVENTS, [_piece_row(owner, row["id"], 0, piece)])
            also(connection)
        self._pruner.added(size)

    def update(
        self,
        owner: str,
        response: Mapping[str, Any],
        events: Sequence[bytes] = (),
        first_event: int = 0,
    ) -> bool:
        """Replace a response that is still running, and add events, the first of this number.

        False, and nothing is written, for one that is complete, cancelled or deleted meanwhile.
        """
        row, identity = _row(owner, response), stored_id(response["id"])
        rows = _output_rows(owner, response)
        piece = zlib.compress(b"".join(events), _ZLIB_LEVEL)
        size = len(row["response"]) + rows_size(rows) + len(piece)
        is_it = and_(RESPONSES.c.owner == owner, RESPONSES.c.id == identity)
        values = {"status": row["status"], "response": row["response"]}
        # The old text and output are counted as well, which overestimates a growing answer: only
        # the order of magnitude matters to the budgets.
        values["bytes"] = RESPONSES.c.bytes + size
        statement = update(RESPONSES).where(is_it, RESPONSES.c.status.in_(RUNNING))
        with self._begin() as connection:
            if not connection.execute(statement.values(values)).rowcount:
                return False
            connection.execute(delete(ITEMS).where(held_by(owner, identity), ITEMS.c.is_output))
            insert_rows(connection, ITEMS, rows)
            if events:
                insert_rows(connection, EVENTS, [_piece_row(owner, identity, first_event, piece)])
            if response["status"] not in RUNNING and response.get("conversation"):
                items = [item for _, item in held_items(connection, owner, identity)]
                place = self._append_to_conversation(connection, owner, response, items)
                connection.execute(
                    update(RESPONSES).where(is_it).values(place_in_conversation=place)
                )
        self._pruner.added(size)
        return True

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """A response, or None."""
        with self._begin() as connection:
            row = _find(connection, owner, response_id)
            if row is None:
                return None
            items = held_items(connection, owner, row.id)
        output = [item for is_output, item in items if is_output]
        return StoredResponse(json.loads(row.response) | {"output": output}, row.is_streamed)

    def delete(self, owner: str, response_id: str) -> bool:
        """Delete a response with its items and events. False where there was none."""
        with self._begin() as connection:
            return remove_responses(connection, owner, [stored_id(response_id)]) > 0

    def input_items(self, owner: str, response_id: str) -> list[Item]:
        """The items of a response's own input, in their order. Raises NotStored."""
        with self._begin() as connection:
            row = _find(connection, owner, response_id)
            if row is None:
                raise NotStored(response_id)
            items = held_items(connection, owner, row.id)
        return [item for is_output, item in items if not is_output]

    def chain(self, owner: str, response_id: str) -> list[Item]:
        """The items of a response and of all before it, the oldest first: input and output.

        Raises NotStored for the first of them that is missing, StillRunning, and TooLong.
        """
        with self._begin() as connection:
            links = _links(connection, owner, response_id)
            oldest, ids = links[0], [link.id for link in links]
            # All that stood in its conversation stood in its prompt.
            is_before = ITEMS.c.place < (oldest.place_in_conversation or 0)
            conversation = oldest.conversation or ""
            # Before anything is read: a thread may have a GB.
            size = size_of_all(connection, owner, ids)
            size += held_size(connection, owner, held_by(owner, conversation), is_before)
            if size > self.most_bytes:
                raise TooLong(response_id)
            items = held_items(connection, owner, conversation, is_before)
            items += items_of_all(connection, owner, ids)
        return [item for _, item in items]

    def item(self, owner: str, item_id: str) -> Item | None:
        """An item of any response or conversation of this owner, or None."""
        statement = select(ITEMS.c.item)
        statement = statement.where(ITEMS.c.owner == owner, ITEMS.c.id == stored_id(item_id))
        with self._begin() as connection:
            text = connection.execute(statement.limit(1)).scalar()
        return None if text is None else json.loads(text)

    def places(self, owner: str, *ids: str) -> list[list[str]]:
        """The places to which these responses and conversations are bound.

        Nothing for one that is not bound.
        """
        names = [stored_id(name) for name in ids]
        responses = select(RESPONSES.c.response).where(
            RESPONSES.c.owner == owner,
            RESPONSES.c.id.in_(names),
            # An item may be in thousands of responses: only those that may be bound are read.
            RESPONSES.c.response.contains('"places"'),
        )
        conversations = select(CONVERSATIONS.c.places).where(
            CONVERSATIONS.c.owner == owner,
            CONVERSATIONS.c.id.in_(names),
            CONVERSATIONS.c.places.is_not(None),
        )
        with self._begin() as connection:
            texts = connection.execute(responses).scalars().all()
            bound = connection.execute(conversations).scalars().all()
        found = [json.loads(text).get("places") for text in texts] + [*map(json.loads, bound)]
        return [places for places in found if isinstance(places, list)]

    def holders(self, owner: str, item_id: str) -> list[str]:
        """The ids of the responses and conversations that have an item."""
        statement = select(ITEMS.c.holder).distinct()
        statement = statement.where(ITEMS.c.owner == owner, ITEMS.c.id == stored_id(item_id))
        with self._begin() as connection:
            return [*connection.execute(statement).scalars()]

    def events(self, owner: str, response_id: str, *, after: int = -1) -> list[bytes]:
        """The events of a response's stream that follow the event of a number, from 0."""
        is_it = and_(EVENTS.c.owner == owner, EVENTS.c.response == stored_id(response_id))
        # The piece that holds the next event, and those after it.
        begin = select(func.max(EVENTS.c.first)).where(is_it, EVENTS.c.first <= after + 1)
        statement = select(EVENTS.c.first, EVENTS.c.events).where(is_it)
        statement = statement.where(EVENTS.c.first >= func.coalesce(begin.scalar_subquery(), 0))
        events: list[bytes] = []
        with self._begin() as connection:
            for row in connection.execute(statement.order_by(EVENTS.c.first)):
                piece = split_events(zlib.decompress(row.events))
                events += piece[max(after + 1 - row.first, 0) :]
        return events

    def _append_to_conversation(
        self,
        connection: Connection,
        owner: str,
        response: Mapping[str, Any],
        items: Sequence[Item],
    ) -> int | None:
        """Append the items of a complete response to its conversation: their first place there.

        None where it has none, or that was deleted. A response that failed appends nothing, so
        that its client can send the same again.
        """
        conversation = response.get("conversation")
        if conversation is None or response["status"] not in _APPENDED:
            return None
        now, places = int(self._now()), response.get("places")
        return append_items(connection, owner, conversation["id"], items, now, places)

    def _begin(self) -> AbstractContextManager[Connection]:
        return self._database.begin(SCHEMA)


def split_events(data: bytes) -> list[bytes]:
    """The events of a stream, each with the blank line that ends it."""
    return [event + _EVENT_END for event in data.split(_EVENT_END) if event]


def _row(owner: str, response: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that are read from the response object."""
    previous, conversation = response.get("previous_response_id"), response.get("conversation")
    return {
        "owner": owner,
        "id": stored_id(response["id"]),
        "created": int(response["created_at"]),
        "status": response["status"],
        "model": stored_id(response["model"] or ""),
        "previous": stored_id(previous) if previous else None,
        "conversation": stored_id(conversation["id"]) if conversation else None,
        "response": json_text({**response, "output": []}),
    }


def _output_rows(owner: str, response: Mapping[str, Any]) -> list[dict[str, Any]]:
    output = response["output"]
    return item_rows(owner, response["id"], output, first=_OUTPUT_PLACE, is_output=True)


def _thread(owner: str, row: Mapping[str, Any]) -> Any:
    """The thread of the response before it, or a new one."""
    if row["previous"] is None:
        return row["id"]
    # Within the INSERT: SQLite refuses to write after a read, if others wrote in between.
    is_it = and_(RESPONSES.c.owner == owner, RESPONSES.c.id == row["previous"])
    return func.coalesce(select(RESPONSES.c.thread).where(is_it).scalar_subquery(), row["id"])


def _link(connection: Connection, owner: str, response_id: str) -> Row[Any] | None:
    is_it = and_(RESPONSES.c.owner == owner, RESPONSES.c.id == stored_id(response_id))
    return connection.execute(select(*_LINK).where(is_it)).first()


def _links(connection: Connection, owner: str, response_id: str) -> list[Row[Any]]:
    """A response and all before it, the oldest first. Raises NotStored and StillRunning."""
    last = _link(connection, owner, response_id)
    if last is None:
        raise NotStored(response_id)
    is_in_thread = and_(RESPONSES.c.owner == owner, RESPONSES.c.thread == last.thread)
    rows = {row.id: row for row in connection.execute(select(*_LINK).where(is_in_thread))}
    links, identity = [], last.id
    while identity:
        if identity not in rows:
            raise NotStored(identity)
        link = rows[identity]
        if link.status in RUNNING:
            raise StillRunning(identity)
        links.append(link)
        identity = link.previous
    return links[::-1]


def _find(connection: Connection, owner: str, response_id: str) -> Row[Any] | None:
    is_it = and_(RESPONSES.c.owner == owner, RESPONSES.c.id == stored_id(response_id))
    return connection.execute(select(RESPONSES).where(is_it)).first()


def _piece_row(owner: str, response_id: str, first: int, piece: bytes) -> dict[str, Any]:
    return {"owner": owner, "response": response_id, "first": first, "events": piece}
