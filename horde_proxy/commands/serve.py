"""`horde-proxy serve`: the server, in this process and one that it starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping

import click

from horde_proxy import config, logs
from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.commands.console import WrongSettings, say
from horde_proxy.commands.horde_welcome import horde_lines, reachable_url
from horde_proxy.commands.options import (
    bind_option,
    config_option,
    load_settings,
    log_format_option,
    server_flags,
)
from horde_proxy.config import Config, ConfigError
from horde_proxy.config.first_run import is_unconfigured
from horde_proxy.config.reload_mailbox import service_mailbox
from horde_proxy.printable import without_login
from horde_proxy.serving import Server, listening_on
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
    logs.configure(settings.server.log_format)
    _warn_of_overrides(path)
    run_server(
        settings,
        lambda environ: config.load(path, environ, flags),
        config.file_of(path),
        lambda: "\n".join([_summary(settings), *_of_private_horde(settings)]),
    )


ReadSettings = Callable[[Mapping[str, str]], Config]
"""Reads the settings again, with the variables of an environment."""


def run_server(
    settings: Config, read: ReadSettings, file: str | None, greeting: Callable[[], str]
) -> None:
    """Say what is served, and serve until SIGTERM or SIGINT. Raises ClickException.

    `read` reads the settings again, which come from `file`, if from any.
    """
    logs.configure(settings.server.log_format)
    try:
        say(greeting())
        config.warn_of_exposures(settings)
        _warn_of_ignored_proxies(settings)
        Server(settings, lambda: read_again(read, file), _watched(settings)).run()
    except ConfigError as exc:
        raise WrongSettings(str(exc)) from exc
    except RuntimeError as exc:
        raise click.ClickException(str(exc)) from exc


def _watched(settings: Config) -> tuple[str, ...]:
    return settings.sources.files() if settings.sources is not None else ()


def read_again(
    read: ReadSettings, file: str | None, environ: Mapping[str, str] | None = None
) -> Config:
    """The settings, with the environment that `horde-proxy reload` handed over. Raises ConfigError.

    `file` is the one that is watched for changes, from the start to the end of the process.
    """
    environ = service_mailbox().environment() if environ is None else environ
    before = config.file_of(None)
    if file == before and config.file_of(None, environ) != before:
        raise ConfigError("HORDE_PROXY_CONFIG names another file than at the start: restart")
    return read(environ)


def _of_private_horde(settings: Config) -> list[str]:
    """Where the private horde's data and its owner's key are; nothing where settings say it."""
    if not settings.private_horde.enabled or settings.private_horde.api_key is not None:
        return []
    return horde_lines(settings, reachable_url(settings.server.bind))


def _warn_of_overrides(path: str | None) -> None:
    """Log what the file says in vain; what a flag overrides, its user has just written."""
    for origin in config.load_with_origins(path)[1]:
        for line in origin.override_lines():
            log.warning("%s", line)


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
    bind = listening_on(settings.server.bind)
    summary = f"horde-proxy {VERSION} serves {bind} in front of {endpoints}"
    url = reachable_url(settings.server.bind)
    if url is not None and settings.server.first_run and is_unconfigured(settings):
        return f"{summary}\nFirst start: open {url}/ in a browser, which leads through the settings"
    return summary
