"""Batches and their lines, in the database of stored answers.

    create -> validating -> in_progress -> finalizing -> completed, or expired
                 |              |
                 v              v
               failed       cancelling -> cancelled

All states are rows, so that any process may go on after another has died: whatever a method does
is one transaction, or can be done again from its beginning. A line is `waiting`, or has ended and
`succeeded` or `failed`; when the batch ends, result files are written and the lines are deleted.
Every batch that has not ended has jobs (store.jobs): one that checks its input, some for its next
lines, or one that ends it. They are added in the transaction that makes them necessary, so that no
batch is ever left alone. How jobs are done is not known here.

Another owner's batch is answered like an unknown one.
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, select, update

from horde_proxy.database.engine import Database
from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.batches import (
    ENDED,
    LINE_JOB,
    STEP_JOB,
    WINDOW_SECONDS,
    BatchFacts,
    BatchFault,
    BatchLine,
    BatchRequest,
    BatchTimes,
    BatchUsage,
    InputReader,
    UnknownBatch,
)
from horde_proxy.protocol.files import BATCH_OUTPUT, UnknownFile
from horde_proxy.store.batch_lines import BatchLines, in_chunks
from horde_proxy.store.batch_records import LineResult, StoredBatch, unanswered_result
from horde_proxy.store.batch_schema import BATCH_LINES, BATCHES, TIMES, transaction
from horde_proxy.store.files import FileStore, FileWriter
from horde_proxy.store.jobs import JobStore
from horde_proxy.store.paging import follows, in_order
from horde_proxy.store.stored_text import stored_id
from horde_proxy.store.taken_job import NewJob

MOST_UNFINISHED = 100
"""Batches of an owner that have not ended."""
MOST_UNFINISHED_OF_ALL = 300
"""Those of all owners: each may have 200 MB of lines, and a stranger's horde key is an owner."""
_PRIORITY = 10
"""Lines come after whatever else the owner has running in the background."""
_MOST_LINE_JOBS, _FEW_LINE_JOBS = 200, 50
"""Lines that become jobs at once, and how few must be left before: several processes have enough to
do, and the table of jobs stays short."""


InTransaction = Callable[[Connection], None]
"""What is done within a transaction of the store's."""


def _nothing(connection: Connection) -> None:
    pass


