"""What one process knows of queue and workers without asking the store, so that polls are cheap.

    store, after each commit of this process --> apply(): the changed records
    a poll, once in a second at most ----------> refresh(): all of it, if others changed the store

So the view is exact while one process uses the store, and at most a second old with several. It
decides nothing that must be right: jobs are given by the store.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from horde_proxy.private_horde.forecast import Forecast
from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.online import OnlineWorkers
from horde_proxy.private_horde.queue_order import order_of
from horde_proxy.private_horde.records import ALCHEMY, IMAGE, TEXT, HordeRequest, Job, Worker
from horde_proxy.private_horde.store.base import Store

R = TypeVar("R")

_FORECAST_SECONDS = 1.0
"""A forecast walks through the whole queue, and every client polls once in a second or two."""

_STEP = 1e-6
"""Seconds between two requests of one moment. A double has room for four such steps in 2026."""


class _KindQueue:
    """The open requests of one kind. Its owner holds the lock."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.waiting: list[HordeRequest] = []
        self.waiting_of: Counter[int] = Counter()
        self.results = self.work = 0
        self.forecast: Forecast | None = None
        self.forecast_at = 0.0

    def replace(self, requests: Iterable[HordeRequest]) -> None:
        """Take these open requests instead of those that are here."""
        mine = [request for request in requests if request.kind == self.kind]
        self.waiting = sorted((r for r in mine if r.queued), key=order_of)
        self.waiting_of.clear()
        self.results = self.work = 0
        for request in mine:
            self.count(request, 1)

    def count(self, request: HordeRequest, sign: int) -> None:
        """Count an open request that came (1) or went (-1)."""
        self.waiting_of[request.account_id] += sign * request.waiting
        self.results += sign * request.waiting * request.queued
        self.work += sign * request.waiting * request.work * request.queued

    def put(self, request: HordeRequest, was_queued: bool) -> None:
        """Take the newest state of a request into the list of those that wait."""
        if was_queued != request.queued:
            if request.queued:
                insort(self.waiting, request, key=order_of)
            else:
                del self.waiting[self.place(request)]
        elif request.queued:
            self.waiting[self.place(request)] = request

    def place(self, request: HordeRequest) -> int:
        """The number of requests before it. O(log n)."""
        return bisect_left(self.waiting, request.order, key=order_of)


