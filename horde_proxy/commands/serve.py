"""`horde-proxy serve`: the server, in this process and one that it starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import click

from horde_proxy import config, logs
from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.commands.console import say
from horde_proxy.commands.horde_welcome import horde_lines, reachable_url
from horde_proxy.commands.options import (
    bind_option,
    config_option,
    load_settings,
    log_format_option,
    server_flags,
)
from horde_proxy.config import Config, ConfigError
from horde_proxy.printable import without_login
from horde_proxy.serving import Server
from horde_proxy.upstreams.sessions import ignored_proxies
from horde_proxy.version import VERSION

log = logging.getLogger(__name__)


@click.command()
@config_option
@bind_option
@log_format_option
def serve(path: str | None, bind: str | None, log_format: str | None) -> None:
    """Serve OpenAI's API in front of the configured horde."""
    flags = server_flags(bind=bind, log_format=log_format)
    settings = load_settings(path, flags)
    run_server(
        settings,
        lambda: config.load(path, flags=flags),
        config.file_of(path),
        lambda: "\n".join([_summary(settings), *_of_private_horde(settings)]),
    )


def run_server(
    settings: Config, read: Callable[[], Config], file: str | None, greeting: Callable[[], str]
) -> None:
    """Say what is served, and serve until SIGTERM or SIGINT. Raises ClickException.

    `read` reads the settings again, which come from `file`, if from any.
    """
    logs.configure(settings.server.log_format)
    try:
        say(greeting())
        config.warn_of_exposures(settings)
        _warn_of_ignored_proxies(settings)
        Server(settings, read, file).run()
    except (RuntimeError, ConfigError) as exc:
        raise click.ClickException(str(exc)) from exc


def _of_private_horde(settings: Config) -> list[str]:
    """Where the private horde's data and its owner's key are; nothing where settings say it."""
    if not settings.private_horde.enabled or settings.private_horde.api_key is not None:
        return []
    return horde_lines(settings, reachable_url(settings.server.bind))


def _warn_of_ignored_proxies(settings: Config) -> None:
    names = ignored_proxies(os.environ)
    if names and settings.server.proxy_url is None:
        log.warning("%s is not read; set server.proxy_url to call through a proxy", names[0])


def _summary(settings: Config) -> str:
    """The address and the endpoints, in a line."""
    horde = settings.horde
    key = "anonymously" if horde.api_key == ANONYMOUS_KEY else "with a key of its own"
    private = ["private"] if settings.private_horde.enabled else []
    endpoints = "its private horde" if private else f"{without_login(horde.url)} {key}"
    if settings.endpoints:
        names = [endpoint.label() for endpoint in settings.endpoints]
        endpoints = ", ".join(names + private)
    return f"horde-proxy {VERSION} serves {settings.server.bind} in front of {endpoints}"
