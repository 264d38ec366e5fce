"""`horde-proxy completion SHELL`: prints or installs what completes the commands in a shell.

The scripts are click's own; they call this program again for each press of the tab key.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import ShellComplete, get_completion_class

from horde_proxy.commands.console import echo

PROGRAM = "horde-proxy"
_VARIABLE = "_HORDE_PROXY_COMPLETE"
"""The variable that click reads; it makes the name from the program's."""
_PLACES = {
    "bash": ("XDG_DATA_HOME", ".local/share", "bash-completion/completions/horde-proxy"),
    "zsh": ("XDG_DATA_HOME", ".local/share", "zsh/site-functions/_horde-proxy"),
    "fish": ("XDG_CONFIG_HOME", ".config", "fish/completions/horde-proxy.fish"),
}
"""Where each shell looks: bash-completion 2 and fish by themselves, zsh where `fpath` has it.

(variable of the base folder, its default below the home folder, path)."""


@click.command()
@click.argument("shell", type=click.Choice(list(_PLACES)))
@click.option("--install", is_flag=True, help="Write it to where the shell looks for it.")
def completion(shell: str, install: bool) -> None:
    """Print what completes commands, options, models and clients in a shell."""
    text = script(shell)
    if not install:
        echo(text)
        return
    path = _place(shell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise click.ClickException(f"{path} cannot be written: {exc.strerror}") from exc
    echo(f"{path}: written, for new shells")
    if shell == "zsh":
        echo(f"Let ~/.zshrc say, before compinit: fpath=({path.parent} $fpath)")


def script(shell: str) -> str:
    """The script of a shell."""
    from horde_proxy.commands.cli import main

    kind = get_completion_class(shell)
    assert kind is not None, "click has all of _PLACES"
    # Bash's own `source` starts a bash to look at its version; 4.4 is from 2016.
    return ShellComplete.source(kind(main, {}, PROGRAM, _VARIABLE))


def _place(shell: str) -> Path:
    variable, default, path = _PLACES[shell]
    base = os.environ.get(variable) or str(Path("~").expanduser() / default)
    return Path(base) / path
