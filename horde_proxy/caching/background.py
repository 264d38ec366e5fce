"""A value that is loaded in the background: what is known is given at once, old or not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from horde_proxy.errors import ProxyError, Unavailable
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry

FAILURE_TTL = 5.0
"""How long a failed load is not repeated (s)."""
PATIENCE = 2.0
"""How long somebody waits for a load where nothing (good) is known (s)."""

T = TypeVar("T")


def in_background(load: Callable[[], None]) -> None:
    """Run it in a thread of its own, which does not keep the process alive."""
    threading.Thread(target=load, daemon=True).start()


def inline(load: Callable[[], None]) -> None:
    """Run it here and now."""
    load()


class BackgroundValue(Generic[T]):
    """What `load` gives, at most `ttl` seconds old as long as it is asked for.

    One thread loads. Only while there is no value yet, when it is older than `stale` though no
    load has failed, or after `refresh`, those who ask wait for that a moment. The last good value
    is kept while loading fails, which is not tried again for `failure_ttl`. `age` tells how old a
    value is when it comes. `observer` is told of it by its `name`.
    """

    def __init__(
        self,
        load: Callable[[], T],
        *,
        ttl: float,
        stale: float = math.inf,
        patience: float = PATIENCE,
        failure_ttl: float = FAILURE_TTL,
        age: Callable[[T], float] = lambda value: 0.0,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
        name: str = "",
        observer: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._name, self._observer = name, observer
        self._load, self._ttl, self._stale = load, ttl, stale
        self._patience = patience
        self._failure_ttl, self._age_of = failure_ttl, age
        self._clock, self._run = clock, run
        self._changed = threading.Condition()
        self._value: T | None = None
        self._loaded_at = -math.inf
        self._due = -math.inf
        self._began = -math.inf
        self._is_loading = self._is_wanted = False
        self.error: ProxyError | None = None

    def get(self) -> T:
        """The value. Raises the ProxyError of the last load when there has never been one."""
        self.begin()
        if self._is_loading and self._is_worth_waiting():
            self._wait()
        if self._value is not None:
            self._observer.hit(self._name)
            return self._value
        raise self.error or Unavailable("It has not answered yet.", retry_after=5)

    def peek(self) -> T | None:
        """The value as it is, without waiting for the load that may begin now."""
        self.begin()
        return self._value

    def age(self) -> float:
        """How old the value is (s); infinite where there is none."""
        return self._clock() - self._loaded_at

    def begin(self) -> None:
        """Have the value loaded if that is due; several may be begun before one waits for any."""
        if self._clock() >= self._due:
            self._start()

    def refresh(self, least: float = PATIENCE) -> None:
        """Load anew, for whoever asks next, unless a load began within the `least` seconds."""
        if self._clock() - self._began >= min(least, self._ttl):
            self._is_wanted = True
            self._start()

    def _start(self) -> None:
        with self._changed:
            if self._is_loading:
                return
            self._is_loading, self._began = True, self._clock()
        try:
            self._run(self._renew)
        except RuntimeError:
            if not self._is_loading:
                raise
            # There was no thread to be had; the next one who asks tries again.
            self._is_loading = False
            self.error = Unavailable("It cannot be loaded now.", retry_after=5)

    def _renew(self) -> None:
        error: ProxyError | None = None
        value: T | None = None
        try:
            value = self._load()
        except ProxyError as exc:
            error = exc
        finally:
            self._observer.refreshed(self._name, value is not None)
            with self._changed:
                now = self._clock()
                self._due = now + self._failure_ttl
                if value is not None:
                    age = self._age_of(value)
                    self._value, self._loaded_at = value, now - age
                    self._due = max(now - age + self._ttl, min(self._due, now + self._ttl))
                self.error = error
                self._is_loading = self._is_wanted = False
                self._changed.notify_all()

    def _is_worth_waiting(self) -> bool:
        if self._value is None:
            return self.error is None or self._is_wanted
        is_stale = self._clock() - self._loaded_at > self._stale
        return self._is_wanted or (is_stale and self.error is None)

    def _wait(self) -> None:
        with self._changed:
            left = self._began + self._patience - self._clock()
            self._changed.wait_for(lambda: not self._is_loading, max(left, 0))
