"""A limited number of chats wait at a time; one too many is refused at once.

Jobs, for which nobody waits, leave a quarter of the slots to people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from horde_proxy.errors import Unavailable

_SHARE_OF_PEOPLE = 4
"""One of so many slots is never taken by a job: a batch of thousands must not turn people away."""


class Slots:
    """Counts the chats that are being answered, up to `count`."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0
        # Guards `taken`.
        self._lock = Lock()

    def acquire(self, *, for_job: bool = False) -> Callable[[], None]:
        """Take a slot; call the result once to free it. Raises Unavailable."""
        with self._lock:
            most = max(self.count - self.count // _SHARE_OF_PEOPLE, 1) if for_job else self.count
            if self.taken >= most:
                raise Unavailable("All places for waiting are taken.", code="busy", retry_after=10)
            self.taken += 1
        return self._free

    @contextmanager
    def held(self, *, for_job: bool = False) -> Iterator[None]:
        """A context that holds a slot. Raises Unavailable."""
        free = self.acquire(for_job=for_job)
        try:
            yield
        finally:
            free()

    def _free(self) -> None:
        with self._lock:
            self.taken -= 1
