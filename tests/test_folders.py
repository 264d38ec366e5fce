"""The folders of a service, of a user, and of a user without a home directory."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from horde_proxy import create_app
from horde_proxy.app.runtime import Runtime
from horde_proxy.commands.cli import main
from horde_proxy.config import load
from horde_proxy.folders import NoHomeFolder, cache_folder, state_folder, user_cache_folder


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of systemd's DynamicUser, or of `docker run --user 1234`: in no list of users."""

    def unknown(user: int) -> Any:
        raise KeyError(user)

    for variable in ("HOME", "STATE_DIRECTORY", "CACHE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_service_has_the_first_folders_that_systemd_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/a")
    assert state_folder() == Path("/var/lib/a")
    assert cache_folder() == Path("/var/cache/a")


def test_a_user_has_the_xdg_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("STATE_DIRECTORY", "CACHE_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/bob/state")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/bob/cache")
    assert state_folder() == Path("/home/bob/state/horde-proxy")
    assert cache_folder() == user_cache_folder() == Path("/home/bob/cache/horde-proxy")


@pytest.mark.usefixtures("homeless")
def test_without_a_home_directory_all_is_in_the_state_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/horde-proxy")
    assert state_folder() == Path("/var/lib/horde-proxy")
    assert cache_folder() == user_cache_folder() == Path("/var/lib/horde-proxy/cache")


@pytest.mark.usefixtures("homeless")
def test_a_user_without_any_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "set STATE_DIRECTORY to a folder"
    command = ["keys", "list"]
    monkeypatch.setattr("horde_proxy.config.access.state_folder", state_folder)
    monkeypatch.setenv("HORDE_PROXY_ACCESS__MODE", "keys")
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert result.output.startswith("Error: this user has no home directory")
    for folder in (state_folder, cache_folder, user_cache_folder):
        with pytest.raises(NoHomeFolder, match=sentence):
            folder()


@pytest.mark.usefixtures("homeless")
def test_mode_keys_starts_without_a_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    for room in ("access", "store", "hordes"):
        monkeypatch.setattr(f"horde_proxy.config.{room}.state_folder", state_folder)
    settings = load(environ={}, flags={"access": {"mode": "keys"}})
    # Nothing is loaded from the horde.
    runtime = Runtime(run=lambda load: None, run_loop=lambda loop: None)
    http = create_app(settings, runtime).test_client()
    wrong = {"Authorization": "Bearer sk-nobodys-key-0123"}
    assert http.get("/v1/models", headers=wrong).status_code == 401
    assert "ledger.db" in os.listdir(tmp_path)
