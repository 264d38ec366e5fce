"""Places for waiting: a limited number of chats wait at a time, one too many is told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock

from horde_proxy.errors import Unavailable
from horde_proxy.upstreams.base import StreamItem


class Slots:
    """Counts the chats that are being answered."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0
        self._lock = Lock()

    def take(self) -> Callable[[], None]:
        """Takes a place, which the function that comes back frees. Raises Unavailable."""
        with self._lock:
            if self.taken >= self.count:
                raise Unavailable("All places for waiting are taken.", code="busy", retry_after=10)
            self.taken += 1
        return self._free

    def occupied(self, items: Iterator[StreamItem]) -> Iterator[StreamItem]:
        """The items, holding a place from the first one on. Raises Unavailable."""
        free = self.take()
        try:
            yield from items
        finally:
            free()

    def _free(self) -> None:
        with self._lock:
            self.taken -= 1
