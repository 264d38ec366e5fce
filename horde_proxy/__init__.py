"""horde-proxy: one OpenAI endpoint for a home, in front of the AI Horde."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Flask
from limits.storage import RedisStorage, Storage
from requests import Session
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from horde_proxy import api, config
from horde_proxy.api import Front, KeyRing, Places, Register, Repetitions
from horde_proxy.config import CacheSettings, Config, HordeSettings
from horde_proxy.private_horde import PrivateHorde, blueprint
from horde_proxy.router import Router
from horde_proxy.shutdown import Halt
from horde_proxy.upstreams.horde import Filters, HordeOptions, HordeUpstream
from horde_proxy.upstreams.horde.accounts import Accounts
from horde_proxy.upstreams.horde.catalog import Catalog
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.gate import Gate, Limits
from horde_proxy.upstreams.horde.webhook import Webhook
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.version import VERSION

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Config", "create_app", "reconfigure"]
__version__ = VERSION

PRIVATE_HORDE_URL = "http://private-horde.invalid/api"
PRIVATE_HORDE_PATH = "/api/v2/"
PRIVATE_HORDE = {"url": PRIVATE_HORDE_URL, "validated_backends": False, "cache_ttl": 1.0}
NO_PACE: dict[str, list[str]] = {"address_limits": [], "key_limits": []}
CONNECTIONS = 128
OWNER = "owner"


def create_app(settings: Config | None = None) -> Flask:
    """The WSGI application: the only place where the parts are put together.

    Without `settings` they come from the file that HORDE_PROXY_CONFIG names and the environment.
    Raises ConfigError.
    """
    settings = settings or config.load()
    app = Flask("horde_proxy", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    if settings.private_horde.enabled:
        _add_private_horde(app, settings)
    api.register(app, _front(app, settings, Halt()))
    return app


def reconfigure(app: Flask, settings: Config) -> None:
    """Give an app new settings. Running chats end under the old ones; a private horde stays."""
    app.extensions["horde_proxy"] = _front(app, settings, app.extensions["horde_proxy"].halt)


def _front(app: Flask, settings: Config, halt: Halt) -> Front:
    app.config["MAX_CONTENT_LENGTH"] = settings.server.max_body
    server, access = settings.server, settings.access
    horde = _horde(app, settings, halt)
    return Front(
        Router([horde], settings.aliases),
        halt,
        timeout=server.timeout,
        stream_timeout=server.stream_timeout,
        keepalive=server.keepalive,
        keepalive_interval=server.keepalive_interval,
        max_n=server.max_n,
        strict=server.strict,
        passthrough=access.mode == "passthrough",
        keys=KeyRing(access.keys),
        places=Places(server.places),
        running=Register(
            grace=server.cancel_grace, window=server.reattach_window, clock=time.monotonic
        ),
        repetitions=Repetitions(server.loop_limit, time.monotonic),
        completion_tokens=settings.horde.default_completion_tokens,
        horde=horde,
        reattach=server.reattach,
        admins=tuple(access.admins),
        trusted_proxies=tuple(server.trusted_proxies),
    )


@dataclass(frozen=True)
class _PrivateHorde:
    """The private horde's own app, apart from ours so that its requests have their own context."""

    app: Flask
    key: str


def _add_private_horde(app: Flask, settings: Config) -> None:
    key = settings.private_horde.api_key or secrets.token_urlsafe(24)
    anonymous = settings.access.mode in (None, "open")
    strict = settings.private_horde.strict
    horde = PrivateHorde(rate_limits=strict, upfront_kudos=strict, anonymous=anonymous)
    horde.add_account(key, OWNER, trusted=True, kudos=1_000_000, concurrency=10_000)
    own = Flask("private_horde", static_folder=None)
    own.config["MAX_CONTENT_LENGTH"] = settings.server.max_body
    own.register_blueprint(blueprint(horde))
    app.extensions["private_horde"] = _PrivateHorde(own, key)
    app.wsgi_app = _split(own.wsgi_app, app.wsgi_app)  # type: ignore[method-assign, assignment]


def _split(private: WSGIApplication, rest: WSGIApplication) -> WSGIApplication:
    """The private horde under /api/v2, the rest under everything else."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        is_private = environ.get("PATH_INFO", "").startswith(PRIVATE_HORDE_PATH)
        return (private if is_private else rest)(environ, start_response)

    return application


def _horde(app: Flask, settings: Config, halt: Halt) -> HordeUpstream:
    session, horde = _session(), settings.horde
    private: _PrivateHorde | None = app.extensions.get("private_horde")
    if private:
        session.mount(PRIVATE_HORDE_URL, WSGIAdapter(private.app))
        pace = {} if settings.private_horde.strict else NO_PACE
        horde = horde.model_copy(update={**PRIVATE_HORDE, **pace, "api_key": private.key})
    client = HordeClient(
        horde.url, session, contact=horde.contact,
        timeout=(horde.connect_timeout, horde.read_timeout),
    )
    accounts = Accounts(client)
    return HordeUpstream(
        client, Catalog(client, ttl=horde.cache_ttl), _options(horde, settings), accounts,
        _gate(horde, settings, accounts, halt), sleep=halt.sleep,
        webhook=Webhook(horde.webhook_url) if horde.webhook_url else None,
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


def _session() -> Session:
    """One pool of connections. Only what was never sent is tried again: a submit costs."""
    session = Session()
    connect_only = Retry(connect=2, read=0, redirect=0, status=0, other=0, backoff_factor=0.2)
    adapter = HTTPAdapter(pool_maxsize=CONNECTIONS, max_retries=connect_only)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
