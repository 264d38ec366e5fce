"""The life of a job: it waits for its turn, is submitted, polled, tried again, or cancelled.

    wait for a turn --> submit --> poll ... --> final --> enough? --> Finished
           ^                         |                      |
           '---- a try less <--- failed, or --- too few ----'

All of that from the turn to the end is an attempt (job_attempt.py). Where the worker that has the
job hangs, the attempt gets a second request beside the first, for another worker: the first good
generation counts, and the other request is cancelled. With `routing.hedge`, a job that is only late
gets one as well.

Nothing here knows what kind of job it is. Whoever submits, cancels: closing `items` early cancels
what still runs. Where the caller has a journal, the job is in it: after a restart of the proxy, its
results are read from there, or its request is polled again instead of submitted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic

from horde_proxy.errors import InsufficientKudos, RateLimited, UpstreamFailed
from horde_proxy.upstreams.base import UNREACHABLE, Waiting
from horde_proxy.upstreams.horde.client import NotTaken, RequestLost
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.job_attempt import JobAttempt
from horde_proxy.upstreams.horde.jobs import G, JobSpec
from horde_proxy.upstreams.horde.running_request import Faulted, NotPossible, RunningRequest
from horde_proxy.upstreams.horde.submit_queue import Ticket
from horde_proxy.upstreams.request_journal import JournalEntry

PREFERENCE_PATIENCE = 5.0
"""Seconds that the preferred worker may take to pop the job; then any worker may take it."""
BUSY_PAUSE = 5.0
"""Seconds to pause a key for which the horde has too many jobs, where it does not say how long."""
OUTAGE_PAUSE = 5.0
"""Seconds between two submits of a chat while the horde takes none."""
LONGEST_TURN = 0.3
"""Seconds that one of two requests sleeps: the end of the other is noticed that much later."""
HUNG, LATE = "hung", "late"
"""Why a second request is submitted beside the first: its worker hangs, or it is late and
`routing.hedge` is on."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submitted:
    """A request was accepted by the horde."""

    request_id: str


@dataclass(frozen=True)
class Answered:
    """The request that brought the generations, or the last of several."""

    request_id: str


@dataclass(frozen=True)
class Finished(Generic[G]):
    """A job is done: all of its generations."""

    generations: list[G]


@dataclass(frozen=True)
class Grown:
    """The text of a job's only generation, as far as it has come."""

    text: str


RequestItem = Waiting | Submitted
LifecycleItem = RequestItem | Grown | Answered | Finished[G]


@dataclass(frozen=True)
class _Second:
    """What is submitted beside a request, and why."""

    reason: str
    payload: Mapping[str, Any]


