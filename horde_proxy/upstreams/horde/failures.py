"""Which workers failed of late, so that requests can leave them out.

The horde does not name the worker that faulted a request, but counts the jobs that each dropped.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence

from horde_proxy.upstreams.horde.catalog import CatalogWorker

MEMORY = 3600.0
"""Seconds that a failure is remembered: a worker that was restarted may be well again."""
_MOST_REFUSED = 2
"""Chats in a row that workers may refuse; each costs a worker three faults of the 20 that a private
horde tolerates in an hour."""
_MOST = 10_000
"""Failures that are remembered: a memory of that size is small, and an hour has fewer."""


class Failures:
    """Failed generations by worker id."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Guards the deque, which is cut and counted at once. No I/O happens under it.
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, str]] = deque(maxlen=_MOST)

    def add(self, worker_id: str) -> None:
        """Note a failure of a worker now."""
        with self._lock:
            self._seen.append((self._clock(), worker_id))

    def workers(self) -> list[str]:
        """Ids of the workers that failed within the hour, most failures first."""
        with self._lock:
            while self._seen and self._seen[0][0] < self._clock() - MEMORY:
                self._seen.popleft()
            counts = Counter(worker_id for _, worker_id in self._seen)
            return [worker_id for worker_id, _ in counts.most_common()]


class RefusedChats:
    """Models whose servers refuse chats, as far as the last ones tell."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # By model: the refusals since the last answer, and when the last one was. Each change is
        # one assignment, so that no lock is needed; a refusal may be lost between two threads.
        self._last: dict[str, tuple[int, float]] = {}

    def add(self, model: str) -> None:
        """Note that workers failed on a chat before its first word."""
        self._last[model] = self._last.get(model, (0, 0.0))[0] + 1, self._clock()

    def clear(self, model: str) -> None:
        """Note that a chat was answered."""
        self._last.pop(model, None)

    def is_refusing(self, model: str) -> bool:
        """Whether the last chats of a model failed, within the hour."""
        count, when = self._last.get(model, (0, 0.0))
        return count >= _MOST_REFUSED and self._clock() < when + MEMORY


def dropped_by(before: Sequence[CatalogWorker], after: Sequence[CatalogWorker]) -> list[str]:
    """Ids of the workers that dropped jobs between two catalogs, most jobs first."""
    known = {worker.id: worker.uncompleted for worker in before}
    dropped = Counter(
        {worker.id: worker.uncompleted - known[worker.id] for worker in after if worker.id in known}
    )
    return [worker_id for worker_id, count in dropped.most_common() if worker_id and count > 0]
