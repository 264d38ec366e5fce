"""`horde-proxy service`: the units of systemd, written, renewed and removed.

Nothing of a service is changed by other commands. An installation that fails says what is missing
before it writes the first file.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.commands.console import echo
from horde_proxy.commands.unit_files import (
    NAME,
    UNIT,
    ServiceFiles,
    hidden_path,
    settings_text,
    unit_text,
)
from horde_proxy.key_digest import key_digest
from horde_proxy.ledger import new_key


@click.group()
def service() -> None:
    """The service of systemd: install it, upgrade it, remove it."""


def _place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all commands share."""
    for option in (
        click.option("--print", "is_dry", is_flag=True, help="Show what would be done."),
        click.option(
            "--root",
            type=click.Path(file_okay=False, path_type=Path),
            default="/",
            metavar="FOLDER",
            help="Write files below this folder, and start nothing.",
        ),
        click.option(
            "--system/--user",
            "is_system",
            default=lambda: os.geteuid() == 0,
            help="For the machine, or for this user only [--system for root].",
        ),
    ):
        command = option(command)
    return command


@service.command()
@_place_options
@click.option(
    "--horde-key",
    envvar="AI_HORDE_API_KEY",
    default=ANONYMOUS_KEY,
    metavar="KEY",
    help="Your key at aihorde.net [AI_HORDE_API_KEY].",
)
def install(is_system: bool, root: Path, is_dry: bool, horde_key: str) -> None:
    """Install and start it, with settings and a first key, which is shown once."""
    places = ServiceFiles(is_system, root)
    if not is_dry:
        _check(places)
        if places.unit.exists():
            raise click.ClickException(
                f"{places.unit} is there already: horde-proxy service upgrade"
            )
    key = None if places.settings.exists() else new_key()
    if not (horde_key.isascii() and horde_key.isprintable()) or set(horde_key) & {'"', "\\"}:
        raise click.ClickException("--horde-key has characters that no key has")
    if key is not None:
        digest = "(made by the installation)" if is_dry else key_digest(key)
        shown = "(your key)" if is_dry and horde_key != ANONYMOUS_KEY else horde_key
        _write(places.settings, settings_text(digest, shown), is_dry, private=True)
    _write(places.unit, unit_text(is_system, _program()), is_dry)
    _systemctl(places, is_dry, ["daemon-reload"], ["enable", "--now", UNIT])
    if key is not None and not is_dry:
        echo(key)
    if not is_dry:
        _say_installed(places, is_new=key is not None)


def _say_installed(places: ServiceFiles, is_new: bool) -> None:
    if is_new:
        echo("This is the first key, an admin's. It cannot be shown again.", err=True)
    echo(f"Settings: {places.settings}", err=True)
    if not places.is_system:
        echo("To run it without you being logged in: loginctl enable-linger", err=True)


@service.command()
@_place_options
def upgrade(is_system: bool, root: Path, is_dry: bool) -> None:
    """Write the unit of this release, and restart. Settings and data stay."""
    places = ServiceFiles(is_system, root)
    if not is_dry:
        _check(places)
        if not places.unit.exists():
            raise click.ClickException(f"there is no {places.unit}: horde-proxy service install")
        if not places.settings.exists():
            raise click.ClickException(
                f"there is no {places.settings}, which this release reads: move your settings there"
            )
    _write(places.unit, unit_text(is_system, _program()), is_dry)
    # Running chats get server.grace to end.
    _systemctl(places, is_dry, ["daemon-reload"], ["restart", UNIT])


@service.command()
@_place_options
@click.option("--keep-data", is_flag=True, help="Leave keys, usage, stored answers and caches.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def uninstall(is_system: bool, root: Path, is_dry: bool, keep_data: bool, yes: bool) -> None:
    """Stop it and remove it with settings and data: nothing is left."""
    places = ServiceFiles(is_system, root)
    kept = set(places.data) if keep_data else set()
    # A link of systemd's may lead to a folder that is removed before it.
    there = [path for path in places.everything if os.path.lexists(path) and path not in kept]
    if not there:
        raise click.ClickException("no service is installed here")
    if not is_dry:
        _check(places)
        echo("\n".join(map(str, there)), err=True)
        if not yes:
            click.confirm("Remove all of these?", abort=True, err=True)
    units = [path.name for path in there if path.suffix in (".service", ".socket")]
    if units:
        _systemctl(places, is_dry, ["disable", "--now", *units])
    for path in there:
        _remove(path, is_dry)
    _systemctl(places, is_dry, ["daemon-reload"])


def _check(places: ServiceFiles) -> None:
    """Raises ClickException where this user or this program cannot be used for it."""
    if places.is_system and places.packaged_unit.exists():
        raise click.ClickException(
            f"the service belongs to the Debian package: apt installs, upgrades and purges {NAME}"
        )
    if places.root != Path("/"):
        return
    if places.is_system and os.geteuid() != 0:
        raise click.ClickException("only root installs for the machine: use sudo, or --user")
    if shutil.which("systemctl") is None:
        raise click.ClickException("systemctl is not here: this needs systemd")
    # An environment may link to a Python in a home, as uv and pyenv keep theirs.
    used = [Path(sys.prefix), Path(sys.executable).resolve()]
    hidden = hidden_path(used) if places.is_system else None
    if hidden is not None:
        raise click.ClickException(
            f"the service could not see {hidden}, which homes and /tmp are hidden from: install "
            f"into /opt: python3 -m venv /opt/{NAME} && /opt/{NAME}/bin/pip install {NAME}"
        )


def _program() -> str:
    """How a unit calls this program: the command beside this Python, or the module."""
    command = Path(sys.executable).parent / NAME
    words = [str(command)] if command.exists() else [sys.executable, "-m", "horde_proxy"]
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def _write(path: Path, text: str, is_dry: bool, private: bool = False) -> None:
    """Write a file of the service, or show it."""
    if is_dry:
        echo(f"# {path}\n{text}")
        return
    path.parent.mkdir(mode=0o700 if private else 0o755, parents=True, exist_ok=True)
    # The mode is there from the first byte on.
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def _remove(path: Path, is_dry: bool) -> None:
    if is_dry:
        echo(f"rm -r {shlex.quote(str(path))}")
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _systemctl(places: ServiceFiles, is_dry: bool, *calls: list[str]) -> None:
    """Call systemctl, unless the files are for another root. Raises ClickException."""
    if places.root != Path("/"):
        return
    for words in calls:
        command = ["systemctl", *([] if places.is_system else ["--user"]), *words]
        if is_dry:
            echo(shlex.join(command))
        # The words are ours, and no shell reads them.
        elif subprocess.run(command, check=False).returncode != 0:  # noqa: S603
            raise click.ClickException(
                f"{shlex.join(command)} failed; the log: journalctl -e -u {UNIT}"
            )
