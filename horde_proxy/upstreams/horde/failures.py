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


def dropped_by(before: Sequence[CatalogWorker], after: Sequence[CatalogWorker]) -> list[str]:
    """Ids of the workers that dropped jobs between two catalogs, most jobs first."""
    known = {worker.id: worker.uncompleted for worker in before}
    dropped = Counter(
        {worker.id: worker.uncompleted - known[worker.id] for worker in after if worker.id in known}
    )
    return [worker_id for worker_id, count in dropped.most_common() if worker_id and count > 0]
