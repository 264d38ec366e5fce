"""The manual page is that of the commands, and shells complete commands, options and values."""

from __future__ import annotations

import configparser
from pathlib import Path

import click
import pytest
import responses
from click.testing import CliRunner

from horde_proxy.commands.cli import COMMANDS, main
from horde_proxy.commands.man_page import man_page

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "man" / "horde-proxy.1"


def completed(*words: str, **environ: str) -> list[str]:
    """What fills the last of the words, as bash gets it from click."""
    env = {
        "_HORDE_PROXY_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("horde-proxy", *words)),
        "COMP_CWORD": str(len(words)),
        **environ,
    }
    result = CliRunner().invoke(main, [], env=env, prog_name="horde-proxy")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return [line.partition(",")[2] for line in result.stdout.split()]


def test_the_page_in_the_repository_is_that_of_the_commands() -> None:
    """Else: python -m horde_proxy.commands.man_page > man/horde-proxy.1"""
    assert PAGE.read_text(encoding="utf-8") == man_page()


def test_the_page_has_every_command_and_is_installed() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f'\n.SS "horde\\-proxy {name}"\n' in page
    assert '\n.SS "horde\\-proxy users add"\n' in page
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.data_files"]["share/man/man1"].split() == ["man/horde-proxy.1"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed_and_installed(shell: str, tmp_path: Path) -> None:
    printed = CliRunner().invoke(main, ["completion", shell])
    assert printed.exit_code == 0
    assert f"_HORDE_PROXY_COMPLETE={shell}_complete" in printed.stdout
    places = {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    installed = CliRunner().invoke(main, ["completion", shell, "--install"], env=places)
    assert installed.exit_code == 0, installed.output
    path = {
        "bash": "data/bash-completion/completions/horde-proxy",
        "zsh": "data/zsh/site-functions/_horde-proxy",
        "fish": "config/fish/completions/horde-proxy.fish",
    }[shell]
    assert (tmp_path / path).read_text().strip() == printed.stdout.strip()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    env = {"XDG_DATA_HOME": str(tmp_path / "file")}
    result = CliRunner().invoke(main, ["completion", "bash", "--install"], env=env)
    assert result.exit_code == 1
    assert f"{tmp_path}/file/bash-completion/completions/horde-proxy cannot" in result.stderr


def test_commands_options_and_clients_are_completed() -> None:
    assert completed("ser") == ["serve", "service"]
    assert completed("users", "re") == ["restore", "revoke"]
    assert completed("setup", "cl") == ["claude", "cline"]
    assert completed("chat", "--mo") == ["--model"]


def test_no_command_is_imported_to_complete_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(context: click.Context, name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(main, "get_command", refuse)
    assert completed("b") == ["backup", "batch"]


@responses.activate
def test_models_are_those_of_the_running_proxy() -> None:
    models = [{"id": "a/b"}, {"id": "a/c"}, {"id": "d"}, "no model"]
    responses.get("http://proxy.invalid/v1/models", json={"data": models[:3]})
    url = "http://proxy.invalid/v1"
    assert completed("chat", "--url", url, "--model", "a/") == ["a/b", "a/c"]
    responses.replace("GET", f"{url}/models", json={"data": models})
    assert completed("image", "--url", url, "--model", "") == []
    responses.replace("GET", f"{url}/models", status=503)
    assert completed("setup", "--url", url, "--model", "") == []
