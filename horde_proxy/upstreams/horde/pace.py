"""When to ask the horde for a request's status: soon after the end, within 60 polls a minute.

Pure but for the clock that is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

WINDOW = 60.0
POLLS_PER_WINDOW = 59
SHORTEST = 0.5
STEADY = 1.1
_DENSE_POLLS = 10
_FAR_POSITION = 5
_FAR = 2.0


class Pace:
    """The polls of one request. `delay` says how long to wait before the next one (s)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=POLLS_PER_WINDOW)
        self._dense_left = _DENSE_POLLS
        self._was_processing = False
        self._held_until = 0.0

    def polled(self) -> None:
        """Count a poll that is being made now."""
        self._recent.append(self._clock())

    def hold(self, seconds: float) -> None:
        """The horde asked for a pause: no poll before it has passed."""
        self._held_until = self._clock() + seconds

    def delay(self, *, processing: bool = False, queue_position: int = 0) -> float:
        """Seconds to the next poll: dense after the submit and after a worker has begun.

        `processing`: a worker has the job. `queue_position`: 1 is next, 0 is unknown.
        """
        if processing and not self._was_processing:
            self._was_processing, self._dense_left = True, _DENSE_POLLS
        if not processing and queue_position > _FAR_POSITION:
            return max(_FAR, self._until_allowed())
        self._dense_left -= 1
        return max(SHORTEST if self._dense_left >= 0 else STEADY, self._until_allowed())

    def _until_allowed(self) -> float:
        full = len(self._recent) == POLLS_PER_WINDOW
        earliest = max(self._held_until, self._recent[0] + WINDOW if full else 0.0)
        return earliest - self._clock()
