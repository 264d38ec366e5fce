"""A job that this process has taken: what may end it, and how it ends. No I/O."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.errors import ProxyError
from horde_proxy.upstreams.disconnects import Wakeable


class JobControl:
    """Ends the call of a job, from any thread. What is proxied ends by itself."""

    def __init__(self) -> None:
        # Guards both. Waking a waiter under it takes the waiter's own locks only.
        self._lock = threading.Lock()
        self._error: ProxyError | None = None
        self._waiter: Wakeable | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._error is not None

    def attach(self, waiter: Wakeable) -> None:
        """Note what waits for the answer, and end it where the job was stopped already."""
        with self._lock:
            self._waiter = waiter
            if self._error is not None:
                waiter.stop(self._error)

    def stop(self, error: ProxyError) -> None:
        """End the call with this error."""
        with self._lock:
            self._error = error
            if self._waiter is not None:
                self._waiter.stop(error)


@dataclass(frozen=True)
class NewJob:
    """A stored job to be added: what is to be done, and for which owner.

    `kind` names the JobWork that does it, with `details`, which are JSON. Jobs of one `owner` are
    done in the order of `priority` (low first), then of their arrival; owners take turns. `group`
    is what several jobs can be cancelled by. `expires` is Unix time (s), for whoever does the job.
    Nobody begins it within `delay` seconds.
    """

    id: str
    kind: str
    owner: str
    details: Mapping[str, Any] = field(repr=False)
    group: str = ""
    priority: int = 0
    expires: float | None = None
    delay: float = 0.0


@dataclass
class TakenJob:
    """A job that this process has taken. `attempts` are those before this one.

    `journal` is what the last attempt has saved, None at first. `save_journal` keeps a new one;
    False when another process has the job now.
    """

    id: str
    kind: str
    owner: str
    details: Mapping[str, Any] = field(repr=False)
    group: str
    created: float
    expires: float | None
    attempts: int
    journal: Mapping[str, Any] | None = field(repr=False)
    save_journal: Callable[[Mapping[str, Any]], bool] = field(repr=False)
    control: JobControl = field(default_factory=JobControl, repr=False)
    is_cancelled: bool = False
    is_handed_over: bool = False
    """Whether the job goes on elsewhere: the proxy stops, or another process has taken it."""


@dataclass(frozen=True)
class Later:
    """The job is to be tried again after so many seconds."""

    seconds: float
