"""One request on the horde, from its acceptance to its end: polled at a pace, or cancelled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Any, Protocol

from horde_proxy.errors import ProxyError, RateLimited, Refused, Unavailable, UpstreamFailed
from horde_proxy.upstreams.base import Waiting
from horde_proxy.upstreams.horde.client import HordeClient, RequestLost
from horde_proxy.upstreams.horde.polling import PollSchedule
from horde_proxy.upstreams.horde.text import is_final
from horde_proxy.upstreams.horde.throughput import Estimate

PUSHED = 15.0
"""Between two polls of a request whose results are pushed (s)."""
SLICE = 0.9
"""Between two Waitings (s): how soon a client that has gone is noticed."""
IMPOSSIBLE_PATIENCE = 65.0
"""The horde's own cache of is_possible lasts 60 s."""
FAILURE_PATIENCE = 60.0
CANCEL_TRIES = 3

Status = dict[str, Any]


class Faulted(UpstreamFailed):
    """The horde gave the request up: its workers failed on it."""


log = logging.getLogger(__name__)


class Delivery(Protocol):
    """Where a pushed result is announced."""

    def wait(self, seconds: float) -> bool:
        """Whether something came within that time."""


class RunningRequest:
    """A submitted request. `wanted` says what no worker offers, should it come to that.

    `on_popped` is told of its jobs that wait no longer. With a `delivery`
    the horde says itself when it is done, and polls become a slow fallback.
    """

    def __init__(
        self,
        client: HordeClient,
        request_id: str,
        n: int,
        *,
        wanted: str,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        load: Callable[[], int] = lambda: 1,
        expected: Estimate | None = None,
        on_popped: Callable[[int], None] = lambda count: None,
        delivery: Delivery | None = None,
    ) -> None:
        self.id = request_id
        self.is_processing = False
        self._client, self._n, self._wanted = client, n, wanted
        self._clock, self._sleep = clock, sleep
        self._pace = PollSchedule(clock, load, least=PUSHED if delivery else 0.0)
        self._expected = expected or Estimate(0.0, 0.0)
        self._delivery = delivery
        self._on_popped, self._waiting = on_popped, n
        self._submitted = clock()
        self._began: float | None = None
        self._last_waiting = self._submitted
        self._ended: float | None = None
        self._impossible_since: float | None = None
        self._failing_since: float | None = None

    def wait(self) -> Generator[Waiting, None, Status]:
        """Waitings until the request is final; returns its last status.

        Raises UpstreamFailed when it faulted or was lost, Unavailable when nobody can take it.
        """
        delay = self._pace.delay()
        waiting = Waiting("queued", None, round(self._expected.left(0, 0)))
        while True:
            yield from self._pause(delay, waiting)
            status = self._poll()
            if status is None:
                delay = self._pace.delay()
                continue
            if is_final(status, self._n):
                self._ended = self._clock()
                self._tell_waiting(0)
                return self._checked(status)
            delay, waiting = self._look(status)

    def cancel(self) -> None:
        """DELETE the request, which may be repeated; the last failure is logged."""
        self._tell_waiting(0)
        for tries_left in reversed(range(CANCEL_TRIES)):
            try:
                self._client.cancel(self.id)
            except RequestLost:
                return
            except ProxyError as exc:
                if not tries_left:
                    log.warning("request %s could not be cancelled: %s", self.id, exc)
            else:
                return

    def seconds(self) -> tuple[float, float]:
        """(in the queue, in generation): what lies between two polls counts as generation."""
        ended = self._ended or self._clock()
        began = self._began or self._last_waiting
        return round(began - self._submitted, 3), round(ended - began, 3)

    def lateness(self) -> float:
        """How much longer it took than was expected of it (s); 0 when it came in time."""
        expected = self._expected.queue + self._expected.generation
        return max(sum(self.seconds()) - expected, 0.0)

    def _pause(self, seconds: float, waiting: Waiting) -> Generator[Waiting, None, None]:
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0:
            yield waiting
            if self._delivery is None:
                self._sleep(min(left, SLICE))
            elif self._delivery.wait(min(left, SLICE)):
                return
            else:
                self._sleep(0)

    def _poll(self) -> Status | None:
        """The status, or None when it could not be had this time."""
        self._pace.polled()
        try:
            status = self._client.status(self.id)
        except RateLimited as exc:
            self._pace.hold(exc.retry_after or 1)
            return None
        except RequestLost:
            raise
        except (UpstreamFailed, Refused):
            self._failing_since = self._failing_since or self._clock()
            if self._clock() - self._failing_since > FAILURE_PATIENCE:
                raise
            return None
        self._failing_since = None
        return status

    def _look(self, status: Status) -> tuple[float, Waiting]:
        processing = self.is_processing = bool(status.get("processing"))
        position = int(status.get("queue_position") or 0)
        if processing and self._began is None:
            self._began = self._last_waiting
        if not processing:
            self._last_waiting = self._clock()
        self._tell_waiting(int(status.get("waiting") or 0))
        self._watch_possible(status, processing)
        delay = self._pace.delay(processing=processing, queue_position=position)
        state = "generating" if processing else "queued"
        elapsed = self._clock() - (self._began if self._began else self._submitted)
        seconds = self._expected.left(elapsed, position, processing=self._began is not None)
        return delay, Waiting(state, position, round(seconds))

    @property
    def is_final(self) -> bool:
        """Whether it came to an end by itself."""
        return self._ended is not None

    def _tell_waiting(self, count: int) -> None:
        if count < self._waiting:
            self._on_popped(self._waiting - count)
            self._waiting = count

    def _watch_possible(self, status: Status, processing: bool) -> None:
        if processing or status.get("is_possible", True):
            self._impossible_since = None
            return
        self._impossible_since = self._impossible_since or self._clock()
        if self._clock() - self._impossible_since > IMPOSSIBLE_PATIENCE:
            raise Unavailable(f"No worker of the horde offers {self._wanted} now.")

    def _checked(self, status: Status) -> Status:
        if status.get("generations"):
            return status
        if status.get("faulted"):
            raise Faulted("The horde's workers failed on this request.")
        raise Faulted("The horde ended this request without an answer.")