class QueueView:
    """The open requests and the online workers, as of the last commit or refresh. Thread-safe."""

    def __init__(self, store: Store, offline_after: float, sizes: ModelSizes) -> None:
        self._store, self._offline_after = store, offline_after
        # Guards everything below. No I/O happens under it, and no other lock is taken.
        self._lock = threading.Lock()
        self.workers = OnlineWorkers(offline_after, sizes)
        self._open: dict[str, HordeRequest] = {}
        self._of_account: dict[int, dict[str, HordeRequest]] = {}
        self._queues = {kind: _KindQueue(kind) for kind in (TEXT, IMAGE, ALCHEMY)}
        self._last_queued = 0.0
        # (version of the workers, whether any fits) by request.
        self._possible: dict[str, tuple[int, bool]] = {}
        # Only one thread refreshes. What is committed meanwhile is applied again afterwards.
        self._refreshing = threading.Lock()
        self._refreshed_at: float | None = None
        self._seen_changes = -1
        self._meanwhile: list[Any] | None = None
        store.observe(self.apply)

    # Changes.

    def apply(self, records: Sequence[Any]) -> None:
        """Take the new state of committed records."""
        with self._lock:
            if self._meanwhile is not None:
                self._meanwhile.extend(records)
            self._apply(records)

    def update(self, now: float) -> None:
        """Look whether workers went offline, and whether other processes changed the store."""
        last = self._refreshed_at
        if last is None:
            # Nothing can be answered before the first time.
            with self._refreshing:
                if self._refreshed_at is None:
                    self._seen_changes = self._store.foreign_changes()
                    self._refresh(now)
        elif abs(now - last) >= 1.0 and self._refreshing.acquire(blocking=False):
            try:
                self._refreshed_at = now
                if (changes := self._store.foreign_changes()) != self._seen_changes:
                    self._seen_changes = changes
                    self._refresh(now)
            finally:
                self._refreshing.release()
        with self._lock:
            self.workers.sweep(now)

    def _refresh(self, now: float) -> None:
        with self._lock:
            self._meanwhile = []
        with self._store.snapshot() as tx:
            requests = tx.open_requests()
            workers = tx.workers_since(now - self._offline_after)
        with self._lock:
            self._open.clear()
            self._of_account.clear()
            for queue in self._queues.values():
                queue.replace(requests)
            for request in requests:
                self._list(request)
            self._possible = {id: p for id, p in self._possible.items() if id in self._open}
            self.workers.replace(workers)
            self._apply(self._meanwhile)
            self._meanwhile = None
        self._refreshed_at = now

    def _apply(self, records: Iterable[Any]) -> None:
        for record in records:
            if isinstance(record, HordeRequest):
                self._put(record)
            elif isinstance(record, Worker):
                self.workers.put(record)

    def _put(self, request: HordeRequest) -> None:
        queue = self._queues[request.kind]
        old = self._open.pop(request.id, None)
        was_queued = old is not None and old.queued
        if old is not None:
            del self._of_account[old.account_id][old.id]
            queue.count(old, -1)
        queue.put(request, was_queued)
        if request.open:
            self._list(request)
            queue.count(request, 1)
        else:
            self._possible.pop(request.id, None)

    def _list(self, request: HordeRequest) -> None:
        self._open[request.id] = request
        self._of_account.setdefault(request.account_id, {})[request.id] = request
        self._last_queued = max(self._last_queued, request.queued_at)

    # Questions.

    def queue_time(self, now: float) -> float:
        """`now`, or a little more than that of the newest request, so that it comes after that.

        A clock that was put back would put new requests before all that wait.
        """
        with self._lock:
            # Once the queue is empty, the time may go back as the clock did.
            went_back = now < self._last_queued - 1.0
            if any(queue.waiting for queue in self._queues.values()) or not went_back:
                now = max(now, self._last_queued + _STEP)
            self._last_queued = now
            return self._last_queued

    def position(self, request: HordeRequest) -> int:
        """A request's place in the queue of its kind, from 1; 0 if it is not waiting. O(log n)."""
        if not request.queued:
            return 0
        with self._lock:
            return self._queues[request.kind].place(request) + 1

    def wait_time(self, request: HordeRequest, running: Iterable[Job], now: float) -> int:
        """Seconds until all results should be there, by a forecast that is at most a second old."""
        with self._lock:
            queue = self._queues[request.kind]
            forecast = queue.forecast
            if forecast is None or abs(now - queue.forecast_at) >= _FORECAST_SECONDS:
                forecast = queue.forecast = Forecast(queue.waiting, self.workers, queue.kind)
                queue.forecast_at = now
            return forecast.wait_time(request, running, now)

    def any_fits(self, request: HordeRequest) -> bool:
        """Whether any online worker may take the request: `is_possible` of its status."""
        # Cached, because clients poll the status far more often than workers change.
        with self._lock:
            version, possible = self._possible.get(request.id, (-1, False))
            if version != self.workers.version:
                possible = self.workers.any_fits(request)
                if request.id in self._open:
                    self._possible[request.id] = (self.workers.version, possible)
            return possible

    def waiting_results(
        self, account_id: int, models: set[str] | None = None, kind: str = TEXT
    ) -> int:
        """The results of an account and a kind that no worker has popped yet.

        With `models`, only of its requests that name one of them.
        """
        with self._lock:
            if not models:
                return self._queues[kind].waiting_of[account_id]
            requests = self._of_account.get(account_id, {}).values()
            return sum(
                r.waiting for r in requests if r.kind == kind and not models.isdisjoint(r.models)
            )

    def load(self, kind: str = TEXT) -> tuple[int, int]:
        """(results of a kind that no worker has popped yet, threads of its online workers)."""
        with self._lock:
            return self._queues[kind].results, self.workers.threads(kind)

    def read(self, question: Callable[[QueueView], R]) -> R:
        """The answer of a function that reads `workers` and `open_requests`."""
        with self._lock:
            return question(self)

    def open_requests(self, kind: str) -> list[HordeRequest]:
        """The open requests of a kind; for `read`."""
        return [request for request in self._open.values() if request.kind == kind]

    def waiting_requests(self, kind: str) -> Sequence[HordeRequest]:
        """The requests of a kind that wait, in order; for `read`."""
        return self._queues[kind].waiting

    def queued(self, kind: str) -> tuple[int, int]:
        """(results of a kind that no worker has popped yet, their work); for `read`."""
        queue = self._queues[kind]
        return queue.results, queue.work
