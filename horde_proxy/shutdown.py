"""The wish to stop, shared by every thread that waits. No I/O."""

from __future__ import annotations

import threading

from horde_proxy.errors import ShuttingDown


class Halt:
    """A switch that, once set, ends every sleep made through it with ShuttingDown."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def sleep(self, seconds: float) -> None:
        """Return after that many seconds; raise ShuttingDown as soon as the switch is set."""
        if self._event.wait(seconds):
            raise ShuttingDown()
