"""The horde accounts that the page shows: loaded in the background, so that it never waits long."""

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
_MOST = 100


class AccountCache:
    """Accounts by horde and key, each a minute old or so."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._loaded: LRUCache[tuple[int, str], BackgroundValue[Account]] = LRUCache(_MOST)

    def of(self, horde: HordeUpstream, key: str | None) -> Account | None:
        """The account that pays with this key; None while the horde does not tell."""
        place = id(horde), key_digest(key or "")
        with self._lock:
            found = self._loaded.get(place)
            if found is None:
                found = BackgroundValue(lambda: horde.account(key), ttl=_TTL, clock=self._clock)
                self._loaded[place] = found
        try:
            account = found.get()
        except ProxyError:
            return None
        return account if account.name else None