class BatchStore:
    """The batches in a database. Thread-safe. Methods raise Unavailable if that fails.

    A batch that has ended is kept until it is `days` old.
    """

    def __init__(
        self,
        database: Database,
        files: FileStore,
        jobs: JobStore,
        *,
        days: int,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._database, self._files, self._jobs = database, files, jobs
        self._days, self._now, self._new_id = days, now, new_id
        self.lines = BatchLines(database)

    def create(self, owner: str, request: BatchRequest, identity: Mapping[str, Any]) -> BatchFacts:
        """A new batch, whose input is not checked yet. Raises UnknownFile, InvalidRequest."""
        self.prune()
        self._files.get(owner, request.input_file_id)
        now = self._now()
        row = {
            "id": f"batch_{self._new_id()}",
            "owner": owner,
            "endpoint": request.endpoint,
            "input_file_id": request.input_file_id,
            "status": "validating",
            "created": now,
            "expires": now + WINDOW_SECONDS,
            "result_seconds": request.result_seconds,
            "metadata": request.metadata and json.dumps(request.metadata),
            "identity": json.dumps(identity),
            **_NOTHING_YET,
        }
        self._jobs.prepare()
        with self._begin() as connection:
            connection.execute(BATCHES.insert(), row)
            self._check_room(connection, owner)
            # The second one ends it when its time is over.
            jobs = [self._step_job(row["id"], owner, delay) for delay in (0.0, WINDOW_SECONDS)]
            self._jobs.add(jobs, connection)
        # The client will not send it again: it shall outlive a power failure, and its file with it.
        self._database.flush()
        return self.get(owner, row["id"])

    def get(self, owner: str, batch_id: str) -> BatchFacts:
        """A batch of this owner. Raises UnknownBatch."""
        statement = select(BATCHES).where(_is_owners(owner, batch_id))
        with self._begin() as connection:
            row = connection.execute(statement).mappings().first()
        if row is None:
            raise UnknownBatch(batch_id)
        return _facts(row)

    def page(
        self,
        owner: str,
        *,
        limit: int,
        after: str | None = None,
        before: str | None = None,
        endpoint: str | None = None,
    ) -> tuple[list[BatchFacts], bool]:
        """(at most `limit` batches, newest first, whether there are more in the same direction).

        They are those older than the batch `after`, or the next ones newer than `before`.
        `endpoint`: only those whose lines call it.
        """
        wanted = [BATCHES.c.owner == owner]
        if endpoint is not None:
            wanted.append(BATCHES.c.endpoint == endpoint)
        if after is not None:
            wanted.append(self._is_beyond(owner, after, is_newer=False))
        if before is not None:
            wanted.append(self._is_beyond(owner, before, is_newer=True))
        order = in_order(BATCHES, newest_first=before is None)
        statement = select(BATCHES).where(*wanted).order_by(*order).limit(limit + 1)
        with self._begin() as connection:
            rows = connection.execute(statement).mappings().all()
        page = [_facts(row) for row in rows[:limit]]
        return (page[::-1] if before is not None else page), len(rows) > limit

    def cancel(self, owner: str, batch_id: str) -> BatchFacts:
        """Let no further line of a batch run. Raises UnknownBatch, InvalidRequest if it has ended.

        One that is being cancelled, or was, stays as it is.
        """
        self.get(owner, batch_id)
        may_cancel = and_(
            BATCHES.c.id == batch_id, BATCHES.c.status.in_(("validating", "in_progress"))
        )
        statement = update(BATCHES).where(may_cancel)
        values = {"status": "cancelling", "cancelling_at": self._now()}
        self._jobs.prepare()
        with self._begin() as connection:
            if connection.execute(statement.values(values)).rowcount:
                self._jobs.add([self._step_job(batch_id, owner)], connection)
        facts = self.get(owner, batch_id)
        if facts.status in ("failed", "completed", "expired"):
            raise InvalidRequest(
                f"This batch cannot be cancelled: it is {facts.status}.", code="batch_has_ended"
            )
        return facts

    def delete(self, owner: str, batch_id: str) -> None:
        """Delete a batch that has ended, without its files."""
        is_it = and_(_is_owners(owner, batch_id), BATCHES.c.status.in_(ENDED))
        with self._begin() as connection:
            connection.execute(delete(BATCHES).where(is_it))

    def unfinished(self, batch_id: str) -> StoredBatch | None:
        """What is needed to go on with a batch; None if it has ended."""
        columns = (
            BATCHES.c.id,
            BATCHES.c.owner,
            BATCHES.c.endpoint,
            BATCHES.c.input_file_id,
            BATCHES.c.status,
            BATCHES.c.expires,
            BATCHES.c.result_seconds,
            BATCHES.c.result_bytes,
            BATCHES.c.identity,
        )
        is_it = and_(BATCHES.c.id == batch_id, BATCHES.c.status.not_in(ENDED))
        with self._begin() as connection:
            row = connection.execute(select(*columns).where(is_it)).first()
        return None if row is None else StoredBatch(*row[:-1], json.loads(row[-1] or "{}"))

    def check_input(
        self, batch: StoredBatch, longest_line: int, *, if_failed: InTransaction = _nothing
    ) -> None:
        """Store the lines of a batch's input file; it is in progress then, or has failed.

        May be called again after a crash. Two processes that do it at once do the same.
        """
        reader = InputReader(batch.endpoint, longest_line)
        try:
            pieces = self._files.content(batch.owner, batch.input_file_id)
        except UnknownFile:
            text = "The input file was deleted, or has expired, before it could be read."
            self.fail(
                batch, [BatchFault("invalid_input_file", text, param="input_file_id")], if_failed
            )
            return
        for lines in in_chunks(reader.lines(pieces)):
            if not self._add_lines(batch, lines):
                return
        if reader.faults:
            self.fail(batch, reader.faults, if_failed)
            return
        is_validating = and_(BATCHES.c.id == batch.id, BATCHES.c.status == "validating")
        values = {
            "status": "in_progress",
            "in_progress_at": self._now(),
            "total": reader.total,
            "model": _storable(reader.model),
        }
        self._jobs.prepare()
        with self._begin() as connection:
            if connection.execute(update(BATCHES).where(is_validating).values(values)).rowcount:
                self._add_line_jobs(connection, batch.id, batch.owner)

    def add_line_jobs(self, batch: StoredBatch) -> None:
        """Make jobs of the next lines of a batch that is in progress, if few are left."""
        if self._jobs.count(batch.id) > _FEW_LINE_JOBS:
            return
        is_running = and_(BATCHES.c.id == batch.id, BATCHES.c.status == "in_progress")
        with self._begin() as connection:
            # A write that changes nothing: it locks the row, so that no process adds them twice.
            locked = update(BATCHES).where(is_running).values(status="in_progress")
            if connection.execute(locked).rowcount:
                self._add_line_jobs(connection, batch.id, batch.owner)

    def _add_line_jobs(self, connection: Connection, batch_id: str, owner: str) -> None:
        last = select(BATCHES.c.last_job).where(BATCHES.c.id == batch_id).scalar_subquery()
        columns = BATCH_LINES.c
        is_next = and_(
            columns.batch_id == batch_id, columns.state == "waiting", columns.number > last
        )
        statement = select(columns.number).where(is_next).order_by(columns.number)
        numbers = list(connection.execute(statement.limit(_MOST_LINE_JOBS)).scalars())
        if not numbers:
            return
        self._jobs.add([_line_job(batch_id, owner, number) for number in numbers], connection)
        values = {"last_job": numbers[-1]}
        connection.execute(update(BATCHES).where(BATCHES.c.id == batch_id).values(values))

    def _step_job(self, batch_id: str, owner: str, delay: float = 0.0) -> NewJob:
        name = f"{batch_id}-{self._new_id()}"
        return NewJob(name, STEP_JOB, owner, {"batch": batch_id}, delay=delay)

    def end_line(self, batch_id: str, number: int, result: LineResult) -> bool:
        """Store the result of a line. False if it has one already, which is kept."""
        is_line = and_(
            BATCH_LINES.c.batch_id == batch_id,
            BATCH_LINES.c.number == number,
            BATCH_LINES.c.state == "waiting",
        )
        state = "succeeded" if result.has_succeeded else "failed"
        usage, columns = result.usage, BATCHES.c
        with self._begin() as connection:
            statement = update(BATCH_LINES).where(is_line)
            values: dict[str, Any] = {"state": state, "result": result.content}
            if not connection.execute(statement.values(values)).rowcount:
                return False
            counter = columns.succeeded if result.has_succeeded else columns.unsuccessful
            values = {
                counter.name: counter + 1,
                "result_bytes": columns.result_bytes + len(result.content),
                "input_tokens": columns.input_tokens + usage.input_tokens,
                "cached_tokens": columns.cached_tokens + usage.cached_tokens,
                "output_tokens": columns.output_tokens + usage.output_tokens,
                "reasoning_tokens": columns.reasoning_tokens + usage.reasoning_tokens,
            }
            connection.execute(update(BATCHES).where(columns.id == batch_id).values(values))
        return True

    def finish(
        self,
        batch: StoredBatch,
        status: str,
        code: str = "",
        reason: str = "",
        *,
        also: InTransaction = _nothing,
    ) -> None:
        """Write the result files of a batch, and end it. `status` is its last one.

        Lines that have not ended fail with this code and reason. `also` is done in the transaction
        that ends the batch, by whoever does so. May be called again after a crash.
        """
        if status == "completed":
            self._note_finalizing(batch.id)
        output, succeeded = self._write(
            batch, f"{batch.id}_output.jsonl", self.lines.results(batch.id, "succeeded")
        )
        unanswered = (
            unanswered_result(batch.id, line, code, reason).content
            for line in self.lines.all_waiting(batch.id)
        )
        failures = itertools.chain(self.lines.results(batch.id, "failed"), unanswered)
        errors, failed = self._write(batch, f"{batch.id}_error.jsonl", failures)
        values: dict[str, Any] = {
            "status": status,
            f"{status}_at": self._now(),
            "succeeded": succeeded,
            "unsuccessful": failed,
            "total": succeeded + failed,
            "identity": None,
        }
        if not self._end(batch.id, values, output, errors, also):
            # Another process was quicker.
            for writer in filter(None, (output, errors)):
                writer.discard()

    def _end(
        self,
        batch_id: str,
        values: Mapping[str, Any],
        output: FileWriter | None,
        errors: FileWriter | None,
        also: InTransaction,
    ) -> bool:
        """End a batch with its result files, in one transaction. False for one that has ended."""
        is_unfinished = and_(BATCHES.c.id == batch_id, BATCHES.c.status.not_in(ENDED))
        self._jobs.prepare()
        with self._begin() as connection:
            # The first statement writes: the transaction then sees no older state of the rows.
            ended = connection.execute(update(BATCHES).where(is_unfinished).values(**values))
            if not ended.rowcount:
                return False
            files = {
                "output_file_id": output and output.finish(connection).id,
                "error_file_id": errors and errors.finish(connection).id,
            }
            connection.execute(update(BATCHES).where(BATCHES.c.id == batch_id).values(files))
            self.lines.delete(connection, batch_id)
            also(connection)
            return True

    def _note_finalizing(self, batch_id: str) -> None:
        is_running = and_(BATCHES.c.id == batch_id, BATCHES.c.status == "in_progress")
        values = {"status": "finalizing", "finalizing_at": self._now()}
        with self._begin() as connection:
            connection.execute(update(BATCHES).where(is_running).values(values))

    def prune(self) -> None:
        """Delete the batches that are older than all stored things may be."""
        oldest = self._now() - self._days * 86_400
        is_old = and_(BATCHES.c.status.in_(ENDED), BATCHES.c.created < oldest)
        with self._begin() as connection:
            connection.execute(delete(BATCHES).where(is_old))

    def _write(
        self, batch: StoredBatch, filename: str, results: Iterable[bytes]
    ) -> tuple[FileWriter | None, int]:
        """(a file of these lines that is not seen yet, their number); None for no lines."""
        writer, count = None, 0
        for content in results:
            if writer is None:
                seconds = batch.result_seconds
                writer = self._files.begin(batch.owner, filename, BATCH_OUTPUT, seconds=seconds)
            writer.write(content + b"\n")
            count += 1
        if writer is not None:
            writer.flush()
        return writer, count

    def _add_lines(self, batch: StoredBatch, lines: Iterable[BatchLine]) -> bool:
        """Store some lines; those that are there already stay. False if it is not validating."""
        is_validating = and_(BATCHES.c.id == batch.id, BATCHES.c.status == "validating")
        with self._begin() as connection:
            # A write that changes nothing: it locks the row, so that no cancelling comes between.
            locked = update(BATCHES).where(is_validating).values(status="validating")
            if not connection.execute(locked).rowcount:
                return False
            self.lines.add(connection, batch.id, lines)
        return True

    def fail(
        self, batch: StoredBatch, faults: Iterable[BatchFault], also: InTransaction = _nothing
    ) -> None:
        """End a batch of which no line can be run. `also`: see `finish`."""
        values = {
            "status": "failed",
            "failed_at": self._now(),
            "faults": json.dumps([list(fault) for fault in faults]),
            "identity": None,
        }
        is_validating = and_(BATCHES.c.id == batch.id, BATCHES.c.status == "validating")
        self._jobs.prepare()
        with self._begin() as connection:
            if connection.execute(update(BATCHES).where(is_validating).values(values)).rowcount:
                self.lines.delete(connection, batch.id)
                also(connection)

    def _check_room(self, connection: Connection, owner: str) -> None:
        of_all = select(func.count()).where(BATCHES.c.status.not_in(ENDED))
        for who, most, statement in (
            ("You have", MOST_UNFINISHED, of_all.where(BATCHES.c.owner == owner)),
            ("This proxy has", MOST_UNFINISHED_OF_ALL, of_all),
        ):
            if connection.execute(statement).scalar_one() > most:
                raise InvalidRequest(
                    f"{who} {most} batches that have not ended. Wait for some of them, or cancel "
                    "some.",
                    code="too_many_batches",
                )

    def _is_beyond(self, owner: str, batch_id: str, *, is_newer: bool) -> ColumnElement[bool]:
        """Whether a row is newer or older than a batch. Raises UnknownBatch."""
        statement = select(BATCHES.c.created).where(_is_owners(owner, batch_id))
        with self._begin() as connection:
            created = connection.execute(statement).scalar()
        if created is None:
            raise UnknownBatch(batch_id)
        return follows(BATCHES, created, batch_id, newest_first=not is_newer)

    def _begin(self) -> AbstractContextManager[Connection]:
        return transaction(self._database)


_NOTHING_YET: Mapping[str, Any] = {
    "total": 0,
    "succeeded": 0,
    "unsuccessful": 0,
    "input_tokens": 0,
    "cached_tokens": 0,
    "output_tokens": 0,
    "reasoning_tokens": 0,
    "last_job": 0,
    "result_bytes": 0,
    "faults": "[]",
}


def _is_owners(owner: str, batch_id: str) -> ColumnElement[bool]:
    return and_(BATCHES.c.id == stored_id(batch_id), BATCHES.c.owner == owner)


def _line_job(batch_id: str, owner: str, number: int) -> NewJob:
    return NewJob(
        f"{batch_id}-line-{number}",
        LINE_JOB,
        owner,
        {"batch": batch_id, "line": number},
        group=batch_id,
        priority=_PRIORITY,
    )


def _storable(model: str | None) -> str | None:
    """A model's name as any database accepts it: a client chose it."""
    # No database stores half a surrogate pair, and PostgreSQL stores no NUL.
    return model and model.encode("utf-8", "replace").decode().replace("\0", "?")[:1000]


def _facts(row: Mapping[Any, Any]) -> BatchFacts:
    return BatchFacts(
        row["id"],
        row["endpoint"],
        row["input_file_id"],
        row["status"],
        int(row["created"]),
        int(row["expires"]),
        metadata=json.loads(row["metadata"]) if row["metadata"] else None,
        result_seconds=row["result_seconds"],
        model=row["model"],
        faults=tuple(BatchFault(*fault) for fault in json.loads(row["faults"])),
        times=BatchTimes(**{name: _whole(row[f"{name}_at"]) for name in TIMES}),
        output_file_id=row["output_file_id"],
        error_file_id=row["error_file_id"],
        total=row["total"],
        succeeded=row["succeeded"],
        failed=row["unsuccessful"],
        usage=BatchUsage(
            row["input_tokens"],
            row["cached_tokens"],
            row["output_tokens"],
            row["reasoning_tokens"],
        ),
    )


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
