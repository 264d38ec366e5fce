"""What the jobs of batches do: a step of a batch as a whole, and one of its lines.

    step   validating -> check the input, which makes jobs of the first lines
           cancelling -> stop the lines that run, then end the batch
    line   call the API as the batch's owner -> store the result -> make jobs of the next lines,
           or end the batch after its last one

A line that is refused for now waits for another try, as long as the batch has time; one that has a
result is not called again. Any step may be done twice. How jobs come to a thread is not known here
(store.job_runner).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from horde_proxy.api.internal_call import InternalAnswer, JobIdentity, call
from horde_proxy.api.webhooks import notify
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import Unavailable
from horde_proxy.json_reading import parse_json
from horde_proxy.protocol.batches import (
    LINE_JOB,
    STEP_JOB,
    BatchFault,
    compact_json,
    result_line,
    usage_of,
)
from horde_proxy.store.batch_records import (
    MOST_RESULT_BYTES,
    LineResult,
    StoredBatch,
    StoredLine,
    line_id,
    unanswered_result,
)
from horde_proxy.store.job_runner import JobWork
from horde_proxy.store.taken_job import Later, TakenJob
from horde_proxy.upstreams.request_journal import RequestJournal

if TYPE_CHECKING:
    from flask import Flask

    from horde_proxy.api.context import AppContext
    from horde_proxy.store.batches import InTransaction

_LINE_SECONDS = 1200.0
"""How long an answer to a line may take: as long as a horde keeps a request (20 minutes)."""
_MOST_TRIES = 5
"""Tries of a line that fails by a server's fault. Each of them may be paid for."""
_AFTER_FAULT = 30.0
"""Seconds between these tries: a server that restarts is back by then."""
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 600.0
"""Seconds until a line is tried again that was refused for now. They grow, since a model may have
no worker for hours, and 200 lines of it wait."""
_STOP_SECONDS = 2.0
"""Seconds until a batch that is cancelled looks again whether its lines have stopped."""
_MOST_STOP_LOOKS = 300
"""How often it looks: OpenAI's batches are cancelled within ten minutes."""
_MOST_VALUES = 2_000_000
"""Values of an answer's JSON: embeddings of 400 texts, 80 MB for a moment."""
_LONGEST_TEXT = 10_000
"""Characters of an answer that is no JSON: a page of HTML."""
# The statuses of a server's fault; those of a refusal for now are in internal_call.
_FAULTS = frozenset({500, 502, 504})
_EXPIRED = (
    "batch_expired",
    "This request could not be executed before the completion window expired.",
)
_CANCELLED = "batch_cancelled", "This request was not executed: the batch was cancelled."
_PROXY_FAILED = "server_error", "The proxy failed on this request. See its log for the cause."
_TOO_LARGE = "results_too_large", "The results of this batch have no more room. Split the batch."


def works(app: Flask, context: Callable[[], AppContext]) -> dict[str, JobWork]:
    """How the jobs of batches are done, by kind."""
    return {STEP_JOB: BatchStepWork(app, context), LINE_JOB: BatchLineWork(app, context)}


@contextmanager
def _database_failures() -> Iterator[None]:
    """Within it, a store that fails raises DatabaseError: the runner then tries a job again.

    For clients such a failure is Unavailable; to the runner that would be a fault of ours.
    """
    try:
        yield
    except Unavailable as exc:
        raise DatabaseError(str(exc.__cause__ or exc)) from exc


class _BatchParts:
    """What the jobs of batches need, where there is a database."""

    def __init__(self, ctx: AppContext) -> None:
        assert ctx.store.batches is not None
        assert ctx.store.jobs is not None
        self._ctx = ctx
        self.store, self.jobs, self.now = ctx.store.batches, ctx.store.jobs, ctx.now

    def is_overdue(self, batch: StoredBatch) -> bool:
        """Whether the time of a batch is over."""
        return batch.expires <= self.now()

    def finish(self, batch: StoredBatch, status: str, *reason: str) -> None:
        """End a batch, and send its webhook."""
        self.store.finish(batch, status, *reason, also=self._telling(batch, status))

    def fail(self, batch: StoredBatch, faults: Iterable[BatchFault]) -> None:
        """End a batch of which no line can be run."""
        self.store.fail(batch, faults, also=self._telling(batch, "failed"))

    def check_input(self, batch: StoredBatch, longest_line: int) -> None:
        """Store the lines of a batch. It fails where its input is wrong."""
        self.store.check_input(batch, longest_line, if_failed=self._telling(batch, "failed"))

    def _telling(self, batch: StoredBatch, status: str) -> InTransaction:
        """What tells of an end within its transaction, so that no kill comes between them."""
        return partial(notify, self._ctx, f"batch.{status}", batch.id)

    def expire(self, batch: StoredBatch) -> None:
        """End a batch whose time is over."""
        # Its jobs are cancelled afterwards: until it has ended, one of them must be left.
        self.finish(batch, "expired", *_EXPIRED)
        self.jobs.cancel(group=batch.id)

    def go_on(self, batch: StoredBatch) -> None:
        """Make jobs of the next lines, or end a batch that has none left."""
        if self.store.lines.has_waiting(batch.id):
            self.store.add_line_jobs(batch)
        else:
            self.finish(batch, "completed")


