"""Where the pauses of endpoints are kept, from the databases that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from horde_proxy.app.ledger import Ledger
from horde_proxy.router.pauses import PauseStore
from horde_proxy.store import AnswerStore

if TYPE_CHECKING:
    from horde_proxy.database.engine import Database


def pause_store(ledger: Ledger, store: AnswerStore) -> PauseStore | None:
    """The ledger's database, else that of stored answers; None without either."""
    database = ledger.database.database if ledger.database else store.database
    return None if database is None else in_database(database)


def in_database(database: Database) -> PauseStore:
    """The pauses in a database. Imported late: a proxy without one needs no SQLAlchemy."""
    from horde_proxy.router.pause_database import PauseDatabase

    return PauseDatabase(database)
