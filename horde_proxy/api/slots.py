"""A limited number of chats wait at a time; one too many is refused at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from horde_proxy.errors import Unavailable


class Slots:
    """Counts the chats that are being answered, up to `count`."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0
        # Guards `taken`.
        self._lock = Lock()

    def acquire(self) -> Callable[[], None]:
        """Take a slot; call the result once to free it. Raises Unavailable."""
        with self._lock:
            if self.taken >= self.count:
                raise Unavailable("All places for waiting are taken.", code="busy", retry_after=10)
            self.taken += 1
        return self._free

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context that holds a slot. Raises Unavailable."""
        free = self.acquire()
        try:
            yield
        finally:
            free()

    def _free(self) -> None:
        with self._lock:
            self.taken -= 1
