"""Where calls are counted for all processes: in the Redis of the settings, if they name one.

Windows count those of a time, places those that run.

Apart from the rest of the composition root: a proxy without a Redis imports no client of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from horde_proxy.app.runtime import Runtime
from horde_proxy.config import CacheSettings

if TYPE_CHECKING:
    from horde_proxy.caching.shared_places import RedisPlaces
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


def shared_places(cache: CacheSettings, runtime: Runtime) -> RedisPlaces | None:
    """The running requests of keys in all processes; None without a Redis."""
    if cache.redis_url is None:
        return None
    from horde_proxy.caching.redis import redis_client
    from horde_proxy.caching.shared_places import RedisPlaces

    redis = redis_client(cache.redis_url)
    return RedisPlaces(
        lambda: redis,
        f"{cache.redis_key_prefix}:running",
        new_id=runtime.new_id,
        run_later=runtime.run_later,
        clock=runtime.clock,
    )
