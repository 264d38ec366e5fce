"""`horde-proxy opencode`: keeps opencode's configuration up to date with a running proxy."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from horde_proxy import opencode as configuration
from horde_proxy.commands import proxy_client
from horde_proxy.commands.console import echo
from horde_proxy.commands.options import config_option, url_option
from horde_proxy.jsonc import JsoncError


@click.command()
@url_option
@config_option
@click.option(
    "--output",
    default="opencode.json",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default=True,
    help="The configuration to keep up to date.",
)
@click.option(
    "--base-url",
    metavar="URL",
    help="The proxy's URL for opencode [the same as --url]; without --url, also the one to ask.",
)
@click.option(
    "--key",
    metavar="KEY",
    help="What opencode sends as its key; {env:NAME} lets it read a variable "
    "[{env:OPENAI_API_KEY} if that is set, else what the file has, else none].",
)
@click.option(
    "--min-context",
    type=int,
    metavar="TOKENS",
    help="Leave out models with less context [opencode can work in "
    f"{configuration.needed_context(None)}]; 0 takes all.",
)
@click.option("--interval", default=300.0, show_default=True, help="Seconds between updates.")
@click.option("--once", is_flag=True, help="Update once and end.")
def opencode(
    url: str | None,
    path: str | None,
    output: Path,
    base_url: str | None,
    key: str | None,
    min_context: int | None,
    interval: float,
    once: bool,
) -> None:
    """Keep opencode's configuration up to date with the available models."""
    proxy = proxy_client.base_url(url or base_url, path)
    while True:
        try:
            echo(_update(output, proxy, base_url or proxy, key or _key_by_name(), min_context))
        except click.ClickException as exc:
            if once:
                raise
            echo(f"{output} is unchanged: {exc.message}", err=True)
        if once:
            return
        time.sleep(interval)


def _key_by_name() -> str | None:
    """How opencode finds the key that is set here: the key itself does not go into the file."""
    return "{env:OPENAI_API_KEY}" if os.environ.get("OPENAI_API_KEY") else None


def _update(
    output: Path, proxy: str, base_url: str, key: str | None, min_context: int | None
) -> str:
    """What was done, in a line. Raises ClickException, the file being unchanged."""
    listed = proxy_client.get(proxy, "/models")["data"]
    models = configuration.capable(listed, min_context)
    note = configuration.left_out(listed, min_context)
    note = note and f"; {note}"
    if not models:
        raise click.ClickException(
            f"no model with a context of at least {configuration.needed_context(min_context)} "
            f"is available{note}"
        )
    try:
        before = output.read_bytes().decode() if output.exists() else ""
        text = before if before.strip() else "{}\n"
        is_changed = configuration.write(output, configuration.updated(text, models, base_url, key))
    # pathlib raises RuntimeError for a symbolic link that leads back to itself.
    except (OSError, RuntimeError, UnicodeDecodeError, JsoncError) as exc:
        raise click.ClickException(f"{output}: {exc}") from exc
    return f"{output}: {len(models)} models" + ("" if is_changed else ", unchanged") + note
