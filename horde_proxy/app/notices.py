"""The notices of an app: their targets and their facts, from the settings.

The watch outlives a reload: each look is made with the settings that are in use by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

from flask import Flask

from horde_proxy.api.context import AppContext
from horde_proxy.app.assembly import PRIVATE
from horde_proxy.app.runtime import Runtime
from horde_proxy.app.webhook_calls import webhook_post
from horde_proxy.config import Config, ConfigError
from horde_proxy.config.notices import NoticeSettings
from horde_proxy.notices.conditions import Facts, NoticeLimits, WatchedEndpoint, WatchedModel
from horde_proxy.notices.sent_notices import SentNotices
from horde_proxy.notices.targets import NtfyTarget, Post, Target, WebhookTarget
from horde_proxy.notices.watch import NoticeOptions, NoticeWatch
from horde_proxy.router import Router
from horde_proxy.shutdown import Shutdown

_AT_REST = ("asleep", "waking", "paused")
"""States of an endpoint that is not down: its machine sleeps until a request wakes it."""
_ANONYMOUS = "Anonymous#"
"""How the name of the horde's anonymous account begins, whose kudos are nobody's."""


def build_watch(app: Flask, runtime: Runtime, shutdown: Shutdown) -> NoticeWatch:
    """The watch of an app, which does nothing until it is started."""

    def options() -> NoticeOptions | None:
        return cast(AppContext, app.extensions["horde_proxy"]).notices

    return NoticeWatch(
        options,
        clock=runtime.clock,
        now=runtime.now,
        sleep=shutdown.sleep,
        run_loop=runtime.run_loop,
    )


def notice_targets(settings: NoticeSettings) -> list[Target]:
    """The targets of notices. Raises ConfigError for a file that has no usable secret or token."""
    targets: list[Target] = []
    try:
        if settings.webhook is not None:
            targets.append(WebhookTarget(settings.webhook, settings.read_secret()))
        if settings.ntfy is not None:
            targets.append(NtfyTarget(settings.ntfy, settings.read_token()))
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    return targets


def notice_post(settings: Config, runtime: Runtime) -> Post:
    """What posts notices."""
    private = settings.notices.private
    return webhook_post(settings, runtime, private=private, setting="notices.private")


def notice_options(settings: Config, context: AppContext, runtime: Runtime) -> NoticeOptions | None:
    """What is sent; None where notices go nowhere. Raises ConfigError."""
    notices = settings.notices
    if not notices.has_target():
        return None
    return NoticeOptions(
        notice_targets(notices),
        NoticeLimits(notices.after, notices.kudos_below, notices.endpoints),
        notice_post(settings, runtime),
        partial(_facts, notices, context),
        _sent(context, runtime),
    )


def _sent(context: AppContext, runtime: Runtime) -> SentNotices | None:
    database = context.store.database
    if database is None:
        return None
    # Imported late: a proxy that keeps nothing needs no SQLAlchemy.
    from horde_proxy.notices.sent_in_database import SentInDatabase

    return SentInDatabase(database, runtime.now)


def _facts(settings: NoticeSettings, context: AppContext) -> Facts:
    return Facts(
        endpoints=list(endpoint_facts(context.router)) if settings.endpoints else (),
        kudos=dict(_kudos(context)) if settings.kudos_below is not None else {},
        favourites=[_model(context, name) for name in settings.favourites],
    )


def endpoint_facts(router: Router) -> Iterator[WatchedEndpoint]:
    """How each endpoint stands now."""
    for endpoint, state in zip(router.endpoints, router.states(), strict=True):
        name, current = endpoint.name, state["state"]
        # A chat that failed long ago says nothing of now, if nobody has tried since.
        fails = endpoint.breaker.has_failed_lately() or endpoint.down() is not None
        is_forbidden = any(not penalty["kinds"] for penalty in endpoint.penalties())
        if current in _AT_REST or not (fails or is_forbidden):
            yield WatchedEndpoint(name, is_up=current == "up")
        else:
            yield WatchedEndpoint(name, is_up=False, reason=state["last_error"] or "it fails")


def _kudos(context: AppContext) -> Iterator[tuple[str, float | None]]:
    """The kudos of the proxy's own account at each horde of others."""
    for name, horde in context.hordes.items():
        account = horde.upstream.account(None)
        if name != PRIVATE and not account.name.startswith(_ANONYMOUS):
            yield name, account.spendable if account.name else None


def _model(context: AppContext, name: str) -> WatchedModel:
    """Whether a model of texts or pictures is gone."""
    routers = (context.router, context.image_router)
    gone = [router.is_gone(name) for router in routers if router.endpoints]
    if False in gone:
        return WatchedModel(name, is_gone=False)
    if None in gone or not gone:
        return WatchedModel(name, is_gone=None)
    near = [model for router in routers for model in router.nearest(name)]
    return WatchedModel(name, is_gone=True, nearest=next(iter(near), None))
