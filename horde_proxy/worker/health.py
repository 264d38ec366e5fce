"""Whether the backends of a bridge may get jobs: after failures they are left alone for a while.

States: working, and resting after a failure. Each further failure makes the rest longer. A backend
that is down is asked for its state before the next pop, so that no job is wasted on it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable

from horde_proxy.worker.backends import (
    BackendDown,
    BackendError,
    JobRefused,
    ReportsState,
)

_FIRST_REST = 2.0
_LONGEST_REST = 300.0
"""Seconds. AI-Horde puts a worker into maintenance that fails 20 jobs within an hour; this is less
than 20 from the fourth failure on."""
_LONGEST_PROBE_REST = 30.0
"""Seconds between two questions to a backend that is down, which cost nothing."""
_MOST_REFUSALS = 3
"""Jobs in a row that a server refuses before that counts as a failure: one prompt may be too long,
but a server that refuses whatever comes is set up wrongly."""
_CHECK_SECONDS = 10.0
"""How often a backend without jobs is asked whether it is up."""

log = logging.getLogger(__name__)


class BackendHealth:
    """The health of one bridge's backend, which may be a server that reports its state."""

    def __init__(self, server: object, clock: Callable[[], float]) -> None:
        self._server = server if isinstance(server, ReportsState) else None
        self._clock = clock
        # Guards all that follows: threads of the bridge report failures at the same time. No I/O
        # happens under it: the backend is asked for its state, and lines are logged, outside.
        self._lock = threading.Lock()
        self._failures, self._probes, self._refusals = 0, 0, 0
        self._rests_until = self._checked_at = -math.inf
        self.is_down = False

    def rest(self) -> float:
        """Seconds for which no job may be popped; 0 if the backend works. May ask the backend."""
        now = self._clock()
        with self._lock:
            is_resting = now < self._rests_until
            is_due = self.is_down or now - self._checked_at >= _CHECK_SECONDS
        if self._server and is_due and not is_resting:
            self._check(self._server)
        with self._lock:
            return max(self._rests_until - now, 0.0)

    def hurry(self) -> None:
        """Do not rest any longer."""
        with self._lock:
            self._rests_until = -math.inf

    def worked(self) -> None:
        """A job was done."""
        with self._lock:
            self._failures, self._refusals, self._checked_at = 0, 0, self._clock()

    def failed(self, error: BackendError) -> None:
        """A job failed, and the next one might as well; or it was refused, and others were not."""
        with self._lock:
            if isinstance(error, JobRefused):
                self._refusals += 1
                if self._refusals < _MOST_REFUSALS:
                    return
            self._failures += 1
            self.is_down = isinstance(error, BackendDown)
            self._rests_until = self._clock() + _doubled(self._failures, _LONGEST_REST)

    def _check(self, server: ReportsState) -> None:
        with self._lock:
            # Each failure of a job changes it.
            rests_until = self._rests_until
        try:
            server.state()
        except BackendDown as exc:
            if self._note_down():
                log.warning("no jobs are popped: %s", exc)
        else:
            if self._note_up(rests_until):
                log.warning("the backend answers again: jobs are popped")

    def _note_down(self) -> bool:
        """Note that a check failed. Whether that is news."""
        with self._lock:
            is_news = not self.is_down or not self._probes
            self.is_down, self._probes, self._checked_at = True, self._probes + 1, self._clock()
            rest = _doubled(self._probes, _LONGEST_PROBE_REST)
            # A job that failed during the check may have begun a longer rest.
            self._rests_until = max(self._rests_until, self._checked_at + rest)
            return is_news

    def _note_up(self, rests_until: float) -> bool:
        """Note that the backend answered. Whether that is news."""
        with self._lock:
            self._checked_at = self._clock()
            if self._rests_until != rests_until:
                # A job failed during the check: its failure is newer than the backend's answer.
                return False
            is_news = self._probes > 0
            self.is_down, self._probes = False, 0
            return is_news


def _doubled(times: int, most: float) -> float:
    """2, 4, 8 ... seconds, at most `most`."""
    return float(min(_FIRST_REST * 2 ** min(times - 1, 10), most))
