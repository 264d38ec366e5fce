"""What `check` finds of disk, databases and certificates."""

from __future__ import annotations

import sqlite3
import ssl
from contextlib import closing
from pathlib import Path

import pytest

from horde_proxy.commands import kept_data
from horde_proxy.commands.doctor import (
    check_authorities,
    check_certificate,
    check_databases,
    check_disk,
)
from horde_proxy.commands.findings import Finding
from horde_proxy.config import Config, load
from horde_proxy.ledger import ClientKey
from horde_proxy.ledger.database import open_ledger

DAY = 86400


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """Settings with a ledger that has a key."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = open_ledger(url)
    ledger.add_key("digest", ClientKey("ann"))
    ledger.close()
    databases = {
        "access": {"mode": "keys", "database": url},
        "store": {"days": 0},
        "stats": {"history_days": 0},
    }
    return load(environ={}, flags=databases)


def test_a_whole_database_is_told_with_its_versions(settings: Config, tmp_path: Path) -> None:
    [finding] = check_databases(settings)
    size = (tmp_path / "ledger.db").stat().st_size
    assert finding == Finding(
        f"database: {tmp_path}/ledger.db (access.database) is whole, {size / 1000:.1f} kB, "
        "tables: ledger 5"
    )


def test_a_damaged_database_is_found(settings: Config, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    content = path.read_bytes()
    path.write_bytes(content[: 4096 * 2] + b"\xff" * (len(content) - 4096 * 2))
    [finding] = check_databases(settings)
    assert finding.what.startswith(f"database: {path} (access.database) is damaged: ")
    assert finding.fix == "stop the proxy, and restore a backup"
    path.write_bytes(b"no database" * 1000)
    [finding] = check_databases(settings)
    assert finding.what == (f"database: The database {path} cannot be read: file is not a database")


def test_a_database_of_a_newer_release_is_found(
    settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_data, "known_versions", lambda: {"ledger": 4})
    [finding] = check_databases(settings)
    assert finding.what.endswith("is of a newer release: ledger 5 (known: 4)")
    assert finding.fix == "install that release again"


def test_the_check_of_a_large_database_ends_in_time(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        numbers = ((number,) for number in range(200_000))
        connection.executemany("INSERT INTO t VALUES (?)", numbers)
        connection.commit()
    settings = load(
        environ={},
        flags={"store": {"database": f"sqlite:///{path}"}, "stats": {"history_days": 0}},
    )
    [finding] = check_databases(settings, seconds=-1)
    assert "has no damage in -1 s; not all was read" in finding.what
    assert finding.ok


@pytest.mark.parametrize(
    ("free", "shown", "ok"), [(12_300_000_000, "12.3 GB", True), (400_000_000, "400.0 MB", False)]
)
def test_little_room_on_the_disk_is_found(tmp_path: Path, free: int, shown: str, ok: bool) -> None:
    folder = tmp_path / "not" / "yet"
    [finding] = check_disk(folder, lambda path: free if path == tmp_path else 0)
    assert (finding.what, finding.ok) == (f"disk: {shown} free for {folder}", ok)


@pytest.mark.parametrize(("days", "ok"), [(60, True), (14, True), (3, False)])
def test_a_certificate_that_ends_soon_is_found(days: int, ok: bool) -> None:
    calls = []

    def end_of(host: str, port: int) -> float:
        calls.append((host, port))
        return 1000.0 + days * DAY

    [finding] = check_certificate("https://ai.example.org/v1", lambda: 1000.0, end_of)
    assert (finding.what, finding.ok) == (
        f"certificate: of ai.example.org, holds for {days} days",
        ok,
    )
    assert calls == [("ai.example.org", 443)]


def test_a_certificate_that_is_not_trusted_is_found() -> None:
    def end_of(host: str, port: int) -> float:
        error = ssl.SSLCertVerificationError(1, "self-signed certificate")
        error.verify_message = "self-signed certificate"
        raise error

    [finding] = check_certificate("https://ai.lan:8443", end_of=end_of)
    assert finding.what == "certificate: of ai.lan: self-signed certificate"
    assert "install the whole chain" in finding.fix
    assert list(check_certificate("http://127.0.0.1:8080", end_of=end_of)) == []


def test_check_says_whose_certificates_are_trusted(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    file.write_text("")
    assert check_authorities({}, (str(file),)) == Finding(
        f"certificates: the authorities of this system are trusted ({file})"
    )
    assert check_authorities({}, ()) == Finding(
        "certificates: the authorities of certifi are trusted"
    )
    assert check_authorities({"CURL_CA_BUNDLE": "/nowhere.pem"}, ()) == Finding(
        "certificates: the authorities of CURL_CA_BUNDLE are trusted (/nowhere.pem)",
        "CURL_CA_BUNDLE names what is not there: correct it",
    )
