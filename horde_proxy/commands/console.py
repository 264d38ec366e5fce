"""The output of the commands: the only module of this room that prints.

Names of models, answers and error messages come from other people's machines. What a terminal
would obey in them is escaped here.
"""

from __future__ import annotations

import json
from shutil import get_terminal_size
from typing import IO, Any

import click

from horde_proxy import logs, printable
from horde_proxy.folders import NoHomeFolder

WRONG_SETTINGS = 78
"""The status of a program whose settings are wrong (EX_CONFIG of sysexits.h). The units do not
start it again then: RestartPreventExitStatus=."""


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text, which may have lines, to stdout or stderr."""
    click.echo(printable.lines(text), err=err, nl=nl)


def print_json(body: Any) -> None:
    """Print a JSON document to stdout."""
    echo(json.dumps(body, indent=2))


def say(text: str) -> None:
    """Print a text to stderr, beside what the command is called for."""
    echo(text, err=True)


def show_line(text: str) -> None:
    """Show a line at the bottom of a terminal, in place of the one before.

    The cursor stays at its beginning, so that whatever is printed next replaces it.
    """
    width = max(get_terminal_size().columns - 1, 1)
    shown = printable.one_line(text)[:width]
    # Erase to the end of the line, which the one before may have been longer than.
    click.echo(f"{shown}\x1b[K\r", err=True, nl=False)


class PrintableError(click.ClickException):
    """The end of a command with a message that is printable."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(logs.error_lines(f"Error: {self.message}"), file=file, err=file is None)


class WrongSettings(PrintableError):
    """Settings that cannot be used: what starts this again would get the same error."""

    exit_code = WRONG_SETTINGS


class PrintableErrors(click.Group):
    """A group whose commands' errors are escaped before click prints them."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        # It says what was wrong with what the user typed, and how to type it.
        except click.UsageError:
            raise
        except click.ClickException as exc:
            kind = WrongSettings if isinstance(exc, WrongSettings) else PrintableError
            raise kind(printable.lines(exc.message)) from exc
        except NoHomeFolder as exc:
            raise PrintableError(str(exc)) from exc
