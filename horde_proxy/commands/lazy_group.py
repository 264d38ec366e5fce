"""A group of commands, each imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

import click

from horde_proxy.commands.console import PrintableErrors


class LazyGroup(PrintableErrors):
    """A group that imports a command when it is called by its name; --help imports all.

    `paths` are its commands by name, each as "module:object".
    """

    def __init__(self, *args: Any, paths: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._paths = paths

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._paths)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        path = self._paths.get(cmd_name)
        command: click.Command | None = resolve_name(path) if path else None
        return command
