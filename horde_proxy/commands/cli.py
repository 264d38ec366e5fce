"""The `horde-proxy` command: a table of the commands, each imported when it is used.

`serve` keeps this process beside the server, so what other commands need must stay out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name

import click

from horde_proxy import logs
from horde_proxy.commands.console import PrintableErrors
from horde_proxy.version import VERSION

COMMANDS: Mapping[str, str] = {
    name: f"horde_proxy.commands.{module}"
    for name, module in {
        "chat": "chat:chat",
        "check": "check:check",
        "demo": "demo:demo",
        "keys": "keys:keys",
        "model": "model:model",
        "models": "models:list_models",
        "opencode": "opencode:opencode",
        "serve": "serve:serve",
        "users": "users:users",
        "worker": "worker:worker",
    }.items()
}
"""The commands by name, each as "module:object"."""


class _Commands(PrintableErrors):
    """A group that imports a command when it is asked for by name; --help imports all."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        path = COMMANDS.get(cmd_name)
        command: click.Command | None = resolve_name(path) if path else None
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="horde-proxy")
def main() -> None:
    """An OpenAI endpoint for the home, in front of the AI Horde."""
    logs.configure_console()
