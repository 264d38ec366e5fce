"""Makes the WSGI application from its settings, gives it new settings, and ends it.

The parts are made here and in the other modules of this room, and nowhere else. No other module
decides what a setting means for more than one part.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from flask import Flask

from horde_proxy import config
from horde_proxy.api import routes
from horde_proxy.api.addresses import TrustedProxies
from horde_proxy.api.context import (
    Access,
    AppContext,
    LiveState,
    ServingOptions,
    SettingsStatus,
)
from horde_proxy.api.in_flight import InFlight
from horde_proxy.api.loop_guard import LoopGuard
from horde_proxy.api.request_guard import RequestGuard
from horde_proxy.api.slots import Slots
from horde_proxy.app.assembly import Assembly
from horde_proxy.app.history import build_hourly_facts, new_database
from horde_proxy.app.jobs import build_runner, webhook_options
from horde_proxy.app.lean_flask import LeanFlask
from horde_proxy.app.ledger import Ledger, SharedCounts, build_ledger
from horde_proxy.app.notices import build_watch, notice_options
from horde_proxy.app.pauses import pause_store
from horde_proxy.app.private import PrivateApp, add_private_horde, is_open
from horde_proxy.app.runtime import Runtime
from horde_proxy.app.setting_forms import SettingForms
from horde_proxy.app.settings_access import AppSettings
from horde_proxy.app.sticky import shared_use, sticky_sessions
from horde_proxy.app.store import build_store
from horde_proxy.app.windows import shared_places, shared_windows
from horde_proxy.config import Config, ConfigError, reasons_to_restart
from horde_proxy.metrics import Metrics
from horde_proxy.notices.watch import NoticeWatch
from horde_proxy.router import Router
from horde_proxy.router.hedge import HedgeRules
from horde_proxy.router.pauses import Pauses
from horde_proxy.router.sticky import StickySessions
from horde_proxy.shutdown import Shutdown
from horde_proxy.store import AnswerStore, PictureStore
from horde_proxy.store.job_runner import JobRunner
from horde_proxy.upstreams.base import Sleeper
from horde_proxy.version import VERSION
from horde_proxy.web.admin_tools import AdminTools
from horde_proxy.web.history import History
from horde_proxy.web.page_state import PageState
from horde_proxy.web.week import Week
from horde_proxy.wrong_keys import WrongKeys

if TYPE_CHECKING:
    from horde_proxy.caching.shared_windows import SharedWindows

_STILL_USED = "the old settings stay in use: correct the new ones, or restart to apply them"
_ONLY_AT_START = ("bind", "grace", "log_format")
"""Settings of [server] that gunicorn and the log are given once."""


@dataclass(frozen=True)
class Composition:
    """The parts of one app that outlive its settings, and the settings that it began with."""

    runtime: Runtime
    started_with: Config
    private: PrivateApp | None
    live: LiveState
    assembly: Assembly
    ledger: Ledger
    store: AnswerStore
    jobs: JobRunner
    notices: NoticeWatch
    settings: Config
    sticky: StickySessions
    shared: SharedCounts

    def begin_shutdown(self) -> None:
        """Let running chats end; the page no longer watches. Safe in a signal handler."""
        self.live.shutdown.has_begun = True

    def end_chats(self) -> None:
        """Cancel the chats that still run, and close the connections that proxied calls wait on.

        Jobs are handed over first: what they have submitted goes on running.
        """
        self.jobs.hand_over()
        self.live.shutdown.set()
        self.live.disconnects.hang_up_all()

    def save(self) -> None:
        """Write what is still in memory, before the process ends."""
        self.store.generations.flush()


def create_app(settings: Config | None = None, runtime: Runtime | None = None) -> Flask:
    """The WSGI application.

    Without `settings` they come from the file that HORDE_PROXY_CONFIG names and the environment.
    Raises ConfigError.
    """
    runtime = runtime or Runtime()
    if settings is None:
        settings = config.load()
        config.warn_of_exposures(settings)
    app = _new_app()
    windows = shared_windows(settings.cache, runtime)
    is_private = settings.private_horde.enabled
    private = add_private_horde(app, settings, runtime, windows) if is_private else None
    shared = SharedCounts(windows, shared_places(settings.cache, runtime))
    ledger = build_ledger(settings.access, runtime, None, shared)
    store = build_store(settings.store, runtime, None)
    live = _live(app, settings, runtime, ledger, windows)
    pauses = Pauses(pause_store(ledger, store), clock=runtime.clock, run=runtime.run)
    use = shared_use(settings.cache, runtime)
    assembly = Assembly(
        runtime, live.shutdown, private, live.disconnects, live.metrics, pauses, use
    )
    jobs = build_runner(app, runtime, lambda: live.shutdown.has_begun)
    notices = build_watch(app, runtime, live.shutdown)
    parts = Composition(
        runtime,
        settings,
        private,
        live,
        assembly,
        ledger,
        store,
        jobs,
        notices,
        settings,
        sticky_sessions(settings.cache, runtime),
        shared,
    )
    app.extensions["composition"] = parts
    _adjust(app, parts)
    routes.register(app, _context(app, parts, settings))
    app.before_request(notices.ensure_started)
    _announce_first_run(app, parts)
    return app


def _new_app() -> Flask:
    app = LeanFlask("horde_proxy", static_folder=None)
    # Clients and tests read answers in the order in which they are written, as OpenAI's are.
    app.json.sort_keys = False  # type: ignore[attr-defined]
    return app


def _announce_first_run(app: Flask, parts: Composition) -> None:
    """Write the code of the first run to the log, where strangers may come before the operator."""
    is_reached = parts.settings.access.mode is not None
    if is_reached and AppSettings(app, reconfigure).is_first_run():
        parts.live.page.first_run.announce()


def reconfigure(app: Flask, settings: Config) -> list[str]:
    """Give an app new settings. Returns the names of changed ones that only a restart applies.

    Running chats end under the old settings, and stay on the page and joinable by a retry. What
    has been counted stays. Raises ConfigError, also for settings that have lost what kept the
    proxy closed (config.reload); then the app is unchanged.
    """
    before = composition_of(app)
    if reasons := reasons_to_restart(before.settings, settings, before.started_with):
        raise ConfigError(f"{'; '.join(reasons)}; {_STILL_USED}")
    # Whatever may fail comes first, so that a failure leaves all as it was.
    ledger = build_ledger(settings.access, before.runtime, before.ledger, before.shared)
    hourly = before.live.hourly
    history = new_database(hourly, before.settings.stats, settings.stats, before.runtime)
    parts = replace(
        before,
        settings=settings,
        ledger=ledger,
        store=build_store(settings.store, before.runtime, before.store),
        live=_with_sessions(before.live, ledger),
    )
    context = _context(app, parts, settings)
    _adjust(app, parts)
    parts.assembly.pauses.keep_in(pause_store(ledger, parts.store))
    hourly.configure(history, settings.stats.history_days)
    # One assignment each: a request that is being served keeps the context that it began with.
    app.extensions["composition"] = parts
    app.extensions["horde_proxy"] = context
    status = before.live.settings
    status.loaded_at, status.problem = before.runtime.now(), None
    return _needs_restart(parts.started_with, settings)


def composition_of(app: Flask) -> Composition:
    """The parts of an app that create_app made."""
    return cast(Composition, app.extensions["composition"])


def _hedge(settings: Config) -> HedgeRules | None:
    return HedgeRules(settings.routing.hedge_stall) if settings.routing.hedge else None


def _context(app: Flask, parts: Composition, settings: Config) -> AppContext:
    """What views are given. A view works with one context from beginning to end."""
    endpoints = parts.assembly.endpoints(settings)
    context = AppContext(
        Router(
            endpoints,
            settings.alias_targets(),
            settings.fallbacks,
            settings.routing.max_wait,
            short_ids=settings.models.ids == "short",
            alias_places=settings.alias_places(),
            sticky=parts.sticky if settings.routing.sticky else None,
            hedge=_hedge(settings),
        ),
        Router(
            parts.assembly.image_endpoints(endpoints),
            settings.alias_targets(),
            settings.fallbacks,
            settings.routing.max_wait,
            alias_places=settings.alias_places(),
        ),
        PictureStore(parts.runtime.pictures_folder(), now=parts.runtime.now),
        parts.store,
        _serving(settings),
        _access(settings, parts.ledger),
        parts.live,
        jobs=parts.jobs,
        webhooks=webhook_options(settings, parts.runtime),
        hordes=parts.assembly.hordes(endpoints, settings),
        clock=parts.runtime.clock,
        now=parts.runtime.now,
        settings=AppSettings(app, reconfigure),
        admin=AdminTools(
            parts.ledger.database, parts.assembly.pauses, SettingForms(_is_read_at_start)
        ),
    )
    return replace(context, notices=notice_options(settings, context, parts.runtime))


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
        keeps_pictures=settings.horde.describe_images,
        offers_images=settings.horde.images,
        version=VERSION,
        default_embedding=settings.routing.default_embedding,
        background_timeout=settings.store.background_timeout,
        has_horde_pages=settings.private_horde.enabled,
        public_url=server.public_url and server.public_url.rstrip("/"),
    )


def _access(settings: Config, ledger: Ledger) -> Access:
    access = settings.access
    return Access(
        passthrough=access.mode == "passthrough",
        requires_key=access.mode == "keys",
        keys=ledger.keys,
        limits=ledger.limits,
        usage=ledger.usage,
        admins=tuple(access.admins),
        trusted_proxies=TrustedProxies(settings.server.trusted_proxies),
        guard=_guard(settings),
    )


def _guard(settings: Config) -> RequestGuard:
    server, mode = settings.server, settings.access.mode
    public = urlsplit(server.public_url or "").hostname
    return RequestGuard(
        is_local_only=mode is None,
        guards_pages=mode in (None, "open"),
        hosts=frozenset(host.lower() for host in (*server.hosts, public) if host),
        origins=frozenset(origin.lower() for origin in server.origins),
        trusted=TrustedProxies(server.trusted_proxies),
    )


def _live(
    app: Flask,
    settings: Config,
    runtime: Runtime,
    ledger: Ledger,
    windows: SharedWindows | None,
) -> LiveState:
    server, shutdown = settings.server, Shutdown(runtime.sleep)
    return LiveState(
        shutdown=shutdown,
        slots=Slots(server.places),
        in_flight=InFlight(
            grace=server.cancel_grace,
            window=server.reattach_window,
            clock=runtime.clock,
            call_later=runtime.run_later,
        ),
        loop_guard=LoopGuard(server.loop_limit, runtime.clock),
        new_sleeper=partial(Sleeper, sleep=runtime.sleep),
        metrics=Metrics(runtime.clock),
        page=PageState(
            history=History(runtime.now),
            week=Week(runtime.clock),
            sessions=ledger.sessions,
        ),
        settings=SettingsStatus(runtime.now()),
        wrong_keys=WrongKeys(
            runtime.now if windows else runtime.clock, runtime.sleep or time.sleep, windows
        ),
        hourly=build_hourly_facts(app, settings.stats, runtime, shutdown),
    )


def _with_sessions(live: LiveState, ledger: Ledger) -> LiveState:
    """The same with the sessions of the ledger, which change with its database only."""
    if live.page.sessions is ledger.sessions:
        return live
    return replace(live, page=replace(live.page, sessions=ledger.sessions))


def _adjust(app: Flask, parts: Composition) -> None:
    """Give the objects that outlive a reload their limits."""
    live, server = parts.live, parts.settings.server
    for flask_app in (app, parts.private.app if parts.private else app):
        flask_app.config["MAX_CONTENT_LENGTH"] = server.max_body
    live.slots.count = server.places
    parts.jobs.places = parts.settings.store.jobs
    live.in_flight.configure(grace=server.cancel_grace, window=server.reattach_window)
    live.loop_guard.configure(server.loop_limit)
    live.inspections.configure(server.inspect)


def _is_read_at_start(name: str) -> bool:
    """Whether a change of a setting is applied by a restart only; see _needs_restart."""
    section, _, field_name = name.partition(".")
    return section in ("private_horde", "cache") or (
        section == "server" and field_name in (*_ONLY_AT_START, "places")
    )


def _needs_restart(before: Config, after: Config) -> list[str]:
    """The settings that differ from those of the start and are read only then."""
    names = [
        f"server.{name}"
        for name in _ONLY_AT_START
        if getattr(before.server, name) != getattr(after.server, name)
    ]
    if after.server.places > before.server.places:
        # gunicorn's threads were counted at the start.
        names.append("server.places")
    names += [
        f"private_horde.{name}"
        for name in type(before.private_horde).model_fields
        if getattr(before.private_horde, name) != getattr(after.private_horde, name)
    ]
    if before.cache != after.cache:
        names.append("cache, for counts of calls and sessions")
    if before.private_horde.enabled and is_open(before) != is_open(after):
        names.append("access.mode, for the private horde")
    return names
