"""The options that several commands share, and the settings that they lead to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from horde_proxy import config
from horde_proxy.commands.console import WrongSettings
from horde_proxy.config import Config, ConfigError
from horde_proxy.config.settings_sources import PAGE_FILE_OFF, PAGE_FILE_VARIABLE

config_option = click.option(
    "--config", "path", metavar="FILE", help="Settings, TOML or Python [HORDE_PROXY_CONFIG]."
)
bind_option = click.option("--bind", metavar="HOST:PORT", help="Where to listen.")
json_option = click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
log_format_option = click.option(
    "--log-format", type=click.Choice(["text", "json"]), help="How to log to stderr."
)
url_option = click.option(
    "--url", metavar="URL", help="The proxy to talk to, up to /v1 [where `serve` listens]."
)


def load_settings(
    path: str | None,
    flags: dict[str, Any] | None = None,
    defaults: dict[str, Any] | None = None,
    *,
    reads_page_file: bool = True,
) -> Config:
    """The settings of the files, the environment and flags. Raises WrongSettings.

    Not `reads_page_file`: without the settings that the page of `serve` has written.
    """
    environ = os.environ if reads_page_file else without_page_file(os.environ)
    try:
        return config.load(path, environ, flags, defaults)
    except ConfigError as exc:
        raise WrongSettings(str(exc)) from exc


def without_page_file(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which the settings that the page of `serve` has written are not read."""
    return {**environ, PAGE_FILE_VARIABLE: PAGE_FILE_OFF}


def server_flags(**values: str | None) -> dict[str, Any]:
    """The flags of [server] that were given, nested as in the settings file."""
    return {"server": {name: value for name, value in values.items() if value}}
