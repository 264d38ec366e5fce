"""The loop of a worker: pop jobs, let the backend do them, submit what comes.

A bridge serves one backend to hordes in order. Each of its threads runs the loop with its own
sessions, one job at a time. They share the backend, which must be thread-safe, and two signals:
after `drain` nothing is popped, after `stop` running jobs are given back.

    pop      under a lock, one thread at a time: the first horde that has a job; none while the
             machine is needed (`idle`) or the backend is down (`health`)
    work     what is particular to texts, images or alchemy (`kinds`): checks the job and does it
    submit   the result, or "faulted" with a reason

A horde that rejects the worker is left out. When all have, `run` raises the first reason.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import requests

from horde_proxy.upstreams.sessions import new_session
from horde_proxy.worker.backends import BackendError, JobRefused, ReportsState
from horde_proxy.worker.health import BackendHealth
from horde_proxy.worker.horde import HordeConnection, Outcome, WorkerIdentity, WorkerRejected
from horde_proxy.worker.idle import IdleGuard, IdleRules
from horde_proxy.worker.kinds import PoppedJob, WorkerKind
from horde_proxy.worker.status import WorkerStatus

_BUSY_SECONDS = 0.25
"""How often a bridge that gives way looks whether it may pop again."""
_STOPPED = Outcome("faulted", reason="the worker is being stopped")
_NEEDED_HERE = Outcome("faulted", reason="the worker's owner needs the machine")

Sessions = Mapping[HordeConnection, requests.Session]
"""The sessions of one thread."""

log = logging.getLogger(__name__)


class Bridge:
    """Serves hordes with one backend until `drain` or `stop` is set.

    `kind` does the jobs; they are popped from the first of the hordes that has one. `name` is the
    bridge's in the status.
    """

    def __init__(
        self,
        identities: Sequence[WorkerIdentity],
        kind: WorkerKind,
        *,
        stop: threading.Event,
        drain: threading.Event | None = None,
        threads: int = 1,
        idle: IdleRules | None = None,
        status: WorkerStatus | None = None,
        new_session: Callable[[], requests.Session] = new_session,
        pause: Callable[[float], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # While a pop waits at one horde, no other is asked for jobs.
        is_only = len(identities) == 1
        identities = [i if is_only else replace(i, wait=0.0) for i in identities]
        self._hordes = [HordeConnection(identity, clock, kind.path) for identity in identities]
        self._kind, self._threads, self.name = kind, threads, kind.name
        self._stop, self._drain = stop, drain or stop
        self.status = status or WorkerStatus(clock)
        self._health = BackendHealth(kind.server, clock)
        server = kind.server if isinstance(kind.server, ReportsState) else None
        self.guard = IdleGuard(idle or IdleRules(), server, lambda: self._running, clock=clock)
        self._new_session = new_session
        # An idle thread must wake up for the drain; one that submits goes on until the stop.
        self._pause_pops, self._pause = pause or self._drain.wait, pause or stop.wait
        # Held by the one thread that pops, until it has a job; the other idle threads wait for it.
        # Fifty that pop would keep a processor busy. It guards nothing, so I/O and pauses happen
        # under it.
        self._popping = threading.Lock()
        # Guards the number of running jobs. No I/O happens under it.
        self._counting = threading.Lock()
        self._running = 0

    def run(self) -> None:
        """Work in all threads until the worker is to end. Raises WorkerRejected."""
        self.guard.run(self._stop)
        threads = [
            # What a backend that does not end must not keep: the process.
            threading.Thread(target=self._work, name=f"job-{number}", daemon=True)
            for number in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if rejection := self._rejection():
            raise rejection

    def step(self, session: requests.Session) -> float:
        """Do at most one job, even if hordes or the backend are to be left alone.

        The seconds to pause before the next pop; raises WorkerRejected.
        """
        for horde in self._hordes:
            horde.hurry(even_if_failing=True)
        self._health.hurry()
        popped, pause = self._pop(dict.fromkeys(self._hordes, session))
        self._do(popped)
        if rejection := self._rejection():
            raise rejection
        return pause

    def _work(self) -> None:
        sessions = {horde: horde.with_proxy(self._new_session()) for horde in self._hordes}
        while not self._is_ending():
            with self._popping:
                popped, pause = ([], 0.0) if self._is_ending() else self._pop(sessions)
                if not popped and pause:
                    self._pause_pops(pause)
            self._do(popped)

    def _is_ending(self) -> bool:
        return self._drain.is_set() or self._stop.is_set() or self._rejection() is not None

    def _rejection(self) -> WorkerRejected | None:
        """Why the worker cannot go on: all hordes reject it."""
        rejections = [horde.rejected for horde in self._hordes]
        return rejections[0] if all(rejections) else None

    def _pop(self, sessions: Sessions) -> tuple[list[PoppedJob], float]:
        """(jobs of one horde, 0), or (none, seconds to pause)."""
        if pause := self._hold():
            return [], pause
        pauses = []
        for horde in self._hordes:
            if due_in := horde.due_in():
                pauses.append(due_in)
                continue
            jobs = horde.pop(sessions[horde], self._kind.offer(self._threads))
            self.status.failing(horde.identity.label, horde.is_failing())
            if jobs:
                # After a job the first horde comes first again, however little time has passed.
                for other in self._hordes:
                    other.hurry()
                return [PoppedJob(horde, sessions[horde], job) for job in jobs], 0.0
            pauses.append(math.inf if horde.rejected else horde.pause)
        pause = min(pauses)
        return [], 0.0 if pause == math.inf else pause

    def _hold(self) -> float:
        """Seconds for which nothing is popped, because of the machine or the backend."""
        reason = self.guard.reason
        pause = _BUSY_SECONDS if reason else self._health.rest()
        if pause and not reason:
            reason = "the backend is down" if self._health.is_down else "the backend failed"
        self.status.hold(self.name, reason)
        return pause

    def _do(self, jobs: Sequence[PoppedJob]) -> None:
        """Do the jobs of one pop, one after another, each with a submit of its own."""
        for popped in jobs:
            summary, label = self._kind.summary(popped.job), popped.horde.identity.label
            running = self.status.begin(popped.id, label, summary)
            self._count(1)
            try:
                outcome = self._outcome(popped)
            finally:
                self._count(-1)
            body = self._kind.body(popped.id, outcome)
            kudos = popped.horde.submit(popped.session, body, self._pause, self._stop.is_set)
            self.status.end(running, outcome.state, outcome.tokens, kudos)

    def _outcome(self, popped: PoppedJob) -> Outcome:
        """What becomes of a job. A failure gives it back to the queue at once."""
        aborted = threading.Event()

        def cancelled() -> bool:
            # Once it is aborted it stays so, though the guard may be quiet again by then.
            if self.guard.aborts:
                aborted.set()
            return self._stop.is_set() or aborted.is_set()

        # Others of a batch were popped with it, and may have taken until now.
        outcome = _STOPPED if cancelled() else self._attempt(popped, cancelled)
        # A backend that is cancelled returns an incomplete text, or fails.
        if self._stop.is_set():
            return _STOPPED
        return _NEEDED_HERE if aborted.is_set() else outcome

    def _attempt(self, popped: PoppedJob, cancelled: Callable[[], bool]) -> Outcome:
        try:
            return self._checked_and_done(popped, cancelled)
        # A malformed job must not end the worker.
        except Exception:
            log.exception("job %s failed", popped.id)
            return Outcome("faulted", reason="the worker failed on the job")

    def _checked_and_done(self, popped: PoppedJob, cancelled: Callable[[], bool]) -> Outcome:
        try:
            self._kind.check(popped.job)
        except JobRefused as exc:
            log.warning("job %s is refused: %s", popped.id, exc)
            return Outcome("faulted", reason=exc.reason)
        try:
            outcome = self._kind.work(popped, cancelled)
        except BackendError as exc:
            if not cancelled():
                log.warning("job %s failed: %s", popped.id, exc)
                self._health.failed(exc)
            return Outcome("faulted", reason=exc.reason)
        if not cancelled() and not outcome.reason:
            self._health.worked()
        return outcome

    def _count(self, difference: int) -> None:
        with self._counting:
            self._running += difference
