"""What proxies tell each other of endpoints in the Redis of the settings, if they name one.

Sticky sessions are in memory otherwise, and of the use of endpoints each proxy knows its own.

Apart from the rest of the composition root: a proxy without a Redis imports no client of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from horde_proxy.app.runtime import Runtime
from horde_proxy.config import CacheSettings
from horde_proxy.router.sticky import SESSION_SECONDS, StickySessions

if TYPE_CHECKING:
    from horde_proxy.caching.shared_use import RedisUse


def sticky_sessions(cache: CacheSettings, runtime: Runtime) -> StickySessions:
    """The sessions of this process, or of all that share a Redis."""
    if cache.redis_url is None:
        return StickySessions(clock=runtime.clock)
    from horde_proxy.caching.redis import redis_client
    from horde_proxy.caching.shared_texts import RedisTexts

    redis = redis_client(cache.redis_url)
    texts = RedisTexts(
        lambda: redis,
        f"{cache.redis_key_prefix}:sessions",
        "sessions are kept",
        seconds=SESSION_SECONDS,
        clock=runtime.clock,
        run=runtime.run,
    )
    return StickySessions(texts, runtime.clock)


def shared_use(cache: CacheSettings, runtime: Runtime) -> RedisUse | None:
    """The use of endpoints by all proxies that share a Redis; None without one."""
    if cache.redis_url is None:
        return None
    from horde_proxy.caching.redis import redis_client
    from horde_proxy.caching.shared_use import RedisUse

    redis = redis_client(cache.redis_url)
    return RedisUse(
        lambda: redis,
        f"{cache.redis_key_prefix}:use",
        runtime.new_id(),
        now=runtime.now,
        clock=runtime.clock,
    )
