"""A reload takes the new environment, and the one who asked for it learns what became of it."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from horde_proxy import create_app
from horde_proxy.app.factory import composition_of
from horde_proxy.app.reload import Reloader
from horde_proxy.commands.cli import main
from horde_proxy.commands.reload import reload_proxy
from horde_proxy.commands.serve import read_again
from horde_proxy.config import Config, ConfigError, load
from horde_proxy.config.reload_mailbox import ReloadAnswer, ReloadMailbox
from tests.support import World

UNITS = Path(__file__).parent.parent / "systemd"


def never(seconds: float) -> None:
    raise AssertionError("the answer was there at once")


def served(mailbox: ReloadMailbox, file: Path) -> Reloader:
    """The reloader of a proxy that was started without any variable."""

    def read() -> Config:
        return load(str(file), mailbox.environment({}))

    app = create_app(read(), World().runtime)
    return Reloader(app, read, lambda settings: None, answer=mailbox.put_answer)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "a.toml"
    file.write_text("[[endpoints]]\nurl = 'http://10.0.0.12:8000'\n")
    return file


def test_a_reload_takes_the_environment_of_the_one_who_asks(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = ReloadMailbox(tmp_path)
    reloader = served(mailbox, file)
    monkeypatch.setenv("HORDE_PROXY_SERVER__PLACES", "7")
    answer = reload_proxy(mailbox, reloader.reload, sleep=never)
    assert answer == ReloadAnswer(None)
    assert composition_of(reloader._app).settings.server.places == 7
    assert (tmp_path / "reload-request.json").stat().st_mode & 0o777 == 0o600


def test_a_wrong_file_is_the_answer_and_the_old_settings_stay(tmp_path: Path, file: Path) -> None:
    mailbox = ReloadMailbox(tmp_path)
    reloader = served(mailbox, file)
    file.write_text("[server\n")
    answer = reload_proxy(mailbox, reloader.reload, sleep=never)
    assert answer is not None
    assert answer.problem is not None
    assert answer.problem.startswith(f"the configuration {file} is not valid: ")
    assert len(composition_of(reloader._app).settings.endpoints) == 1


def test_what_needs_a_restart_is_in_the_answer(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = ReloadMailbox(tmp_path)
    reloader = served(mailbox, file)
    monkeypatch.setenv("HORDE_PROXY_SERVER__BIND", "127.0.0.1:9999")
    assert reload_proxy(mailbox, reloader.reload, sleep=never) == ReloadAnswer(
        None, "; changed, but applied only by a restart: server.bind"
    )


def test_variables_that_are_gone_are_gone_and_others_stay(tmp_path: Path) -> None:
    mailbox = ReloadMailbox(tmp_path)
    own = {"PATH": "/bin", "HORDE_PROXY_SERVER__PLACES": "7", "AI_HORDE_API_KEY": "old"}
    assert mailbox.environment(own) == own
    mailbox.put_request({"PATH": "/other", "AI_HORDE_API_KEY": "new"})
    assert mailbox.environment(own) == {"PATH": "/bin", "AI_HORDE_API_KEY": "new"}


def test_an_answer_to_an_older_request_is_none(tmp_path: Path) -> None:
    mailbox = ReloadMailbox(tmp_path)
    first = mailbox.put_request({})
    mailbox.put_answer(ReloadAnswer("first"))
    second = mailbox.put_request({})
    assert mailbox.answer(second) is None
    mailbox.put_answer(ReloadAnswer(None))
    assert (mailbox.answer(first), mailbox.answer(second)) == (None, ReloadAnswer(None))


def test_another_settings_file_needs_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORDE_PROXY_CONFIG", "/etc/a.toml")
    with pytest.raises(ConfigError, match="names another file than at the start: restart"):
        read_again(lambda environ: load(), "/etc/a.toml", {"HORDE_PROXY_CONFIG": "/etc/b.toml"})


def test_the_command_fails_where_the_proxy_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    mailbox, signals = ReloadMailbox(tmp_path), list[tuple[int, int]]()
    answers = iter([ReloadAnswer("it sets nothing"), ReloadAnswer(None)])

    def kill(pid: int, number: int) -> None:
        signals.append((pid, number))
        mailbox.put_answer(next(answers))

    monkeypatch.setattr(os, "kill", kill)
    refused = CliRunner().invoke(main, ["reload", "12"])
    assert (refused.exit_code, refused.output) == (
        1,
        "Error: the settings were not reloaded: it sets nothing\n",
    )
    assert CliRunner().invoke(main, ["reload", "12"]).output == "The settings were reloaded.\n"
    assert signals == [(12, signal.SIGHUP), (12, signal.SIGHUP)]


def test_the_units_reload_by_the_command_with_a_private_folder() -> None:
    reload = "ExecReload=/usr/bin/env /opt/horde-proxy/.venv/bin/horde-proxy reload $MAINPID"
    # The service has the copy of its settings that systemd made at the start.
    compare = (
        "ExecReload=+/bin/sh -c 'cmp -s /etc/horde-proxy/settings.toml "
        "/proc/$MAINPID/root%d/settings.toml || "
        '{ echo "<3>new settings need: systemctl restart horde-proxy" >&2; exit 1; }\''
    )
    reloads = {"horde-proxy": [compare, reload], "horde-proxy-horde": [reload]}
    for name, expected in reloads.items():
        lines = (UNITS / f"{name}.service").read_text().splitlines()
        assert [line for line in lines if line.startswith("ExecReload=")] == expected
        assert {f"RuntimeDirectory={name}", "RuntimeDirectoryMode=0700"} <= set(lines)


def test_a_reload_without_a_mailbox_is_only_logged(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reloader = served(ReloadMailbox(None), file)
    with caplog.at_level(logging.INFO):
        reloader.reload()
    assert "the settings were reloaded" in caplog.text
