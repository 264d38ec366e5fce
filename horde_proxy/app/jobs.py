"""The runner of stored jobs, and where webhooks are sent, from the settings.

The runner outlives a reload: each job is done with the settings that are in use by then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from flask import Flask

from horde_proxy.api import background, batch_jobs
from horde_proxy.api.context import AppContext
from horde_proxy.api.webhooks import WEBHOOK_JOB, WebhookOptions, WebhookWork
from horde_proxy.app.runtime import Runtime
from horde_proxy.app.webhook_calls import webhook_post
from horde_proxy.config import Config, ConfigError
from horde_proxy.store.job_runner import JobRunner

if TYPE_CHECKING:
    from horde_proxy.store.jobs import JobStore


def build_runner(app: Flask, runtime: Runtime, is_stopping: Callable[[], bool]) -> JobRunner:
    """The runner of an app's jobs, which does nothing until it is started."""

    def context() -> AppContext:
        return cast(AppContext, app.extensions["horde_proxy"])

    def store() -> JobStore | None:
        return context().store.jobs

    def remove_expired() -> None:
        expiry = context().store.expiry
        if expiry is not None:
            expiry.look()

    works = {
        **background.works(app, context),
        **batch_jobs.works(app, context),
        WEBHOOK_JOB: WebhookWork(context),
    }
    return JobRunner(
        store,
        works,
        places=0,
        start=runtime.run,
        start_loop=runtime.run_loop,
        is_stopping=is_stopping,
        at_each_look=remove_expired,
    )


def webhook_options(settings: Config, runtime: Runtime) -> WebhookOptions | None:
    """Where events are sent; None: nowhere. Raises ConfigError for a secret that is no file's."""
    hooks = settings.webhooks
    if hooks.url is None:
        return None
    post = webhook_post(settings, runtime, private=hooks.private, setting="webhooks.private")
    try:
        secret = hooks.read_secret()
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    return WebhookOptions(hooks.url, secret, tuple(hooks.events), post)
