"""What each key used: counted in memory, written to the database by a background thread.

    request threads --add--> _pending --flush, every second--> the database's sums
         |                      |
         used_today  =  totals of the database  +  what was added since they were read

Counting never waits for the database. Without a database, the last 31 days are kept in memory.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from horde_proxy.database.errors import DatabaseError
from horde_proxy.ledger.records import DayUsage, Usage, UsageKey, day_of, summed

if TYPE_CHECKING:
    from horde_proxy.ledger.database import LedgerDatabase

_DAY = 86400
_DAYS_IN_MEMORY = 31
"""Without a database: /v1/usage shows the last 30 days unless more are requested."""
_LAST_WRITE = 10
"""How long `close` waits for a write that is under way (s)."""
_NOTHING = DayUsage()
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Counts:
    """The numbers of a Usage, in the same order, but mutable."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    kudos: float = 0.0
    images: int = 0

    def add(self, other: _Counts) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.kudos += other.kudos
        self.images += other.images

    @property
    def used(self) -> DayUsage:
        """What of it is limited by the day."""
        return DayUsage(self.prompt_tokens + self.completion_tokens, self.kudos, self.images)


class UsageRecorder:
    """Usage by day, key, model and endpoint. Written every `interval` (s) while there are requests.

    Nothing is lost while the database fails: pending counts are written when it works again.
    """

    def __init__(
        self,
        database: LedgerDatabase | None,
        *,
        now: Callable[[], float] = time.time,
        interval: float = 1.0,
    ) -> None:
        self._database, self._now, self._interval = database, now, interval
        # Guards the counts and totals below. No I/O happens under it: every request takes it.
        self._lock = threading.Lock()
        # Held by the one thread that writes counts or reads sums, so that each count is either
        # pending or in the database, never both or neither. The database is called under it.
        self._writing = threading.Lock()
        self._pending: dict[UsageKey, _Counts] = {}
        self._day_number, self._day = -1, ""
        self._stored: Mapping[str, DayUsage] = {}
        self._added: dict[str, DayUsage] = {}
        self._knows_totals = database is None
        self._is_used = self._is_failing = False
        # Written by reloads and read by the thread that writes; each is one number or text.
        self._days, self._pruned = 0, ""
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
        images: int = 0,
        failed: bool = False,
    ) -> UsageKey:
        """Count one request of the key of this name. What it was counted under."""
        counts = _Counts(1, int(failed), prompt_tokens, completion_tokens, kudos, images)
        with self._lock:
            key = UsageKey(self._today(), name, model, endpoint)
            self._add(key, counts)
        # Not in __init__: the server may fork after that, and threads do not survive a fork.
        if self._thread is None:
            self._start()
        return key

    def add_kudos(self, key: UsageKey, kudos: float) -> None:
        """Count kudos of a request that was counted under this key, which came to be known late."""
        with self._lock:
            self._today()
            self._add(key, _Counts(kudos=kudos))

    def used_today(self, name: str) -> DayUsage:
        """What the key used today: the database's last total plus what was added here since."""
        if not self._knows_totals:
            self._read_first_totals()
        with self._lock:
            self._today()
            self._is_used = True
            return self._stored.get(name, _NOTHING).plus(self._added.get(name, _NOTHING))

    def usage(self, first_day: str, last_day: str, name: str | None = None) -> list[Usage]:
        """The usage from one day to another, both included; of one key or of all.

        Raises DatabaseError.
        """
        with self._writing:
            stored = self._database.usage(first_day, last_day, name) if self._database else []
            with self._lock:
                pending = [_usage(key, counts) for key, counts in self._pending.items()]
        return summed(
            stored
            + [
                row
                for row in pending
                if first_day <= row.day <= last_day and name in (None, row.name)
            ]
        )

    def last_days(self) -> dict[str, str]:
        """The last day with a request of each key, e.g. "2026-01-31". Raises DatabaseError."""
        with self._writing:
            days = self._database.last_days() if self._database else {}
            with self._lock:
                for key in self._pending:
                    days[key.name] = max(days.get(key.name, ""), key.day)
        return days

    def keep_days(self, days: int) -> None:
        """Remove usage after so many days, from the next write on; 0: never."""
        if days != self._days:
            self._days, self._pruned = days, ""

    def flush(self) -> None:
        """Write pending counts and read the day's totals again. Logs a failure once."""
        if self._database is None:
            return
        with self._writing:
            try:
                self._write(self._database)
                self._read_totals(self._database)
                self._prune(self._database)
            except DatabaseError as exc:
                self._note_failure(exc)
            else:
                self._note_success()

    def close(self) -> None:
        """Stop the thread and write the pending counts. Logs an error if they are lost."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_LAST_WRITE)
        self.flush()
        if self._database is not None and self._pending:
            log.error("usage could not be written and is lost: %s rows", len(self._pending))
        atexit.unregister(self.close)

    def _add(self, key: UsageKey, counts: _Counts) -> None:
        """Needs `_lock` held, and `_today` called under it."""
        self._pending.setdefault(key, _Counts()).add(counts)
        if key.day == self._day:
            self._added[key.name] = self._added.get(key.name, _NOTHING).plus(counts.used)
        self._is_used = True

    def _write(self, database: LedgerDatabase) -> None:
        with self._lock:
            rows, self._pending = self._pending, {}
            self._is_used = False
        # Not `except DatabaseError`: whatever happens, counts must not be lost.
        is_written = False
        try:
            database.add_usage([_usage(key, counts) for key, counts in rows.items()])
            is_written = True
        finally:
            if not is_written:
                self._put_back(rows)

    def _prune(self, database: LedgerDatabase) -> None:
        """Remove what is too old, once a day. Today's usage always stays: limits count it."""
        today = self._day_number
        first = day_of((today - self._days + 1) * _DAY)
        if self._days and first != self._pruned:
            database.prune_usage(first)
            self._pruned = first

    def _put_back(self, rows: dict[UsageKey, _Counts]) -> None:
        with self._lock:
            self._is_used = True
            for key, counts in self._pending.items():
                rows.setdefault(key, _Counts()).add(counts)
            self._pending = rows

    def _read_totals(self, database: LedgerDatabase) -> None:
        """Needs `_writing` held, so that the totals include everything that is not pending."""
        with self._lock:
            day = self._today()
        totals = database.totals(day)
        with self._lock:
            if day == self._today():
                self._stored, self._added = totals, self._pending_totals()
                self._knows_totals = True

    def _read_first_totals(self) -> None:
        """Wait for the database, only once: without this, a restart would reset the day's usage."""
        if self._thread is None:
            self._start()
        with self._writing:
            if self._database is not None and not self._knows_totals:
                try:
                    self._read_totals(self._database)
                except DatabaseError as exc:
                    self._note_failure(exc)
                # Even after a failure: `flush` reads them as soon as the database works, and
                # requests must not wait for it one after the other.
                self._knows_totals = True

    def _today(self) -> str:
        """The UTC day; starts the counts of a new day when it has changed. Needs `_lock` held."""
        number = int(self._now() // _DAY)
        # Formatting a date for every request would cost more than the rest of `add`.
        if number != self._day_number:
            self._day_number, self._day = number, day_of(number * _DAY)
            if self._database is None:
                oldest = day_of((number - _DAYS_IN_MEMORY + 1) * _DAY)
                self._pending = {
                    key: counts for key, counts in self._pending.items() if key.day >= oldest
                }
            self._stored, self._added = {}, self._pending_totals()
        return self._day

    def _pending_totals(self) -> dict[str, DayUsage]:
        totals: dict[str, DayUsage] = {}
        for key, counts in self._pending.items():
            if key.day == self._day:
                totals[key.name] = totals.get(key.name, _NOTHING).plus(counts.used)
        return totals

    def _note_failure(self, exc: DatabaseError) -> None:
        self._is_used = True
        if not self._is_failing:
            log.warning("usage is kept in memory until the database works again: %s", exc)
        self._is_failing = True

    def _note_success(self) -> None:
        if self._is_failing:
            log.info("usage is written to the database again")
        self._is_failing = False

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and self._database is not None:
                thread = threading.Thread(target=self._run, name="usage", daemon=True)
                try:
                    thread.start()
                except RuntimeError as exc:
                    # The machine allows no more threads now. The next usage tries again; the
                    # request that brought this one has its answer already.
                    log.warning("usage is not written yet: %s", exc)
                    return
                self._thread = thread
                atexit.register(self.close)

    def _run(self) -> None:
        # An idle proxy leaves the database alone, so that its machine's disk can sleep.
        while not self._stop.wait(self._interval):
            if self._is_used:
                self.flush()


def _usage(key: UsageKey, counts: _Counts) -> Usage:
    return Usage(*key, *astuple(counts))
