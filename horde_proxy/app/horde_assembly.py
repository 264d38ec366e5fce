"""A horde as an upstream, from the settings: part of the assembly, apart for its weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from limits.storage import RedisStorage, Storage
from requests import Session
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from horde_proxy.caching.disk import CachedDocument
from horde_proxy.caching.redis import SharedDocuments, connected
from horde_proxy.config import CacheSettings, Config, EndpointSettings, HordeSettings, StatsSettings
from horde_proxy.shutdown import Shutdown
from horde_proxy.stats.hydration import HydrationSchedule, Hydrator
from horde_proxy.stats.live import LiveHorde
from horde_proxy.stats.reference import read_reference
from horde_proxy.stats.service import StatsService
from horde_proxy.stats.sources import References
from horde_proxy.telemetry import Telemetry
from horde_proxy.upstreams.horde.accounts import Accounts
from horde_proxy.upstreams.horde.catalog import Catalog
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.documents import HordeDocuments
from horde_proxy.upstreams.horde.submit_queue import Limits, SubmitQueue
from horde_proxy.upstreams.horde.upstream import Filters, HordeOptions, HordeUpstream
from horde_proxy.upstreams.horde.webhook import Webhook
from horde_proxy.upstreams.in_process import WSGIAdapter

if TYPE_CHECKING:
    from horde_proxy.app.assembly import PrivateApp

PRIVATE_HORDE_URL = "http://private-horde.invalid/api"
PRIVATE_HORDE = {"url": PRIVATE_HORDE_URL, "validated_backends": False, "cache_ttl": 1.0}
NO_PACE: dict[str, list[str]] = {"address_limits": [], "key_limits": []}
CONNECTIONS = 128


def horde_upstream(
    each: EndpointSettings,
    settings: Config,
    halt: Shutdown,
    private: PrivateApp | None,
    observer: Telemetry,
) -> HordeUpstream:
    """The upstream for an endpoint of type horde, or for the private horde."""
    session, horde = _session(), settings.horde
    given = {"url": each.url, "api_key": each.api_key}
    horde = horde.model_copy(update={name: value for name, value in given.items() if value})
    if private:
        session.mount(PRIVATE_HORDE_URL, WSGIAdapter(private.app))
        pace = {} if settings.private_horde.strict else NO_PACE
        horde = horde.model_copy(update={**PRIVATE_HORDE, **pace, "api_key": private.key})
    client = HordeClient(
        horde.url,
        session,
        contact=horde.contact,
        timeout=(horde.connect_timeout, horde.read_timeout),
        observer=observer,
    )
    accounts = Accounts(client)
    feeds = _feeds(horde, settings, halt, private, observer, each.label())
    return HordeUpstream(
        client,
        Catalog(feeds),
        _options(horde, settings),
        accounts,
        _gate(horde, settings, accounts, halt, observer),
        name=each.label(),
        sleep=halt.sleep,
        observer=observer,
        webhook=Webhook(horde.webhook_url) if horde.webhook_url else None,
    )


def horde_statistics(horde: HordeUpstream, settings: StatsSettings, halt: Shutdown) -> StatsService:
    """What is told of a horde under /v1/horde."""
    live = LiveHorde(horde.feeds)
    hydrator = Hydrator(live.touch, _rhythm(settings), lead=live.lead, sleep=halt.sleep)
    return StatsService(live, _references(settings), hydrator)


def _feeds(
    horde: HordeSettings,
    settings: Config,
    halt: Shutdown,
    private: PrivateApp | None,
    observer: Telemetry,
    name: str,
) -> HordeDocuments:
    """The horde's documents; a refused connection is told at once, not tried again."""
    session, ttl = _session(0), settings.stats.horde_api_cache_ttl
    if private:
        session.mount(PRIVATE_HORDE_URL, WSGIAdapter(private.app))
        ttl = min(ttl, horde.cache_ttl)
    seconds = settings.stats.horde_api_timeout
    client = HordeClient(
        horde.url,
        session,
        contact=horde.contact,
        timeout=(horde.connect_timeout, seconds),
        observer=observer,
    )
    return HordeDocuments(
        client,
        ttl=horde.cache_ttl,
        stats_ttl=ttl,
        shared=None if private else _shared_feeds(settings.cache, halt),
        lease=seconds + horde.connect_timeout,
        name=name,
        observer=observer,
    )


def _shared_feeds(cache: CacheSettings, halt: Shutdown) -> SharedDocuments | None:
    """Importing redis takes longer than the first answer may, so it is not left to that."""
    if cache.redis_url is None:
        return None
    redis = connected(cache.redis_url)
    return SharedDocuments(lambda: redis, cache.redis_key_prefix, sleep=halt.sleep)


def _rhythm(settings: StatsSettings) -> HydrationSchedule | None:
    if not settings.hydrate:
        return None
    return HydrationSchedule(
        settings.hydrate_interval, settings.hydrate_delay, settings.hydrate_jitter
    )


def _references(settings: StatsSettings) -> References:
    given = {"text": settings.text_reference, "image": settings.image_reference}
    documents = {
        kind: CachedDocument(
            source,
            settings.directory(),
            _session(0),
            timeout=(settings.horde_api_timeout, settings.horde_api_timeout),
            good=read_reference,
        )
        for kind, source in given.items()
        if source
    }
    return References(
        {kind: document.load for kind, document in documents.items()}, ttl=settings.reference_ttl
    )


def _options(horde: HordeSettings, settings: Config) -> HordeOptions:
    filters = Filters(
        allow=horde.allow_workers,
        deny=horde.deny_workers,
        least_speed=horde.least_speed,
        trusted=horde.trusted_workers,
        slow=horde.slow_workers,
        validated=horde.validated_backends,
    )
    return HordeOptions(
        api_key=horde.api_key,
        default_max_tokens=horde.default_max_tokens,
        formats=settings.formats,
        tool_styles=settings.tool_styles,
        tool_retries=horde.tool_retries,
        most_leaves=horde.guided_leaves,
        placeholders=horde.placeholders,
        filters=filters,
        segments=horde.segments,
        first_segment=horde.first_segment,
        retries=horde.retries,
        max_kudos=horde.max_kudos_per_request,
    )


def _gate(
    horde: HordeSettings, settings: Config, accounts: Accounts, halt: Shutdown, observer: Telemetry
) -> SubmitQueue:
    return SubmitQueue(
        Limits(horde.address_limits, horde.key_limits),
        sleep=halt.sleep,
        concurrency=lambda key: accounts.of(key).concurrency,
        shared=_shared(settings.cache),
        observer=observer,
    )


def _shared(cache: CacheSettings) -> Callable[[], Storage] | None:
    url, prefix = cache.redis_url, f"{cache.redis_key_prefix}:submits"
    if url is None:
        return None
    return lambda: RedisStorage(url, wrap_exceptions=True, key_prefix=prefix)


def _session(tries: int = 2) -> Session:
    """One pool of connections. Only what was never sent is tried again: a submit costs."""
    session = Session()
    connect_only = Retry(connect=tries, read=0, redirect=0, status=0, other=0, backoff_factor=0.2)
    adapter = HTTPAdapter(pool_maxsize=CONNECTIONS, max_retries=connect_only)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
