"""The store of what clients may fetch later, from the settings.

A reload keeps the open database, as long as its URL is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from horde_proxy.app.runtime import Runtime
from horde_proxy.config.store import StoreSettings
from horde_proxy.store import AnswerStore
from horde_proxy.store.generation_log import GenerationLog

if TYPE_CHECKING:
    from horde_proxy.database.engine import Database


def build_store(
    settings: StoreSettings, runtime: Runtime, before: AnswerStore | None
) -> AnswerStore:
    """The store for these settings. Raises ConfigError for a URL that cannot be used."""
    url, days = settings.database_url(), settings.days
    if url is None:
        return AnswerStore(None, days)
    if before and before.database and before.database.url == url and before.days == days:
        return before
    is_same = before and before.database and before.database.url == url
    database = before.database if before and is_same else runtime.open_store(url)
    assert database is not None
    return _store_in(database, days, runtime)


def _store_in(database: Database, days: int, runtime: Runtime) -> AnswerStore:
    """The parts of a store in a database."""
    # Imported late: a proxy that keeps nothing needs no SQLAlchemy.
    from horde_proxy.store.batches import BatchStore
    from horde_proxy.store.chats import ChatStore
    from horde_proxy.store.conversations import ConversationStore
    from horde_proxy.store.expiry import Expiry
    from horde_proxy.store.files import FileStore
    from horde_proxy.store.generations import GenerationStore
    from horde_proxy.store.jobs import JobStore
    from horde_proxy.store.proxied import ProxiedStore
    from horde_proxy.store.pruning import Pruner
    from horde_proxy.store.responses import ResponseStore

    now = runtime.now
    pruner = Pruner(database, days, now=now, run=runtime.run)
    jobs = JobStore(database, days, now=now)
    files = FileStore(database, days=days, now=now, new_id=runtime.new_id)
    batches = BatchStore(database, files, jobs, days=days, now=now, new_id=runtime.new_id)
    records = GenerationStore(database, days, now=now)
    removals = (pruner.prune, files.prune, batches.prune, records.prune)
    return AnswerStore(
        database,
        days,
        responses=ResponseStore(database, pruner, now=now),
        conversations=ConversationStore(database, pruner, now=now),
        chats=ChatStore(database, pruner, now=now),
        proxied=ProxiedStore(database, pruner, now=now),
        files=files,
        batches=batches,
        jobs=jobs,
        expiry=Expiry(removals, now=now, run=runtime.run),
        generations=GenerationLog(records, runtime.run_later),
    )
