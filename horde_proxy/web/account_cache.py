"""The horde accounts that the page shows, loaded in the background so that it hardly ever waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cachetools import LRUCache

from horde_proxy.caching.background import BackgroundValue
from horde_proxy.errors import ProxyError
from horde_proxy.key_digest import key_digest

if TYPE_CHECKING:
    from horde_proxy.upstreams.horde.accounts import Account
    from horde_proxy.upstreams.horde.upstream import HordeUpstream

_TTL = 60.0
_MOST_ACCOUNTS = 100


class AccountCache:
    """Accounts by horde and key, about a minute old at most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Guards the cache. Loading happens outside of it.
        self._lock = threading.Lock()
        self._accounts: LRUCache[tuple[int, str], BackgroundValue[Account]] = LRUCache(
            _MOST_ACCOUNTS
        )

    def get(self, horde: HordeUpstream, key: str | None) -> Account | None:
        """The account that pays with this key; None while the horde's answer is missing."""
        cache_key = id(horde), key_digest(key or "")
        with self._lock:
            value = self._accounts.get(cache_key)
            if value is None:
                value = BackgroundValue(lambda: horde.account(key), ttl=_TTL, clock=self._clock)
                self._accounts[cache_key] = value
        try:
            account = value.get()
        except ProxyError:
            return None
        return account if account.name else None
