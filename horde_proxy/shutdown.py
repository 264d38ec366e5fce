"""The request to stop, which every thread that waits must notice. No I/O.

One thread sets the flag; the others read it without a lock, since it changes only once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from horde_proxy.errors import ShuttingDown

_SLICE = 1.0
"""How long a sleeper may take to notice the shutdown (s)."""


class Shutdown:
    """Once it is set, it ends every sleep made through it with ShuttingDown.

    `sleep` replaces the real sleep, for tests with a clock of their own. Sleepers look at the flag
    once a second: waiting on an Event that a thousand threads share costs several times as much.
    """

    def __init__(self, sleep: Callable[[float], object] | None = None) -> None:
        self._is_set, self._sleep = False, sleep
        self.has_begun = False
        """Chats may still end then, but the page is no longer updated."""

    def set(self) -> None:
        """End the sleeps, now and from now on."""
        self._is_set = self.has_begun = True

    def sleep(self, seconds: float) -> None:
        """Return after that many seconds. Raises ShuttingDown soon after it is set."""
        if self._sleep is not None and not self._is_set:
            self._sleep(seconds)
            seconds = 0.0
        until = time.monotonic() + seconds
        while not self._is_set:
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _SLICE))
        raise ShuttingDown()
