"""When to poll the horde for a request: soon after its end, within 60 polls a minute.

Pure but for the clock that is passed in. How a poll is made is not known here.

    after the submit   0.25 s, so that a job of no length is noticed at once
    then               every 0.5 s, for 4 s; from then on gaps widen by 0.03 s each second
    at most            1.2 s apart: jobs of a minute are noticed 0.6 s late on average
    far in the queue   every 2 s
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

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


class PollSchedule:
    """The polls of one request: `delay` is the time to wait before the next one, in seconds.

    Gaps widen with the time since the submit, and again with the time since a worker began: how
    late an end is noticed is then in proportion to the length of the job. `load` is the number of
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
        self._since = clock()
        self._was_processing = False
        self._held_until = 0.0

    def polled(self) -> None:
        """Count a poll that is being made now."""
        self._recent.append(self._clock())

    def hold(self, seconds: float) -> None:
        """Make no poll before these seconds have passed: the horde asked for it."""
        self._held_until = self._clock() + seconds

    def delay(self, *, processing: bool = False, queue_position: int = 0) -> float:
        """Seconds to the next poll.

        `processing`: a worker has the job. `queue_position`: 1 is next, 0 is unknown.
        """
        if processing and not self._was_processing:
            self._was_processing, self._since = True, self._clock()
        is_far = not processing and queue_position > _FAR_POSITION
        # A pushed result needs no polls; but no push tells that a worker has begun.
        least = self._least() if self._was_processing else min(self._least(), FAR)
        return max(FAR if is_far else self._gap(), self._until_allowed(), least)

    def _gap(self) -> float:
        """Seconds that would be best to the next poll, if the horde took any number."""
        if not self._recent:
            return FIRST
        widening = (self._clock() - self._since - _DENSE_SECONDS) * _WIDENING
        return min(SHORTEST + max(widening, 0.0), LONGEST) * max(self._load() / MANY, 1.0)

    def _until_allowed(self) -> float:
        """Seconds until the horde takes another poll."""
        is_full = len(self._recent) == POLLS_PER_WINDOW
        earliest = max(self._held_until, self._recent[0] + WINDOW if is_full else 0.0)
        return earliest - self._clock()
