"""Works only while nobody else needs the machine or the backend.

    guard thread   look() four times a second: the machine's load, the backend's other requests
    pop thread     reads `reason`: pops nothing while there is one
    job threads    read `aborts`: give their jobs back once it is true

`reason` and `aborts` are written by the guard thread alone, so they need no lock.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from horde_proxy.worker.backends import BackendDown, ReportsState

_LOOK_SECONDS = 0.25
"""Two looks that see somebody else make the worker give way: it does so within a second."""
_LOOKS = 2
"""One look may see a job of ours that has ended just now, and whose slot is not free yet."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IdleRules:
    """When to give way. `max_load`: the machine's load average for each core; None for any.

    `others`: whether the backend's other requests count. `abort`: running jobs are given back, too.
    `resume_after`: seconds of quiet before jobs are popped again.
    """

    max_load: float | None = None
    others: bool = False
    abort: bool = False
    resume_after: float = 5.0

    def are_set(self) -> bool:
        """Whether there is anything to look at."""
        return self.max_load is not None or self.others


class IdleGuard:
    """Looks whether others need the machine. `running`: how many jobs the backend has from us."""

    def __init__(
        self,
        rules: IdleRules,
        server: ReportsState | None,
        running: Callable[[], int],
        *,
        clock: Callable[[], float] = time.monotonic,
        load: Callable[[], float] = lambda: os.getloadavg()[0],
        cores: int | None = None,
    ) -> None:
        self._rules, self._server, self._running = rules, server, running
        self._clock, self._load = clock, load
        self._cores = cores or os.cpu_count() or 1
        self._looks, self._busy_at = 0, -math.inf
        self._has_warned = False
        self.reason: str | None = None
        self.aborts = False

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set, in a thread of its own."""
        if not self._rules.are_set():
            return
        thread = threading.Thread(target=self._watch, args=(stop,), name="idle-guard", daemon=True)
        thread.start()

    def look(self) -> None:
        """Look once."""
        reason = self._loaded() or self._used()
        if reason:
            self._busy_at = self._clock()
            if reason != self.reason and self.reason is None:
                log.warning("no jobs are popped: %s", reason)
            self.reason, self.aborts = reason, self._rules.abort
        elif self.reason and self._clock() - self._busy_at >= self._rules.resume_after:
            log.warning("jobs are popped again")
            self.reason = None
        if not reason:
            # A job that was popped just before must not be given back for what is over.
            self.aborts = False

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(_LOOK_SECONDS):
            self.look()

    def _loaded(self) -> str | None:
        """Why the machine is too busy, if it is."""
        if self._rules.max_load is None:
            return None
        load = self._load() / self._cores
        if load <= self._rules.max_load:
            return None
        return f"the machine's load is {load:.1f} for each core"

    def _used(self) -> str | None:
        """Why the backend is too busy, if it is."""
        if not self._rules.others or self._server is None:
            return None
        before = self._running()
        try:
            requests = self._server.state().requests
        # `health` takes care of that.
        except BackendDown:
            return None
        if requests is None:
            # Perhaps its answer was only too late, so that the next look asks again.
            if not self._has_warned:
                log.warning(
                    "the backend does not tell its requests: idle.others does nothing meanwhile"
                )
            self._has_warned = True
            return None
        # Jobs begin and end meanwhile: the larger number never takes one of ours for another's.
        others = requests - max(before, self._running())
        self._looks = self._looks + 1 if others > 0 else 0
        return "others use the backend" if self._looks >= _LOOKS else None
