"""Removes what is too old once an hour, also where nobody stores anything new.

Each part of the store says how it removes its own. Whatever looks regularly calls `look`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import Unavailable

_INTERVAL = 3600.0
"""Seconds between two removals."""

log = logging.getLogger(__name__)


class Expiry:
    """The removals of all parts of a store. Thread-safe. `run` starts a call nobody waits for."""

    def __init__(
        self,
        removals: Sequence[Callable[[], None]],
        *,
        now: Callable[[], float] = time.time,
        run: Callable[[Callable[[], None]], None] = lambda call: call(),
    ) -> None:
        self._removals, self._now, self._run = removals, now, run
        # Guards the time of the last removal. No I/O happens under it.
        self._lock = threading.Lock()
        self._removed = float("-inf")

    def look(self) -> None:
        """Have everything removed in the background when it is time."""
        with self._lock:
            # A clock that was set back must not stop it.
            if 0 <= self._now() - self._removed < _INTERVAL:
                return
            self._removed = self._now()
        try:
            self._run(self._remove)
        except RuntimeError as exc:
            # "can't start new thread": in an hour there may be one.
            log.warning("what is too old is not removed yet: %s", exc)

    def _remove(self) -> None:
        for removal in self._removals:
            try:
                removal()
            except (DatabaseError, Unavailable) as exc:
                log.warning("what is too old could not be removed: %s", exc)
