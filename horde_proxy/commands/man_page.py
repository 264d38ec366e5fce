"""The manual page, made from the commands.

    python -m horde_proxy.commands.man_page > man/horde-proxy.1

It is one page for all commands, in the macros of man(7). It reads click's objects and runs none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from horde_proxy.commands.cli import main
from horde_proxy.version import VERSION

_DATE = "2026-11-30"
"""When the words below were last changed; mandoc asks for a date."""
_TAIL = r"""
.SH ENVIRONMENT
.TP
.B HORDE_PROXY_CONFIG
The settings file, where \fB\-\-config\fR names none.
.TP
.BI HORDE_PROXY_ SECTION __ NAME
A setting, before that of the file.
.TP
.B AI_HORDE_API_KEY
The key for the AI Horde.
.TP
.B OPENAI_API_KEY
The key that
.BR chat ", " models ", " image " and " setup
send to the proxy.
.TP
.BR STATE_DIRECTORY ", " XDG_STATE_HOME
Where keys, usage and stored answers are.
.SH FILES
.TP
.I /etc/horde\-proxy/settings.toml
The settings of the system's service, which only root may read.
.TP
.I ~/.config/horde\-proxy/settings.toml
Those of a user's service.
.TP
.I /var/lib/horde\-proxy
The data of the system's service.
.TP
.I ~/.local/state/horde\-proxy
The data of everybody else.
.SH EXIT STATUS
0 on success, 1 on a failure, 2 for a wrong command line, and 78 for wrong settings.
.SH SEE ALSO
.BR systemctl (1),
.BR journalctl (1)
"""


def man_page() -> str:
    """The page in roff."""
    context = click.Context(main, info_name="horde-proxy")
    lines = [
        '.\\" Made by python -m horde_proxy.commands.man_page: do not edit.',
        f'.TH HORDE\\-PROXY 1 {_DATE} "horde\\-proxy {VERSION}"',
        ".SH NAME",
        f"horde\\-proxy \\- {_roff((main.help or '').rstrip('.'))}",
        ".SH SYNOPSIS",
        ".B horde\\-proxy",
        ".I COMMAND",
        ".RI [ OPTIONS ]",
        ".SH DESCRIPTION",
        "The documentation is in the folder docs of the repository; this page lists the commands.",
        ".SH COMMANDS",
        *_subcommands(main, context),
    ]
    return "\n".join(lines) + _TAIL


def _subcommands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield from _command(command, click.Context(command, context, info_name=name))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    """A section of the command, then those of its own commands."""
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    words = "".join(f' " " \\fI{_roff(_placeholder(one))}\\fR' for one in arguments)
    yield f'.SS "{_roff(context.command_path)}"'
    more = ' " " \\fICOMMAND\\fR' if isinstance(command, click.Group) else ""
    yield f'.RB "\\fB{_roff(context.command_path)}\\fR" " " [\\fIOPTIONS\\fR]{words}{more}'
    for paragraph in _paragraphs(command.help):
        yield ".PP"
        yield _roff(paragraph)
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            yield from _option(option)
    if isinstance(command, click.Group):
        yield from _subcommands(command, context)


def _paragraphs(text: str | None) -> list[str]:
    """The help of a command; what is behind a form feed is not for readers, as click has it."""
    shown = (text or "").partition("\f")[0].replace("\b", "")
    return [" ".join(paragraph.split()) for paragraph in shown.split("\n\n") if paragraph.strip()]


def _option(option: click.Option) -> Iterator[str]:
    names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag or option.count else f" \\fI{_roff(_placeholder(option))}\\fR"
    yield ".TP"
    yield names + value
    yield _roff(" ".join((option.help or "").split()))


def _placeholder(parameter: click.Parameter) -> str:
    """What stands for a value: FILE, or the words to choose from."""
    if parameter.metavar:
        return parameter.metavar
    if isinstance(parameter.type, click.Choice):
        return "|".join(map(str, parameter.type.choices))
    name = (parameter.name or "").upper()
    if isinstance(parameter, click.Argument):
        shown = name if parameter.nargs == 1 else f"{name}..."
        return shown if parameter.required else f"[{shown}]"
    is_number = isinstance(parameter.type, click.IntRange | click.FloatRange)
    return "NUMBER" if is_number else parameter.type.name.upper()


def _roff(text: str) -> str:
    """A text with the signs escaped that roff would take for its own: man(7), groff_char(7)."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    # A line that begins with one of these is a request.
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


if __name__ == "__main__":
    sys.stdout.write(man_page())
