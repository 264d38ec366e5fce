"""The `horde-proxy` command: a table of the commands, each imported when it is called.

`serve` keeps this process beside the server, so what other commands need must stay out of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import click

from horde_proxy import logs
from horde_proxy.commands.lazy_group import LazyCommand, LazyGroup
from horde_proxy.version import VERSION

COMMANDS: Mapping[str, LazyCommand] = {
    name: LazyCommand(f"horde_proxy.commands.{path}", line)
    for name, path, line in (
        (
            "backup",
            "backup:backup",
            "Save keys, usage, stored answers, the private horde, history and settings to FILE.",
        ),
        (
            "batch",
            "batch:batch",
            "Many requests in a file, answered by a running proxy within a day.",
        ),
        ("chat", "chat:chat", "Ask a running proxy something and print the answer as it comes."),
        ("check", "check:check", "Say what is wrong with this installation, and how to fix it."),
        (
            "completion",
            "completion:completion",
            "Print what completes commands, options, models and clients in a shell.",
        ),
        (
            "config",
            "config:show_config",
            "Show every setting with its value, its source, and what that source overrides.",
        ),
        (
            "demo",
            "demo:demo",
            "Serve with a private horde, a small model and a painter: nothing else is needed.",
        ),
        (
            "horde",
            "horde:horde",
            "Serve a horde of your own, and nothing else; no configuration is needed.",
        ),
        (
            "image",
            "image:image",
            "Have a picture made by a running proxy, and write it to a file, whose name is "
            "printed.",
        ),
        ("keys", "keys:keys", "The keys of clients: who may use the proxy, and how much."),
        ("model", "model:model", "The model of the demo."),
        ("models", "models:list_models", "List the models of a running proxy."),
        (
            "opencode",
            "opencode:opencode",
            "Keep opencode's configuration up to date with the available models.",
        ),
        (
            "reload",
            "reload:reload",
            "Let the proxy with the process id PID read its settings again.",
        ),
        (
            "restore",
            "backup:restore",
            "Bring back what `backup` saved to FILE, after a check of all of it.",
        ),
        ("serve", "serve:serve", "Serve OpenAI's API in front of the configured horde."),
        ("service", "units:service", "The service of systemd: install it, upgrade it, remove it."),
        ("setup", "setup:setup", "Configure a client for a running proxy."),
        (
            "users",
            "users:users",
            "The members of the private horde: accounts, keys, roles, kudos, invitations.",
        ),
        ("worker", "worker:worker", "Work for hordes: pop their jobs and do them with models."),
    )
}
"""The commands by name."""


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="horde-proxy")
def main() -> None:
    """An OpenAI endpoint for the home, in front of the AI Horde."""
    logs.configure_console()
