"""Builds a horde as an upstream, and its statistics, from the settings.

Apart from the rest of the composition root for its weight: a proxy without a horde must not
import this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from limits.storage import RedisStorage
from requests import Session
from urllib3.util import Retry

from horde_proxy.aihorde.image_reference import ImageModelFacts, read_image_reference
from horde_proxy.aihorde.rest import api_url
from horde_proxy.app.assembly import PRIVATE, AppServices, proxy_for
from horde_proxy.app.private import PrivateApp
from horde_proxy.caching.disk import CachedDocument
from horde_proxy.caching.notes import FolderNotes, Notes, RedisNotes
from horde_proxy.caching.redis import SharedDocuments, redis_client
from horde_proxy.config import EndpointSettings, HordeSettings, StatsSettings
from horde_proxy.stats.hydration import HydrationSchedule, Hydrator
from horde_proxy.stats.live import LiveHorde
from horde_proxy.stats.reference import read_reference
from horde_proxy.stats.reference_loading import References
from horde_proxy.stats.service import StatsService
from horde_proxy.upstreams.horde.accounts import Accounts
from horde_proxy.upstreams.horde.catalog import Catalog
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.documents import HordeDocuments
from horde_proxy.upstreams.horde.image_reference_loading import ImageReference, no_reference
from horde_proxy.upstreams.horde.options import Hedging, HordeOptions
from horde_proxy.upstreams.horde.penalties import Penalties
from horde_proxy.upstreams.horde.settlements import Settlements
from horde_proxy.upstreams.horde.shared_pace import SharedPace
from horde_proxy.upstreams.horde.submit_queue import Limits, SubmitQueue
from horde_proxy.upstreams.horde.upstream import HordeUpstream
from horde_proxy.upstreams.horde.workers import Filters
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.upstreams.lean_adapter import LeanAdapter
from horde_proxy.upstreams.picture_links import PictureLinks
from horde_proxy.upstreams.public_addresses import PublicAdapter
from horde_proxy.upstreams.sessions import with_proxy

PRIVATE_HORDE_URL = "http://private-horde.invalid/api"
"""A name that no DNS knows (RFC 6761): requests for it are answered in this process."""
_CONNECTIONS = 128
"""Connections kept in a pool. More chats at a time open more, which are closed after use."""
_CONNECT_TRIES = 2
"""Retries of a connection that could not be made; a horde's front end restarts now and then."""
_SHARED_BY_ALL_HORDES = (
    "contact",
    "connect_timeout",
    "read_timeout",
    "default_max_tokens",
    "default_completion_tokens",
    "segments",
    "first_segment",
    "retries",
    "tool_retries",
    "guided_leaves",
    "placeholders",
    "chat_jobs",
    "describe_images",
    "describe_seconds",
)
"""What the private horde takes over from [horde]: how chats are made into requests.

Everything else there is about the public horde: its address and key, the pace that it allows, its
workers and kudos, and the address under which it reaches us.
"""


@dataclass(frozen=True)
class _HordeSetup:
    """One horde to build: its endpoint's name, its settings, and what they are built with."""

    name: str
    horde: HordeSettings
    services: AppServices
    private: PrivateApp | None

    def session(self, connect_tries: int = _CONNECT_TRIES) -> Session:
        """A new pool of connections. Retries only what was never sent: a submit costs kudos."""
        session = _session(self.services, connect_tries)
        if self.private:
            session.mount(PRIVATE_HORDE_URL, WSGIAdapter(self.private.app))
        return session

    def link_session(self, is_own: bool) -> Session:
        """A session for one picture: of the horde's own host, or of a public address only."""
        return self.session() if is_own else self.services.new_session(PublicAdapter())

    def client(self, session: Session, read_seconds: float) -> HordeClient:
        return HordeClient(
            self.horde.url,
            session,
            contact=self.horde.contact,
            timeout=(self.horde.connect_timeout, read_seconds),
            telemetry=self.services.telemetry,
        )


