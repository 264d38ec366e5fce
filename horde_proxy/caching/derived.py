"""A value that is made from other objects, and made again only when one of them is replaced.

Objects are compared by identity. So the source must return the same object as long as nothing has
changed, and must never change an object that it has returned.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=tuple[Any, ...])
T = TypeVar("T")


class Derived(Generic[S, T]):
    """The value that `make` returns for the tuple from `source`, at most `max_age` seconds old.

    Every `get` calls `source`, which may wait and may raise.
    """

    def __init__(
        self,
        source: Callable[[], S],
        make: Callable[[S], T],
        *,
        max_age: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._make = source, make
        self._max_age, self._clock = max_age, clock
        self._made: _Made[S, T] | None = None
        # Held while the value is made, so that only one of many threads makes it. No I/O happens
        # under it: `make` does none, and `source`, which may do some, is called before.
        self._lock = threading.Lock()

    def get(self) -> T:
        """The value for the current source."""
        source = self._source()
        # Read without the lock, since a _Made is replaced as a whole: most calls end here.
        made = self._made
        if made is not None and self._is_current(made, source):
            return made.value
        with self._lock:
            made = self._made
            if made is None or not self._is_current(made, source):
                made = self._made = _Made(source, self._make(source), self._clock())
            return made.value

    def peek(self) -> T | None:
        """The last value; None before the first `get`. It never calls the source."""
        made = self._made
        return None if made is None else made.value

    def _is_current(self, made: _Made[S, T], source: S) -> bool:
        return (
            len(made.source) == len(source)
            and all(old is new for old, new in zip(made.source, source, strict=True))
            and self._clock() - made.at < self._max_age
        )


class _Made(NamedTuple, Generic[S, T]):
    source: S
    value: T
    at: float
