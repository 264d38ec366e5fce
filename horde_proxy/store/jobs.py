"""Stored jobs, which go on without a client: what is to be done, and which process does it.

    add --> waiting --claim--> leased to a process --remove--> gone
               ^                 |        |
               '---put_back------'        | the lease has ended: its process was killed
               '--------------------------'

A process renews its leases again and again. Whoever finds one that has ended takes the job: so a
job may be begun twice, and whoever does it must see whether it was done already. All times are
Unix time, which the hosts that share a database must agree on within a few seconds.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    MetaData,
    Row,
    Table,
    Text,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from horde_proxy.database.engine import Database
from horde_proxy.database.migrations import Schema
from horde_proxy.store.taken_job import NewJob, TakenJob

LEASE_SECONDS = 30.0
"""How long a job of a killed process waits for another one. A process renews its leases six times
as often, so that a database that is slow for a while costs none."""

_DAY = 86400
_TABLES = MetaData()
JOBS = Table(
    "jobs",
    _TABLES,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("job_group", Text, nullable=False),
    Column("priority", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("due", Float, nullable=False),
    Column("expires", Float),
    Column("details", Text, nullable=False),
    Column("journal", Text),
    Column("attempts", BigInteger, nullable=False),
    Column("is_cancelled", Boolean, nullable=False),
    Column("process", Text, nullable=False),
    Column("leased_until", Float, nullable=False),
)
"""`details` and `journal` are JSON. `number` orders what was added at once. `process` has the job
until `leased_until`; before `due` nobody takes it."""


BACKGROUND = Table(
    "background",
    _TABLES,
    Column("owner", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("created", Float, nullable=False),
)
"""What owners have begun in the background, for the list on the page."""


def _create_tables(connection: Connection) -> None:
    """Version 1."""
    for statement in (
        "CREATE TABLE jobs (id TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, "
        "owner TEXT NOT NULL, job_group TEXT NOT NULL, priority BIGINT NOT NULL, "
        "created DOUBLE PRECISION NOT NULL, number BIGINT NOT NULL, "
        "due DOUBLE PRECISION NOT NULL, expires DOUBLE PRECISION, details TEXT NOT NULL, "
        "journal TEXT, attempts BIGINT NOT NULL, is_cancelled BOOLEAN NOT NULL, "
        "process TEXT NOT NULL, leased_until DOUBLE PRECISION NOT NULL)",
        "CREATE INDEX jobs_in_order ON jobs (owner, priority, created, number)",
        "CREATE INDEX jobs_of_group ON jobs (job_group)",
        "CREATE TABLE background (owner TEXT NOT NULL, id TEXT NOT NULL, "
        "created DOUBLE PRECISION NOT NULL, PRIMARY KEY (owner, id))",
    ):
        connection.execute(text(statement))


SCHEMA = Schema("jobs", [_create_tables])
_IN_ORDER = (JOBS.c.priority, JOBS.c.created, JOBS.c.number)


class JobStore:
    """The jobs in a database, and a list of what was begun in the background, kept for `days`.

    Thread-safe. Every method raises DatabaseError if that fails.
    """

    def __init__(
        self, database: Database, days: int = 30, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database, self._days, self._now = database, days, now
        # Guards the next two: when each owner's last job was taken here, as a count.
        self._lock = threading.Lock()
        self._served: dict[str, int] = {}
        self._count = 0

    @property
    def exists(self) -> bool:
        """Whether there is a database: looking into a file that is not there would make it."""
        return self._database.exists

    def add(self, jobs: Iterable[NewJob], connection: Connection | None = None) -> None:
        """Add jobs, all or none; one whose id is there already stays as it is.

        Within the transaction of another owner of tables in this database, where one is given;
        `prepare` must have been called before it, and `Database.flush` may follow. Otherwise what
        was accepted by now outlives a power failure.
        """
        now = self._now()
        rows = [_row(job, now, number) for number, job in enumerate(jobs)]
        if not rows:
            return
        with nullcontext(connection) if connection is not None else self._begin() as transaction:
            statement = self._database.insert(JOBS).on_conflict_do_nothing()
            transaction.execute(statement, rows)
        if connection is None:
            self._database.flush()

    def prepare(self) -> None:
        """Bring the table up to date, which cannot be done within another's transaction."""
        with self._begin():
            pass

    def claim(self, process: str, most: int) -> list[TakenJob]:
        """Lease jobs that no process does, for this one to do now; at most so many.

        Owners with few running jobs come first, so that nobody's many jobs hold up another's few.
        """
        claimed: list[TakenJob] = []
        if most <= 0 or not self._has_due():
            return claimed
        with self._begin() as connection:
            # Locks SQLite's file: it refuses to write after a read, if others wrote in between.
            connection.execute(update(JOBS).where(JOBS.c.id == "").values(id=""))
            for row in self._fair_rows(connection, most):
                if self._take(connection, process, row.id):
                    claimed.append(self._running(process, row))
        return claimed

    def renew(self, process: str, ids: Sequence[str]) -> dict[str, bool]:
        """Whether each of these jobs was cancelled; the leases on them are renewed.

        A job that is missing in the result was taken by another process, or is gone.
        """
        if not ids:
            return {}
        is_ours = and_(JOBS.c.id.in_(ids), JOBS.c.process == process)
        until = self._now() + LEASE_SECONDS
        with self._begin() as connection:
            connection.execute(update(JOBS).where(is_ours).values(leased_until=until))
            rows = connection.execute(select(JOBS.c.id, JOBS.c.is_cancelled).where(is_ours))
            return {row.id: bool(row.is_cancelled) for row in rows}

    def save_journal(self, process: str, job_id: str, journal: Mapping[str, Any]) -> bool:
        """Keep what an attempt has got so far. False when the job is not this process' any more."""
        is_ours = and_(JOBS.c.id == job_id, JOBS.c.process == process)
        statement = update(JOBS).where(is_ours).values(journal=_json(journal))
        with self._begin() as connection:
            return connection.execute(statement).rowcount > 0

    def put_back(self, process: str, job_id: str, seconds: float, *, is_attempt: bool) -> None:
        """Let any process take the job after so many seconds."""
        is_ours = and_(JOBS.c.id == job_id, JOBS.c.process == process)
        values = {
            "process": "",
            "leased_until": 0.0,
            "due": self._now() + seconds,
            "attempts": JOBS.c.attempts + int(is_attempt),
        }
        with self._begin() as connection:
            connection.execute(update(JOBS).where(is_ours).values(values))

    def remove(self, process: str, job_id: str) -> None:
        """Remove a job that is done, with all that it held."""
        is_ours = and_(JOBS.c.id == job_id, JOBS.c.process == process)
        with self._begin() as connection:
            connection.execute(delete(JOBS).where(is_ours))

    def cancel(self, *, job_id: str | None = None, group: str | None = None) -> int:
        """Cancel a job, or all of a group. How many that nobody does were removed at once.

        Whoever does the others learns of it when it renews its leases.
        """
        which = JOBS.c.id == job_id if job_id is not None else JOBS.c.job_group == group
        is_free = and_(which, JOBS.c.leased_until <= self._now())
        with self._begin() as connection:
            removed = connection.execute(delete(JOBS).where(is_free)).rowcount
            connection.execute(update(JOBS).where(which).values(is_cancelled=True))
        return removed

    def count(self, group: str) -> int:
        """How many jobs of a group are not done."""
        statement = select(func.count()).select_from(JOBS).where(JOBS.c.job_group == group)
        with self._begin() as connection:
            return connection.execute(statement).scalar_one()

    def count_of(self, owner: str | None, kind: str) -> int:
        """How many jobs of a kind are not done: those of an owner, or with None of all."""
        is_it = and_(JOBS.c.kind == kind, *([JOBS.c.owner == owner] if owner is not None else ()))
        with self._begin() as connection:
            return connection.execute(select(func.count()).where(is_it)).scalar_one()

    def positions(self, owner: str) -> dict[str, int]:
        """The places of an owner's jobs in the queue, from 1, by their ids; of those that wait."""
        statement = select(JOBS.c.id).where(JOBS.c.owner == owner, *self._is_free())
        with self._begin() as connection:
            ids = connection.execute(statement.order_by(*_IN_ORDER)).scalars()
            return {job_id: place for place, job_id in enumerate(ids, start=1)}

    def adding_background(self, job: NewJob) -> Callable[[Connection], None]:
        """What adds a job, and puts it on its owner's list of what was begun in the background.

        It is called within another's transaction, like `add`; the table is prepared here.
        """
        now = self._now()
        is_old = BACKGROUND.c.created < now - self._days * _DAY
        row = {"owner": job.owner, "id": job.id, "created": now}
        self.prepare()

        def add(connection: Connection) -> None:
            self.add([job], connection)
            connection.execute(insert(BACKGROUND), row)
            connection.execute(delete(BACKGROUND).where(BACKGROUND.c.owner == job.owner, is_old))

        return add

    def background(self, owner: str, most: int) -> list[str]:
        """What an owner has begun in the background, the newest first; at most so many ids."""
        statement = select(BACKGROUND.c.id).where(BACKGROUND.c.owner == owner)
        newest = statement.order_by(BACKGROUND.c.created.desc(), BACKGROUND.c.id).limit(most)
        with self._begin() as connection:
            return list(connection.execute(newest).scalars())

    def journals(self, owner: str) -> dict[str, Mapping[str, Any]]:
        """What the running jobs of an owner have got so far, by their ids."""
        is_running = and_(JOBS.c.owner == owner, JOBS.c.leased_until > self._now())
        statement = select(JOBS.c.id, JOBS.c.journal).where(is_running, JOBS.c.journal.is_not(None))
        with self._begin() as connection:
            return {row.id: json.loads(row.journal) for row in connection.execute(statement)}

    def _is_free(self) -> tuple[Any, ...]:
        return (JOBS.c.leased_until <= self._now(),)

    def _is_due(self) -> Any:
        is_due = or_(JOBS.c.due <= self._now(), JOBS.c.is_cancelled)
        return and_(*self._is_free(), is_due)

    def _has_due(self) -> bool:
        statement = select(JOBS.c.id).where(self._is_due()).limit(1)
        with self._begin() as connection:
            return connection.execute(statement).first() is not None

    def _fair_rows(self, connection: Connection, most: int) -> list[Row[Any]]:
        """The rows to take, the next one first."""
        is_due = self._is_due()
        owners = list(connection.execute(select(JOBS.c.owner).where(is_due).distinct()).scalars())
        leased = select(JOBS.c.owner).where(JOBS.c.leased_until > self._now())
        running = Counter(connection.execute(leased).scalars())
        queues = {
            owner: list(
                connection.execute(
                    select(JOBS)
                    .where(is_due, JOBS.c.owner == owner)
                    .order_by(*_IN_ORDER)
                    .limit(most)
                )
            )
            for owner in owners
        }
        chosen: list[Row[Any]] = []
        with self._lock:
            while len(chosen) < most and queues:
                owner = min(queues, key=lambda name: self._turn(name, running, queues[name][0]))
                chosen.append(queues[owner].pop(0))
                running[owner] += 1
                self._count += 1
                self._served[owner] = self._count
                if not queues[owner]:
                    del queues[owner]
            # An owner without waiting jobs needs no place in the order.
            self._served = {name: at for name, at in self._served.items() if name in owners}
        return chosen

    def _turn(self, owner: str, running: Mapping[str, int], first: Row[Any]) -> tuple[Any, ...]:
        """What owners are ordered by: running jobs, the last turn, the age of the first job."""
        return running[owner], self._served.get(owner, 0), first.created, owner

    def _take(self, connection: Connection, process: str, job_id: str) -> bool:
        """Lease a job; False where another process was quicker."""
        now = self._now()
        statement = update(JOBS).where(JOBS.c.id == job_id, JOBS.c.leased_until <= now)
        values = {"process": process, "leased_until": now + LEASE_SECONDS}
        return connection.execute(statement.values(values)).rowcount > 0

    def _running(self, process: str, row: Row[Any]) -> TakenJob:
        return TakenJob(
            id=row.id,
            kind=row.kind,
            owner=row.owner,
            details=json.loads(row.details),
            group=row.job_group,
            created=row.created,
            expires=row.expires,
            attempts=row.attempts,
            journal=json.loads(row.journal) if row.journal else None,
            save_journal=partial(self.save_journal, process, row.id),
            is_cancelled=bool(row.is_cancelled),
        )

    def _begin(self) -> AbstractContextManager[Connection]:
        return self._database.begin(SCHEMA)


def _row(job: NewJob, now: float, number: int) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "owner": job.owner,
        "job_group": job.group,
        "priority": job.priority,
        "created": now,
        "number": number,
        "due": now + job.delay,
        "expires": job.expires,
        "details": _json(job.details),
        "journal": None,
        "attempts": 0,
        "is_cancelled": False,
        "process": "",
        "leased_until": 0.0,
    }


def _json(value: Mapping[str, Any]) -> str:
    # In ASCII, a NUL and half a surrogate pair are written as escapes, which every database takes.
    return json.dumps(dict(value), separators=(",", ":"))
