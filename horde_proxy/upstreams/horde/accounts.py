"""What the keys own and what the horde gives away now, asked for once a minute at most.

When the horde does not say, the answer is the least that it ever grants.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TTLCache, cached

from horde_proxy.aihorde import kudos
from horde_proxy.aihorde.limits import CONCURRENCY
from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.errors import InvalidApiKey, ProxyError
from horde_proxy.key_digest import key_digest
from horde_proxy.upstreams.horde.catalog import number
from horde_proxy.upstreams.horde.client import HordeClient

_TTL = 60.0
_MOST_KEYS = 1000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Account:
    """A horde account. `concurrency`: how many jobs of it may wait at a time."""

    name: str = ""
    kudos: float = 0.0
    concurrency: int = CONCURRENCY
    trusted: bool = False
    workers: int = 0


class Accounts:
    """Balances by key, and the free length, each at most a minute old."""

    def __init__(
        self,
        client: HordeClient,
        *,
        ttl: float = _TTL,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._found = cached(
            TTLCache[str, Account | None](_MOST_KEYS, ttl, timer),
            key=key_digest,
            condition=threading.Condition(),
        )(self._find)
        self._free = cached(TTLCache[str, int](1, ttl, timer), condition=threading.Condition())(
            self._load_free_length
        )
        self._refused = TTLCache[str, bool](_MOST_KEYS, ttl, timer)
        self._held: dict[str, float] = {}
        self._lock = threading.Lock()

    def of(self, api_key: str) -> Account:
        """The account of a key; a poor one where the horde does not tell. GET find_user."""
        return self._found(api_key) or Account()

    def free_length(self) -> int:
        """The tokens of a job that needs no kudos. GET status/performance."""
        return self._free()

    def longest(self, api_key: str, size: float, n: int) -> int:
        """The tokens that one job of this key may have for a model of `size` billions."""
        if key_digest(api_key) in self._refused:
            return kudos.LEAST_FREE
        if api_key == ANONYMOUS_KEY:
            return self.free_length()
        spendable = self.of(api_key).kudos - self._held.get(key_digest(api_key), 0.0)
        affordable = kudos.affordable_length(spendable, size, n)
        return affordable if affordable >= kudos.MOST_FREE else self.free_length()

    def may_be_choosy(self, api_key: str, max_length: int, size: float, n: int) -> bool:
        """Whether the kudos that a request for quick workers only needs upfront are there."""
        key = key_digest(api_key)
        if api_key == ANONYMOUS_KEY or key in self._refused:
            return False
        spendable = self.of(api_key).kudos - self._held.get(key, 0.0) - kudos.REGISTERED_FLOOR
        return spendable >= kudos.upfront(max_length, size, n)

    def note_refusal(self, api_key: str) -> None:
        """The horde wanted more kudos than this key has: for a while it gets the least only."""
        with self._lock:
            self._refused[key_digest(api_key)] = True

    def hold(self, api_key: str, amount: float) -> None:
        """Count kudos as spoken for while a request runs; a negative amount gives them back."""
        with self._lock:
            key = key_digest(api_key)
            self._held[key] = self._held.get(key, 0.0) + amount
            if abs(self._held[key]) < 0.01:
                del self._held[key]

    def _find(self, api_key: str) -> Account | None:
        try:
            found = self._client.find_user(api_key)
        except InvalidApiKey:
            return None
        except ProxyError as exc:
            log.warning("the horde account cannot be loaded: %s", exc)
            return None
        return Account(
            str(found.get("username") or ""),
            number(found.get("kudos"), 0),
            int(number(found.get("concurrency"), CONCURRENCY)),
            bool(found.get("trusted")),
            int(number(found.get("worker_count"), 0)),
        )

    def _load_free_length(self) -> int:
        try:
            found = self._client.performance()
        except ProxyError as exc:
            log.warning("the horde's load cannot be read: %s", exc)
            return kudos.LEAST_FREE
        threads = int(number(found.get("text_thread_count"), 0))
        return kudos.free_length(threads, int(number(found.get("queued_text_requests"), 0)))
