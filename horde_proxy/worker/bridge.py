"""The loop of a worker: pop a job, let the backend complete it, submit the text.

A bridge serves one backend, with one model or several, to hordes in order. Each of its threads runs
the loop with its own sessions, one job at a time. They share the backend, which must be
thread-safe, and two signals: after `drain` nothing is popped, after `stop` running jobs are given
back.

    pop      under a lock, one thread at a time: the first horde that has a job; none while the
             machine is needed (`idle`) or the backend is down (`health`)
    work     checks the job (`job_rules`), completes it, formats the text
    submit   the text, or "faulted" with a reason

A horde that rejects the worker is left out. When all have, `run` raises the first reason.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import requests

from horde_proxy.aihorde import transcript
from horde_proxy.prompts.tokens import estimate
from horde_proxy.upstreams.sessions import new_session
from horde_proxy.worker.backends import (
    Backend,
    BackendError,
    ChatUnsupported,
    JobRefused,
    Payload,
    ReportsState,
    StreamsChat,
)
from horde_proxy.worker.backends.base import ContextExceeded, StreamsText
from horde_proxy.worker.backends.chats import formatted_transcript, is_chat, tokens_of
from horde_proxy.worker.formatting import formatted, is_formatted
from horde_proxy.worker.growing_job import GrowingJob, Received, in_thread
from horde_proxy.worker.health import BackendHealth
from horde_proxy.worker.horde import (
    HordeConnection,
    Offer,
    Outcome,
    WorkerIdentity,
    WorkerRejected,
)
from horde_proxy.worker.idle import IdleGuard, IdleRules
from horde_proxy.worker.job_rules import JobRules
from horde_proxy.worker.placeholders import fill_payload
from horde_proxy.worker.status import WorkerStatus

_BUSY_SECONDS = 0.25
"""How often a bridge that gives way looks whether it may pop again."""
_STOPPED = Outcome("faulted", reason="the worker is being stopped")
_NEEDED_HERE = Outcome("faulted", reason="the worker's owner needs the machine")

Sessions = Mapping[HordeConnection, requests.Session]
"""The sessions of one thread."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoppedJob:
    """A job with the horde that it came from, and the session to submit it with."""

    horde: HordeConnection
    session: requests.Session
    job: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.job["id"])


