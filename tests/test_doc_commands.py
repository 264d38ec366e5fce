"""Each command in the docs is run by a test, or its block says why not: see doc_commands.py."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from horde_proxy.commands.cli import main
from tests.doc_commands import KINDS, ROOT, Block, inline_commands, shell_blocks


def test_each_shell_block_says_who_runs_it() -> None:
    assert [str(block) for block in shell_blocks() if not (block.kind or block.reason)] == []
    assert {block.kind for block in shell_blocks() if block.kind} <= set(KINDS)


def test_few_blocks_are_not_run() -> None:
    """Another one has to be counted here, so that somebody thinks about it."""
    reasons = {str(block): block.reason for block in shell_blocks() if block.reason}
    assert len(reasons) == 12, reasons
    assert len(shell_blocks()) >= 30


def test_reasons_name_tests_that_exist() -> None:
    named = re.findall(r"\S+\.py", " ".join(block.reason or "" for block in shell_blocks()))
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("a 'b\nc' d\ne  # why\n", ["a 'b\nc' d", "e  # why"]),
        ("curl \\\n  -d x |\n  cat\n# only this\nb &\n", ["curl \\\n  -d x |\n  cat", "b &"]),
        ("a &&\nb\n", ["a &&\nb"]),
    ],
)
def test_a_block_is_split_into_its_commands(text: str, commands: list[str]) -> None:
    assert Block("page.md", 1, text).commands == commands


@pytest.mark.parametrize("block", shell_blocks(kind="quick"), ids=str)
def test_a_quick_block_runs(block: Block, tmp_path: Path) -> None:
    env = {
        "HORDE_PROXY_PRIVATE_HORDE__DATABASE": f"sqlite:///{tmp_path}/horde.db",
        "HORDE_PROXY_PRIVATE_HORDE__ENABLED": "true",
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    for command in block.commands:
        program, *arguments = shlex.split(command, comments=True)
        assert program.rpartition("/")[2] == "horde-proxy"
        if "FINGERPRINT" in arguments:
            # As the block says, `users show` tells it.
            shown = CliRunner().invoke(main, ["users", "show", "ben", "--json"], env=env)
            fingerprint = json.loads(shown.stdout)["keys"][-1]["fingerprint"]
            arguments[arguments.index("FINGERPRINT")] = fingerprint
        # Questions are answered with yes.
        result = CliRunner().invoke(main, arguments, env=env, input="y\n")
        assert result.exit_code == 0, (command, result.output)


def commands_shown() -> Iterator[tuple[str, list[str]]]:
    """(where, arguments) of each command of ours, in sentences and in all blocks."""
    yield from ((page, shlex.split(text)) for page, text in inline_commands())
    for block in shell_blocks():
        for part in re.split(r"&&|\||\n(?! )", block.text):
            # `.venv/bin/horde-proxy check --url ...  # why`, also behind variables
            found = re.search(r"(?:^\s*|bin/)horde-proxy( .*)", part, re.S)
            if found and "horde-proxy.service" not in part:
                yield str(block), shlex.split(found[1].rstrip(" &\n"), comments=True)


@pytest.mark.parametrize(
    ("where", "arguments"),
    [pytest.param(*shown, id=" ".join(shown[1])) for shown in commands_shown()],
)
def test_a_command_of_the_docs_has_these_options(where: str, arguments: list[str]) -> None:
    command: click.Command = main
    context = click.Context(main)
    for word in list(arguments):
        if not isinstance(command, click.Group) or word not in command.list_commands(context):
            break
        found = command.get_command(context, arguments.pop(0))
        assert found is not None
        command, context = found, click.Context(found, parent=context)
    assert command is not main, (where, arguments)
    options = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    given = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    assert given <= options | {"--help"}, (where, given - options)
