"""The records of answers: the newest in memory, all of them in the store's database.

    a request ends --add--> _recent, and _unsaved --flush, 2 s later, one thread--> the database
    late kudos --add_kudos---^

`add` never waits for the database. Without one, the newest records are kept in memory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from cachetools import LRUCache

from horde_proxy.caching.background import later_in_background
from horde_proxy.database.errors import DatabaseError
from horde_proxy.store.generation_filter import GenerationFilter
from horde_proxy.store.generation_record import GenerationRecord

if TYPE_CHECKING:
    from horde_proxy.store.generations import GenerationStore

MOST_RECENT = 2000
"""Records in memory, about 2 MB: of the last minutes, until the database has them."""
_MOST_UNSAVED = 10_000
"""Records that wait for a database that fails; later ones are in memory only."""
_DELAY = 2.0
"""Seconds between a record and its transaction: one for all of that time, as each costs one."""

_Key = tuple[str, str]
"""An owner, and the id of a request or of an answer."""

log = logging.getLogger(__name__)


class GenerationLog:
    """The records of all owners. Thread-safe. Without a `store`, they are kept in memory only."""

    def __init__(
        self,
        store: GenerationStore | None = None,
        run_later: Callable[[float, Callable[[], None]], None] = later_in_background,
    ) -> None:
        self._store, self._run_later = store, run_later
        # Guards all fields below. No I/O happens under it: every request takes it.
        self._lock = threading.Lock()
        self._recent: LRUCache[_Key, GenerationRecord] = LRUCache(MOST_RECENT)
        self._request_of: LRUCache[_Key, str] = LRUCache(MOST_RECENT)
        self._unsaved: dict[_Key, GenerationRecord] = {}
        self._is_due = self._is_failing = False
        # Held by the thread that writes, around its transaction, so that of two records of one
        # request the later one stays.
        self._writing = threading.Lock()

    def add(self, owner: str, record: GenerationRecord) -> None:
        """Keep a record. One of the same request is replaced."""
        key = owner, record.request_id
        with self._lock:
            self._recent[key] = record
            if record.id != record.request_id:
                self._request_of[owner, record.id] = record.request_id
            if self._store is None:
                return
            if key in self._unsaved or len(self._unsaved) < _MOST_UNSAVED:
                self._unsaved[key] = record
            is_due, self._is_due = self._is_due, True
        if not is_due:
            self._flush_later()

    def add_kudos(self, owner: str, request_id: str, kudos: float) -> None:
        """Count kudos that came to be known after the answer."""
        with self._lock:
            record = self._recent.get((owner, request_id))
        if record is not None:
            total = round((record.kudos or 0.0) + kudos, 2)
            self.add(owner, replace(record, kudos=total))

    def get(self, owner: str, identity: str) -> GenerationRecord | None:
        """The record of an answer or of a request of this owner. Raises DatabaseError."""
        with self._lock:
            request_id = self._request_of.get((owner, identity), identity)
            record = self._recent.get((owner, request_id))
        if record is not None or self._store is None:
            return record
        return self._store.get(owner, identity)

    @property
    def is_kept(self) -> bool:
        """Whether records outlive a restart."""
        return self._store is not None

    def search(
        self, wanted: GenerationFilter, *, limit: int, offset: int
    ) -> list[tuple[str, GenerationRecord]]:
        """The records that are wanted, of all owners, the newest first. Raises DatabaseError."""
        if self._store is not None:
            self.flush()
            return self._store.search(wanted, limit=limit, offset=offset)
        with self._lock:
            recent = [(owner, record) for (owner, _), record in self._recent.items()]
        matches = [(owner, record) for owner, record in recent if wanted.matches(owner, record)]
        matches.sort(key=lambda match: (-int(match[1].created), match[1].request_id))
        return matches[offset : offset + limit]

    def flush(self) -> None:
        """Write what is not in the database yet. Logs the first of several failures."""
        if self._store is None:
            return
        with self._writing:
            with self._lock:
                unsaved, self._unsaved, self._is_due = self._unsaved, {}, False
            if not unsaved:
                return
            try:
                self._store.save([(owner, record) for (owner, _), record in unsaved.items()])
            except DatabaseError as exc:
                self._put_back(unsaved)
                self._note_failure(exc)
            else:
                self._is_failing = False

    def _put_back(self, unsaved: dict[_Key, GenerationRecord]) -> None:
        """Keep what could not be written; the next record has it tried again."""
        with self._lock:
            self._unsaved = {**unsaved, **self._unsaved}

    def _note_failure(self, exc: DatabaseError) -> None:
        if not self._is_failing:
            log.warning("the records of answers are in memory until the database works: %s", exc)
        self._is_failing = True

    def _flush_later(self) -> None:
        try:
            self._run_later(_DELAY, self.flush)
        except RuntimeError as exc:
            # The machine allows no more threads now: the next record tries again.
            with self._lock:
                self._is_due = False
            log.warning("the records of answers are not written yet: %s", exc)
