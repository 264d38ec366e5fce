"""Files of settings and keys that other users of the machine may write or read."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from horde_proxy.commands import serve
from horde_proxy.commands.check import check_settings
from horde_proxy.commands.cli import main
from horde_proxy.config import ConfigError, exposures, file, load, permissions

KEYS = "[access]\nmode = 'keys'\nkeys = {laptop = 'laptop-key-0123456789'}\n"
DIGEST = f"[access]\nmode = 'keys'\nkeys = {{laptop = 'sha256:{'0' * 64}'}}\n"
HARMLESS = "[server]\nplaces = 10\n"
# In this system: root, the service, alice with a group of her own, bob in the group of all users.
# But for root's, the numbers are those of no real user, such as who runs the tests.
ROOT, SERVICE, ALICE, BOB = 0, 70_990, 71_000, 71_001
USERS, OTHERS, JOINED = 70_100, 70_500, 70_501


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch) -> None:
    users = [
        pwd.struct_passwd((name, "x", number, group, "", "/", "/bin/sh"))
        for name, number, group in (
            ("root", ROOT, ROOT),
            ("service", SERVICE, SERVICE),
            ("alice", ALICE, ALICE),
            ("bob", BOB, USERS),
        )
    ]
    groups = {
        ROOT: ("root", []),
        SERVICE: ("service", []),
        ALICE: ("alice", []),
        USERS: ("users", []),
        OTHERS: ("others", ["alice", "bob"]),
        # A group with its owner's name, in which somebody else is whom no list shows.
        JOINED: ("alice", ["stranger"]),
    }
    by_uid = {user.pw_uid: user for user in users}
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    monkeypatch.setattr(pwd, "getpwuid", by_uid.__getitem__)
    monkeypatch.setattr(
        grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=groups[gid][0], gr_mem=groups[gid][1])
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o755)
    yield tmp_path
    tmp_path.chmod(0o755)


def status(mode: int, owner: int = ROOT, group: int = ROOT) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, group, 1, 0, 0, 0))


def written(path: Path, text: str, mode: int) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def shown(path: str) -> list[str]:
    return [str(exposure) for exposure in exposures(load(path, {}))]


@pytest.mark.parametrize(
    ("user", "mode", "owner", "group"),
    [
        (ROOT, 0o644, ROOT, ROOT),
        (SERVICE, 0o644, ROOT, ROOT),
        (SERVICE, 0o640, ROOT, SERVICE),
        (SERVICE, 0o444, ROOT, ROOT),
        (ALICE, 0o644, ALICE, ALICE),
        # What the umask 0002 leaves, which goes with a group for each user.
        (ALICE, 0o664, ALICE, ALICE),
        (BOB, 0o644, BOB, USERS),
    ],
)
def test_a_python_file_of_root_or_the_process_is_executed(
    monkeypatch: pytest.MonkeyPatch, user: int, mode: int, owner: int, group: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    permissions.refuse_foreign_code("/etc/hp/config.py", status(mode, owner, group))


@pytest.mark.parametrize(
    ("user", "mode", "owner", "group", "reason"),
    [
        (ROOT, 0o644, ALICE, ALICE, "it belongs to alice and this process runs as root: "),
        (SERVICE, 0o600, ALICE, ALICE, "it belongs to alice and this process runs as service: "),
        (ALICE, 0o644, 4242, ALICE, "it belongs to 4242 and this process runs as alice: "),
        (ROOT, 0o646, ROOT, ROOT, "others may write it: chmod go-w"),
        (ROOT, 0o664, ROOT, ROOT, "others may write it: chmod go-w"),
        (ALICE, 0o664, ALICE, OTHERS, "others may write it: chmod go-w"),
        (ALICE, 0o664, ALICE, JOINED, "others may write it: chmod go-w"),
        # Whoever else has the group "users" as the main one may be on the network.
        (BOB, 0o664, BOB, USERS, "others may write it: chmod go-w"),
        (BOB, 0o602, BOB, USERS, "others may write it: chmod go-w"),
        (SERVICE, 0o660, ROOT, SERVICE, "others may write it: chmod go-w"),
    ],
)
def test_a_python_file_that_others_can_change_is_not_executed(
    monkeypatch: pytest.MonkeyPatch, user: int, mode: int, owner: int, group: int, reason: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(ConfigError) as raised:
        permissions.refuse_foreign_code("/etc/hp/config.py", status(mode, owner, group))
    assert str(raised.value).startswith(
        f"the configuration /etc/hp/config.py is not executed, because {reason}"
    )


def test_a_refused_python_file_leaves_no_trace(tmp_path: Path) -> None:
    text = f"open({str(tmp_path / 'executed')!r}, 'w')\n"
    path = written(tmp_path / "config.py", text, 0o666)
    with pytest.raises(ConfigError, match=r"others may write it: chmod go-w /.*/config\.py$"):
        load(path, {})
    assert not (tmp_path / "executed").exists()


def test_the_lines_that_were_checked_are_the_ones_that_are_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "config.py", "server = {'places': 7}\n", 0o644)

    def swap(path: str, status: os.stat_result) -> None:
        Path(path).write_text("server = {'places': 8}\n")

    monkeypatch.setattr(file, "refuse_foreign_code", swap)
    assert load(path, {}).server.places == 7


def test_a_python_file_finds_its_own_module(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nimport sys\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    places: int\n"
        "assert sys.modules[__name__].A is A and __file__.endswith('config.py')\n"
        "if __name__ == '__main__':\n    raise SystemExit\n"
        "server = {'places': A(5).places}\n"
    )
    assert load(written(tmp_path / "config.py", text, 0o644), {}).server.places == 5


@pytest.mark.parametrize("mode", [0o666, 0o662, 0o620, 0o602])
def test_a_settings_file_that_others_may_write_is_named(folder: Path, mode: int) -> None:
    path = written(folder / "a.toml", HARMLESS, mode)
    assert shown(path) == [f"others may write the configuration {path}: chmod go-w {path}"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_settings_file_whose_keys_others_may_read_is_named(folder: Path, mode: int) -> None:
    path = written(folder / "a.toml", KEYS, mode)
    assert shown(path)[0] == (
        f"others may read the keys in the configuration {path}: chmod 600 {path}"
    )


@pytest.mark.parametrize(
    "text",
    [
        "[horde]\napi_key = 'a-key-of-the-horde'",
        "[[endpoints]]\nurl = 'http://a.invalid'\napi_key = 'k'",
        "[[endpoints]]\nurl = 'http://user:pass@a.invalid'",
        "[[endpoints]]\nurl = 'http://a.invalid'\nheaders = {x-token = 'secret'}",
        "[private_horde]\nenabled = true\napi_key = 'private-key-0123456789'",
        "[cache]\nredis_url = 'redis://:secret@localhost/0'",
        "[access]\nmode = 'keys'\ndatabase = 'postgresql://u:secret@localhost/n'",
    ],
)
def test_every_kind_of_key_counts(folder: Path, text: str) -> None:
    require_extras(text)
    assert "others may read the keys" in shown(written(folder / "a.toml", text, 0o644))[0]


@pytest.mark.parametrize(
    "text",
    [
        HARMLESS,
        DIGEST,
        "[horde]\napi_key = '0000000000'",
        "[[endpoints]]\nurl = 'http://a.invalid'",
        "[cache]\nredis_url = 'redis://localhost/0'",
    ],
)
def test_a_file_without_keys_may_be_read(
    folder: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_extras(text)
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    assert shown(written(folder / "a.toml", text, 0o644)) == []


def require_extras(text: str) -> None:
    """Skip where a package is missing without which these settings are refused."""
    for setting, package in {"redis://": "redis", "postgresql://": "psycopg"}.items():
        if setting in text:
            pytest.importorskip(package)


def test_a_python_file_that_reads_its_key_elsewhere_may_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "a-key-of-the-horde")
    text = "import os\nhorde = {'api_key': os.environ['SECRET']}\n"
    assert shown(written(folder / "a.py", text, 0o644)) == []


def test_a_private_file_is_not_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    assert shown(written(folder / "a.toml", KEYS, 0o600)) == []


def test_a_folder_that_others_may_write_is_named_unless_it_is_sticky(folder: Path) -> None:
    path = written(folder / "a b.toml", HARMLESS, 0o644)
    folder.chmod(0o777)
    assert shown(path) == [
        f"others may replace {path}, because they may write its folder: chmod go-w {folder}"
    ]
    folder.chmod(0o1777)
    assert shown(path) == []


def test_the_folder_that_a_link_leads_to_counts_too(folder: Path) -> None:
    target = folder / "open"
    target.mkdir()
    target.chmod(0o777)
    written(target / "a.toml", HARMLESS, 0o644)
    link = folder / "link.toml"
    link.symlink_to(target / "a.toml")
    assert shown(str(link)) == [
        f"others may replace {link}, because they may write its folder: chmod go-w {target}"
    ]


def test_on_a_read_only_mount_modes_do_not_matter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(folder / "config.py", "access = {'mode': 'open'}\n", 0o666)
    folder.chmod(0o777)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert shown(path) == []


def test_the_database_of_keys_is_named(folder: Path) -> None:
    database = folder / "ledger.db"
    text = f"[access]\nmode = 'keys'\ndatabase = 'sqlite:///{database}'\n"
    path = written(folder / "a.toml", text, 0o644)
    assert shown(path) == []
    written(database, "", 0o640)
    assert shown(path) == [
        f"others may read or write the database of keys {database}: chmod 600 {database}"
    ]
    database.chmod(0o600)
    assert shown(path) == []


def test_the_group_of_the_service_may_read_a_file_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: SERVICE)
    assert not permissions.others_may_read(status(0o640, ROOT, SERVICE))
    assert permissions.others_may_read(status(0o640, ROOT, OTHERS))
    assert permissions.others_may_read(status(0o644, ROOT, SERVICE))


def test_check_names_the_file_and_the_command(folder: Path) -> None:
    path = written(folder / "a.toml", HARMLESS, 0o666)
    findings = list(check_settings(load(path, {})))
    assert [(finding.what, finding.fix) for finding in findings[2:]] == [
        (f"files: others may write the configuration {path}", f"chmod go-w {path}")
    ]


def test_the_start_says_it_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(folder / "a.toml", KEYS, 0o644)
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setattr(serve, "Server", lambda *_: SimpleNamespace(run=lambda: None))
    monkeypatch.setattr("horde_proxy.logs.configure", lambda style: None)
    with caplog.at_level(logging.WARNING):
        result = CliRunner().invoke(main, ["serve", "--config", path])
    assert result.exit_code == 0
    assert caplog.messages == [
        f"others may read the keys in the configuration {path}: chmod 600 {path}"
    ]


def test_the_start_refuses_a_foreign_python_file(folder: Path) -> None:
    path = written(folder / "config.py", HARMLESS, 0o666)
    result: Any = CliRunner().invoke(main, ["serve", "--config", path])
    assert result.exit_code == 78
    assert f"Error: the configuration {path} is not executed, because others may" in result.output
