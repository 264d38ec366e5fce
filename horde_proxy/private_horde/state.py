"""The whole state of a private horde, and the lock that guards it.

One lock guards everything: accounts, workers, queue, counts and forecast. It is held for one route
at a time. No I/O happens under it, and it is never taken under another lock. `locked()` first deals
with everything overdue: it aborts jobs, forgets expired requests and takes workers offline. So no
background thread is needed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from horde_proxy.private_horde.accounts import HordeAccounts
from horde_proxy.private_horde.counters import DeliveryCounts
from horde_proxy.private_horde.forecast import Forecast
from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.queue import Queue
from horde_proxy.private_horde.records import TextRequest
from horde_proxy.private_horde.workers import Workers

# A forecast walks through the whole queue, and every client polls once in a second or two.
_FORECAST_SECONDS = 1.0


class HordeState:
    """Accounts, workers, queue and counts of one horde. Use them within `locked()` only.

    `clock` gives seconds; `job_ttl`, `expiry` and `offline_after` are seconds.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        job_ttl: float,
        expiry: float,
        offline_after: float,
        max_faults: int,
        anonymous: bool,
        model_sizes: Mapping[str, float],
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.new_id = new_id
        self.sizes = ModelSizes(model_sizes)
        self.accounts = HordeAccounts(clock(), anonymous)
        self.workers = Workers(offline_after, self.sizes, new_id)
        self.queue = Queue(job_ttl=job_ttl, expiry=expiry, max_faults=max_faults)
        self.counts = DeliveryCounts()
        self.settle_every = 0.0
        # (when it is charged, request, kudos), the earliest first.
        self._charges: deque[tuple[float, TextRequest, float]] = deque()
        # This one is outdated from the start, so that the first status makes a real forecast.
        self._forecast = Forecast((), self.workers)
        self._forecast_until = clock()

    @contextmanager
    def locked(self) -> Iterator[float]:
        """Hold the lock. Yields the time, after everything overdue has been dealt with."""
        with self._lock:
            now = self._clock()
            self.queue.sweep(now)
            self.workers.sweep(now)
            self._settle(now)
            yield now

    def charge(self, request: TextRequest, amount: float, now: float) -> None:
        """Bill kudos to the account of a request: now, or at the next multiple of settle_every.

        The real horde's ledger is applied every 3 s (horde-api-2.md, section 4).
        """
        every = self.settle_every
        due = (now // every + 1) * every if every else now
        self._charges.append((due, request, amount))
        self._settle(now)

    def _settle(self, now: float) -> None:
        while self._charges and self._charges[0][0] <= now:
            _, request, amount = self._charges.popleft()
            request.account.pay(amount)
            request.kudos += amount

    def wait_time(self, request: TextRequest, now: float) -> int:
        """Seconds until all results should be there, by a forecast that is at most a second old."""
        if now >= self._forecast_until:
            self._forecast = Forecast(self.queue.waiting, self.workers)
            self._forecast_until = now + _FORECAST_SECONDS
        return self._forecast.wait_time(request, now)