class BatchStepWork:
    """Does what a batch needs as a whole; see store.job_runner.JobWork."""

    def __init__(self, app: Flask, context: Callable[[], AppContext]) -> None:
        self._app, self._context = app, context

    @_database_failures()
    def run(self, job: TakenJob) -> Later | None:
        """Check the input of a batch, or end it. Later: lines of it still run."""
        batches = _BatchParts(self._context())
        batch = batches.store.unfinished(job.details["batch"])
        if batch is None:
            return None
        if batch.status == "cancelling":
            return _cancel(batches, batch, job.attempts)
        if batches.is_overdue(batch):
            batches.expire(batch)
        elif batch.status == "validating":
            # A line is the body of a request, which may be as long as any other.
            batches.check_input(batch, self._app.config["MAX_CONTENT_LENGTH"])
        else:
            batches.go_on(batch)
        return None

    @_database_failures()
    def give_up(self, job: TakenJob) -> None:
        """End a batch that the proxy cannot go on with."""
        batches = _BatchParts(self._context())
        batch = batches.store.unfinished(job.details["batch"])
        if batch is None:
            return
        batches.jobs.cancel(group=batch.id)
        if batch.status == "validating":
            batches.fail(batch, [BatchFault(*_PROXY_FAILED)])
        else:
            status = "cancelled" if batch.status == "cancelling" else "completed"
            batches.finish(batch, status, *_PROXY_FAILED)


def _cancel(batches: _BatchParts, batch: StoredBatch, looks: int) -> Later | None:
    """Stop the lines of a batch, and end it when none runs any more."""
    batches.jobs.cancel(group=batch.id)
    if batches.jobs.count(batch.id) and looks < _MOST_STOP_LOOKS:
        return Later(_STOP_SECONDS)
    batches.finish(batch, "cancelled", *_CANCELLED)
    return None


class BatchLineWork:
    """Answers the lines of batches; see store.job_runner.JobWork."""

    def __init__(self, app: Flask, context: Callable[[], AppContext]) -> None:
        self._app, self._context = app, context

    @_database_failures()
    def run(self, job: TakenJob) -> Later | None:
        """Answer a line that has no answer yet, and go on with its batch. Later: not yet."""
        batches = _BatchParts(self._context())
        batch = batches.store.unfinished(job.details["batch"])
        # It has ended, or the step that cancels it will end it.
        if batch is None or batch.status == "cancelling":
            return None
        if batches.is_overdue(batch):
            batches.expire(batch)
            return None
        line = batches.store.lines.get(batch.id, job.details["line"])
        if line is not None and batch.status == "in_progress":
            outcome = self._outcome(job, batch, line)
            if isinstance(outcome, Later):
                return outcome
            if job.is_handed_over or job.is_cancelled:
                return None
            batches.store.end_line(batch.id, line.number, outcome)
        batches.go_on(batch)
        return None

    @_database_failures()
    def give_up(self, job: TakenJob) -> None:
        """Store that a line failed by a fault of the proxy."""
        batches = _BatchParts(self._context())
        batch = batches.store.unfinished(job.details["batch"])
        if batch is None or batch.status != "in_progress":
            return
        line = batches.store.lines.get(batch.id, job.details["line"])
        if line is not None:
            batches.store.end_line(
                batch.id, line.number, unanswered_result(batch.id, line, *_PROXY_FAILED)
            )
        batches.go_on(batch)

    def _outcome(self, job: TakenJob, batch: StoredBatch, line: StoredLine) -> LineResult | Later:
        if batch.result_bytes >= MOST_RESULT_BYTES:
            return unanswered_result(batch.id, line, *_TOO_LARGE)
        answer = self._answer(job, batch, line)
        pause = _pause_after(answer, job.attempts)
        if pause is None:
            return _result(batch, line, answer)
        if not job.is_handed_over:
            # The next try asks anew: what this one had submitted was cancelled.
            job.save_journal(RequestJournal().as_json())
        return Later(pause)

    def _answer(self, job: TakenJob, batch: StoredBatch, line: StoredLine) -> InternalAnswer:
        def keep() -> None:
            # Where another process has the job by now, this call is stopped by the runner.
            job.save_journal(journal.as_json())

        journal = RequestJournal(on_submit=keep, is_left_running=lambda: job.is_handed_over)
        if job.journal is not None:
            journal.read(job.journal)
        identity = JobIdentity(
            job.id,
            **batch.identity,
            seconds=min(_LINE_SECONDS, batch.expires - self._context().now()),
            # Each line counts once against its key's requests of a minute.
            is_new=job.journal is None,
            journal=journal,
            control=job.control,
        )
        return call(self._app, identity, batch.endpoint, line.body)


def _pause_after(answer: InternalAnswer, tries: int) -> float | None:
    """Seconds until a line is worth another try; None for an answer that stays."""
    wait = answer.retry_after
    if wait is None:
        is_fault = answer.status in _FAULTS and tries + 1 < _MOST_TRIES
        return _AFTER_FAULT if is_fault else None
    is_limit = answer.status == 429
    if answer.headers.get("x-should-retry") == "false" and not is_limit:
        return None
    # A limit of calls at once ends with the next answer; a model may be gone for hours.
    growing = min(_FIRST_PAUSE * 2.0 ** min(tries, 10), 60.0 if is_limit else _LONGEST_PAUSE)
    return min(max(wait, growing), _LONGEST_PAUSE)


def _result(batch: StoredBatch, line: StoredLine, answer: InternalAnswer) -> LineResult:
    """The line of a result file for an answer."""
    body = _parsed(answer.body)
    has_succeeded = answer.status == 200 and isinstance(body, Mapping)
    request_id = answer.headers.get("X-Request-Id", "")
    name = line_id(batch.id, line.number)
    content = result_line(name, line.custom_id, answer.status, request_id, body)
    return LineResult(compact_json(content), has_succeeded, usage_of(body))


def _parsed(body: bytes) -> Any:
    """The JSON of an answer; its text where a server sent something else."""
    try:
        return parse_json(body, _MOST_VALUES)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")[:_LONGEST_TEXT]
