"""All bridges of a worker process: they start, one fails without the others, and all end.

main thread    opens the backends, starts a thread for each lane, waits for them
lane threads   open a backend that was down, run its bridge
a signal       the first drains: nothing is popped, running jobs may end; after a while, or at
               the second, they are given back
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from horde_proxy.caching.background import later_in_background
from horde_proxy.worker.backends import BackendDown, BackendError
from horde_proxy.worker.bridge import Bridge
from horde_proxy.worker.horde import WorkerRejected

_OPEN_SECONDS = 10.0
"""How often a backend that is down at the start is looked for."""
_GIVE_BACK_SECONDS = 5.0
"""How long running jobs may take to be given back: the machine may be going down."""
_WAIT_SECONDS = 0.2

log = logging.getLogger(__name__)


class WorkerEnd:
    """The end of a worker: first `drain` is set, then `stop`. `seconds` lie between them at most.

    `request` is called by signal handlers, so it takes no lock of ours.
    """

    def __init__(
        self,
        seconds: float,
        run_later: Callable[[float, Callable[[], None]], None] = later_in_background,
    ) -> None:
        self.drain, self.stop = threading.Event(), threading.Event()
        self._seconds, self._run_later = seconds, run_later

    def request(self) -> None:
        """Drain; at the second call, or where there is no time for it, stop."""
        if self.drain.is_set() or not self._seconds:
            self.now()
            return
        self.drain.set()
        self._run_later(self._seconds, self.now)

    def now(self) -> None:
        """Give running jobs back."""
        self.stop.set()
        self.drain.set()


@dataclass(frozen=True)
class Lane:
    """One backend of the worker. `open` makes its bridge; it raises BackendError."""

    name: str
    open: Callable[[], Bridge]


class Crew:
    """Runs lanes until their end. `is_patient`: a backend that is down is waited for."""

    def __init__(self, lanes: Sequence[Lane], end: WorkerEnd, *, is_patient: bool) -> None:
        self._lanes, self._end, self._is_patient = lanes, end, is_patient
        # Each lane's thread appends once; the main thread reads when they have ended.
        self._rejections: list[WorkerRejected] = []

    def run(self) -> None:
        """Work until the end. Raises BackendError, and WorkerRejected if no lane can go on."""
        bridges = [self._first_bridge(lane) for lane in self._lanes]
        threads = [
            threading.Thread(
                target=self._serve, args=pair, name=f"lane-{pair[0].name}", daemon=True
            )
            for pair in zip(self._lanes, bridges, strict=True)
        ]
        for thread in threads:
            thread.start()
        self._wait_for(threads)
        if len(self._rejections) == len(self._lanes):
            raise self._rejections[0]

    def _first_bridge(self, lane: Lane) -> Bridge | None:
        """The lane's bridge; None if its backend is down and may come later."""
        try:
            return lane.open()
        except BackendDown as exc:
            if not self._is_patient:
                raise
            log.warning("%s; it is looked for every %.0f s", exc, _OPEN_SECONDS)
            return None

    def _serve(self, lane: Lane, bridge: Bridge | None) -> None:
        while bridge is None and not self._end.drain.wait(_OPEN_SECONDS):
            bridge = self._later_bridge(lane)
        try:
            if bridge is not None:
                bridge.run()
        except WorkerRejected as exc:
            log.error("the backend %s serves no horde any more: %s", lane.name, exc)
            self._rejections.append(exc)

    def _later_bridge(self, lane: Lane) -> Bridge | None:
        try:
            return lane.open()
        except BackendDown:
            return None
        # It came up, but without the models that the settings name: perhaps with the next start.
        except BackendError as exc:
            log.warning("%s", exc)
            return None

    def _wait_for(self, threads: Sequence[threading.Thread]) -> None:
        """Return when all have ended, or a little after the stop."""
        deadline: float | None = None
        while any(thread.is_alive() for thread in threads):
            if self._end.stop.is_set():
                deadline = deadline or time.monotonic() + _GIVE_BACK_SECONDS
                if time.monotonic() > deadline:
                    log.warning("not all jobs could be given back")
                    return
            next(thread for thread in threads if thread.is_alive()).join(_WAIT_SECONDS)
