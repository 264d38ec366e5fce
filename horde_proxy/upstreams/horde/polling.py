"""When to poll the horde for a request: soon after its end, within 60 polls a minute.

Pure but for the clock that is passed in. How a poll is made is not known here.

A model that was not measured:

    after the submit   0.25 s, so that a job of no length is noticed at once
    five polls         every 0.5 s; from then on one a second, and after 20 s every 1.2 s
    far in the queue   every 2 s

A model that was measured, whose end is expected:

    before             every 3 s at most, or twice
    around             a tenth of the time before and after it, every 0.3 s to 1.2 s
    in all             no more polls than one each two seconds, and three
    twice as late      as if it had not been measured: the expectation was wrong
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

WINDOW = 60.0
POLLS_PER_WINDOW = 59
"""The horde allows 60 polls a minute for each request and address; one is left for the cancel."""
FIRST = 0.25
SHORTEST = 0.5
LONGEST = 1.2
FAR = 2.0
"""Seconds between two polls while more than _FAR_POSITION requests are before this one."""
MANY = 250
"""Running requests from which on gaps widen for all, so that they make no more than 500 polls/s."""
_DENSE_SECONDS = 4.0
_WIDENING = 0.03
"""Seconds that gaps widen in each second: a minute has then just under 60 polls."""
_FAR_POSITION = 5
_FIRST_POLLS = 5
"""Polls that may be less than a second apart, where it is not known how long a job takes."""
_AFTER_FIRST = 1.0
_FREE_POLLS, _BUDGET_SECONDS = 3, 2.0
"""Polls of a measured model: three, and one for each two seconds. What is not used before the
expected end is used around it, and after that there is one each two seconds."""
_RARE, _RARE_SHARE = 3.0, 0.45
"""Seconds between two polls long before the end; of a short job, a little less than half of it."""
_AROUND_SHARE = 0.1
"""How much longer or shorter than expected most jobs of the same number of tokens take."""
_DENSE, _DENSE_WIDENING = 0.25, 0.02
"""Seconds between two polls around the end, and how much more for each second of the job: so much
is an end noticed late of a job of a second, and 1.2 s of one of a minute."""


class Expected(NamedTuple):
    """When a job should end, on the clock, and how long it takes till then from its begin (s)."""

    end: float
    seconds: float


def _doubtful_from(expected: Expected) -> float:
    """The time from which on an expectation says nothing: the job takes more than twice as long."""
    return expected.end + max(expected.seconds, _AFTER_FIRST)


class PollSchedule:
    """The polls of one request: `delay` is the time to wait before the next one, in seconds.

    How late an end is noticed is in proportion to the length of the job. `load` is the number of
    running requests. `least` returns the shortest gap once a worker has begun (s).
    """

    def __init__(
        self,
        clock: Callable[[], float],
        load: Callable[[], int] = lambda: 1,
        least: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._clock = clock
        self._load = load
        self._least = least
        self._recent: deque[float] = deque(maxlen=POLLS_PER_WINDOW)
        self._begin = self._since = clock()
        self._was_processing, self._count = False, 0
        self._held_until = 0.0

    def polled(self) -> None:
        """Count a poll that is being made now."""
        self._recent.append(self._clock())
        self._count += 1

    def hold(self, seconds: float) -> None:
        """Make no poll before these seconds have passed: the horde asked for it."""
        self._held_until = self._clock() + seconds

    def delay(
        self,
        *,
        processing: bool = False,
        queue_position: int = 0,
        expected: Expected | None = None,
    ) -> float:
        """Seconds to the next poll.

        `processing`: a worker has the job. `queue_position`: 1 is next, 0 is unknown. `expected`
        is None where the model was not measured.
        """
        if processing and not self._was_processing:
            self._was_processing, self._since = True, self._clock()
        is_far = not processing and queue_position > _FAR_POSITION
        # A pushed result needs no polls; but no push tells that a worker has begun.
        least = self._least() if self._was_processing else min(self._least(), FAR)
        is_known = expected is not None and self._clock() <= _doubtful_from(expected)
        widening = max(self._load() / MANY, 1.0) if self._count else 1.0
        gap = self._gap_to(expected, widening) if expected and is_known else self._gap() * widening
        return max(gap, FAR if is_far else 0.0, self._until_allowed(), least)

    def _gap(self) -> float:
        """Seconds that would be best to the next poll, if nothing is known of the job."""
        if not self._count:
            return FIRST
        widening = (self._clock() - self._since - _DENSE_SECONDS) * _WIDENING
        gap = min(SHORTEST + max(widening, 0.0), LONGEST)
        return gap if self._count < _FIRST_POLLS else max(gap, _AFTER_FIRST)

    def _gap_to(self, expected: Expected, widening: float) -> float:
        """Seconds that would be best to the next poll, if the job takes as long as expected.

        Among many requests only the polls around the end are rarer: those before it are few anyway.
        """
        now = self._clock()
        dense = min(_DENSE + _DENSE_WIDENING * expected.seconds, LONGEST) * widening
        # A worker that is idle takes up to a second to pop a job: the free polls are for more than
        # the shortest job alone. One that is there at once is noticed by the first poll.
        if self._count and not self._was_processing:
            dense = max(dense, SHORTEST)
        rare = min(_RARE_SHARE * expected.seconds, _RARE)
        until_around = expected.end - _AROUND_SHARE * expected.seconds - now
        # The end of this gap is poll number _count + 1.
        earliest = self._begin + (self._count + 1 - _FREE_POLLS) * _BUDGET_SECONDS
        return max(min(rare, until_around), dense, earliest - now)

    def _until_allowed(self) -> float:
        """Seconds until the horde takes another poll."""
        is_full = len(self._recent) == POLLS_PER_WINDOW
        earliest = max(self._held_until, self._recent[0] + WINDOW if is_full else 0.0)
        return earliest - self._clock()
