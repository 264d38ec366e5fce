"""Where calls are counted for all processes: in the Redis of the settings, if they name one.

Apart from the rest of the composition root: a proxy without a Redis imports no client of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from horde_proxy.app.runtime import Runtime
from horde_proxy.config import CacheSettings

if TYPE_CHECKING:
    from horde_proxy.caching.shared_windows import SharedWindows


def shared_windows(cache: CacheSettings, runtime: Runtime) -> SharedWindows | None:
    """The windows of calls of all processes; None without a Redis."""
    if cache.redis_url is None:
        return None
    from limits.storage import RedisStorage

    from horde_proxy.caching.redis import redis_client
    from horde_proxy.caching.shared_windows import SharedWindows

    url, prefix = cache.redis_url, f"{cache.redis_key_prefix}:calls"
    pool = redis_client(url).connection_pool
    return SharedWindows(
        lambda: RedisStorage(url, connection_pool=pool, wrap_exceptions=True, key_prefix=prefix),
        "calls are counted",
        now=runtime.now,
        clock=runtime.clock,
        run=runtime.run,
    )
