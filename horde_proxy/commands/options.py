"""The options that several commands share, and the settings that they lead to."""

from __future__ import annotations

from typing import Any

import click

from horde_proxy import config
from horde_proxy.config import Config, ConfigError

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
) -> Config:
    """The settings of a file, the environment and flags. Raises ClickException."""
    try:
        return config.load(path, flags=flags, defaults=defaults)
    except ConfigError as exc:
        raise click.ClickException(str(exc)) from exc


def server_flags(**values: str | None) -> dict[str, Any]:
    """The flags of [server] that were given, nested as in the settings file."""
    return {"server": {name: value for name, value in values.items() if value}}
