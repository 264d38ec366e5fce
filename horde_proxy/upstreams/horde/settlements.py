"""The kudos that a horde settles late: each request that has ended is looked at again.

    serving threads --watch--> _ended --one timer for all, LOOK_AFTER s later--> GET status
         |                                                                          |
         '------------------- the answer's AnswerCost <-----------------------------'

AI-Horde books kudos in a ledger, which it applies to requests every 3 s: a status fetched as soon
as a request is done shows too few. There is one timer, only while something waits for it, and a
bound on what waits. Who pays for the kudos is not known here.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from horde_proxy.aihorde import kudos
from horde_proxy.errors import ProxyError
from horde_proxy.upstreams.horde.catalog import number
from horde_proxy.upstreams.horde.client import HordeClient, RequestLost
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.jobs import JobKind

LOOK_AFTER = 4.0
"""Seconds from the end of a request to a look at it, and to the next look where one failed: the
horde's ledger is applied every 3 s."""
MOST_LOOKS = 3
"""Looks at a request: together they outlast a restart of the horde."""
MOST_ENDED = 1000
"""Requests that wait for a look. The public limits admit 6 new ones in 4 s from one address, those
for trusted accounts 40."""
log = logging.getLogger(__name__)

RunLater = Callable[[float, Callable[[], None]], None]
"""Runs a call after so many seconds, in another thread."""


@dataclass(frozen=True)
class _Ended:
    """A request that has ended. `due`: when it is looked at (s of the clock)."""

    kind: JobKind
    request_id: str
    cost: AnswerCost
    due: float
    looks: int = 0


class Settlements:
    """Looks at the ended requests of one horde. Any thread may call `watch`."""

    def __init__(
        self, client: HordeClient, *, clock: Callable[[], float], run_later: RunLater
    ) -> None:
        self._client, self._clock, self._run_later = client, clock, run_later
        # Guards the two below. No I/O happens under it.
        self._lock = threading.Lock()
        self._ended: deque[_Ended] = deque()
        self._is_scheduled = False

    def watch(self, kind: JobKind, request_id: str, cost: AnswerCost) -> None:
        """Tell `cost` the final kudos of a request that has just ended."""
        with self._lock:
            if len(self._ended) < MOST_ENDED:
                self._ended.append(_Ended(kind, request_id, cost, self._clock() + LOOK_AFTER))
        self._schedule()

    def _schedule(self) -> None:
        """Start the timer, unless it runs or nothing waits for it."""
        with self._lock:
            if self._is_scheduled or not self._ended:
                return
            self._is_scheduled = True
            seconds = max(self._ended[0].due - self._clock(), 0.0)
        try:
            self._run_later(seconds, self._look_at_due)
        except RuntimeError as exc:
            # The machine allows no more threads now. The next request that ends tries again.
            log.info("kudos are not looked at now: %s", exc)
            with self._lock:
                self._is_scheduled = False

    def _look_at_due(self) -> None:
        """Look at every request that is due. After a failure, the others wait for the next time."""
        try:
            is_failing = False
            for ended in self._take_due():
                is_failing = is_failing or not self._look(ended)
                if is_failing:
                    self._look_again(ended)
        finally:
            with self._lock:
                self._is_scheduled = False
            self._schedule()

    def _take_due(self) -> list[_Ended]:
        with self._lock:
            # The oldest comes first: all wait equally long.
            count = sum(ended.due <= self._clock() for ended in self._ended)
            return [self._ended.popleft() for _ in range(count)]

    def _look(self, ended: _Ended) -> bool:
        """Read the kudos. Whether the horde has answered."""
        try:
            status = self._client.check(ended.kind, ended.request_id)
        except RequestLost as exc:
            log.info("the final kudos of request %s are unknown: %s", ended.request_id, exc)
            ended.cost.settle(ended.request_id)
            return True
        except ProxyError as exc:
            log.info("the kudos of request %s cannot be read: %s", ended.request_id, exc)
            return False
        amount = number(status.get("kudos"), 0)
        # A delivered job costs more than the tax, which is booked at the submit: the ledger is
        # late, because nothing of the job is there.
        is_late = amount <= kudos.TAX and number(status.get("finished"), 0) > 0
        if is_late and ended.looks + 1 < MOST_LOOKS:
            self._look_again(ended)
        else:
            ended.cost.settle(ended.request_id, amount)
        return True

    def _look_again(self, ended: _Ended) -> None:
        """Wait for another look; after the last one, what was told stays."""
        looks = ended.looks + 1
        if looks >= MOST_LOOKS:
            log.info("the final kudos of request %s are unknown", ended.request_id)
            ended.cost.settle(ended.request_id)
            return
        due = self._clock() + LOOK_AFTER
        with self._lock:
            self._ended.append(replace(ended, looks=looks, due=due))
