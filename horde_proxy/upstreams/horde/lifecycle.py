"""The life of a job: it waits for its turn, is submitted, polled, tried again, or cancelled.

    wait for a turn --> submit --> poll ... --> final --> enough? --> Finished
           ^                         |                      |
           '---- a try less <--- failed, or --- too few ----'

Nothing here knows what kind of job it is. Whoever submits, cancels: closing `items` early cancels
what still runs.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Generic

from horde_proxy.errors import InsufficientKudos, RateLimited, UpstreamFailed
from horde_proxy.upstreams.base import UNREACHABLE, Waiting
from horde_proxy.upstreams.horde.client import NotTaken, RequestLost
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.jobs import G, JobSpec, count
from horde_proxy.upstreams.horde.running_request import Faulted, NotPossible, RunningRequest
from horde_proxy.upstreams.horde.submit_queue import Ticket

PREFERENCE_PATIENCE = 5.0
"""Seconds that the preferred worker may take to pop the job; then any worker may take it."""
BUSY_PAUSE = 5.0
"""Seconds to pause a key for which the horde has too many jobs, where it does not say how long."""
OUTAGE_PAUSE = 5.0
"""Seconds between two submits of a chat while the horde takes none."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submitted:
    """A request was accepted by the horde."""

    request_id: str


@dataclass(frozen=True)
class Finished(Generic[G]):
    """A job is done: all of its generations."""

    generations: list[G]


LifecycleItem = Waiting | Submitted | Finished[G]


class Lifecycle(Generic[G]):
    """Makes one job. `cost` is added to."""

    def __init__(
        self, horde: HordeContext, job: JobSpec[G], ticket: Ticket, cost: AnswerCost
    ) -> None:
        self._horde, self._job, self._ticket, self._cost = horde, job, ticket, cost
        self._generations: list[G] = []
        self._tries_left = horde.retries
        self._preferred = job.preferred_worker()

    def items(self) -> Generator[LifecycleItem[G], None, None]:
        """Waitings and Submitteds, and Finished at the end.

        Raises UpstreamFailed when there are too few generations after the last try, and whatever
        the horde refuses.
        """
        while (missing := self._job.n - len(self._generations)) > 0:
            with self._attempt(missing) as request:
                yield from self._submit(request)
                yield Submitted(request.id)
                while request.status is None and not self._gives_up_preferred(request):
                    # Before the sleep: the first one tells how long it should take.
                    yield request.waiting
                    request.step()
        yield Finished(self._generations[: self._job.n])

    @contextmanager
    def _attempt(self, n: int) -> Iterator[RunningRequest]:
        """A request, closed at the end. A failure is raised only when no try is left."""
        request = RunningRequest(self._horde, self._job, n, self._ticket, self._cost)
        try:
            yield request
            # None when the preferred worker was given up, which uses up no try.
            if request.status is not None:
                self._take(request)
        except (Faulted, RequestLost) as exc:
            if not self._tries_left:
                raise
            self._note_failure(exc)
        # Workers may have left since the submit; the others may take a smaller job.
        except NotPossible:
            if not self._tries_left or not self._job.adapt_to_workers():
                raise
            self._next_try()
        finally:
            request.close()

    def _submit(self, request: RunningRequest) -> Generator[Waiting, None, None]:
        """Waitings until the request is submitted; smaller, when the kudos do not suffice."""
        horde, job = self._horde, self._job
        is_outage = False
        while not request.id:
            self._check_price(request.n)
            turn = self._wait_turn(request.n)
            yield from map(_in_outage, turn) if is_outage else turn
            try:
                request.submit(self._preferred)
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
            except InsufficientKudos:
                if not job.shrink_to_free():
                    raise
                horde.accounts.note_refusal(job.api_key)

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

    def _take(self, request: RunningRequest) -> None:
        """Keep the generations that will do; at the last try all of them. Raises UpstreamFailed."""
        self._learn(request)
        for result in request.results():
            generation = self._job.read(result)
            self._cost.workers.setdefault(generation.worker, generation.worker_name)
            if not self._tries_left or self._job.is_good(generation):
                self._generations.append(generation)
            else:
                self._horde.failures.add(generation.worker)
        # Fewer than n may come without a fault: a job of several may be given up.
        if len(self._generations) < self._job.n:
            self._cost.retries += 1
            if not self._tries_left:
                raise UpstreamFailed("The horde's workers failed on some of the choices.")
            self._horde.telemetry.retried("bad_text")
            self._next_try()

    def _learn(self, request: RunningRequest) -> None:
        """Add up what the request took, and measure who worked on it."""
        assert request.status is not None
        queued, generating = request.seconds()
        self._cost.queue_seconds += queued
        self._cost.generation_seconds += generating
        self._horde.telemetry.late(request.lateness())
        # A job that was given up is restarted after 150 s, which says nothing of who made it then.
        is_restarted = count(request.status.get("restarted")) > 0
        for result in request.results():
            generation = self._job.read(result)
            tokens = self._job.tokens(generation)
            self._cost.tokens += tokens
            for name in (generation.model, generation.worker):
                self._horde.throughput.learn(name, tokens, 0.0 if is_restarted else generating)

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


def _in_outage(waiting: Waiting) -> Waiting:
    """The Waiting of a chat that is in line for its next try to reach the horde."""
    return replace(waiting, state=UNREACHABLE)


def too_expensive() -> InsufficientKudos:
    """The error for what would cost more than the client allows."""
    return InsufficientKudos(
        "Even a short answer would cost more kudos than max_kudos allows.",
        param="horde.max_kudos",
    )
