"""Which workers failed within the last hour. The horde does not name who faulted a request."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence

from horde_proxy.upstreams.horde.catalog import CatalogWorker

MEMORY = 3600.0
_MOST = 10_000


class Failures:
    """Failed generations by worker id; thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, str]] = deque(maxlen=_MOST)

    def add(self, worker_id: str) -> None:
        with self._lock:
            self._seen.append((self._clock(), worker_id))

    def workers(self) -> list[str]:
        """Ids of those that failed within the hour, most failures first."""
        with self._lock:
            while self._seen and self._seen[0][0] < self._clock() - MEMORY:
                self._seen.popleft()
            return [worker for worker, _ in Counter(each for _, each in self._seen).most_common()]


def dropped_by(before: Sequence[CatalogWorker], after: Sequence[CatalogWorker]) -> list[str]:
    """Ids of the workers that dropped jobs between two looks at them, most jobs first."""
    known = {worker.id: worker.uncompleted for worker in before}
    dropped = {
        worker.id: worker.uncompleted - known[worker.id] for worker in after if worker.id in known
    }
    found = [worker_id for worker_id, count in dropped.items() if worker_id and count > 0]
    return sorted(found, key=lambda worker_id: -dropped[worker_id])
