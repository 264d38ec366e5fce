"""The WSGI application: the only place where the parts are put together."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from flask import Flask

from horde_proxy import config
from horde_proxy.api import routes
from horde_proxy.api.addresses import TrustedProxies
from horde_proxy.api.routes import (
    Access,
    AppContext,
    InFlight,
    LiveState,
    LoopGuard,
    PageState,
    ServingOptions,
    Slots,
)
from horde_proxy.app.assembly import Assembly, PrivateApp, hordes_among
from horde_proxy.app.runtime import Runtime
from horde_proxy.config import AccessSettings, Config, KeySettings
from horde_proxy.key_digest import digest_of_setting
from horde_proxy.ledger import ClientKey, KeyLimits, KeyRing, UsageRecorder
from horde_proxy.metrics import Metrics
from horde_proxy.router import Router
from horde_proxy.shutdown import Shutdown
from horde_proxy.upstreams.base import Sleeper
from horde_proxy.version import VERSION
from horde_proxy.web.sessions import Sessions

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from horde_proxy.ledger.database import LedgerDatabase

PRIVATE_HORDE_PATH = "/api/v2/"
OWNER = "owner"


def create_app(settings: Config | None = None, runtime: Runtime | None = None) -> Flask:
    """The WSGI application.

    Without `settings` they come from the file that HORDE_PROXY_CONFIG names and the environment.
    Raises ConfigError.
    """
    settings, runtime = settings or config.load(), runtime or Runtime()
    app = Flask("horde_proxy", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    private = _add_private_horde(app, settings) if settings.private_horde.enabled else None
    halt, metrics = Shutdown(), Metrics(runtime.clock)
    app.extensions["metrics"] = metrics
    app.extensions["runtime"] = runtime
    app.extensions["assembly"] = Assembly(runtime, halt, private, metrics)
    routes.register(app, _front(app, settings, halt))
    return app


def reconfigure(app: Flask, settings: Config) -> None:
    """Give an app new settings. Running chats end under the old ones; a private horde stays."""
    app.extensions["horde_proxy"] = _front(
        app, settings, app.extensions["horde_proxy"].live.shutdown
    )


def _front(app: Flask, settings: Config, halt: Shutdown) -> AppContext:
    app.config["MAX_CONTENT_LENGTH"] = settings.server.max_body
    assembly: Assembly = app.extensions["assembly"]
    endpoints = assembly.endpoints(settings)
    hordes = hordes_among(endpoints)
    statistics = assembly.statistics(hordes, settings)
    return AppContext(
        Router(endpoints, settings.aliases, settings.fallbacks, settings.routing.max_wait),
        _serving(settings),
        _access(app, settings),
        _live(app, settings, halt),
        horde=hordes[0] if hordes else None,
        statistics=statistics[hordes[0].name] if hordes else None,
    )


def _serving(settings: Config) -> ServingOptions:
    server = settings.server
    return ServingOptions(
        timeout=server.timeout,
        stream_timeout=server.stream_timeout,
        keepalive=server.keepalive,
        keepalive_interval=server.keepalive_interval,
        max_n=server.max_n,
        strict=server.strict,
        completion_tokens=settings.horde.default_completion_tokens,
        max_upload=server.max_upload,
        reattach=server.reattach,
        version=VERSION,
    )


def _access(app: Flask, settings: Config) -> Access:
    access, ledger = settings.access, _ledger(app, settings.access)
    return Access(
        passthrough=access.mode == "passthrough",
        requires_key=access.mode == "keys",
        keys=ledger.keys,
        limits=ledger.allowances,
        usage=ledger.book,
        admins=tuple(access.admins),
        trusted_proxies=TrustedProxies(settings.server.trusted_proxies),
    )


def _live(app: Flask, settings: Config, halt: Shutdown) -> LiveState:
    server = settings.server
    return LiveState(
        shutdown=halt,
        slots=Slots(server.places),
        in_flight=InFlight(
            grace=server.cancel_grace, window=server.reattach_window, clock=time.monotonic
        ),
        loop_guard=LoopGuard(server.loop_limit, time.monotonic),
        disconnects=app.extensions["assembly"].disconnects,
        new_sleeper=partial(Sleeper, sleep=app.extensions["runtime"].sleep),
        metrics=app.extensions["metrics"],
        page=_page(app),
    )


@dataclass(frozen=True)
class _Ledger:
    """Keys, usage and the page's sessions. They stay when the settings are read again."""

    url: str | None
    database: LedgerDatabase | None
    keys: KeyRing
    allowances: KeyLimits
    book: UsageRecorder
    sessions: Sessions


def _ledger(app: Flask, access: AccessSettings) -> _Ledger:
    before: _Ledger | None
    url, before = access.database_url(), app.extensions.get("ledger")
    configured = {
        digest_of_setting(each.key): _client_key(name, each) for name, each in access.keys.items()
    }
    if before is None or before.url != url:
        database = _ledger_database(url) if url else None
        book = UsageRecorder(database)
        before = _Ledger(
            url, database, KeyRing(configured), KeyLimits(book), book, _sessions(database)
        )
    stored = before.database.valid_keys if before.database and access.mode == "keys" else None
    found = replace(before, keys=before.keys.with_configured(configured, stored))
    app.extensions["ledger"] = found
    return found


def _ledger_database(url: str) -> LedgerDatabase:
    """Imported here, so that a proxy without a database does not load SQLAlchemy."""
    from horde_proxy.ledger.database import open_ledger

    return open_ledger(url)


def _sessions(ledger: LedgerDatabase | None) -> Sessions:
    """In the ledger's database, where there is one."""
    if ledger is None:
        return Sessions()
    from horde_proxy.web.session_database import SessionDatabase

    return Sessions(SessionDatabase(ledger.database))


def _page(app: Flask) -> PageState:
    """The page's state, with the sessions of the database that is in use now."""
    ledger: _Ledger = app.extensions["ledger"]
    page: PageState = app.extensions.setdefault("page", PageState(sessions=ledger.sessions))
    if page.sessions is not ledger.sessions:
        page = app.extensions["page"] = replace(page, sessions=ledger.sessions)
    return page


def _client_key(name: str, key: KeySettings) -> ClientKey:
    return ClientKey(
        name,
        tuple(key.models),
        tuple(key.endpoints),
        key.requests_per_minute,
        key.concurrent,
        key.tokens_per_day,
        key.kudos_per_day,
        key.horde_key,
        key.admin,
    )


def _add_private_horde(app: Flask, settings: Config) -> PrivateApp:
    """The private horde, which answers under its own path beside ours."""
    from horde_proxy.private_horde import PrivateHorde, blueprint

    key = settings.private_horde.api_key or secrets.token_urlsafe(24)
    anonymous = settings.access.mode in (None, "open")
    strict = settings.private_horde.strict
    horde = PrivateHorde(rate_limits=strict, upfront_kudos=strict, anonymous=anonymous)
    horde.add_account(key, OWNER, trusted=True, kudos=1_000_000, concurrency=10_000)
    own = Flask("private_horde", static_folder=None)
    own.config["MAX_CONTENT_LENGTH"] = settings.server.max_body
    own.register_blueprint(blueprint(horde))
    app.wsgi_app = _split(own.wsgi_app, app.wsgi_app)  # type: ignore[method-assign, assignment]
    return PrivateApp(own, key)


def _split(private: WSGIApplication, rest: WSGIApplication) -> WSGIApplication:
    """The private horde under /api/v2, the rest under everything else."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        is_private = environ.get("PATH_INFO", "").startswith(PRIVATE_HORDE_PATH)
        return (private if is_private else rest)(environ, start_response)

    return application
