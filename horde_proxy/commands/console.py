"""The output of the commands: the only module of this room that prints.

Names of models, answers and error messages come from other people's machines. What a terminal
would obey in them is escaped here.
"""

from __future__ import annotations

from typing import Any

import click

from horde_proxy import printable


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text, which may have lines, to stdout or stderr."""
    click.echo(printable.lines(text), err=err, nl=nl)


def say(text: str) -> None:
    """Print a text to stderr, beside what the command is called for."""
    echo(text, err=True)


class PrintableErrors(click.Group):
    """A group whose commands' errors are escaped before click prints them."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        # It says what was wrong with what the user typed, and how to type it.
        except click.UsageError:
            raise
        except click.ClickException as exc:
            raise click.ClickException(printable.lines(exc.message)) from exc
