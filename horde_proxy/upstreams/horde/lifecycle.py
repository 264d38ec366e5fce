"""The life of a job: it waits for its turn, is submitted, polled, tried again, or cancelled.

    wait for a turn --> submit --> poll ... --> final --> enough? --> Finished
           ^                         |                      |
           '---- a try less <--- failed, or --- too few ----'

All of that from the turn to the end is an attempt (job_attempt.py). Where the worker that has the
job hangs, the attempt gets a second request beside the first, for another worker: the first good
generation counts, and the other request is cancelled.

Nothing here knows what kind of job it is. Whoever submits, cancels: closing `items` early cancels
what still runs.
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

PREFERENCE_PATIENCE = 5.0
"""Seconds that the preferred worker may take to pop the job; then any worker may take it."""
BUSY_PAUSE = 5.0
"""Seconds to pause a key for which the horde has too many jobs, where it does not say how long."""
OUTAGE_PAUSE = 5.0
"""Seconds between two submits of a chat while the horde takes none."""
LONGEST_TURN = 0.3
"""Seconds that one of two requests sleeps: the end of the other is noticed that much later."""
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


class Lifecycle(Generic[G]):
    """Makes one job. `cost` is added to.

    `generations` are those by now, also when it failed or was closed early.
    """

    def __init__(
        self, horde: HordeContext, job: JobSpec[G], ticket: Ticket, cost: AnswerCost
    ) -> None:
        self._horde, self._job, self._ticket, self._cost = horde, job, ticket, cost
        self.generations: list[G] = []
        self._tries_left = horde.retries
        self._preferred = job.preferred_worker()

    def items(self) -> Generator[LifecycleItem[G], None, None]:
        """Waitings and what was submitted, Answered, and Finished at the end.

        Raises UpstreamFailed when there are too few generations after the last try, and whatever
        the horde refuses.
        """
        while (missing := self._job.n - len(self.generations)) > 0:
            with self._attempt(missing) as attempt:
                yield from self._make(attempt)
            if len(self.generations) > self._job.n - missing and attempt.answering:
                yield Answered(attempt.answering.id)
        yield Finished(self.generations[: self._job.n])

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
        yield from self._submit(request)
        while request.status is None and not self._gives_up_preferred(request):
            second = self._second_payload(attempt)
            if second is not None:
                yield from self._with_second(attempt, second)
                return
            # Before the sleep: the first one tells how long it should take.
            yield request.waiting
            # With results that are pushed, the next poll may be long after its worker hangs.
            length = len(request.text)
            request.step(request.hangs_in if request.hangs_in > 0 else math.inf)
            if len(request.text) > length:
                yield Grown(request.text)

    def _with_second(
        self, attempt: JobAttempt[G], payload: Mapping[str, Any]
    ) -> Generator[RequestItem, None, None]:
        """The items of an attempt from the second request on."""
        first, second = attempt.requests[0], attempt.add_request()
        hung_seconds = first.seconds()[1]
        log.info("the worker of request %s hangs, and another is tried beside it", first.id)
        yield from attempt.race(_polled(first), self._second(second, payload))
        if attempt.is_enough and attempt.answering is second:
            self._note_hung(first, second, hung_seconds)

    def _second(
        self, request: RunningRequest, payload: Mapping[str, Any]
    ) -> Generator[RequestItem, None, None]:
        """The items of a second request."""
        yield from self._submit(request, payload)
        self._cost.retries += 1
        self._horde.telemetry.retried("hung")
        yield from _polled(request)

    def _second_payload(self, attempt: JobAttempt[G]) -> Mapping[str, Any] | None:
        """The body of a second request, where one should be submitted now.

        It should when the first one hangs, somebody waits for the answer, the kudos permit it, and
        another worker can take it, soon: where all workers are slow because there is too much to
        do, twice as much would make them slower.
        """
        [first], job = attempt.requests, self._job
        # A text that grows is another one than that of a second request.
        if first.hangs_in > 0 or first.text or job.caller.is_gone or attempt.is_enough:
            return None
        missing = attempt.n - len(attempt.generations()[0])
        price, spent = job.price(missing), self._cost.committed + self._cost.running_price
        if job.max_kudos is not None and spent + price > job.max_kudos:
            return None
        if not self._horde.accounts.can_pay(job.api_key, price, job.upfront(missing)):
            return None
        # It looks at the workers and the queue of now, by which the estimate is made.
        payload = job.second_payload(missing)
        return payload if job.estimate().queue <= (first.waiting.seconds or 0) else None

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
        yield Submitted(request.id)

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

    def _note_hung(self, first: RunningRequest, second: RunningRequest, seconds: float) -> None:
        """The second request came before the first: remember who hung, and for how long at least.

        Without the latter, only jobs that are not hung would tell what is usual, and more and more
        of the others would seem to hang.
        """
        times_expected = first.times_expected(seconds)
        if times_expected is not None:
            self._horde.throughput.learn_duration(self._job.models[0], times_expected)
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
