"""One request on the horde: submitted, polled until it is final, or cancelled.

    created --submit()--> queued --> processing --> final
                             '----------'--close()--> cancelled

The thread that serves the client calls `step` again and again, and sleeps there. Other threads may
wake it: a client that hangs up, a shutdown, or a result that the horde pushes. Once such pushes
have come, polls become a slow fallback. Nothing here starts a thread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from horde_proxy.errors import (
    ContentPolicyViolation,
    ProxyError,
    RateLimited,
    Refused,
    Unavailable,
    UpstreamFailed,
)
from horde_proxy.upstreams.base import UNREACHABLE, Sleeper, Waiting
from horde_proxy.upstreams.horde.catalog import number
from horde_proxy.upstreams.horde.client import AddressBanned, NotTaken, RequestLost, ServerFault
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.jobs import Estimate, JobSpec, Progress, Status, count
from horde_proxy.upstreams.horde.penalties import Penalized
from horde_proxy.upstreams.horde.polling import Expected, PollSchedule
from horde_proxy.upstreams.horde.shared_keys import SharedKeyLimit
from horde_proxy.upstreams.horde.submit_queue import Ticket
from horde_proxy.upstreams.horde.text_events import BrokenStream, Events, longer
from horde_proxy.upstreams.horde.webhook import PUSHED
from horde_proxy.upstreams.inspection import UpstreamAttempt

STREAM_PAUSE = 2.0
"""Seconds until a stream that broke is opened again; until then the request is polled."""

FAILURE_PATIENCE = 60.0
"""Seconds that polls may fail before the request is given up, if its caller does not wait longer
for a horde that cannot be reached: see Caller.waits_until."""
OUTAGE_SECONDS = 5.0
"""Seconds that polls must fail before the client hears of an outage: one lost poll is none."""
CANCEL_TRIES = 3
LEAST_HUNG = 20.0
"""Seconds since the pop, before which no worker hangs, however short its jobs usually are: one that
begins may have to load its model."""
LATE_MARGIN = 1.0
"""Seconds beyond what is usual, from which on a job is late: a poll sees its end so much later."""

log = logging.getLogger(__name__)


class Faulted(UpstreamFailed):
    """The horde gave the request up: its workers failed on it."""


class NotPossible(Unavailable):
    """No worker can take the request, and none could for a while."""


class RunningRequest:
    """A request for n generations of a job, for which `ticket` waited in the submit queue.

    `id` is "" until it is submitted, `status` None until it is final. `waiting` is what is known
    meanwhile. `max_length`: the tokens that were asked for, 0 for a kind that has none.
    """

    def __init__(
        self, horde: HordeContext, job: JobSpec[Any], n: int, ticket: Ticket, cost: AnswerCost
    ) -> None:
        self.id, self.n = "", n
        self.max_length = 0
        self.status: Status | None = None
        self.is_processing = False
        self.submitted = 0.0
        self._horde, self._job, self._kind = horde, job, job.kind
        self._ticket, self._cost = ticket, cost
        self._sleeper = job.caller.sleeper or Sleeper(sleep=horde.sleep)
        # Made before the submit, which has to name its URL.
        self._mailbox = horde.webhook.mailbox(self._sleeper.wake) if horde.webhook else None
        self._expected, self._held = Estimate(0.0, 0.0), 0.0
        self.waiting, self._next_poll = Waiting("queued"), 0.0
        self._unpopped = n
        self._began: float | None = None
        self._last_queued = self._polled = self._ended = 0.0
        # The gap before the poll that found the end (s): it may have ended at any time within it.
        self._unseen = 0.0
        self._latest: Status = {}
        # What moves on while workers do their jobs, and when that was seen to change.
        self._stage: tuple[bool, int, int, int] | None = None
        self._moved_at = 0.0
        # The position in the queue, and since when it has not changed.
        self._position, self._position_since = 0, 0.0
        self._was_out_of_reach = False
        # What has come of the only result, from a horde that streams.
        self.text = ""
        self._events: Events | None = None
        self._streamed: list[dict[str, Any]] = []
        self._progress: Progress | None = None
        self._stream_from = 0.0
        self._attempt: UpstreamAttempt | None = None
        self._impossible_since: float | None = None
        self._failing_since: float | None = None

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the last poll failed, so that nothing is known of it now."""
        return self._failing_since is not None

    @property
    def hangs_in(self) -> float:
        """Seconds until a worker has a job of it for longer than usual: 0 or less when it hangs.

        Infinite in the queue, where it is nobody's fault, and while the horde cannot be reached.
        """
        if not self.is_processing or self.is_out_of_reach:
            return math.inf
        return self._moved_at + max(LEAST_HUNG, self._expected.longest) - self._horde.clock()

    def late_in(self, stall: float) -> float:
        """Seconds until it is late: 0 or less when it is.

        It is late when a worker has a job of it for longer than 19 of 20 take, or when its position
        in the queue has not changed for `stall` seconds. Infinite where nothing is known of it.
        """
        if self.is_out_of_reach:
            return math.inf
        if self.is_processing:
            return self._moved_at + self._expected.longest + LATE_MARGIN - self._horde.clock()
        is_queued = self._began is None and self._position > 0
        return self._position_since + stall - self._horde.clock() if is_queued else math.inf

    def submit(self, make_payload: Callable[[], dict[str, Any]]) -> None:
        """POST it. Raises what the horde refuses."""
        job = self._job
        self._expected, self._held = job.estimate(), job.upfront(self.n)
        # Within it, so that whatever is raised gives the turn in the queue back.
        with self._horde.submit_queue.sending(self._ticket):
            # The horde may have refused another request while this one waited for its turn.
            self._horde.penalties.check(self._kind.name, job.api_key)
            job.caller.submits.take()
            payload = make_payload()
            if self._mailbox is not None:
                payload["webhook"] = self._mailbox.url
            self.max_length = count(payload.get("params", {}).get("max_length"))
            try:
                with self._inspected(payload):
                    self.id = self._horde.client.submit(self._kind, payload, job.api_key)
            except NotTaken:
                job.caller.submits.give_back()
                raise
            except (ServerFault, SharedKeyLimit) as exc:
                raise self._horde.accounts.explained(exc, job.api_key, payload) from None
            except AddressBanned as exc:
                raise self._penalized(exc) from exc
            except ContentPolicyViolation:
                # A horde of this software counts no strikes.
                if not self._horde.client.is_private:
                    self._horde.penalties.note_corrupt_prompt()
                raise
        if self._mailbox is not None:
            self._mailbox.expect(self.id)
        self._cost.add_request(self.id, job.price(self.n))
        if job.caller.budget is not None:
            job.caller.budget.hold(job.price(self.n))
        self._begin()

    @contextmanager
    def _inspected(self, payload: Mapping[str, Any]) -> Iterator[None]:
        """Keep what is submitted in the block, for a client that looks into it."""
        inspection = self._job.caller.inspection
        if inspection is None:
            yield
            return
        attempt = inspection.begin(self._job.caller.endpoint, payload)
        try:
            yield
        except ProxyError as exc:
            attempt.end(exc.message)
            raise
        attempt.request_id, self._attempt = self.id, attempt

    def _penalized(self, banned: AddressBanned) -> Penalized:
        """The error for a submit that the horde refused for a time, which is remembered."""
        penalties = self._horde.penalties
        if banned.seconds is not None:
            return penalties.refusal(penalties.note_timeout(banned.seconds))
        penalty = penalties.note_unsafe(banned.rc, self._kind.name, self._job.api_key)
        return penalties.refusal(penalty)

    def take_up(self, request_id: str, n: int, text: str) -> None:
        """Go on with a request for n results that was submitted before a restart of this proxy.

        `text` is what had come of a growing result.
        """
        self.id, self.n, self._unpopped, self.text = request_id, n, n, text
        if self._mailbox is not None:
            # Its results are pushed to an address that nobody serves any more.
            self._mailbox.close()
            self._mailbox = None
        self._expected, self._held = self._job.estimate(), self._job.upfront(n)
        self._cost.add_request(request_id, self._job.price(n))
        self._begin()

    def step(self, longest: float = math.inf) -> None:
        """Sleep until the next poll, or until somebody wakes us, and poll when it is due.

        `longest` bounds the sleep (s), where another request waits for its turn of the thread.

        Raises UpstreamFailed when the request faulted or was lost, Unavailable when no worker can
        take it.
        """
        if self._may_stream():
            self._follow()
            return
        left = self._next_poll - self._horde.clock()
        # A push may have come while another request of the same thread slept.
        is_pushed = self._take_news()
        if left > 0 and not is_pushed:
            self._sleeper.wait(min(left, longest))
            is_pushed = self._take_news()
        if not is_pushed and self._horde.clock() < self._next_poll:
            return
        since_last_poll = self._horde.clock() - self._polled
        # A machine that slept in between says nothing of the worker.
        gap = min(self._next_poll - self._polled, since_last_poll)
        status = self._poll()
        if status is None:
            self._next_poll = self._horde.clock() + self._schedule.delay()
            return
        self._latest = status
        if self._kind.is_final(status, self.n):
            self._unseen = 0.0 if is_pushed else gap
            self._end(status, since_last_poll)
        else:
            self._note(self._kind.progress(status))

    def _may_stream(self) -> bool:
        """Whether to read its text as it grows, instead of polling."""
        if self._events is None and self._is_streamable():
            self._streamed = []
            self._events = self._horde.client.stream(self._kind, self.id, len(self.text))
        return self._events is not None

    def _is_streamable(self) -> bool:
        if not self._kind.stream_path or self.n != 1:
            return False
        is_offered = "stream" in self._horde.client.extensions
        return is_offered and self._horde.clock() >= self._stream_from

    def _follow(self) -> None:
        """Wait for the next event or sign of life. A stream that breaks is polled on."""
        assert self._events is not None
        try:
            event = next(self._events)
            self._polled = self._horde.clock()
            self._note_reached()
            if event is None:
                self._check_still_possible()
            else:
                self._take_event(*event)
        except (BrokenStream, StopIteration):
            self._events = None
            # At once, and again after a while: a horde that restarts has its texts again soon.
            self._next_poll = self._horde.clock()
            self._stream_from = self._next_poll + STREAM_PAUSE
        # Raises what another thread ends this request with.
        self._sleeper.wait(0.0)

    def _check_still_possible(self) -> None:
        if self._progress is not None:
            self._check_possible(self._progress, self._horde.clock())

    def _take_event(self, name: str, data: dict[str, Any]) -> None:
        if name == "text":
            self.text, self._moved_at = longer(self.text, data), self._horde.clock()
        elif name == "status":
            self._progress = self._kind.progress(data)
            self._note(self._progress)
        elif name == "generation":
            self._streamed = [*self._streamed, data][: self.n]
        elif name == "done":
            status = {**data, "generations": self._streamed}
            if not self._kind.is_final(status, self.n):
                raise BrokenStream("The horde's stream ended without a result.")
            self._latest = status
            self._end(status, 0.0)
        elif name == "error":
            if data.get("rc") == "RequestNotFound":
                raise RequestLost("The horde has lost the request.")
            raise BrokenStream("The horde ended its stream.")

    def _take_news(self) -> bool:
        """Whether a result was pushed since the last call."""
        return self._mailbox is not None and self._mailbox.take_news()

    def _push_gap(self) -> float:
        """The least seconds between two polls, as far as pushed results permit."""
        webhook = self._horde.webhook
        return PUSHED if webhook and webhook.is_reliable else 0.0

    def pause(self, seconds: float) -> Iterator[Waiting]:
        """Waitings for so many seconds, because the horde cannot be reached."""
        until = self._horde.clock() + seconds
        while (left := until - self._horde.clock()) > 0:
            yield Waiting(UNREACHABLE)
            self._sleeper.wait(left)

    def close(self) -> None:
        """Cancel it unless it is final, and release what it held. Not to be called twice."""
        if self._events is not None:
            self._events.close()
        if self.id:
            self._horde.running.discard(self.id)
            self._horde.throughput.count_in_flight(self._job.models[0], -1)
            self._horde.accounts.hold_kudos(self._job.api_key, -self._held)
            self._ended = self._ended or self._horde.clock()
            if self.status is None and not self._is_left_running():
                # Results that were finished come with the answer.
                self._latest = self._cancel() or {}
            self._tell_kudos(self._latest or None)
            if self._attempt is not None:
                self._attempt.note_results(self.results())
                self._attempt.end(None if self.status else "cancelled")
        if self._mailbox is not None:
            self._mailbox.close()

    def _is_left_running(self) -> bool:
        journal = self._job.caller.journal
        return journal is not None and bool(self._job.journal_key) and journal.is_left_running()

    def seconds(self) -> tuple[float, float]:
        """(in the queue, in generation): what lies between two polls counts as generation."""
        began, ended = self._began or self._last_queued, self._ended or self._horde.clock()
        return round(began - self.submitted, 3), round(ended - began, 3)

    def telling_seconds(self) -> float:
        """Seconds of its generation; 0.0 where they say nothing of who made it.

        A job that was given up is made anew after 150 s, and in an outage nobody sees an end. The
        end is taken to lie midway between the last two polls: by the last one, jobs would be
        expected too late, polled for too late, and so seem to be as late again.
        """
        if self.status is None or self._was_out_of_reach:
            return 0.0
        if self._kind.progress(self.status).restarted:
            return 0.0
        return self.seconds()[1] - self._unseen / 2

    def times_expected(self, seconds: float) -> float | None:
        """The seconds of a generation as a multiple of the expected; None where unmeasured."""
        generation = self._expected.generation
        return seconds / generation if self._expected.is_measured and generation > 0 else None

    def lateness(self) -> float:
        """How much longer it took than expected, in seconds; 0 when it came in time."""
        expected = self._expected.queue + self._expected.generation
        return max(sum(self.seconds()) - expected, 0.0)

    def results(self) -> Sequence[Mapping[str, Any]]:
        """The results by now: at most as many as it is for, whatever the horde sent."""
        return self._kind.results(self._latest)[: self.n] if self._latest else []

    def _begin(self) -> None:
        """Count it everywhere, and set the time of the first poll. `close` counts it out again."""
        horde = self._horde
        horde.running.add(self.id)
        horde.throughput.count_in_flight(self._job.models[0], 1)
        horde.submit_queue.count_waiting(self._ticket, self.n)
        horde.accounts.hold_kudos(self._job.api_key, self._held)
        self.submitted = self._last_queued = self._polled = horde.clock()
        self._schedule = PollSchedule(
            horde.clock,
            load=lambda: len(horde.running),
            least=self._push_gap,
        )
        left = self._expected.left(0, 0)
        self._next_poll = self.submitted + self._schedule.delay(expected=self._expected_end(left))
        self.waiting = Waiting("queued", None, round(left))

    def _expected_end(self, left: float) -> Expected | None:
        """When to expect the end, if so many seconds are left; None where nothing was measured."""
        if not self._expected.is_measured:
            return None
        generation = self._expected.generation
        if self._began is not None:
            # Not by `left`, which is never less than a second, however overdue the end is.
            return Expected(self._began + generation, generation)
        return Expected(self._horde.clock() + left, generation)

    def _poll(self) -> Status | None:
        """The status, with the results when it is final; None when this poll failed."""
        self._schedule.polled()
        self._polled = self._horde.clock()
        kind, client = self._kind, self._horde.client
        try:
            status = client.check(kind, self.id)
            if kind.status_path != kind.check_path and kind.is_final(status, self.n):
                status = client.status(kind, self.id)
        except RateLimited as exc:
            self._schedule.hold(exc.retry_after or 1)
            return None
        except RequestLost:
            raise
        # What else goes wrong with a poll loses nothing: the request goes on at the horde.
        except (UpstreamFailed, Refused) as exc:
            if not self._bears(exc):
                raise
            return None
        self._note_reached()
        return status

    def _note_reached(self) -> None:
        """A poll has come back. A worker needs a moment, too, to hand in what it made meanwhile."""
        now = self._horde.clock()
        if self._failing_since is not None and now - self._failing_since >= OUTAGE_SECONDS:
            self._was_out_of_reach, self._moved_at = True, now
            self._position_since = now
        self._failing_since = None

    def _bears(self, failure: ProxyError) -> bool:
        """Whether to go on after a poll that failed. The client hears of an outage."""
        now = self._horde.clock()
        self._failing_since = self._failing_since or now
        seconds = now - self._failing_since
        if seconds >= OUTAGE_SECONDS:
            self.waiting = Waiting(UNREACHABLE)
            # Nobody looked meanwhile, and workers need a moment to find a horde that came back.
            self._impossible_since = None
        is_outage = isinstance(failure, UpstreamFailed)
        return seconds <= FAILURE_PATIENCE or (is_outage and self._job.caller.waits_until(now))

    def _note(self, progress: Progress) -> None:
        """Take in a status that is not final, and set the time of the next poll."""
        now = self._horde.clock()
        self._note_stage(progress, now)
        # It was popped at some time since the last poll that saw it queued; we take that poll's.
        if progress.is_processing and self._began is None:
            self._began = self._last_queued
        if not progress.is_processing:
            self._last_queued = now
        self._count_popped(progress.waiting)
        self._check_possible(progress, now)
        left = self._expected.left(
            now - (self._began or self.submitted),
            progress.queue_position,
            processing=self._began is not None,
        )
        self._next_poll = now + self._schedule.delay(
            processing=progress.is_processing,
            queue_position=progress.queue_position,
            expected=self._expected_end(left),
        )
        state = "generating" if progress.is_processing else "queued"
        self.waiting = Waiting(state, progress.queue_position, round(left))

    def _note_stage(self, progress: Progress, now: float) -> None:
        """Note whether workers are at it, and whether they have got on since the last poll."""
        self.is_processing = progress.is_processing
        stage = (
            progress.is_processing,
            progress.waiting,
            progress.finished,
            progress.restarted,
        )
        if stage != self._stage:
            self._stage, self._moved_at = stage, now
        if progress.queue_position != self._position:
            self._position, self._position_since = progress.queue_position, now
        # The horde has taken its jobs back: it waits for a worker as in the beginning.
        if not progress.is_processing and not progress.finished:
            self._began = None

    def _check_possible(self, progress: Progress, now: float) -> None:
        """Raises Unavailable when no worker could take the request for too long."""
        if progress.is_processing or progress.is_possible:
            self._impossible_since = None
            return
        self._impossible_since = self._impossible_since or now
        if now - self._impossible_since > self._kind.impossible_patience:
            raise NotPossible(f"No worker of the horde offers {self._job.description} now.")

    def _count_popped(self, waiting: int) -> None:
        """Tell the submit queue of the jobs that wait no longer."""
        if waiting < self._unpopped:
            self._horde.submit_queue.count_waiting(self._ticket, waiting - self._unpopped)
            self._unpopped = waiting

    def _end(self, status: Status, since_last_poll: float) -> None:
        """Raises Faulted for an end without any result."""
        self.status, self._ended, self.is_processing = status, self._horde.clock(), False
        self._count_popped(0)
        webhook = self._horde.webhook
        if self._mailbox and webhook and self._mailbox.count() < len(self.results()):
            webhook.note_missing(since_last_poll)
        if self._attempt is not None:
            self._attempt.note_results(self.results())
            self._attempt.end(None if self.results() else "faulted")
        if self.results():
            return
        # Workers that fail twice on a request leave it done, not faulted, and without results.
        if status.get("faulted"):
            raise Faulted("The horde's workers failed on this request.")
        raise Faulted("The horde ended this request without an answer.")

    def _tell_kudos(self, status: Status | None) -> None:
        """Add its kudos to the cost. A horde that settles late is asked for them again."""
        if status is None:
            return
        settlements, price = self._horde.settlements, None
        if settlements is not None:
            # A job that a worker has is charged for when it is handed in, cancelled or not.
            is_paid = self.results() or self.is_processing
            price = self._job.price(self.n) if is_paid else 0.0
        self._cost.add_kudos(self.id, number(status.get("kudos"), 0), price)
        if settlements is not None:
            settlements.watch(self._kind, self.id, self._cost)

    def _cancel(self) -> Status | None:
        """DELETE it, which may be repeated; the last failure is logged. Its last status, if any."""
        self._horde.telemetry.cancelled()
        self._count_popped(0)
        for tries_left in reversed(range(CANCEL_TRIES)):
            try:
                return self._horde.client.cancel(self._kind, self.id)
            except RequestLost:
                break
            except ProxyError as exc:
                if not tries_left:
                    log.warning("request %s could not be cancelled: %s", self.id, exc)
        return None
