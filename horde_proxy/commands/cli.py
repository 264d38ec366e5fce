"""The `horde-proxy` command: a table of the commands, each imported when it is used.

`serve` keeps this process beside the server, so what other commands need must stay out of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import click

from horde_proxy import logs
from horde_proxy.commands.lazy_group import LazyGroup
from horde_proxy.version import VERSION

COMMANDS: Mapping[str, str] = {
    name: f"horde_proxy.commands.{module}"
    for name, module in {
        "chat": "chat:chat",
        "check": "check:check",
        "demo": "demo:demo",
        "horde": "horde:horde",
        "image": "image:image",
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


@click.group(
    cls=LazyGroup, paths=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(VERSION, prog_name="horde-proxy")
def main() -> None:
    """An OpenAI endpoint for the home, in front of the AI Horde."""
    logs.configure_console()
