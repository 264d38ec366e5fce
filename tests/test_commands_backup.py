"""`backup` and `restore`: one file of everything that must last, checked, and refused in doubt."""

from __future__ import annotations

import json
import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from horde_proxy import config
from horde_proxy.commands import kept_data
from horde_proxy.commands.backup_archive import BadBackup, check_archive
from horde_proxy.commands.cli import main
from horde_proxy.commands.kept_data import DatabaseServer
from horde_proxy.folders import StateInUse, cache_folder, lock_state, state_folder, state_folder_of
from horde_proxy.ledger import ClientKey
from horde_proxy.ledger.database import open_ledger


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The state folder of an installation with a key, pictures, penalties and a settings file."""
    folder = tmp_path / "state"
    folder.mkdir()
    use_folders(monkeypatch, folder)
    settings = tmp_path / "a.toml"
    settings.write_text('[access]\nmode = "keys"\n')
    monkeypatch.setenv("HORDE_PROXY_CONFIG", str(settings))
    ledger = open_ledger(f"sqlite:///{folder}/ledger.db")
    ledger.add_key("digest", ClientKey("ann"))
    ledger.close()
    for name in ("penalties/a.json", "cache/pictures/b.webp", "cache/models/c.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(name)
    return folder


def use_folders(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(folder))
    monkeypatch.setenv("CACHE_DIRECTORY", str(folder / "cache"))
    for module in ("config.access", "config.store", "config.hordes", "app.runtime"):
        monkeypatch.setattr(f"horde_proxy.{module}.state_folder", state_folder)
    monkeypatch.setattr("horde_proxy.app.runtime.cache_folder", cache_folder)
    monkeypatch.setattr("horde_proxy.config.settings_sources.state_folder_of", state_folder_of)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def names_of_keys(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM client_keys")]


def test_a_backup_is_one_private_file_with_a_manifest(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    result = run("backup", file)
    assert result.exit_code == 0, result.output
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        names = archive.getnames()
        content = archive.extractfile("manifest.json")
        assert content is not None
        manifest = json.loads(content.read())
    assert names == [
        "manifest.json",
        "databases/access.db",
        "settings/a.toml",
        "penalties/a.json",
        "models/c.json",
        "pictures/b.webp",
    ]
    assert manifest["format"] == 1
    [ledger, _, penalty, _, _] = manifest["parts"]
    assert ledger["schemas"] == {"ledger": 5}
    assert (ledger["folder"], ledger["path"], len(ledger["sha256"])) == ("state", "ledger.db", 64)
    assert (penalty["folder"], penalty["path"], penalty["bytes"]) == (
        "state",
        "penalties/a.json",
        16,
    )
    assert f"{file}: 5 files, 3 of them pictures, lists and penalties\n" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.toml", "b.tar", "state"]


def test_a_restore_elsewhere_brings_all_back(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("backup", tmp_path / "b.tar")
    (tmp_path / "a.toml").unlink()
    other = tmp_path / "other"
    use_folders(monkeypatch, other)
    result = run("restore", tmp_path / "b.tar")
    assert result.exit_code == 0, result.output
    assert names_of_keys(other) == ["ann"]
    assert (tmp_path / "a.toml").read_text() == '[access]\nmode = "keys"\n'
    assert (other / "cache/pictures/b.webp").read_text() == "cache/pictures/b.webp"
    assert (other / "penalties/a.json").read_text() == "penalties/a.json"
    assert (other / "ledger.db").stat().st_mode & 0o777 == 0o600
    assert not list(other.rglob("*.restoring"))


def test_a_backup_has_what_the_running_proxy_has_just_written(state: Path, tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{state}/ledger.db")
    ledger.add_key("other digest", ClientKey("bob"))
    assert run("backup", tmp_path / "b.tar").exit_code == 0
    ledger.close()
    (state / "ledger.db").unlink()
    assert run("restore", tmp_path / "b.tar", "--force").exit_code == 0
    assert sorted(names_of_keys(state)) == ["ann", "bob"]


def test_nothing_is_overwritten_without_force_and_then_it_is_kept(
    state: Path, tmp_path: Path
) -> None:
    run("backup", tmp_path / "b.tar")
    ledger = open_ledger(f"sqlite:///{state}/ledger.db")
    ledger.add_key("other digest", ClientKey("bob"))
    ledger.close()
    refused = run("restore", tmp_path / "b.tar")
    assert refused.exit_code == 1
    assert f"{state}/ledger.db exists, and 4 more: --force overwrites" in refused.output
    assert len(names_of_keys(state)) == 2
    assert run("restore", tmp_path / "b.tar", "--force").exit_code == 0
    assert names_of_keys(state) == ["ann"]
    (state / "ledger.db.replaced").replace(state / "ledger.db")
    assert sorted(names_of_keys(state)) == ["ann", "bob"]


def test_a_database_in_use_is_never_replaced(state: Path, tmp_path: Path) -> None:
    run("backup", tmp_path / "b.tar")
    with closing(sqlite3.connect(state / "ledger.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("SELECT 1 FROM client_keys").fetchall()
        result = run("restore", tmp_path / "b.tar", "--force")
    assert result.exit_code == 1
    assert f"{state}/ledger.db is in use: stop the proxy first" in result.output


def test_a_running_proxy_and_a_restore_keep_each_other_out(state: Path, tmp_path: Path) -> None:
    run("backup", tmp_path / "b.tar")
    proxies = [lock_state(), lock_state()]
    result = run("restore", tmp_path / "b.tar", "--force")
    assert result.exit_code == 1
    assert f"a proxy runs with the data in {state}: stop the proxy first" in result.output
    for proxy in proxies:
        assert proxy is not None
        os.close(proxy)
    restoring = lock_state(alone=True)
    with pytest.raises(StateInUse, match="a restore is under way in"):
        lock_state()
    assert restoring is not None
    os.close(restoring)
    assert run("restore", tmp_path / "b.tar", "--force").exit_code == 0


def test_a_changed_or_cut_off_file_is_refused(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    run("backup", file)
    whole = file.read_bytes()
    place = whole.index(b"SQLite format 3")
    file.write_bytes(whole[:place] + b"X" + whole[place + 1 :])
    with pytest.raises(BadBackup, match=r"databases/access\.db is not what was written"):
        check_archive(file)
    file.write_bytes(whole[: place + 1000])
    assert "was cut off" in run("restore", file, "--force").output
    file.write_bytes(b"no tar")
    assert "is no backup of horde-proxy" in run("restore", file, "--force").output
    assert names_of_keys(state) == ["ann"]


def test_a_backup_into_a_folder_that_is_not_there_says_how_to_make_it(
    state: Path, tmp_path: Path
) -> None:
    result = run("backup", tmp_path / "backups" / "b.tar")
    assert (state.is_dir(), result.exit_code) == (True, 1)
    assert f"there is no folder {tmp_path}/backups: mkdir -p {tmp_path}/backups" in result.output


def test_another_file_is_not_overwritten_by_a_backup_and_an_older_one_is(
    state: Path, tmp_path: Path
) -> None:
    file = tmp_path / "thesis.txt"
    file.write_text("two years of work")
    result = run("backup", file)
    assert (result.exit_code, "It is not overwritten" in result.output) == (1, True)
    assert file.read_text() == "two years of work"
    assert run("backup", tmp_path / "b.tar").exit_code == 0
    assert run("backup", tmp_path / "b.tar").exit_code == 0


def test_a_damaged_database_is_not_backed_up(state: Path, tmp_path: Path) -> None:
    path = state / "ledger.db"
    content = bytearray(path.read_bytes())
    # The pages of the tables; the header and the schema stay.
    content[4096 * 2 :] = b"\xff" * (len(content) - 4096 * 2)
    path.write_bytes(content)
    result = run("backup", tmp_path / "b.tar")
    assert result.exit_code == 1
    assert f"{path} is damaged" in result.output
    assert not (tmp_path / "b.tar").exists()


def test_a_backup_of_a_newer_release_is_refused(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("backup", tmp_path / "b.tar")
    monkeypatch.setattr(kept_data, "known_versions", lambda: {"ledger": 4})
    result = run("restore", tmp_path / "b.tar", "--force")
    assert "its tables have the versions ledger 5 (known: 4). Install that release" in result.output


def test_settings_keep_their_permissions_and_databases_stay_private(
    state: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "a.toml"
    for before, after in ((0o640, 0o640), (0o666, 0o644), (0o600, 0o600)):
        settings.chmod(before)
        assert run("backup", tmp_path / "b.tar").exit_code == 0
        assert run("restore", tmp_path / "b.tar", "--force").exit_code == 0
        assert settings.stat().st_mode & 0o777 == after
    assert (state / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_the_page_s_own_settings_are_saved_beside_an_operator_s_file_of_the_same_name(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators, pages = tmp_path / "etc" / "settings.toml", state / "settings.toml"
    operators.parent.mkdir()
    operators.write_text('[access]\nmode = "keys"\n')
    pages.write_text("[server]\nplaces = 7\n")
    pages.chmod(0o600)
    monkeypatch.setenv("HORDE_PROXY_CONFIG", str(operators))
    result = run("backup", tmp_path / "b.tar")
    assert "settings/settings.toml  23 bytes\n" in result.stdout, result.output
    assert "page-settings/settings.toml  20 bytes\n" in result.stdout
    other = tmp_path / "other"
    use_folders(monkeypatch, other)
    operators.unlink()
    result = run("restore", tmp_path / "b.tar")
    assert result.exit_code == 0, result.output
    assert operators.read_text() == '[access]\nmode = "keys"\n'
    assert (other / "settings.toml").read_text() == "[server]\nplaces = 7\n"
    assert (other / "settings.toml").stat().st_mode & 0o777 == 0o600
    # What runs with the restored folder has both.
    settings = config.load(None)
    assert (settings.access.mode, settings.server.places) == ("keys", 7)


def test_settings_that_only_the_page_has_written_are_saved(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HORDE_PROXY_CONFIG")
    (state / "settings.toml").write_text("[server]\nplaces = 7\n")
    assert run("backup", tmp_path / "b.tar").exit_code == 0
    (state / "settings.toml").write_text("[server]\nplaces = 8\n")
    result = run("restore", tmp_path / "b.tar", "--force")
    assert result.exit_code == 0, result.output
    assert (state / "settings.toml").read_text() == "[server]\nplaces = 7\n"
    assert (state / "settings.toml.replaced").read_text() == "[server]\nplaces = 8\n"


def test_files_with_secrets_that_settings_name_are_saved(state: Path, tmp_path: Path) -> None:
    secret = tmp_path / "webhook-secret"
    secret.write_text("whsec_" + "A" * 32)
    with (tmp_path / "a.toml").open("a") as file:
        file.write(f'[webhooks]\nurl = "https://a.invalid"\nsecret_file = "{secret}"\n')
    result = run("backup", tmp_path / "b.tar")
    assert "secrets/webhooks.secret_file  38 bytes\n" in result.stdout, result.output
    secret.unlink()
    assert run("restore", tmp_path / "b.tar", "--force").exit_code == 0
    assert secret.read_text() == "whsec_" + "A" * 32


def test_a_listed_backup_is_checked_and_not_restored(state: Path, tmp_path: Path) -> None:
    run("backup", tmp_path / "b.tar")
    (state / "ledger.db").unlink()
    result = run("restore", tmp_path / "b.tar", "--list")
    assert "all of it is whole\n" in result.stdout
    assert f"penalties/a.json  16 bytes  {state}/penalties/a.json\n" in result.stdout
    assert not (state / "ledger.db").exists()


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd"])
def test_a_part_cannot_leave_its_folder(state: Path, tmp_path: Path, path: str) -> None:
    manifest: dict[str, Any] = {
        "horde_proxy": "0.1.0",
        "created": "",
        "servers": [],
        "format": 1,
        "parts": [
            {"name": "x", "kind": "file", "folder": "state", "path": path, "bytes": 0, "sha256": ""}
        ],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(tmp_path / "manifest.json", "manifest.json")
    assert "manifest.json cannot be read" in run("restore", tmp_path / "b.tar").output


def test_postgresql_is_saved_by_its_own_tools_and_shown_without_its_password() -> None:
    server = DatabaseServer(("access.database",), "postgresql://ann:secret@db.lan:5432/proxy?x=1")
    assert server.advice() == (
        "access.database: on PostgreSQL, and not in this file. Save it with\n"
        "  pg_dump --format=custom --file=access.dump 'postgresql://ann@db.lan:5432/proxy'\n"
        "and bring it back with\n"
        "  pg_restore --clean --if-exists --dbname='postgresql://ann@db.lan:5432/proxy' access.dump"
    )
