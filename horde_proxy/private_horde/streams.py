"""What this horde can do beyond AI-Horde's API: texts that grow, and pops that wait for a job.

    worker: progress --> growing_texts (memory), continuation (store, once a second),
                         shared_texts (other processes)
    client: stream ----> text_stream over growing_texts and the store

A plain client or worker sees nothing of it. The protocol is in docs/private-horde.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from horde_proxy.aihorde.transcript import BadTranscript
from horde_proxy.private_horde import accounts, chats, continuation, queue, responses, schema
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.growing_texts import GrowingTexts, TooManyStreams
from horde_proxy.private_horde.matching import CHAT
from horde_proxy.private_horde.operation import Begin, Operation
from horde_proxy.private_horde.records import TEXT, GrowingText, HordeRequest, Job, StoredGeneration
from horde_proxy.private_horde.shared_texts import SharedTexts
from horde_proxy.private_horde.signals import QUEUE, Signals, request_topic
from horde_proxy.private_horde.text_stream import RequestState, StreamEvent, TextStream

STREAM, WAIT = "stream", "wait"
"""The names of two extensions: texts that grow, and pops that wait. The third is CHAT."""
_LONGEST_WAIT = 30.0
"""Seconds that a pop may wait for a job: proxies on the way give an answer up after 60."""
_MOST_WAITING = 32
"""Pops that may wait at a time, each with a thread of the server. Others are answered at once."""
_LOOK_SECONDS = 2.0
"""How often a waiting pop looks for a job without a signal, which may be lost."""
_LONGEST_TEXT = 1_000_000
"""Characters of a text that grows, which is kept in memory: 60 times what 4,096 tokens make."""
_LONGEST_TRANSCRIPT = 4_000_000
"""The same for a chat: a token's line has 30 to 80 characters, with ten log-probabilities 900."""
_TOO_MANY_STREAMS = "There are too many streams. Poll the request's status instead."

Body = dict[str, Any]


@dataclass(frozen=True)
class StreamRules:
    """The extensions that a horde offers. `sleep` replaces waiting for texts and jobs, for tests.

    At most `most_streams` are open at a time.
    """

    extensions: tuple[str, ...] = (STREAM, WAIT, CHAT)
    sleep: Callable[[float], object] | None = None
    most_streams: int = 1000


class RequestOutlook(TypedDict):
    """The place of a request in the queue, its wait (s), and whether a worker can take it."""

    position: int
    wait_time: int
    possible: bool


def outlook(op: Operation, request: HordeRequest, jobs: Iterable[Job]) -> RequestOutlook:
    """When a request, with these jobs, may expect a worker and its result."""
    running = [job for job in jobs if job.state == "processing"]
    return {
        "position": op.view.position(request),
        "wait_time": op.view.wait_time(request, running, op.now),
        "possible": op.view.any_fits(request),
    }


