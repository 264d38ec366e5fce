"""A group of commands, each imported when it is called: --help and completion import none."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any, NamedTuple

import click
from click.formatting import HelpFormatter
from click.shell_completion import CompletionItem

from horde_proxy.commands.console import PrintableErrors

_MARGINS = 6
"""Columns of a line of help that hold neither name nor text, as click counts them in
Group.format_commands (click 8)."""


class LazyCommand(NamedTuple):
    """A command that is not imported yet: where it is, as "module:object", and its line of help."""

    path: str
    help: str

    def short_help(self, limit: int) -> str:
        """Its line of help, cut as click cuts that of a command."""
        return click.Command(None, help=self.help).get_short_help_str(limit)


class LazyGroup(PrintableErrors):
    """A group that imports a command when it is called by its name.

    `lazy` are its commands by name. tests/test_commands_lazy_group.py compares their lines of help
    with what the commands themselves say.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = self._lazy.get(cmd_name)
        command: click.Command | None = resolve_name(lazy.path) if lazy else None
        return command

    def format_commands(self, ctx: click.Context, formatter: HelpFormatter) -> None:
        """Write the list of commands that --help shows. Click's own would import all of them."""
        names = self.list_commands(ctx)
        limit = formatter.width - _MARGINS - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._lazy[name].short_help(limit)) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, or the options, that begin with a text. Click's own would import all."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=self._lazy[name].help)
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
