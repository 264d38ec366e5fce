"""What one answer took on the horde, summed up over all of its requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.upstreams.base import LateKudos


@dataclass
class AnswerCost(LateKudos):
    """Request ids, workers (name by id), kudos, tokens generated and seconds of one answer.

    `price`: the estimate in kudos at each submit. `guided`: requests for single values of a
    structure; `hedged`: those beside one that was late. The thread that serves the client changes
    all of it; only the kudos are also changed by another one, see settlements.py.
    """

    request_ids: list[str] = field(default_factory=list)
    workers: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    price: float = 0.0
    retries: int = 0
    guided: int = 0
    hedged: int = 0
    queue_seconds: float = 0.0
    generation_seconds: float = 0.0
    # Of the requests that run, the price; of those that have ended, the kudos, and while these are
    # not settled, the price as well. All by request id.
    _running: dict[str, float] = field(default_factory=dict)
    _kudos: dict[str, float] = field(default_factory=dict)
    _unsettled: dict[str, float] = field(default_factory=dict)
    _listeners: list[Callable[[], None]] = field(default_factory=list)
    # Guards the four above. No I/O happens under it, and listeners are called without it.
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def kudos(self) -> float:
        """The kudos that are known by now."""
        with self._lock:
            return sum(self._kudos.values())

    @property
    def committed(self) -> float:
        """The kudos that it will probably be: of what is not settled, at least the price."""
        with self._lock:
            return sum(
                max(kudos, self._unsettled.get(request_id, 0.0))
                for request_id, kudos in self._kudos.items()
            )

    @property
    def running_price(self) -> float:
        """The kudos that the requests which run now will cost at most."""
        with self._lock:
            return sum(self._running.values())

    @property
    def expected(self) -> float:
        """What all will probably be: committed, and of what runs now the price."""
        return self.committed + self.running_price

    @property
    def is_settled(self) -> bool:
        """Whether all kudos are final."""
        with self._lock:
            return not self._unsettled

    def add_request(self, request_id: str, price: float) -> None:
        """Add a request that was submitted."""
        self.request_ids.append(request_id)
        self.price += price
        with self._lock:
            self._running[request_id] = price

    def add_kudos(self, request_id: str, kudos: float, unsettled_price: float | None) -> None:
        """Add the kudos of a request that has ended; with its price where they may still grow."""
        with self._lock:
            self._running.pop(request_id, None)
            self._kudos[request_id] = kudos
            if unsettled_price is not None:
                self._unsettled[request_id] = unsettled_price

    def settle(self, request_id: str, kudos: float = 0.0) -> None:
        """The final kudos of a request. They never fall, so that less than before is unknown."""
        with self._lock:
            self._unsettled.pop(request_id, None)
            before = self._kudos.get(request_id, 0.0)
            self._kudos[request_id] = max(before, kudos)
            listeners = [*self._listeners] if kudos > before else []
        for listener in listeners:
            listener()

    def on_change(self, listener: Callable[[], None]) -> None:
        with self._lock:
            self._listeners.append(listener)

    def summary(self, model: str) -> dict[str, Any]:
        """The `horde` object of a completion."""
        return {
            "request_ids": self.request_ids,
            "model": model,
            "workers": [{"id": worker, "name": name} for worker, name in self.workers.items()],
            "kudos": round(self.kudos, 2),
            "kudos_settled": self.is_settled,
            "price": round(self.price, 2),
            "retries": self.retries,
            **({"guided_requests": self.guided} if self.guided else {}),
            **({"hedged_requests": self.hedged} if self.hedged else {}),
            "queue_seconds": round(self.queue_seconds, 3),
            "generation_seconds": round(self.generation_seconds, 3),
        }