class Lifecycle(Generic[G]):
    """Makes one job. `cost` is added to.

    `generations` are those by now, also when it failed or was closed early.
    """

    def __init__(
        self, horde: HordeContext, job: JobSpec[G], ticket: Ticket, cost: AnswerCost
    ) -> None:
        self._horde, self._job, self._ticket, self._cost = horde, job, ticket, cost
        self.generations: list[G] = []
        self._tries_left = horde.options.retries
        self._preferred = job.preferred_worker()
        self._entry: JournalEntry | None = None
        # The request from before a restart that may still run, until it is taken up.
        self._left_running = ""

    def items(self) -> Generator[LifecycleItem[G], None, None]:
        """Waitings and what was submitted, Answered, and Finished at the end.

        Raises UpstreamFailed when there are too few generations after the last try, and whatever
        the horde refuses.
        """
        self._open_journal()
        while (missing := self._job.n - len(self.generations)) > 0:
            with self._attempt(missing) as attempt:
                yield from self._make(attempt)
            if len(self.generations) > self._job.n - missing and attempt.answering:
                yield Answered(attempt.answering.id)
        self._note_finished()
        yield Finished(self.generations[: self._job.n])

    def _open_journal(self) -> None:
        """Go on from what the journal has of this job."""
        journal, job = self._job.caller.journal, self._job
        if journal is None or not job.journal_key:
            return
        self._entry = entry = journal.open(job.journal_key)
        if entry.max_length:
            job.resume(entry.max_length)
        if entry.results is not None:
            self.generations = [job.read(result) for result in entry.results]
        self._left_running = entry.request_id
        # A horde forgets its requests after a while, which is no failure of this try.
        self._tries_left += bool(entry.request_id)

    def _note_finished(self) -> None:
        results = [generation.source for generation in self.generations[: self._job.n]]
        # Pictures are too large to be kept twice; their request can be read again for a while.
        if self._entry is not None and all(results):
            self._entry.results, self._entry.request_id = results, ""

    @contextmanager
    def _attempt(self, n: int) -> Iterator[JobAttempt[G]]:
        """An attempt, closed at the end. A failure is raised only when no try is left."""
        attempt = JobAttempt(self._horde, self._job, n, self._ticket, self._cost)
        try:
            yield attempt
            # Not so when the preferred worker was given up, which uses up no try.
            if attempt.has_ended:
                self._take(attempt)
        except GeneratorExit:
            # Whoever closes it early may use what is there: the caption without the tags, or the
            # pictures that the horde gives with the cancelling.
            attempt.close()
            self.generations += attempt.generations()[0]
            raise
        except (Faulted, RequestLost) as exc:
            # What a client has read already is continued, by whoever drives this.
            is_final = isinstance(exc, Faulted) and not self._job.kind.retries_faults
            if is_final or not self._tries_left or attempt.has_text:
                raise
            self._note_failure(exc)
        # Workers may have left since the submit; the others may take a smaller job.
        except NotPossible:
            if not self._tries_left or not self._job.adapt_to_workers():
                raise
            self._next_try()
        finally:
            attempt.close()

    def _make(self, attempt: JobAttempt[G]) -> Generator[RequestItem | Grown, None, None]:
        """The items of an attempt. It ends early where the preferred worker is given up."""
        request = attempt.add_request()
        yield from self._begin(request)
        while request.status is None and not self._gives_up_preferred(request):
            second = self._second_one(attempt)
            if second is not None:
                yield from self._with_second(attempt, second)
                return
            # With results that are pushed, the next poll may be long after its worker hangs.
            due = [seconds for seconds in self._late_in(request).values() if seconds > 0]
            yield from self._step(request, min(due, default=math.inf))

    def _step(
        self, request: RunningRequest, longest: float = math.inf
    ) -> Iterator[Waiting | Grown]:
        """What is known of a request, and its text after the next step, where that has grown."""
        # Before the sleep: the first one tells how long it should take.
        yield request.waiting
        length = len(request.text)
        request.step(longest)
        if len(request.text) > length:
            yield self._grown(request)

    def _grown(self, request: RunningRequest) -> Grown:
        if self._entry is not None:
            self._entry.text = request.text
        return Grown(request.text)

    def _begin(self, request: RunningRequest) -> Generator[RequestItem | Grown, None, None]:
        """The items until a request runs: one from before a restart, or a new one."""
        if self._left_running and self._entry is not None:
            request.take_up(self._left_running, self._entry.n, self._entry.text)
            self._left_running = ""
            yield Submitted(request.id)
            if request.text:
                yield Grown(request.text)
        else:
            yield from self._submit(request)

    def _with_second(
        self, attempt: JobAttempt[G], second: _Second
    ) -> Generator[RequestItem | Grown, None, None]:
        """The items of an attempt from the second request on."""
        first, request = attempt.requests[0], attempt.add_request()
        log.info("request %s is %s, and another is tried beside it", first.id, second.reason)
        running = self._job.caller.second
        running.of_jobs += 1
        try:
            yield from attempt.race(_polled(first), self._second(request, second))
        finally:
            running.of_jobs -= 1
        is_hung = first.hangs_in <= 0
        seconds = first.seconds()[1] if first.is_processing else 0.0
        growing = attempt.growing
        if growing is not None and not attempt.is_enough:
            attempt.drop_others(growing)
            if growing is request:
                self._note_submitted(request)
            yield self._grown(growing)
            while growing.status is None:
                yield from self._step(growing)
        if attempt.is_enough and attempt.answering is request:
            self._note_late(first, seconds)
            if is_hung:
                self._note_hung(request)

    def _second(
        self, request: RunningRequest, second: _Second
    ) -> Generator[RequestItem, None, None]:
        """The items of a second request."""
        yield from self._submit(request, second.payload)
        self._cost.retries += 1
        self._cost.hedged += second.reason != HUNG
        self._horde.telemetry.retried(second.reason)
        yield from _polled(request)

    def _late_in(self, request: RunningRequest) -> dict[str, float]:
        """Seconds until another request may be submitted beside this one, by the reason."""
        hedging = self._horde.options.hedging
        # Nobody waits for a job.
        is_off = hedging is None or self._job.caller.is_job
        late = {} if is_off or hedging is None else {LATE: request.late_in(hedging.stall)}
        return {HUNG: request.hangs_in, **late}

    def _second_one(self, attempt: JobAttempt[G]) -> _Second | None:
        """The second request, where one should be submitted now.

        It should when the first one hangs, somebody waits for the answer, the kudos permit it, and
        another worker can take it, soon: where all workers are slow because there is too much to
        do, twice as much would make them slower.
        """
        [first], job = attempt.requests, self._job
        due = [reason for reason, seconds in self._late_in(first).items() if seconds <= 0]
        # A text that grows is another one than that of a second request.
        if not due or first.text or job.caller.is_gone or attempt.is_enough:
            return None
        # It has its second one at another endpoint.
        if job.caller.second.is_of_answer:
            return None
        missing = attempt.n - len(attempt.generations()[0])
        if not self._may_pay_second(missing):
            return None
        # It looks at the workers and the queue of now, by which the estimate is made.
        payload = job.second_payload(missing, is_queued=not first.is_processing)
        is_soon = job.estimate().queue <= (first.waiting.seconds or 0)
        return _Second(due[0], payload) if payload is not None and is_soon else None

    def _may_pay_second(self, n: int) -> bool:
        """Whether all limits of kudos permit n generations more, beside what runs."""
        job, hedging = self._job, self._horde.options.hedging
        price, spent = job.price(n), self._cost.expected
        limits = [job.max_kudos, job.caller.kudos_left(hedging.max_kudos) if hedging else None]
        if any(most is not None and spent + price > most for most in limits):
            return False
        # What runs is held already.
        if job.caller.budget is not None and price > job.caller.budget.left():
            return False
        return self._horde.accounts.can_pay(job.api_key, price, job.upfront(n))

    def _submit(
        self, request: RunningRequest, second: Mapping[str, Any] | None = None
    ) -> Generator[RequestItem, None, None]:
        """Waitings until the request is submitted, and Submitted.

        Smaller, when the kudos do not suffice; but not a `second` one, which is this payload.
        """
        horde, job = self._horde, self._job
        is_outage = False
        while not request.id:
            self._check_price(request.n)
            # Also before the turn, which a request that must not be submitted would wait for.
            horde.penalties.check(job.kind.name, job.api_key)
            turn = self._wait_turn(request.n)
            yield from map(_in_outage, turn) if is_outage else turn
            try:
                request.submit(
                    lambda: dict(second) if second else job.payload(request.n, self._preferred)
                )
            # Nothing was submitted, so that it costs nothing to try again until it is.
            except NotTaken:
                if not job.caller.waits_until(horde.clock() + OUTAGE_PAUSE):
                    raise
                is_outage = True
                yield from request.pause(OUTAGE_PAUSE)
            # The queue keeps within the limits, but others may use the same address or key.
            except RateLimited as exc:
                horde.submit_queue.hold_key(self._ticket, exc.retry_after or BUSY_PAUSE)
            # The balance that we know may be a minute old.
            except InsufficientKudos as exc:
                if second or not job.shrink_to_free(getattr(exc, "limit", None)):
                    raise
                horde.accounts.note_refusal(job.api_key)
        if second is None:
            self._note_submitted(request)
        yield Submitted(request.id)

    def _note_submitted(self, request: RunningRequest) -> None:
        """Keep the id of the request that makes the answer, for after a restart."""
        journal = self._job.caller.journal
        if journal is not None and self._entry is not None:
            journal.submitted(self._entry, request.id, request.n, request.max_length)

    def _wait_turn(self, n: int) -> Generator[Waiting, None, None]:
        """Waitings until n generations may be submitted: their turn, while a client is there."""
        queue, job = self._horde.submit_queue, self._job
        while True:
            yield from job.caller.wait_for_client()
            turn = queue.wait_turn(self._ticket, job.api_key, n, job.caller.sleeper)
            with closing(turn):
                for waiting in turn:
                    yield waiting
                    if job.caller.is_gone:
                        break
                else:
                    return

    def _check_price(self, n: int) -> None:
        """Raises InsufficientKudos when one more request may exceed what the client allows."""
        most = self._job.max_kudos
        if most is not None and self._cost.committed + self._job.price(n) > most:
            raise too_expensive()
        # Another endpoint works on the same answer, which is needed less than the limits are.
        if self._job.caller.is_second and not self._may_pay_second(n):
            raise too_expensive()

    def _gives_up_preferred(self, request: RunningRequest) -> bool:
        """Whether the preferred worker has not popped the job in time."""
        if self._preferred is None or request.is_processing or request.is_out_of_reach:
            return False
        if self._horde.clock() <= request.submitted + PREFERENCE_PATIENCE:
            return False
        self._preferred = None
        return True

    def _take(self, attempt: JobAttempt[G]) -> None:
        """Keep the generations that will do; at the last try all of them. Raises UpstreamFailed."""
        self._learn(attempt)
        good, bad = attempt.generations()
        if attempt.has_text:
            good, bad = [*good, *bad], []
        for generation in bad if self._tries_left else ():
            self._horde.failures.add(generation.worker)
        taken = good[: attempt.n] if self._tries_left else [*good, *bad][: attempt.n]
        self.generations += taken
        for generation in (*taken, *bad):
            self._cost.workers.setdefault(generation.worker, generation.worker_name)
        # Fewer than n may come without a fault: a job of several may be given up.
        if len(self.generations) < self._job.n:
            self._cost.retries += 1
            if not self._tries_left:
                raise UpstreamFailed("The horde's workers failed on some of the choices.")
            self._horde.telemetry.retried("bad_text")
            self._next_try()

    def _learn(self, attempt: JobAttempt[G]) -> None:
        """Add up what the attempt took, and measure who worked on it."""
        first = attempt.requests[0]
        # From the first submit to the end, also where a second request was quicker.
        queued, generating = first.seconds()
        self._cost.queue_seconds += queued
        self._cost.generation_seconds += generating
        self._horde.telemetry.late(first.lateness())
        for request in attempt.requests:
            for result in request.results():
                self._measure(request, self._job.read(result))

    def _measure(self, request: RunningRequest, generation: G) -> None:
        """Count the tokens of a generation, and learn how fast it was."""
        tokens, seconds = self._job.tokens(generation), request.telling_seconds()
        self._cost.tokens += tokens
        for name in (generation.model, generation.worker):
            self._horde.throughput.learn(name, tokens, seconds)
        times_expected = request.times_expected(seconds) if seconds else None
        if times_expected is not None:
            self._horde.throughput.learn_duration(generation.model, times_expected)

    def _note_late(self, first: RunningRequest, seconds: float) -> None:
        """The second request came before the first, which took so many seconds at least.

        Without these, only jobs that are in time would tell what is usual, and more and more of the
        others would seem to be late.
        """
        times_expected = first.times_expected(seconds) if seconds else None
        if times_expected is not None:
            self._horde.throughput.learn_duration(self._job.models[0], times_expected)

    def _note_hung(self, second: RunningRequest) -> None:
        """The first one's worker hangs, as the second request, which was answered, tells."""
        for result in second.results():
            self._job.note_hung(self._job.read(result).worker)

    def _note_failure(self, exc: UpstreamFailed) -> None:
        """Count a failure, of which the job may learn. A lost request is no worker's fault."""
        log.info("a request failed and is sent again: %s", exc)
        self._cost.retries += 1
        is_lost = isinstance(exc, RequestLost)
        self._horde.telemetry.retried("lost" if is_lost else "faulted")
        if not is_lost:
            self._job.note_fault()
        self._next_try()

    def _next_try(self) -> None:
        """Use up a try. The preferred worker is asked first again if it did not fail."""
        self._tries_left -= 1
        self._job.adapt_to_workers()
        self._preferred = self._job.preferred_worker()


def _polled(request: RunningRequest) -> Generator[RequestItem, None, None]:
    """Waitings of one of two submitted requests, which sleep in turn, until it is final."""
    while request.status is None:
        yield request.waiting
        request.step(LONGEST_TURN)


def _in_outage(waiting: Waiting) -> Waiting:
    """The Waiting of a chat that is in line for its next try to reach the horde."""
    return replace(waiting, state=UNREACHABLE)


def too_expensive() -> InsufficientKudos:
    """The error for what would cost more than the client allows."""
    return InsufficientKudos(
        "This would cost more kudos than max_kudos allows. Ask for less, or set it higher.",
        param="horde.max_kudos",
    )
