"""Who may fetch the responses that endpoints store themselves, and from which endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import and_, select

from horde_proxy.database.engine import Database
from horde_proxy.store.pruning import Pruner
from horde_proxy.store.schema import PROXIED, SCHEMA
from horde_proxy.store.stored_text import stored_id

_ROW_BYTES = 200
"""About what one row takes."""


class ProxiedStore:
    """The ids that endpoints gave to the responses of all owners. Raises DatabaseError."""

    def __init__(
        self, database: Database, pruner: Pruner, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database, self._pruner, self._now = database, pruner, now

    def note(self, owner: str, response_id: str, endpoint: str) -> None:
        """Note that an endpoint has a response of this owner."""
        row = {
            "owner": owner,
            "id": stored_id(response_id),
            "created": int(self._now()),
            "endpoint": endpoint,
        }
        insert = self._database.insert(PROXIED).on_conflict_do_nothing()
        with self._database.begin(SCHEMA) as connection:
            connection.execute(insert, row)
        self._pruner.added(_ROW_BYTES)

    def endpoint(self, owner: str, response_id: str) -> str | None:
        """The name of the endpoint that has this response of this owner, or None."""
        is_it = and_(PROXIED.c.owner == owner, PROXIED.c.id == stored_id(response_id))
        with self._database.begin(SCHEMA) as connection:
            endpoint: str | None = connection.execute(
                select(PROXIED.c.endpoint).where(is_it)
            ).scalar()
            return endpoint
