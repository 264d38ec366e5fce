"""`horde-proxy service`: what it writes below a folder, calls, and removes."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from horde_proxy import config
from horde_proxy.commands.cli import main
from horde_proxy.commands.unit_files import ServiceFiles, hidden_path
from horde_proxy.key_digest import key_digest


def run(*words: str, **options: Any) -> Result:
    return CliRunner().invoke(main, ["service", *words], env={"AI_HORDE_API_KEY": None}, **options)


def installed(root: Path, scope: str = "--system") -> str:
    """The key of a service that was installed below this folder."""
    result = run("install", scope, "--root", str(root))
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ann")


def test_the_systems_service_is_two_files_and_a_key(tmp_path: Path) -> None:
    key = installed(tmp_path)
    assert files_below(tmp_path) == [
        "etc/horde-proxy/settings.toml",
        "etc/systemd/system/horde-proxy.service",
    ]
    settings = tmp_path / "etc/horde-proxy/settings.toml"
    assert settings.stat().st_mode & 0o777 == 0o600
    assert key.startswith("hp-") and key not in settings.read_text()
    first = tomllib.loads(settings.read_text())["access"]["keys"]["first"]
    assert first == {"key": f"sha256:{key_digest(key)}", "admin": True}


def test_the_first_settings_are_valid_and_let_in_nobody_without_a_key(tmp_path: Path) -> None:
    installed(tmp_path)
    settings = config.load(str(tmp_path / "etc/horde-proxy/settings.toml"), environ={})
    assert (settings.access.mode, settings.server.bind) == ("keys", "127.0.0.1:8080")
    assert settings.access.keys["first"].admin


def test_the_unit_gets_its_settings_as_a_credential(tmp_path: Path) -> None:
    installed(tmp_path)
    unit = (tmp_path / "etc/systemd/system/horde-proxy.service").read_text()
    lines = unit.splitlines()
    assert "LoadCredential=settings.toml:/etc/horde-proxy/settings.toml" in lines
    assert "Environment=HORDE_PROXY_CONFIG=%d/settings.toml" in lines
    assert "RestartPreventExitStatus=78" in lines
    assert "/opt/horde-proxy" not in unit
    [start] = [line for line in lines if line.startswith("ExecStart=")]
    assert start.startswith("ExecStart=/") and start.endswith(" serve")


def test_a_users_service_is_in_the_users_folders(tmp_path: Path) -> None:
    installed(tmp_path, "--user")
    assert files_below(tmp_path) == [
        "home/ann/.config/horde-proxy/settings.toml",
        "home/ann/.config/systemd/user/horde-proxy.service",
    ]
    unit = (tmp_path / "home/ann/.config/systemd/user/horde-proxy.service").read_text()
    assert "WantedBy=default.target" in unit and "DynamicUser" not in unit


def test_a_horde_key_is_in_the_settings(tmp_path: Path) -> None:
    result = run("install", "--system", "--root", str(tmp_path), "--horde-key", "my-horde-key")
    assert result.exit_code == 0
    text = (tmp_path / "etc/horde-proxy/settings.toml").read_text()
    assert tomllib.loads(text)["horde"] == {"api_key": "my-horde-key"}


def test_a_horde_key_that_would_break_the_file_is_refused(tmp_path: Path) -> None:
    result = run("install", "--system", "--root", str(tmp_path), "--horde-key", 'a"\nb')
    assert result.exit_code == 1
    assert files_below(tmp_path) == []


def test_settings_that_are_there_stay_and_no_key_is_made(tmp_path: Path) -> None:
    settings = tmp_path / "etc/horde-proxy/settings.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("[server]\nplaces = 5\n")
    assert installed(tmp_path) == ""
    assert settings.read_text() == "[server]\nplaces = 5\n"


def test_a_second_installation_names_upgrade(tmp_path: Path) -> None:
    installed(tmp_path)
    result = run("install", "--system", "--root", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.endswith("is there already: horde-proxy service upgrade\n")


def test_an_upgrade_renews_the_unit_and_keeps_the_settings(tmp_path: Path) -> None:
    installed(tmp_path)
    unit = tmp_path / "etc/systemd/system/horde-proxy.service"
    settings = tmp_path / "etc/horde-proxy/settings.toml"
    new, kept = unit.read_text(), settings.read_text()
    unit.write_text("[Service]\n")
    assert run("upgrade", "--system", "--root", str(tmp_path)).exit_code == 0
    assert (unit.read_text(), settings.read_text()) == (new, kept)


def test_an_upgrade_of_nothing_names_install(tmp_path: Path) -> None:
    result = run("upgrade", "--system", "--root", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.endswith("horde-proxy.service: horde-proxy service install\n")


@pytest.mark.parametrize("scope", ["--system", "--user"])
def test_uninstalling_leaves_nothing(tmp_path: Path, scope: str) -> None:
    installed(tmp_path, scope)
    places = ServiceFiles(scope == "--system", tmp_path)
    (places.units_folder / "horde-proxy.service.d").mkdir()
    (places.units_folder / "horde-proxy.service.d" / "override.conf").touch()
    for folder in places.data:
        folder.mkdir(parents=True)
        (folder / "ledger.db").touch()
    result = run("uninstall", scope, "--root", str(tmp_path), "--yes")
    assert result.exit_code == 0, result.output
    assert files_below(tmp_path) == []
    assert [path for path in tmp_path.rglob("*") if path.name.startswith("horde-proxy")] == []


def test_links_of_systemd_are_removed_with_their_folders(tmp_path: Path) -> None:
    private = tmp_path / "var/lib/private/horde-proxy"
    private.mkdir(parents=True)
    (private / "ledger.db").touch()
    (tmp_path / "var/lib/horde-proxy").symlink_to("private/horde-proxy")
    assert run("uninstall", "--system", "--root", str(tmp_path), "--yes").exit_code == 0
    assert os.listdir(tmp_path / "var/lib") == ["private"]
    assert os.listdir(tmp_path / "var/lib/private") == []


def test_data_can_be_kept(tmp_path: Path) -> None:
    installed(tmp_path)
    data = tmp_path / "var/lib/private/horde-proxy"
    data.mkdir(parents=True)
    (data / "ledger.db").touch()
    words = ("uninstall", "--system", "--root", str(tmp_path), "--yes", "--keep-data")
    assert run(*words).exit_code == 0
    assert files_below(tmp_path) == ["var/lib/private/horde-proxy/ledger.db"]


def test_without_a_yes_nothing_is_removed(tmp_path: Path) -> None:
    installed(tmp_path)
    before = files_below(tmp_path)
    result = run("uninstall", "--system", "--root", str(tmp_path), input="n\n")
    assert result.exit_code == 1
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_dry_run_changes_nothing(tmp_path: Path, command: str) -> None:
    if command == "uninstall":
        installed(tmp_path)
    before = files_below(tmp_path)
    result = run(command, "--system", "--root", str(tmp_path), "--print")
    assert result.exit_code == 0
    assert str(tmp_path / "etc/systemd/system/horde-proxy.service") in result.stdout
    assert "hp-" not in result.stdout
    assert files_below(tmp_path) == before


def test_a_dry_run_shows_the_calls_of_systemctl() -> None:
    printed = run("install", "--user", "--print").stdout
    assert printed.splitlines()[-2:] == [
        "systemctl --user daemon-reload",
        "systemctl --user enable --now horde-proxy.service",
    ]


def test_only_root_installs_for_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = run("install", "--system")
    assert result.exit_code == 1
    assert result.stderr == "Error: only root installs for the machine: use sudo, or --user\n"


def test_a_program_that_the_service_could_not_see_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/systemctl")
    monkeypatch.setattr(sys, "prefix", "/root/.local/share/pipx/venvs/horde-proxy")
    result = run("install", "--system")
    assert result.exit_code == 1
    assert "could not see /root/.local/share/pipx/venvs/horde-proxy" in result.stderr
    assert "python3 -m venv /opt/horde-proxy" in result.stderr


def test_homes_are_hidden_and_opt_is_not() -> None:
    assert hidden_path([Path("/opt/x"), Path("/home/ann/x")]) == Path("/home/ann/x")
    assert hidden_path([Path("/opt/x"), Path("/usr/bin/python3"), Path("/homes/x")]) is None


@pytest.mark.parametrize("command", ["install", "upgrade", "uninstall"])
def test_the_service_of_the_debian_package_is_apts(tmp_path: Path, command: str) -> None:
    unit = tmp_path / "usr/lib/systemd/system/horde-proxy.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    (tmp_path / "etc/horde-proxy").mkdir(parents=True)
    result = run(command, "--system", "--root", str(tmp_path))
    assert result.exit_code == 1
    assert "belongs to the Debian package" in result.output
