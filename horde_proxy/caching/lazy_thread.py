"""A thread that the first request starts, for loops that run as long as the process.

It is not started with the process: the server may fork after that, and threads do not survive a
fork. The loop itself belongs to the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from horde_proxy.caching.background import in_background


class LazyThread:
    """Runs `loop` in one thread, from the first call of `ensure_started` on."""

    def __init__(
        self,
        loop: Callable[[], None],
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._loop, self._run = loop, run
        # Guards `_is_started`, so that one thread is started. No I/O happens under it.
        self._lock = threading.Lock()
        self._is_started = False

    def ensure_started(self) -> bool:
        """Start the thread unless it was started. Cheap enough for every request.

        False where the machine allows no more threads now; the next call tries again.
        """
        # Checked without the lock first, for which requests would queue.
        if self._is_started:
            return True
        with self._lock:
            if self._is_started:
                return True
            self._is_started = True
        try:
            self._run(self._loop)
        except RuntimeError:  # "can't start new thread"
            self._is_started = False
        return self._is_started
