"""What each key used, counted in memory and written to the store by a thread of its own.

Counting never waits for the database. Without a store the last 31 days are kept in memory.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from horde_proxy.ledger.records import DayUsage, StoreError, Ticket, Usage, day_of, merged

if TYPE_CHECKING:
    from horde_proxy.ledger.store import Store

_DAY = 86400
_KEPT_DAYS = 31
_LAST_WRITE = 10
"""How long `close` waits for a write that is under way (s)."""
_NOTHING = DayUsage()
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    kudos: float = 0.0

    def add(self, other: _Counts) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.kudos += other.kudos


class UsageRecorder:
    """Usage by day, key, model and endpoint. Writes every `interval` (s) in which it was used.

    A store that fails loses nothing but time: what is pending is written when it works again.
    """

    def __init__(
        self, store: Store | None, *, now: Callable[[], float] = time.time, interval: float = 1.0
    ) -> None:
        self._store, self._now, self._interval = store, now, interval
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._pending: dict[Ticket, _Counts] = {}
        self._day_number, self._day = -1, ""
        self._stored: Mapping[str, DayUsage] = {}
        self._added: dict[str, DayUsage] = {}
        self._knows_totals = store is None
        self._is_used = self._is_failing = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(
        self,
        name: str,
        model: str,
        endpoint: str,
        *,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        kudos: float = 0.0,
        failed: bool = False,
    ) -> None:
        """Count one request of the key of this name."""
        with self._lock:
            place = self._today(), name, model, endpoint
            row = self._pending.get(place)
            if row is None:
                row = self._pending[place] = _Counts()
            row.requests += 1
            row.errors += failed
            row.prompt_tokens += prompt_tokens
            row.completion_tokens += completion_tokens
            row.kudos += kudos
            tokens, before = self._added.get(name, _NOTHING)
            self._added[name] = DayUsage(tokens + prompt_tokens + completion_tokens, before + kudos)
            self._is_used = True
        if self._thread is None:
            self._start()

    def spent(self, name: str) -> DayUsage:
        """What the key used today: as the store said last, and what was added here since."""
        if not self._knows_totals:
            self._read_first_totals()
        with self._lock:
            self._today()
            self._is_used = True
            return self._stored.get(name, _NOTHING).plus(self._added.get(name, _NOTHING))

    def usage(self, first_day: str, last_day: str, name: str | None = None) -> list[Usage]:
        """The usage from one day to another, both included; of one key or of all.

        Raises StoreError.
        """
        with self._writing:
            stored = self._store.usage(first_day, last_day, name) if self._store else []
            with self._lock:
                pending = [_usage(place, counts) for place, counts in self._pending.items()]
        return merged(
            stored
            + [
                row
                for row in pending
                if first_day <= row.day <= last_day and name in (None, row.name)
            ]
        )

    def flush(self) -> None:
        """Write what is pending and read the day's totals again. A failure is logged once."""
        if self._store is None:
            return
        with self._writing:
            try:
                self._write(self._store)
                self._read_totals(self._store)
            except StoreError as exc:
                self._note_failure(exc)
            else:
                self._note_success()

    def close(self) -> None:
        """Write for the last time."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_LAST_WRITE)
        self.flush()
        if self._store is not None and self._pending:
            log.error("usage that could not be written is lost: %s rows", len(self._pending))
        atexit.unregister(self.close)

    def _write(self, store: Store) -> None:
        with self._lock:
            rows, self._pending = self._pending, {}
            self._is_used = False
        is_written = False
        try:
            store.record([_usage(place, counts) for place, counts in rows.items()])
            is_written = True
        finally:
            if not is_written:
                self._put_back(rows)

    def _put_back(self, rows: dict[Ticket, _Counts]) -> None:
        with self._lock:
            self._is_used = True
            for place, counts in self._pending.items():
                rows.setdefault(place, _Counts()).add(counts)
            self._pending = rows

    def _read_totals(self, store: Store) -> None:
        """Within `_writing`: then the store has all that was added but is not pending."""
        with self._lock:
            day = self._today()
        totals = store.spent(day)
        with self._lock:
            if day == self._today():
                self._stored, self._added = totals, self._pending_totals()
                self._knows_totals = True

    def _read_first_totals(self) -> None:
        """Wait for the store this once, or a restart would give every key a new day."""
        if self._thread is None:
            self._start()
        with self._writing:
            if self._store is not None and not self._knows_totals:
                try:
                    self._read_totals(self._store)
                except StoreError as exc:
                    self._note_failure(exc)
                self._knows_totals = True

    def _today(self) -> str:
        """Within `_lock`."""
        number = int(self._now() // _DAY)
        if number != self._day_number:
            self._day_number, self._day = number, day_of(number * _DAY)
            if self._store is None:
                oldest = day_of((number - _KEPT_DAYS + 1) * _DAY)
                self._pending = {
                    place: row for place, row in self._pending.items() if place[0] >= oldest
                }
            self._stored, self._added = {}, self._pending_totals()
        return self._day

    def _pending_totals(self) -> dict[str, DayUsage]:
        totals: dict[str, DayUsage] = {}
        for (day, name, _, _), row in self._pending.items():
            if day == self._day:
                more = DayUsage(row.prompt_tokens + row.completion_tokens, row.kudos)
                totals[name] = totals.get(name, _NOTHING).plus(more)
        return totals

    def _note_failure(self, exc: StoreError) -> None:
        self._is_used = True
        if not self._is_failing:
            log.warning("usage is kept in memory until the store works again: %s", exc)
        self._is_failing = True

    def _note_success(self) -> None:
        if self._is_failing:
            log.info("usage is written to the store again")
        self._is_failing = False

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and self._store is not None:
                self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
                self._thread.start()
                atexit.register(self.close)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            if self._is_used:
                self.flush()


def _usage(place: Ticket, counts: _Counts) -> Usage:
    return Usage(*place, *astuple(counts))
