"""When to ask the horde for a request's status: soon after the end, within 60 polls a minute.

Pure but for the clock that is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

WINDOW = 60.0
POLLS_PER_WINDOW = 59
FIRST = 0.25
SHORTEST = 0.5
LONGEST = 1.2
FAR = 2.0
MANY = 250
_DENSE_SECONDS = 4.0
_WIDENING = 0.03
_FAR_POSITION = 5


class PollSchedule:
    """The polls of one request: `delay` says how long to wait before the next one (s).

    Gaps widen with the time since the submit, and anew since a worker began, at just the rate
    that keeps a minute within its 60 polls: lateness grows with the job's own length. Beyond
    MANY running requests (`load`) gaps widen for all, so that polling does not fill the machine.
    `least`: once a worker has begun, no gap is shorter (s).
    """

    def __init__(
        self, clock: Callable[[], float], load: Callable[[], int] = lambda: 1, least: float = 0.0
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
        """The horde asked for a pause: no poll before it has passed."""
        self._held_until = self._clock() + seconds

    def delay(self, *, processing: bool = False, queue_position: int = 0) -> float:
        """Seconds to the next poll.

        `processing`: a worker has the job. `queue_position`: 1 is next, 0 is unknown.
        """
        if processing and not self._was_processing:
            self._was_processing, self._since = True, self._clock()
        is_far = not processing and queue_position > _FAR_POSITION
        least = self._least if self._was_processing else min(self._least, FAR)
        return max(FAR if is_far else self._gap(), self._until_allowed(), least)

    def _gap(self) -> float:
        if not self._recent:
            return FIRST
        widening = (self._clock() - self._since - _DENSE_SECONDS) * _WIDENING
        return min(SHORTEST + max(widening, 0.0), LONGEST) * max(self._load() / MANY, 1.0)

    def _until_allowed(self) -> float:
        full = len(self._recent) == POLLS_PER_WINDOW
        earliest = max(self._held_until, self._recent[0] + WINDOW if full else 0.0)
        return earliest - self._clock()
