"""The endpoints that the settings name, each with its session, key and options.

Part of create_app: it makes objects, and calls nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask
from limits.storage import RedisStorage, Storage
from requests import Session
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from horde_proxy.config import CacheSettings, Config, EndpointSettings, HordeSettings
from horde_proxy.shutdown import Halt
from horde_proxy.upstreams import Upstream
from horde_proxy.upstreams.endpoint import Endpoint
from horde_proxy.upstreams.hangups import Hangups, WatchedAdapter
from horde_proxy.upstreams.health import Health
from horde_proxy.upstreams.horde import Filters, HordeOptions, HordeUpstream
from horde_proxy.upstreams.horde.accounts import Accounts
from horde_proxy.upstreams.horde.catalog import Catalog
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.gate import Gate, Limits
from horde_proxy.upstreams.horde.webhook import Webhook
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.upstreams.ocf import OCFUpstream
from horde_proxy.upstreams.openai import OpenAIUpstream

PRIVATE_HORDE_URL = "http://private-horde.invalid/api"
PRIVATE_HORDE = {"url": PRIVATE_HORDE_URL, "validated_backends": False, "cache_ttl": 1.0}
NO_PACE: dict[str, list[str]] = {"address_limits": [], "key_limits": []}
CONNECTIONS = 128
PRIVATE = "private"
KINDS = {"openai": OpenAIUpstream, "ocf": OCFUpstream}


@dataclass(frozen=True)
class PrivateApp:
    """The private horde's own app, apart from ours so that its requests have their own context."""

    app: Flask
    key: str


class Assembly:
    """Makes endpoints; what the settings do not change is kept from one time to the next."""

    def __init__(self, halt: Halt, private: PrivateApp | None) -> None:
        self._halt, self._private = halt, private
        self._made: dict[str, Endpoint] = {}
        self.hangups = Hangups()

    def endpoints(self, settings: Config) -> list[Endpoint]:
        """The configured endpoints; the horde alone where none is."""
        wanted = list(settings.endpoints)
        if not wanted:
            wanted = [EndpointSettings(type="horde", name=PRIVATE if self._private else "horde")]
        elif self._private:
            wanted.append(EndpointSettings(type="horde", name=PRIVATE))
        common = repr((len(wanted) > 1, *_bearing(settings)))
        made = {}
        for each in wanted:
            key = each.model_dump_json() + common
            made[key] = self._made.get(key) or self._endpoint(each, settings, len(wanted) > 1)
        self._made = made
        return list(made.values())

    def _endpoint(self, each: EndpointSettings, settings: Config, has_others: bool) -> Endpoint:
        routing = settings.routing
        return Endpoint(
            self._upstream(each, settings),
            Health(routing.cooldown if has_others else 0, routing.longest_cooldown),
            each.priority, each.weight, tuple(each.models), each.prefix,
        )

    def _upstream(self, each: EndpointSettings, settings: Config) -> Upstream:
        if each.type == "horde":
            return self._horde(each, settings)
        return KINDS[each.type](
            each.label(), each.url or "", _session(WatchedAdapter), self.hangups,
            api_key=each.api_key, headers=each.headers, timeout=each.timeout,
            ttl=settings.routing.models_ttl,
        )

    def _horde(self, each: EndpointSettings, settings: Config) -> HordeUpstream:
        session, horde = _session(HTTPAdapter), settings.horde
        given = {"url": each.url, "api_key": each.api_key}
        horde = horde.model_copy(update={name: value for name, value in given.items() if value})
        if self._private and each.name == PRIVATE:
            session.mount(PRIVATE_HORDE_URL, WSGIAdapter(self._private.app))
            pace = {} if settings.private_horde.strict else NO_PACE
            own = {**PRIVATE_HORDE, **pace, "api_key": self._private.key}
            horde = horde.model_copy(update=own)
        client = HordeClient(
            horde.url, session, contact=horde.contact,
            timeout=(horde.connect_timeout, horde.read_timeout),
        )
        accounts = Accounts(client)
        return HordeUpstream(
            client, Catalog(client, ttl=horde.cache_ttl), _options(horde, settings), accounts,
            _gate(horde, settings, accounts, self._halt), name=each.label(),
            sleep=self._halt.sleep,
            webhook=Webhook(horde.webhook_url) if horde.webhook_url else None,
        )


def _bearing(settings: Config) -> tuple[object, ...]:
    """The settings that an endpoint is made of, beside its own."""
    return (
        settings.horde.model_dump_json(), settings.private_horde.strict, settings.routing,
        settings.formats, settings.tool_styles, settings.cache.model_dump_json(),
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


def _gate(horde: HordeSettings, settings: Config, accounts: Accounts, halt: Halt) -> Gate:
    return Gate(
        Limits(horde.address_limits, horde.key_limits),
        sleep=halt.sleep,
        concurrency=lambda key: accounts.of(key).concurrency,
        shared=_shared(settings.cache),
    )


def _shared(cache: CacheSettings) -> Callable[[], Storage] | None:
    url, prefix = cache.redis_url, f"{cache.redis_key_prefix}:submits"
    if url is None:
        return None
    return lambda: RedisStorage(url, wrap_exceptions=True, key_prefix=prefix)


def _session(kind: type[HTTPAdapter]) -> Session:
    """One pool of connections. Only what was never sent is tried again: a submit costs.

    Where others can be asked instead, a connection is not even tried again.
    """
    session = Session()
    tries = 2 if kind is HTTPAdapter else 0
    connect_only = Retry(connect=tries, read=0, redirect=0, status=0, other=0, backoff_factor=0.2)
    adapter = kind(pool_maxsize=CONNECTIONS, max_retries=connect_only)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
