"""The wish to stop, shared by every thread that waits. No I/O."""

from __future__ import annotations

import time

from horde_proxy.errors import ShuttingDown

_SLICE = 1.0


class Shutdown:
    """A switch that, once set, ends every sleep made through it with ShuttingDown.

    Sleepers look at it once a second; waiting on an Event that a thousand threads share costs
    several times as much.
    """

    def __init__(self) -> None:
        self._is_set = False
        self.is_near = False
        """Whether the end has begun: chats may still end, but nobody watches any longer."""

    def set(self) -> None:
        self._is_set = self.is_near = True

    def sleep(self, seconds: float) -> None:
        """Return after that many seconds; raise ShuttingDown soon after the switch is set."""
        until = time.monotonic() + seconds
        while not self._is_set:
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _SLICE))
        raise ShuttingDown()
