"""A value that a background thread loads, so that requests rarely wait for it.

Where the threads meet, in `get`:

    fresh ------------------------------> the value
    due, usable: one thread loads ------> the old value, at once
    empty, stale, or after `refresh` ---> waits for the load, at most `patience`
    failed, nothing was ever loaded ----> the error of the last load, at once

The loading thread changes fields only under `_changed`, which is never held while `load` runs. A
single field may be read without it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from horde_proxy.errors import ProxyError, Unavailable
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry

FAILURE_TTL = 5.0
"""The pause after a failed load (s): short, since most outages are restarts."""
PATIENCE = 2.0
"""The longest wait for a load (s): after that, an old value or an error is better."""

T = TypeVar("T")


def in_background(load: Callable[[], None]) -> None:
    """Run `load` in a new thread, which does not keep the process alive."""
    threading.Thread(target=load, daemon=True).start()


def later_in_background(seconds: float, call: Callable[[], None]) -> None:
    """Run `call` in a new thread after so many seconds, unless the process ends before."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


def inline(load: Callable[[], None]) -> None:
    """Run `load` in the calling thread."""
    load()


class BackgroundValue(Generic[T]):
    """The value that `load` returns. A use of a value older than `ttl` begins a new load.

    Times are in seconds. One thread loads at a time. Callers wait only if there is no value, if
    the value is older than `stale` and the last load did not fail, or after `refresh`. They wait at
    most `patience`, or `first_patience` if there is no value. After a failed load, the last good
    value stays and the load is repeated after `failure_ttl`. `age` returns the age of a value on
    arrival. `initial` is the value before the first load. `load` raises a ProxyError when it fails.
    `telemetry` counts hits and loads by `name`.
    """

    def __init__(
        self,
        load: Callable[[], T],
        *,
        ttl: float,
        stale: float = math.inf,
        patience: float | None = None,
        first_patience: float | None = None,
        failure_ttl: float = FAILURE_TTL,
        age: Callable[[T], float] = lambda value: 0.0,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
        name: str = "",
        telemetry: Telemetry = NO_TELEMETRY,
        initial: T | None = None,
    ) -> None:
        self._name, self._telemetry = name, telemetry
        self._load, self._ttl, self._stale = load, ttl, stale
        self._patience = PATIENCE if patience is None else patience
        self._first_patience = self._patience if first_patience is None else first_patience
        self._failure_ttl, self._age_of = failure_ttl, age
        self._clock, self._run = clock, run
        self._changed = threading.Condition()
        self._value = initial
        self._loaded_at = -math.inf
        self._due = -math.inf
        self._began = -math.inf
        self._is_loading = self._is_refresh_requested = False
        self.error: ProxyError | None = None

    def get(self) -> T:
        """The value. Raises the ProxyError of the last load if none has ever succeeded."""
        self.load_if_due()
        if self._is_loading and self._should_wait():
            self._wait()
        if self._value is not None:
            self._telemetry.hit(self._name)
            return self._value
        # The load still runs. It takes seconds, hence the short pause.
        raise self.error or Unavailable("It has not answered yet.", retry_after=5)

    def peek(self) -> T | None:
        """The value without waiting, None before the first. Begins a load that is due."""
        self.load_if_due()
        return self._value

    def age(self) -> float:
        """The age of the value (s); infinite before the first."""
        return self._clock() - self._loaded_at

    def load_if_due(self) -> None:
        """Begin a load that is due, without waiting.

        To load several values at the same time, call this for all of them before the first `get`.
        """
        if self._clock() >= self._due:
            self._start()

    def refresh(self, min_interval: float = PATIENCE, *, is_awaited: bool = True) -> None:
        """Begin a load. At most once in `min_interval` seconds.

        The next `get` waits for it, unless not `is_awaited`.
        """
        if self._clock() - self._began >= min(min_interval, self._ttl):
            self._start(is_refresh=is_awaited)

    def _start(self, *, is_refresh: bool = False) -> None:
        with self._changed:
            # Also if a load is running already: that one is recent enough to be waited for.
            self._is_refresh_requested = self._is_refresh_requested or is_refresh
            if self._is_loading:
                return
            self._is_loading, self._began = True, self._clock()
        try:
            self._run(self._renew)
        except RuntimeError:
            if not self._is_loading:
                raise  # `_run` was inline, and `load` itself raised this
            # "can't start new thread": the next caller tries again.
            with self._changed:
                self._is_loading = False
                self.error = Unavailable("It cannot be loaded now.", retry_after=5)
                self._changed.notify_all()

    def _renew(self) -> None:
        error: ProxyError | None = None
        value: T | None = None
        try:
            value = self._load()
        except ProxyError as exc:
            error = exc
        finally:
            # Also after an unexpected exception: waiting threads must go on.
            self._telemetry.refreshed(self._name, value is not None)
            with self._changed:
                self._store(value, error)
                self._changed.notify_all()

    def _store(self, value: T | None, error: ProxyError | None) -> None:
        now = self._clock()
        self._due = now + self._failure_ttl
        if value is not None:
            age = self._age_of(value)
            self._value, self._loaded_at = value, now - age
            # A value that is old on arrival is due soon, but not earlier than after a failed load.
            self._due = max(now - age + self._ttl, min(self._due, now + self._ttl))
        self.error = error
        self._is_loading = self._is_refresh_requested = False

    def _should_wait(self) -> bool:
        if self._value is None:
            return self.error is None or self._is_refresh_requested
        is_stale = self._clock() - self._loaded_at > self._stale
        return self._is_refresh_requested or (is_stale and self.error is None)

    def _wait(self) -> None:
        patience = self._patience if self._value is not None else self._first_patience
        with self._changed:
            left = self._began + patience - self._clock()
            self._changed.wait_for(lambda: not self._is_loading, max(left, 0))
