"""commands.lazy_group: help and completion of commands that are not imported."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from horde_proxy.commands.cli import main
from horde_proxy.commands.horde import horde
from horde_proxy.commands.lazy_group import LazyCommand, LazyGroup

NOT_IMPORTABLE = LazyGroup(
    "horde-proxy",
    lazy={
        "paint": LazyCommand("no_such_module:paint", "Paint a picture."),
        "wait": LazyCommand(
            "no_such_module:wait", "Wait for nothing in particular, " + "ever " * 20
        ),
    },
)


def test_the_help_of_a_group_imports_no_command() -> None:
    result = CliRunner().invoke(NOT_IMPORTABLE, ["--help"])
    assert result.exit_code == 0, result.output
    assert "Commands:\n  paint  Paint a picture.\n  wait   Wait for nothing" in result.output
    assert result.output.endswith("ever...\n")


def test_completion_of_a_group_imports_no_command() -> None:
    context = click.Context(NOT_IMPORTABLE)
    items = NOT_IMPORTABLE.shell_complete(context, "pa")
    assert [(item.value, item.help) for item in items] == [("paint", "Paint a picture.")]


@pytest.mark.parametrize("group", [main, horde])
def test_the_list_of_commands_says_what_each_command_says_of_itself(group: LazyGroup) -> None:
    context = click.Context(group)
    written = click.HelpFormatter(width=200)
    by_click = click.HelpFormatter(width=200)
    group.format_commands(context, written)
    click.Group.format_commands(group, context, by_click)
    assert written.getvalue() == by_click.getvalue()


@pytest.mark.parametrize("width", [40, 80])
def test_long_lines_of_help_are_cut_where_click_cuts_them(width: int) -> None:
    context = click.Context(main)
    written, by_click = click.HelpFormatter(width=width), click.HelpFormatter(width=width)
    main.format_commands(context, written)
    click.Group.format_commands(main, context, by_click)
    assert written.getvalue() == by_click.getvalue()