def build(endpoint: EndpointSettings, services: AppServices) -> HordeUpstream:
    """The upstream for an endpoint of the kind horde, or for the private horde."""
    private = services.private if endpoint.name == PRIVATE else None
    horde = (
        _private_settings(private, services) if private else _endpoint_settings(endpoint, services)
    )
    setup = _HordeSetup(endpoint.label(), horde, services, private)
    client = setup.client(setup.session(), horde.read_timeout)
    accounts = Accounts(client, timer=services.clock, run=services.run)
    return HordeUpstream(
        client,
        Catalog(_documents(setup), now=services.now),
        _options(setup),
        accounts,
        _submit_queue(setup, accounts),
        name=setup.name,
        links=PictureLinks(client.base, open_session=setup.link_session),
        image_facts=_image_facts(services),
        clock=services.clock,
        sleep=services.sleep,
        now=services.now,
        new_id=lambda: f"chatcmpl-{services.new_id()}",
        telemetry=services.telemetry,
        webhook=services.webhook(horde.webhook_url) if horde.webhook_url else None,
        settlements=None if private else _settlements(client, services),
        penalties=open_penalties(client.base, services),
    )


def _settlements(client: HordeClient, services: AppServices) -> Settlements:
    return Settlements(client, clock=services.clock, run_later=services.run_later)


def open_penalties(base: str, services: AppServices) -> Penalties:
    """The penalties of the horde at a base URL, which all processes and hosts share."""
    cache, name = services.settings.cache, sha256(base.encode()).hexdigest()[:16]
    notes: Notes = FolderNotes(services.penalties_folder() / name, now=services.now)
    if cache.redis_url is not None:
        redis = redis_client(cache.redis_url)
        prefix = f"{cache.redis_key_prefix}:penalties:{name}"
        notes = RedisNotes(lambda: redis, prefix, now=services.now, clock=services.clock)
    return Penalties(notes, now=services.now)


def build_statistics(horde: HordeUpstream, services: AppServices) -> StatsService:
    """The statistics of a horde, as /v1/horde shows them."""
    settings = services.settings.stats
    live = LiveHorde(horde.documents)
    hydrator = Hydrator(
        live.load_if_due,
        _schedule(settings),
        try_lead=live.try_lead,
        sleep=services.sleep,
        run=services.run,
    )
    return StatsService(live, _references(services), hydrator, now=services.now)


def _endpoint_settings(endpoint: EndpointSettings, services: AppServices) -> HordeSettings:
    """[horde] as it applies to an endpoint.

    A horde at another address gets neither the key nor the webhook of the one in [horde]: a key
    must not be disclosed to another server, and that server may not reach the webhook, for which
    polling would be sparse in vain; the endpoint may have both of its own.
    """
    horde = services.settings.horde
    changes: dict[str, object] = {}
    # Compared as base URLs: "https://aihorde.net" and ".../api" are the same horde.
    if endpoint.url and api_url(endpoint.url) != api_url(horde.url):
        defaults = HordeSettings()
        changes = {"api_key": defaults.api_key, "webhook_url": defaults.webhook_url}
    names = ("url", "api_key", "webhook_url")
    given = {name: getattr(endpoint, name) for name in names}
    changes |= {name: value for name, value in given.items() if value}
    return horde.model_copy(update=changes)


def _private_settings(private: PrivateApp, services: AppServices) -> HordeSettings:
    """The settings for the private horde, whose workers are the user's own."""
    taken_over = {name: getattr(services.settings.horde, name) for name in _SHARED_BY_ALL_HORDES}
    unlimited: dict[str, list[str]] = {"address_limits": [], "key_limits": []}
    return HordeSettings().model_copy(
        update={
            **taken_over,
            **({} if private.strict else unlimited),
            "url": PRIVATE_HORDE_URL,
            "api_key": private.key,
            "validated_backends": False,
            # It is in this process: asking it costs next to nothing, and new workers show at once.
            "cache_ttl": 1.0,
        }
    )


def _documents(setup: _HordeSetup) -> HordeDocuments:
    """The horde's documents. A refused connection is reported at once, not tried again."""
    services, horde = setup.services, setup.horde
    stats = services.settings.stats
    ttl = stats.horde_api_cache_ttl
    return HordeDocuments(
        setup.client(setup.session(connect_tries=0), stats.horde_api_timeout),
        ttl=horde.cache_ttl,
        stats_ttl=min(ttl, horde.cache_ttl) if setup.private else ttl,
        shared=None if setup.private else _shared_documents(services),
        lease=stats.horde_api_timeout + horde.connect_timeout,
        timer=services.clock,
        now=services.now,
        run=services.run,
        name=setup.name,
        telemetry=services.telemetry,
    )


def _shared_documents(services: AppServices) -> SharedDocuments | None:
    """Connects now: importing redis takes longer than a first answer may."""
    cache = services.settings.cache
    if cache.redis_url is None:
        return None
    redis = redis_client(cache.redis_url)
    return SharedDocuments(lambda: redis, cache.redis_key_prefix, sleep=services.sleep)


