"""The horde accounts behind API keys: their kudos, and what requests those can pay for.

Accounts and the horde's load are loaded in the background and used for a minute. While the horde
does not answer, the assumption is the least that it ever grants.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cachetools import LRUCache, TTLCache

from horde_proxy.aihorde import kudos
from horde_proxy.aihorde.limits import CONCURRENCY
from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.caching.background import BackgroundValue, in_background
from horde_proxy.errors import InvalidApiKey, ProxyError
from horde_proxy.key_digest import key_digest
from horde_proxy.upstreams.horde.catalog import number
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.shared_keys import SharedKey, is_shared_key, read_shared_key

_TTL = 60.0
"""How old a balance may become (s). A spent balance only leads to a refusal, which is handled."""
_MAX_KEYS = 1000
"""Accounts kept at a time; the least recently used goes first."""
_NOTHING_HELD = 0.01
"""Held kudos below this are rounding errors of additions and subtractions."""
_T = TypeVar("_T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Account:
    """A horde account. `concurrency`: how many jobs of it may wait at a time.

    `shared_key`: the shared key through which it pays; the kudos are those of its owner.
    """

    name: str = ""
    kudos: float = 0.0
    concurrency: int = CONCURRENCY
    trusted: bool = False
    workers: int = 0
    shared_key: SharedKey | None = None

    @property
    def spendable(self) -> float:
        """The kudos that the key may spend."""
        left = self.shared_key.kudos if self.shared_key else None
        return self.kudos if left is None else min(self.kudos, left)


class Accounts:
    """The accounts of one horde by API key. Any thread may call any method."""

    def __init__(
        self,
        client: HordeClient,
        *,
        ttl: float = _TTL,
        timer: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._client, self._ttl = client, ttl
        self._timer, self._run = timer, run
        self._lock = threading.Lock()  # guards the three below; no I/O under it
        self._loaded: LRUCache[str, BackgroundValue[Account]] = LRUCache(_MAX_KEYS)
        self._refused = TTLCache[str, bool](_MAX_KEYS, ttl, timer)
        self._held: dict[str, float] = {}
        self._free_length = self._background(self._load_free_length)

    def of(self, api_key: str) -> Account:
        """The account of a key; one without name and kudos while it is unknown. GET find_user."""
        digest = key_digest(api_key)
        with self._lock:
            loaded = self._loaded.get(digest)
            if loaded is None:
                loaded = self._background(partial(self._load, api_key))
                self._loaded[digest] = loaded
        try:
            return loaded.get()
        except ProxyError:
            return Account()

    def free_length(self) -> int:
        """The tokens of a job that needs no kudos. GET status/performance."""
        try:
            return self._free_length.get()
        except ProxyError:
            return kudos.LEAST_FREE

    def max_length(self, api_key: str, size: float, n: int) -> int:
        """The tokens that each of n jobs may have, for a model of `size` billion parameters."""
        most = self._payable_length(api_key, size, n)
        shared = self.of(api_key).shared_key if is_shared_key(api_key) else None
        if shared is None or shared.max_text_tokens is None:
            return most
        return min(most, shared.max_text_tokens)

    def explained(
        self, failure: ProxyError, api_key: str, payload: Mapping[str, Any]
    ) -> ProxyError:
        """A limit of the shared key that explains a failed submit, or the failure itself.

        GET sharedkeys/{key}: its owner may have changed it since it was read.
        """
        if not is_shared_key(api_key):
            return failure
        try:
            shared = read_shared_key(self._client.shared_key(api_key))
        except ProxyError:
            return failure
        refusal = shared.refusal(payload)
        if refusal is not None:
            # Read again for the next request, which is made for the new limits then.
            with self._lock:
                self._loaded.pop(key_digest(api_key), None)
        return refusal or failure

    def _payable_length(self, api_key: str, size: float, n: int) -> int:
        """The tokens of a job by its kudos alone."""
        if self._was_refused(api_key):
            return kudos.LEAST_FREE
        if api_key == ANONYMOUS_KEY:
            return self.free_length()
        affordable = kudos.affordable_length(self._spendable(api_key), size, n)
        return affordable if affordable >= kudos.MOST_FREE else self.free_length()

    def fast_only_affordable(self, api_key: str, max_length: int, size: float, n: int) -> bool:
        """Whether the account has the kudos that a request for fast workers only needs upfront."""
        if api_key == ANONYMOUS_KEY or self._was_refused(api_key):
            return False
        spendable = self._spendable(api_key) - kudos.REGISTERED_FLOOR
        return spendable >= kudos.upfront(max_length, size, n)

    def can_pay(self, api_key: str, price: float, upfront: float) -> bool:
        """Whether a request that is not strictly needed may be submitted beside those that run.

        `price`: what it costs, `upfront`: what the horde holds back for it. Anonymous requests cost
        nothing.
        """
        if self._was_refused(api_key):
            return False
        if api_key == ANONYMOUS_KEY:
            return upfront == 0
        return self._spendable(api_key) - kudos.REGISTERED_FLOOR >= max(price, upfront)

    def note_refusal(self, api_key: str) -> None:
        """The key had fewer kudos than the horde wanted: for a minute it gets free jobs only."""
        with self._lock:
            self._refused[key_digest(api_key)] = True

    def hold_kudos(self, api_key: str, amount: float) -> None:
        """Reserve kudos while a request runs; a negative amount gives them back."""
        with self._lock:
            digest = key_digest(api_key)
            held = self._held.pop(digest, 0.0) + amount
            if abs(held) >= _NOTHING_HELD:
                self._held[digest] = held

    def _spendable(self, api_key: str) -> float:
        """The kudos of the account, without those that running requests hold."""
        account = self.of(api_key)
        with self._lock:
            return account.spendable - self._held.get(key_digest(api_key), 0.0)

    def _was_refused(self, api_key: str) -> bool:
        with self._lock:
            return key_digest(api_key) in self._refused

    def _background(self, load: Callable[[], _T]) -> BackgroundValue[_T]:
        return BackgroundValue(
            load,
            ttl=self._ttl,
            stale=2 * self._ttl,
            # A key that the horde does not know stays unknown for as long.
            failure_ttl=self._ttl,
            clock=self._timer,
            run=self._run,
        )

    def _load(self, api_key: str) -> Account:
        try:
            user = self._client.find_user(api_key)
        except InvalidApiKey:
            raise
        except ProxyError as exc:
            log.warning("a horde account cannot be loaded: %s", exc)
            raise
        return Account(
            str(user.get("username") or ""),
            number(user.get("kudos"), 0),
            int(number(user.get("concurrency"), CONCURRENCY)),
            bool(user.get("trusted")),
            int(number(user.get("worker_count"), 0)),
            self._load_shared_key(api_key) if is_shared_key(api_key) else None,
        )

    def _load_shared_key(self, api_key: str) -> SharedKey | None:
        """The shared key; None where it cannot be read, which leaves its limits to the horde."""
        try:
            return read_shared_key(self._client.shared_key(api_key))
        except ProxyError as exc:
            log.warning("the limits of a shared key cannot be read: %s", exc)
            return None

    def _load_free_length(self) -> int:
        try:
            performance = self._client.performance()
        except ProxyError as exc:
            log.warning("the horde's load cannot be read: %s", exc)
            raise
        threads = int(number(performance.get("text_thread_count"), 0))
        return kudos.free_length(threads, int(number(performance.get("queued_text_requests"), 0)))
