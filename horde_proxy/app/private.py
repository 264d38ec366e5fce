"""The private horde beside the proxy: one process, one port, two Flask apps.

It must not share the proxy's context: a chat calls it in the middle of its own request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Flask

from horde_proxy.app import private_calls
from horde_proxy.app.lean_flask import LeanFlask
from horde_proxy.app.private_calls import FROM_OUTSIDE
from horde_proxy.app.runtime import Runtime
from horde_proxy.config import Config, ConfigError
from horde_proxy.config.hordes import HORDE_THREADS
from horde_proxy.config.owner_key import keep_owner_key
from horde_proxy.database.errors import DatabaseError
from horde_proxy.web.sessions import Sessions

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from limits.storage import Storage

    from horde_proxy.private_horde import AccessRules, PrivateHorde
    from horde_proxy.private_horde.streams import StreamRules

_PATH, _PAGES = "/api/v2/", "/page/horde"
_OWNERS_KUDOS = 1_000_000
"""Enough for any job, since the owner of a private horde pays nobody."""
_OWNERS_CONCURRENCY = 10_000
"""As many jobs as the proxy may have waiting (server.places, at most)."""


@dataclass(frozen=True)
class PrivateApp:
    """The private horde's Flask app and its owner's key; `strict` is what it was started with."""

    app: Flask
    key: str
    strict: bool


def add_private_horde(
    app: Flask, settings: Config, runtime: Runtime, windows: Storage | None
) -> PrivateApp:
    """Serve a private horde under its own path of an app. It counts its calls in `windows`."""
    from horde_proxy.private_horde import PrivateHorde, blueprint

    strict = settings.private_horde.strict
    url = settings.private_horde.database_url()
    store = runtime.open_horde_store(url) if url else None
    kept = settings.private_horde.api_key or (_kept_key(settings) if store else None)
    key = kept or runtime.new_secret()
    horde = PrivateHorde(
        store=store,
        clock=store.clock(runtime.now) if store else runtime.now,
        ticks=runtime.clock,
        wall_clock=runtime.now,
        rate_limits=strict,
        kudos=settings.private_horde.kudos == "on",
        upfront_kudos=strict,
        access=access_rules(settings),
        documents=_documents(settings),
        windows=windows,
        ledger_days=settings.private_horde.ledger_days,
        streaming=_stream_rules(settings, runtime),
    )
    horde.most_picture_bytes = settings.private_horde.picture_bytes
    _ensure_owner(horde, key, is_from_settings=kept is not None)
    _call_webhooks(horde, settings, runtime)
    private = LeanFlask("private_horde", static_folder=None)
    private.config["MAX_CONTENT_LENGTH"] = settings.server.max_body
    private.register_blueprint(blueprint(horde))
    private_calls.register(private, app)
    pages = _pages(app, horde, runtime)
    app.wsgi_app = _split(  # type: ignore[method-assign, assignment]
        private.wsgi_app, pages.wsgi_app, app.wsgi_app
    )
    return PrivateApp(private, key, strict)


def _stream_rules(settings: Config, runtime: Runtime) -> StreamRules:
    """What the horde offers beyond AI-Horde's API, for as many streams as there are threads."""
    from horde_proxy.private_horde.streams import StreamRules

    most = settings.server.places + HORDE_THREADS // 2
    return StreamRules(sleep=runtime.horde_sleep, most_streams=most)


def _documents(settings: Config) -> dict[str, str]:
    """The operator's own texts, by the names of documents."""
    from horde_proxy.private_horde.documents import NAMES

    return {name: text for name in NAMES if (text := getattr(settings.private_horde, name))}


def _kept_key(settings: Config) -> str | None:
    """The owner's key in its file; None where there can be none. Raises ConfigError."""
    path = settings.private_horde.owner_key_file()
    try:
        return None if path is None else keep_owner_key(path)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{exc}; or set private_horde.api_key") from exc


def _pages(app: Flask, horde: PrivateHorde, runtime: Runtime) -> Flask:
    """The pages of a private horde, whose sessions are in its own database."""
    from horde_proxy.web import horde_pages

    store = None
    if horde.store.database is not None:
        from horde_proxy.web.session_database import SessionDatabase

        store = SessionDatabase(horde.store.database, now=runtime.now)
    sessions = Sessions(store, now=runtime.now)
    pages = LeanFlask("horde_pages", static_folder=None)
    pages.register_blueprint(horde_pages.blueprint(horde, private_calls.page_host(app, sessions)))
    private_calls.register(pages, app)
    return pages


def _call_webhooks(horde: PrivateHorde, settings: Config, runtime: Runtime) -> None:
    """Let the horde call the webhooks of requests, unless the settings forbid it."""
    from horde_proxy.app.webhook_calls import webhook_post
    from horde_proxy.private_horde.webhook_sender import WebhookRunner

    if settings.private_horde.webhooks != "off":
        is_any = settings.private_horde.webhooks == "any"
        post = webhook_post(settings, runtime, private=is_any, setting="private_horde.webhooks")
        horde.call_webhooks(WebhookRunner(post, runtime.run, runtime.run_later), plain=is_any)


def _ensure_owner(horde: PrivateHorde, key: str, *, is_from_settings: bool) -> None:
    """Let the owner's account use this key. Raises ConfigError."""
    try:
        horde.ensure_owner(
            key,
            kudos=_OWNERS_KUDOS,
            concurrency=_OWNERS_CONCURRENCY,
            is_from_settings=is_from_settings,
        )
    except (DatabaseError, ValueError) as exc:
        raise ConfigError(str(exc)) from exc


def access_rules(settings: Config) -> AccessRules:
    """Who may join the private horde, and what may be done without an account."""
    from horde_proxy.private_horde import AccessRules

    private = settings.private_horde
    return AccessRules(
        registration=private.registration,
        anonymous=is_open(settings),
        anonymous_concurrency=private.anonymous_concurrency,
        anonymous_max_length=private.anonymous_max_length,
    )


def is_open(settings: Config) -> bool:
    """Whether the private horde serves clients without a key. Not set: as the proxy does."""
    if settings.private_horde.anonymous is not None:
        return settings.private_horde.anonymous
    return settings.access.mode in (None, "open")


def _split(
    private: WSGIApplication, pages: WSGIApplication, rest: WSGIApplication
) -> WSGIApplication:
    """The private horde under /api/v2, its pages under /page/horde, the proxy everywhere else."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path.startswith(_PATH) or path == _PATH.rstrip("/"):
            served = private
        elif path == _PAGES or path.startswith(f"{_PAGES}/"):
            served = pages
        else:
            return rest(environ, start_response)
        environ[FROM_OUTSIDE] = True
        return served(environ, start_response)

    return application
