"""Does the stored jobs: so many at a time, each in a thread of its own.

    loop thread   step: renew leases -> stop what was cancelled or lost -> claim -> start
                    ^ wake(): a job was added, or one has ended
    job threads   work.run(job) -> done: removed | Later: put back | handed over: put back at once

A job that is stopped because the proxy ends, or because its lease was lost, is handed over: what
it has submitted goes on running, for whoever takes the job next. How a job is done is not known
here; each kind has its JobWork.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

from horde_proxy.caching.background import in_background
from horde_proxy.caching.lazy_thread import LazyThread
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import ClientGone, ShuttingDown
from horde_proxy.store.taken_job import Later, TakenJob

if TYPE_CHECKING:
    from horde_proxy.store.jobs import JobStore

_INTERVAL = 5.0
"""Seconds between two looks at the table: a cancelled job of another process ends that late."""
_AFTER_FAILURE = 15.0
"""Seconds until another try of a job that failed by a fault of ours."""
_MOST_FAULTS = 5
_STOP_SECONDS = 3.0
"""How long a stop waits for the jobs to be handed over; later their leases end by themselves."""

log = logging.getLogger(__name__)


class JobWork(Protocol):
    """How the jobs of one kind are done. Its methods are called in the job's own thread."""

    def run(self, job: TakenJob) -> Later | None:
        """Do the job, and keep its result. Later: it is to be tried again.

        It may have been done already, by a process that was killed before it could say so. What
        comes back is ignored where `job.is_handed_over` or `job.is_cancelled` has become true.
        """

    def give_up(self, job: TakenJob) -> None:
        """Keep that the job failed, after too many attempts that ended in a fault of ours."""


class JobRunner:
    """Does the jobs of `store()`, which is None where nothing is kept. `works` are by kind.

    `places` is how many jobs are done at a time in this process. `start` begins a call in a
    thread, `start_loop` the loop. `is_stopping` is whether the proxy ends. `at_each_look` is called
    where there is a database, and must be quick. Tests call `step`.
    """

    def __init__(
        self,
        store: Callable[[], JobStore | None],
        works: Mapping[str, JobWork],
        *,
        places: int,
        start: Callable[[Callable[[], None]], None] = in_background,
        start_loop: Callable[[Callable[[], None]], None] = in_background,
        is_stopping: Callable[[], bool] = lambda: False,
        at_each_look: Callable[[], None] = lambda: None,
    ) -> None:
        self._current_store, self._works, self.places = store, dict(works), places
        self._start, self._is_stopping, self._at_each_look = start, is_stopping, at_each_look
        self._thread = LazyThread(self._loop, start_loop)
        self._process = uuid.uuid4().hex
        # Guards `_running`. No I/O happens under it.
        self._lock = threading.Lock()
        self._running: dict[str, TakenJob] = {}
        self._news = threading.Event()

    def ensure_started(self) -> None:
        """Start the loop, unless it runs: in the process that serves, not in its parent."""
        self._thread.ensure_started()

    def wake(self) -> None:
        """Look at the table now: a job was added."""
        self._news.set()
        self.ensure_started()

    def step(self) -> int:
        """One look at the table. How many jobs were begun."""
        store = self._current_store()
        if store is None or self._is_stopping() or not store.exists:
            return 0
        self._renew(store)
        self._at_each_look()
        with self._lock:
            free = self.places - len(self._running)
        claimed = store.claim(self._process, free)
        return sum(self._admit(store, job) for job in claimed)

    def _admit(self, store: JobStore, job: TakenJob) -> bool:
        """Begin a job. False where a thread of this process still does it, which lost its lease.

        That thread would take the new lease for its own.
        """
        with self._lock:
            is_free = job.id not in self._running
            if is_free:
                self._running[job.id] = job
        if is_free:
            self._begin(store, job)
        else:
            store.put_back(self._process, job.id, _AFTER_FAILURE, is_attempt=False)
        return is_free

    def stop_cancelled(self, job_id: str) -> None:
        """End a job of this process at once, which was cancelled in the table."""
        with self._lock:
            job = self._running.get(job_id)
        if job is not None:
            self._cancel(job)

    def hand_over(self) -> None:
        """Give all jobs back: the proxy ends. It waits a moment for them."""
        with self._lock:
            jobs = [*self._running.values()]
        for job in jobs:
            job.is_handed_over = True
            job.control.stop(ShuttingDown())
        self._news.set()
        ended = threading.Event()
        for _ in range(int(_STOP_SECONDS * 10)):
            with self._lock:
                if not self._running:
                    return
            ended.wait(0.1)

    def _loop(self) -> None:
        while not self._is_stopping():
            self._news.clear()
            try:
                self.step()
            except DatabaseError as exc:
                log.warning("jobs cannot be looked for now: %s", exc)
            # The last guard: without this thread no job would ever be done again.
            except Exception:
                log.exception("the look for jobs failed")
            self._news.wait(_INTERVAL)
        # The leases are renewed no more, while chats may still have a minute to end.
        self.hand_over()

    def _renew(self, store: JobStore) -> None:
        """Renew the leases, and stop what is not ours any more, or was cancelled."""
        with self._lock:
            jobs = {**self._running}
        if not jobs:
            return
        renewed = store.renew(self._process, list(jobs))
        for job in jobs.values():
            if job.id not in renewed:
                job.is_handed_over = True
                job.control.stop(ShuttingDown())
            elif renewed[job.id]:
                self._cancel(job)

    def _cancel(self, job: TakenJob) -> None:
        job.is_cancelled = True
        job.control.stop(ClientGone())

    def _begin(self, store: JobStore, job: TakenJob) -> None:
        try:
            self._start(partial(self._do, store, job))
        except RuntimeError:
            # "can't start new thread": somebody else may have one.
            with self._lock:
                self._running.pop(job.id, None)
            store.put_back(self._process, job.id, _AFTER_FAILURE, is_attempt=False)

    def _do(self, store: JobStore, job: TakenJob) -> None:
        """Do a job in its own thread, and give it back."""
        try:
            self._settle(store, job, self._outcome(job))
        except DatabaseError as exc:
            # Its lease ends by itself, and then it is done again, or found to be done.
            log.warning("job %s cannot be settled now: %s", job.id, exc)
        finally:
            with self._lock:
                self._running.pop(job.id, None)
            self._news.set()

    def _outcome(self, job: TakenJob) -> Later | None:
        if job.is_cancelled:
            return None
        work = self._works.get(job.kind)
        if work is None:
            # A newer release of this program, on another host, knows it.
            return Later(_AFTER_FAILURE)
        try:
            return work.run(job)
        except DatabaseError as exc:
            log.warning("job %s failed by its database and is tried again: %s", job.id, exc)
        # The last guard: one job's fault must not stop the others.
        except Exception:
            log.exception("job %s failed", job.id)
            if job.attempts + 1 >= _MOST_FAULTS and not job.is_handed_over:
                work.give_up(job)
                return None
        return Later(_AFTER_FAILURE)

    def _settle(self, store: JobStore, job: TakenJob, outcome: Later | None) -> None:
        if job.is_handed_over:
            store.put_back(self._process, job.id, 0.0, is_attempt=False)
        elif isinstance(outcome, Later) and not job.is_cancelled:
            store.put_back(self._process, job.id, outcome.seconds, is_attempt=True)
        else:
            store.remove(self._process, job.id)
