"""The database of what clients may fetch later, and its parts: one for each kind of thing.

Opened at its first use. Each part declares its own tables (database.migrations.Schema).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from horde_proxy.store.generation_log import GenerationLog

if TYPE_CHECKING:
    from horde_proxy.database.engine import Database
    from horde_proxy.store.batches import BatchStore
    from horde_proxy.store.chats import ChatStore
    from horde_proxy.store.conversations import ConversationStore
    from horde_proxy.store.expiry import Expiry
    from horde_proxy.store.files import FileStore
    from horde_proxy.store.jobs import JobStore
    from horde_proxy.store.proxied import ProxiedStore
    from horde_proxy.store.responses import ResponseStore


@dataclass(frozen=True)
class AnswerStore:
    """`database` and the parts are None where nothing is kept (`days` is 0).

    The newest records of answers are in memory, also without a database.
    """

    database: Database | None
    days: int
    responses: ResponseStore | None = None
    conversations: ConversationStore | None = None
    chats: ChatStore | None = None
    proxied: ProxiedStore | None = None
    files: FileStore | None = None
    batches: BatchStore | None = None
    jobs: JobStore | None = None
    expiry: Expiry | None = None
    generations: GenerationLog = field(default_factory=GenerationLog)