def _schedule(settings: StatsSettings) -> HydrationSchedule | None:
    if not settings.hydrate:
        return None
    return HydrationSchedule(
        settings.hydrate_interval, settings.hydrate_delay, settings.hydrate_jitter
    )


def _image_facts(services: AppServices) -> Callable[[], Mapping[str, ImageModelFacts]]:
    """What the reference of image models says, if the settings name one."""
    settings = services.settings.stats
    if not settings.image_reference:
        return no_reference
    document = _reference_document(settings.image_reference, services, read_image_reference)
    reference = ImageReference(
        document.load, ttl=settings.reference_ttl, clock=services.clock, run=services.run
    )
    return reference.facts


def _reference_document(
    source: str, services: AppServices, is_valid: Callable[[object], object]
) -> CachedDocument:
    settings = services.settings.stats
    return CachedDocument(
        source,
        settings.directory(),
        with_proxy(_session(services, connect_tries=0), proxy_for(source, services.settings)),
        timeout=(settings.horde_api_timeout, settings.horde_api_timeout),
        is_valid=is_valid,
        now=services.now,
    )


def _references(services: AppServices) -> References:
    settings = services.settings.stats
    sources = {"text": settings.text_reference, "image": settings.image_reference}
    documents = {
        kind: _reference_document(source, services, read_reference)
        for kind, source in sources.items()
        if source
    }
    return References(
        {kind: document.load for kind, document in documents.items()},
        ttl=settings.reference_ttl,
        clock=services.clock,
        run=services.run,
    )


def _options(setup: _HordeSetup) -> HordeOptions:
    horde, settings = setup.horde, setup.services.settings
    hedging = Hedging(settings.routing.hedge_stall, horde.max_kudos_per_request)
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
        context_diets=settings.context_diet,
        tool_retries=horde.tool_retries,
        most_leaves=horde.guided_leaves,
        placeholders=horde.placeholders,
        filters=filters,
        segments=horde.segments,
        first_segment=horde.first_segment,
        retries=horde.retries,
        max_kudos=horde.max_kudos_per_request,
        chat_jobs=horde.chat_jobs,
        describe_images=horde.describe_images,
        describe_seconds=horde.describe_seconds,
        accepts_callers_keys=_accepts_callers_keys(setup),
        hedging=hedging if settings.routing.hedge else None,
    )


def _accepts_callers_keys(setup: _HordeSetup) -> bool:
    """Whether callers' own keys may be sent to this horde.

    With access.mode = "keys" they are the `horde_key` of [access.keys], for the horde of [horde]
    alone: others would refuse them, and learn them. In passthrough mode a client chooses the model,
    and by that the horde that gets its key.
    """
    settings = setup.services.settings
    is_main = api_url(setup.horde.url) == api_url(settings.horde.url)
    return settings.access.mode != "keys" or is_main


def _submit_queue(setup: _HordeSetup, accounts: Accounts) -> SubmitQueue:
    services = setup.services
    return SubmitQueue(
        Limits(setup.horde.address_limits, setup.horde.key_limits),
        sleep=services.sleep,
        now=services.now,
        concurrency=lambda key: accounts.of(key).concurrency,
        shared=_shared_pace(setup),
        telemetry=services.telemetry,
    )


def _shared_pace(setup: _HordeSetup) -> SharedPace | None:
    """Where several proxies count their submits; each horde allows its own number of them."""
    services = setup.services
    url, prefix = services.settings.cache.redis_url, services.settings.cache.redis_key_prefix
    if url is None or setup.private:
        return None
    prefix += ":submits"
    base = api_url(setup.horde.url)
    if base != api_url(services.settings.horde.url):
        prefix += f":{sha256(base.encode()).hexdigest()[:8]}"
    pool = redis_client(url).connection_pool
    return SharedPace(
        lambda: RedisStorage(url, connection_pool=pool, wrap_exceptions=True, key_prefix=prefix),
        now=services.now,
        clock=services.clock,
        run=services.run,
    )


def _session(services: AppServices, connect_tries: int) -> Session:
    connect_only = Retry(
        connect=connect_tries, read=0, redirect=0, status=0, other=0, backoff_factor=0.2
    )
    return services.new_session(LeanAdapter(pool_maxsize=_CONNECTIONS, max_retries=connect_only))
