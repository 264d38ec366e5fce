"""`horde-proxy config`: every setting, where it comes from, and what it overrides."""

from __future__ import annotations

from dataclasses import asdict

import click

from horde_proxy.commands.console import echo, print_json, say
from horde_proxy.commands.options import config_option, json_option
from horde_proxy.commands.running_service import use_service
from horde_proxy.commands.table import aligned
from horde_proxy.config import ConfigError, Origin, load_with_origins
from horde_proxy.config.origins import DEFAULT


@click.command("config")
@click.option("--set", "only_set", is_flag=True, help="Leave out what has its default.")
@json_option
@config_option
def show_config(only_set: bool, as_json: bool, path: str | None) -> None:
    """Show every setting with its value, its source, and what that source overrides.

    Keys and passwords are hidden. A wrong setting is an error, as at the start.
    """
    use_service(say)
    try:
        _, settings = load_with_origins(path)
    except ConfigError as exc:
        raise click.ClickException(str(exc)) from exc
    shown = [origin for origin in settings if not only_set or origin.source != DEFAULT]
    if as_json:
        print_json([_document(origin) for origin in shown])
        return
    rows = [("SETTING", "VALUE", "SOURCE", "OVERRIDES")]
    rows += [(origin.name, origin.value, origin.source, _overrides(origin)) for origin in shown]
    echo("\n".join(aligned(rows)))


def _document(origin: Origin) -> dict[str, object]:
    others = [{"source": source, "value": value} for source, value in origin.overridden]
    return asdict(origin) | {"overridden": others}


def _overrides(origin: Origin) -> str:
    return "; ".join(f"{value} from {source}" for source, value in origin.overridden)