class Bridge:
    """Serves one backend's models to hordes until `drain` or `stop` is set.

    `backends` are the models of one server, one for each. Jobs are popped from the first of the
    hordes that has one. `name` is the bridge's in the status.
    """

    def __init__(
        self,
        identities: Sequence[WorkerIdentity],
        backends: Sequence[Backend],
        *,
        stop: threading.Event,
        drain: threading.Event | None = None,
        threads: int = 1,
        rules: JobRules | None = None,
        idle: IdleRules | None = None,
        status: WorkerStatus | None = None,
        new_session: Callable[[], requests.Session] = new_session,
        pause: Callable[[float], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] = in_thread,
    ) -> None:
        # While a pop waits at one horde, no other is asked for jobs.
        is_only = len(identities) == 1
        identities = [i if is_only else replace(i, wait=0.0) for i in identities]
        self._hordes = [HordeConnection(identity, clock) for identity in identities]
        self._clock, self._start = clock, start
        self._backends, self._threads = {backend.name: backend for backend in backends}, threads
        self.name = ", ".join(self._backends)
        self._stop, self._drain = stop, drain or stop
        self._rules, self.status = rules or JobRules(), status or WorkerStatus(clock)
        self._health = BackendHealth(backends, clock)
        server = backends[0] if isinstance(backends[0], ReportsState) else None
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
        if popped is not None:
            self._do(popped)
        if rejection := self._rejection():
            raise rejection
        return pause

    def _work(self) -> None:
        sessions = {horde: horde.with_proxy(self._new_session()) for horde in self._hordes}
        while not self._is_ending():
            with self._popping:
                popped, pause = (None, 0.0) if self._is_ending() else self._pop(sessions)
                if popped is None and pause:
                    self._pause_pops(pause)
            if popped is not None:
                self._do(popped)

    def _is_ending(self) -> bool:
        return self._drain.is_set() or self._stop.is_set() or self._rejection() is not None

    def _rejection(self) -> WorkerRejected | None:
        """Why the worker cannot go on: all hordes reject it."""
        rejections = [horde.rejected for horde in self._hordes]
        return rejections[0] if all(rejections) else None

    def _pop(self, sessions: Sessions) -> tuple[PoppedJob | None, float]:
        """(a job, 0), or (None, seconds to pause)."""
        if pause := self._hold():
            return None, pause
        pauses = []
        for horde in self._hordes:
            if due_in := horde.due_in():
                pauses.append(due_in)
                continue
            job = horde.pop(sessions[horde], self._offer())
            self.status.failing(horde.identity.label, horde.is_failing())
            if job is not None:
                # After a job the first horde comes first again, however little time has passed.
                for other in self._hordes:
                    other.hurry()
                return PoppedJob(horde, sessions[horde], job), 0.0
            pauses.append(math.inf if horde.rejected else horde.pause)
        pause = min(pauses)
        return None, 0.0 if pause == math.inf else pause

    def _hold(self) -> float:
        """Seconds for which nothing is popped, because of the machine or the backend."""
        reason = self.guard.reason
        pause = _BUSY_SECONDS if reason else self._health.rest()
        if pause and not reason:
            reason = "the backend is down" if self._health.is_down else "the backend failed"
        self.status.hold(self.name, reason)
        return pause

    def _offer(self) -> Offer:
        """All models, with the lengths that each of them can do."""
        backends = self._backends.values()
        return Offer(
            models=list(self._backends),
            max_length=min(backend.max_length for backend in backends),
            max_context_length=min(backend.max_context_length for backend in backends),
            threads=self._threads,
            refused_words=self._rules.words,
            extensions=["chat"] if all(map(_can_chat, backends)) else [],
        )

    def _do(self, popped: PoppedJob) -> None:
        model = str(popped.job.get("model") or self.name)
        payload = popped.job.get("payload")
        length = payload.get("max_length") if isinstance(payload, Mapping) else None
        label = popped.horde.identity.label
        running = self.status.begin(
            popped.id,
            label,
            model,
            length if isinstance(length, int) else 0,
            is_chat=isinstance(payload, Mapping) and is_chat(payload),
        )
        self._count(1)
        try:
            outcome = self._outcome(popped)
        finally:
            self._count(-1)
        kudos = popped.horde.submit(
            popped.session, outcome.body(popped.id), self._pause, self._stop.is_set
        )
        self.status.end(running, outcome.state, outcome.tokens, kudos)

    def _outcome(self, popped: PoppedJob) -> Outcome:
        """What becomes of a job. A failure gives it back to the queue at once."""
        aborted = threading.Event()

        def cancelled() -> bool:
            # Once it is aborted it stays so, though the guard may be quiet again by then.
            if self.guard.aborts:
                aborted.set()
            return self._stop.is_set() or aborted.is_set()

        outcome = self._attempt(popped, cancelled)
        # A backend that is cancelled returns an incomplete text, or fails.
        if self._stop.is_set():
            return _STOPPED
        return _NEEDED_HERE if aborted.is_set() else outcome

    def _attempt(self, popped: PoppedJob, cancelled: Callable[[], bool]) -> Outcome:
        job = popped.job
        try:
            self._rules.check(job)
            backend = self._backend_of(job)
        except JobRefused as exc:
            log.warning("job %s is refused: %s", job["id"], exc)
            return Outcome("faulted", reason=exc.reason)
        try:
            payload: Payload = job.get("payload") or {}
            if backend.tags:
                payload = fill_payload(payload, backend.tags)
            text = self._text(popped, backend, payload, cancelled)
            if not is_chat(payload):
                text = formatted(text, payload)
            tokens = tokens_of(text) if is_chat(payload) else estimate(text)
        except ContextExceeded as exc:
            # No other worker could do it, so that the proxy is told at once.
            log.warning("job %s is refused: %s", job["id"], exc)
            return Outcome("ok", transcript.line(finish_reason="length"), exc.reason)
        except ChatUnsupported as exc:
            # The backend has said so in the log, and works all the same.
            return Outcome("faulted", reason=exc.reason)
        except BackendError as exc:
            if not cancelled():
                log.warning("job %s failed: %s", job["id"], exc)
                self._health.failed(exc)
            return Outcome("faulted", reason=exc.reason)
        # A malformed payload must not end the worker.
        except Exception:
            log.exception("job %s failed", job["id"])
            return Outcome("faulted", reason="the worker failed on the job")
        if not cancelled():
            self._health.worked()
        return Outcome("ok", text, tokens=tokens)

    def _text(
        self,
        popped: PoppedJob,
        backend: Backend,
        payload: Payload,
        cancelled: Callable[[], bool],
    ) -> str:
        """The text of a job, which a horde that streams gets as it grows. Raises BackendError."""
        if not popped.horde.streams:
            if is_chat(payload):
                return "".join(_chat_pieces(backend, payload, cancelled))
            return backend.generate(payload, cancelled)

        def send(offset: int, text: str) -> Received:
            return popped.horde.progress(popped.session, popped.id, offset, text)

        growing = GrowingJob(send, is_stopped=cancelled, clock=self._clock, start=self._start)
        return growing.run(lambda is_over: _pieces(backend, payload, is_over))

    def _backend_of(self, job: Mapping[str, Any]) -> Backend:
        """The backend of the job's model. Raises JobRefused."""
        backends = list(self._backends.values())
        # The only one, whatever the horde calls it.
        if len(backends) == 1:
            return backends[0]
        backend = self._backends.get(str(job.get("model")))
        if backend is None:
            raise JobRefused("its model is not offered here", "this worker has no such model")
        return backend

    def _count(self, difference: int) -> None:
        with self._counting:
            self._running += difference


def _pieces(backend: Backend, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
    """The text as it grows; all at once where it cannot be had so, or is to be changed."""
    if is_chat(payload):
        yield from _chat_pieces(backend, payload, cancelled)
    elif isinstance(backend, StreamsText) and not is_formatted(payload):
        yield from backend.stream(payload, cancelled)
    else:
        yield backend.generate(payload, cancelled)


def _chat_pieces(
    backend: Backend, payload: Payload, cancelled: Callable[[], bool]
) -> Iterator[str]:
    """The transcript of a chat, in whole lines. Raises BackendError."""
    if not isinstance(backend, StreamsChat) or not _can_chat(backend):
        raise ChatUnsupported("the backend does not chat", "this worker does not chat")
    lines = backend.chat(payload, cancelled)
    if is_formatted(payload):
        yield formatted_transcript("".join(lines), payload)
    else:
        yield from lines


def _can_chat(backend: Backend) -> bool:
    return isinstance(backend, StreamsChat) and backend.can_chat