class Streams:
    """The extension's routes. Thread-safe. `clock` counts seconds; `is_shared` is the store's.

    `shared` are the texts of other processes, None where nothing of them comes.
    """

    def __init__(
        self,
        begin: tuple[Begin, Begin],
        texts: GrowingTexts,
        signals: Signals,
        rules: StreamRules,
        *,
        clock: Callable[[], float],
        is_shared: bool,
        shared: SharedTexts | None = None,
    ) -> None:
        self.extensions = rules.extensions
        self._changing, self._reading = begin
        self._texts, self._signals, self._sleep = texts, signals, rules.sleep
        self._clock, self._is_shared, self._shared = clock, is_shared, shared
        self._may_wait = threading.BoundedSemaphore(_MOST_WAITING)

    # The routes for workers.

    def pop(self, pop: Callable[[], Body], wait: float) -> Body:
        """The answer of `pop` with a job, or the last one after so many seconds without."""
        answer = self._pop_at_once(pop)
        if answer["id"] or wait <= 0 or WAIT not in self.extensions:
            return answer
        if not self._may_wait.acquire(blocking=False):
            return answer
        try:
            return self._pop_later(pop, min(wait, _LONGEST_WAIT))
        finally:
            self._may_wait.release()

    def _pop_at_once(self, pop: Callable[[], Body]) -> Body:
        answer = pop()
        if answer["id"] and self._shared is not None:
            self._shared.expect()
        return answer

    def _pop_later(self, pop: Callable[[], Body], seconds: float) -> Body:
        until = self._clock() + seconds
        with self._signals.listen(QUEUE) as listener:
            while True:
                # Once more, now that a signal is not missed.
                answer = self._pop_at_once(pop)
                left = until - self._clock()
                if answer["id"] or left <= 0:
                    return answer
                (self._sleep or listener.wait)(min(left, _LOOK_SECONDS))

    def progress(self, api_key: str | None, body: Any) -> Body:
        """POST generate/text/progress: {"cancelled", "offset"} for the text of a running job.

        `offset` is where the worker goes on: the characters that the horde has. A job is cancelled
        when its text is not needed any more. Raises InvalidJobID, WrongCredentials, and BadRequest
        for a text that is too long, or a line of a chat that cannot be read.
        """
        fields = schema.read(schema.PROGRESS, body)
        with self._reading() as op:
            job, is_chat = self._running_job(op, api_key or "", fields["id"])
            now = op.now
        if job is None:
            return {"cancelled": True, "offset": fields["offset"]}
        position, text = job.begun + fields["offset"], fields["text"]
        most = _LONGEST_TRANSCRIPT if is_chat else _LONGEST_TEXT
        if position + len(text) > most:
            reason = f"A text that grows has at most {most:,} characters."
            raise refusal("BadRequest", reason=reason)
        if is_chat:
            position, text = self._new_lines(job, position, text)
        before = len(self._texts.text(job.request_id, job.slot))
        known = self._texts.extend(job.request_id, job.slot, position, text)
        if self._shared is not None:
            new = text[max(before - position, 0) :] if known > before else ""
            self._shared.extended(job.request_id, job.slot, before, new)
        text = self._texts.take_unsaved(job.request_id, job.slot, now)
        if text is not None:
            with self._changing() as op:
                continuation.save(op, job.id, text)
        return {"cancelled": False, "offset": max(known - job.begun, 0)}

    def _new_lines(self, job: Job, position: int, text: str) -> tuple[int, str]:
        """(position, text) of the whole lines in a piece of a chat that are not known yet.

        Raises BadRequest for one that cannot be read: another worker could not go on after it.
        """
        known = self._texts.text(job.request_id, job.slot)
        skipped = max(len(known) - position, 0)
        try:
            return position + skipped, chats.new_lines(known, text[skipped:])
        except BadTranscript as exc:
            raise refusal("BadRequest", reason=str(exc)) from exc

    def _running_job(self, op: Operation, api_key: str, job_id: str) -> tuple[Job | None, bool]:
        """(a job of the account that somebody still waits for, whether it is a chat's).

        None in place of the job if nobody waits for it.
        """
        account = accounts.require(op, api_key)
        job = queue.find_job(op, job_id)
        if job.owner_id != account.id:
            raise refusal("WrongCredentials")
        request = op.tx.get(HordeRequest, job.request_id)
        if request is None or request.forgotten or job.state != "processing":
            return None, False
        # The worker before it may have talked to this process, or to another one.
        if self._texts.writer(request.id, job.slot) != job.id:
            begun = continuation.begun_text(op, request, job.slot)
            self._texts.take_over(request.id, job.slot, job.id, begun)
        return job, request.is_chat

    # The route for clients.

    def stream(
        self, request_id: str, sent: Mapping[int, int], keep_alive: float
    ) -> Iterator[StreamEvent | None]:
        """GET generate/text/stream/{id}: the events of a request; None to keep it alive.

        `sent`: the characters that the client has, by result. Raises RequestNotFound at once.
        """
        request_id = request_id.lower()
        self._state(request_id)
        return self._events(request_id, dict(sent), keep_alive)

    def _events(
        self, request_id: str, sent: dict[int, int], keep_alive: float
    ) -> Iterator[StreamEvent | None]:
        try:
            with (
                self._signals.listen(request_topic(request_id)),
                self._texts.watching(request_id) as watch,
            ):
                yield from TextStream(
                    lambda: self._shared_state(request_id),
                    watch,
                    clock=self._clock,
                    keep_alive=keep_alive,
                    is_shared=self._is_shared,
                    sent=sent,
                ).events()
        except TooManyStreams:
            yield StreamEvent("error", {"message": _TOO_MANY_STREAMS})

    def _shared_state(self, request_id: str) -> RequestState:
        """As `_state`, for a reader: other processes send it what they know beyond that."""
        state = self._state(request_id)
        if self._shared is not None and not state.is_settled:
            self._shared.watch(request_id, state.texts)
        return state

    def _state(self, request_id: str) -> RequestState:
        """What a stream shows of a request. Raises RequestNotFound."""
        with self._reading() as op:
            request = queue.find(op, request_id, TEXT)
            has_jobs = request.processing or request.finished
            jobs = op.tx.find(Job, request_id=request.id) if has_jobs else []
            slots = {job.id: job.slot for job in jobs}
            done = op.tx.find(StoredGeneration, request_id=request.id) if request.finished else []
            saved = op.tx.find(GrowingText, request_id=request.id) if self._is_shared else []
            return RequestState(
                responses.progress(request, **outlook(op, request, jobs)),
                {slots.get(result.job_id, 0): responses.generation(result) for result in done},
                {slots.get(result.job_id, 0): result.text for result in done},
                {text.slot: text.text for text in saved},
                request.settled,
            )
