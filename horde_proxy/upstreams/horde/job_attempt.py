"""One attempt at a job: a request, and a second one beside it where the first hangs or is late.

    first   submit --> poll ------------------------> final, failed or cancelled
                          '- it hangs, or is late
    second                   submit --> poll -------> final, failed or cancelled

The attempt is over once both together have enough good generations, or when neither goes on. Where
the text of one begins to grow, the other is cancelled at once. Whoever made it closes it, which
cancels what still runs. Who may submit, and when, is not known here.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import ExitStack, closing
from typing import Generic, TypeVar

from horde_proxy.errors import ClientGone, ProxyError, ShuttingDown, TimedOut
from horde_proxy.upstreams.base import Waiting
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.jobs import G, JobSpec
from horde_proxy.upstreams.horde.running_request import RunningRequest
from horde_proxy.upstreams.horde.submit_queue import Ticket
from horde_proxy.upstreams.interleave import take_turns

_T = TypeVar("_T")
_OVERDUE = 10**6
"""Seconds that stand for a Waiting which names none, where the sooner of two is chosen."""
log = logging.getLogger(__name__)


class JobAttempt(Generic[G]):
    """An attempt to get n generations of a job; `requests` are those that were begun."""

    def __init__(
        self, horde: HordeContext, job: JobSpec[G], n: int, ticket: Ticket, cost: AnswerCost
    ) -> None:
        self.n, self.requests = n, list[RunningRequest]()
        self._horde, self._job, self._ticket, self._cost = horde, job, ticket, cost
        self._failures: dict[int, ProxyError] = {}  # by the position of the request
        self._open = ExitStack()
        self._dropped = list[RunningRequest]()

    def add_request(self) -> RunningRequest:
        """A request for what is still missing, which is to be submitted."""
        missing = self.n - len(self.generations()[0])
        request = RunningRequest(self._horde, self._job, missing, self._ticket, self._cost)
        self.requests.append(request)
        self._open.callback(self._close, request)
        return request

    def drop_others(self, request: RunningRequest) -> None:
        """Cancel all but this request, whose text the client reads."""
        for other in self.requests:
            if other is not request:
                self._close(other)
                self._dropped.append(other)

    def _close(self, request: RunningRequest) -> None:
        if request not in self._dropped:
            request.close()

    def close(self) -> None:
        """Cancel what still runs."""
        self._open.close()

    @property
    def has_ended(self) -> bool:
        """Whether there is a result to look at: enough of them, or those of a final request."""
        return self.is_enough or self.answering is not None

    @property
    def has_text(self) -> bool:
        """Whether a part of the text has come, which the client may have read."""
        return self.growing is not None

    @property
    def growing(self) -> RunningRequest | None:
        """The request of whose text a part has come."""
        has_words = self._job.kind.has_words
        return next((request for request in self.requests if has_words(request.text)), None)

    @property
    def is_enough(self) -> bool:
        """Whether there are as many good generations as the attempt is for."""
        return len(self.generations()[0]) >= self.n

    @property
    def answering(self) -> RunningRequest | None:
        """The final request that has results, if there is one; rather one with good ones."""
        ended = [
            request for request in self.requests if request.status is not None and request.results()
        ]
        good = (request for request in ended if self._read(request)[0])
        return next(good, ended[0] if ended else None)

    def generations(self) -> tuple[list[G], list[G]]:
        """(the good generations by now, those that will not do)."""
        parts = [self._read(request) for request in self.requests]
        good, bad = list[G](), list[G]()
        for some_good, some_bad in parts:
            good += some_good
            bad += some_bad
        return good, bad

    def _read(self, request: RunningRequest) -> tuple[list[G], list[G]]:
        """As generations, of one of the requests."""
        good, bad = list[G](), list[G]()
        for generation in map(self._job.read, request.results()):
            (good if self._job.is_good(generation) else bad).append(generation)
        return good, bad

    def race(
        self,
        first: Generator[_T | Waiting, None, None],
        second: Generator[_T | Waiting, None, None],
    ) -> Generator[_T | Waiting, None, None]:
        """The items of two requests that run side by side, until both together are enough.

        They end as well where the text of one begins to grow: see `growing`. A Waiting tells of
        the one that should end sooner. Raises the failure of the first request when neither has any
        results.
        """
        latest: dict[int, Waiting] = {}
        streams = [self._unless_it_fails(*pair) for pair in enumerate((first, second))]
        with closing(take_turns(streams, len(streams))) as turns:
            for position, item in turns:
                if self.is_enough or self.has_text:
                    return
                if isinstance(item, Waiting):
                    latest[position] = item
                    item = min(latest.values(), key=_seconds_left)
                yield item
        if not self.has_ended:
            raise self._failures[0]

    def _unless_it_fails(
        self, position: int, stream: Generator[_T | Waiting, None, None]
    ) -> Generator[_T | Waiting, None, None]:
        """The items of one request, whose failure does not end the other. A Waiting comes last."""
        try:
            yield from stream
        except (ClientGone, ShuttingDown, TimedOut):
            raise
        except ProxyError as exc:
            log.info("one of two requests for the same job failed: %s", exc)
            self._failures[position] = exc
        # Whoever drives both looks at once whether it is enough, before the other one sleeps.
        yield Waiting("generating")


def _seconds_left(waiting: Waiting) -> int:
    return _OVERDUE if waiting.seconds is None else waiting.seconds
