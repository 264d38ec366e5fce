"""The ledger over a real PostgreSQL, on a loopback port and in a directory of its own.

The server refuses to run as root; then it runs as the user that Debian's package made for it.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.database.errors import DatabaseError
from horde_proxy.ledger.database import open_ledger
from horde_proxy.ledger.records import DayUsage
from horde_proxy.ledger.usage import UsageRecorder
from tests.live.processes import free_port, until
from tests.test_database import MigrationBehaviour
from tests.test_ledger_database import ANN, DAY, LedgerBehaviour
from tests.test_web_sessions import SharedSessions, clock, processes

psycopg = pytest.importorskip("psycopg")
__all__ = ["clock", "processes"]
PASSWORD = "password-of-the-tests"
NOON = 1_769_860_800.0


def programs() -> Path | None:
    """Where the server's programs are; Debian keeps them out of the PATH."""
    found = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(found).parent if found else debian[-1].parent if debian else None


def server_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    return next((user for user in pwd.getpwall() if user.pw_name == "postgres"), None)


pytestmark = [
    pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed"),
    pytest.mark.skipif(server_user() is None, reason="there is no user postgres to run it"),
]


class Server:
    """A server that can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self.port, self.data = free_port(), directory / "data"
        self.numbers = itertools.count()
        password = directory / "password"
        password.write_text(PASSWORD)
        self.own(directory, password)
        subprocess.run(
            [
                *self.program("initdb"),
                "--username",
                "tests",
                "--auth",
                "scram-sha-256",
                "--pwfile",
                str(password),
                "--no-sync",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            **self.identity(),
        )
        self.process: subprocess.Popen[bytes] | None = None

    def own(self, *paths: Path) -> None:
        user = server_user()
        assert user is not None
        for path in paths:
            os.chown(path, user.pw_uid, user.pw_gid)

    def identity(self) -> dict[str, Any]:
        user = server_user()
        if user is None or os.geteuid() != 0:
            return {}
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}

    def program(self, name: str) -> list[str]:
        where = programs()
        assert where is not None
        return [str(where / name), "-D", str(self.data)]

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *self.program("postgres"),
                "-h",
                "127.0.0.1",
                "-p",
                str(self.port),
                "-F",
                "-c",
                "unix_socket_directories=",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self.identity(),
        )
        until(self.answers)

    def stop(self) -> None:
        """A fast shutdown: who is connected is cut off."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)
            self.process = None

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str) -> str:
        return f"postgresql://tests:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        name = f"ledger{next(self.numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def url(server: Server) -> str:
    return server.new_database()


class TestPostgreSQL(LedgerBehaviour):
    """All that the ledger does, here as well."""


class TestPostgreSQLSessions(SharedSessions):
    """Sessions that proxies share, here as well."""


class TestPostgreSQLMigrations(MigrationBehaviour):
    """All upgrades, here as well."""


@pytest.fixture
def recorders(url: str) -> Iterator[tuple[UsageRecorder, UsageRecorder]]:
    ledgers = open_ledger(url), open_ledger(url)
    one, two = (UsageRecorder(ledger, now=lambda: NOON, interval=3600) for ledger in ledgers)
    yield one, two
    for opened in (one, two, *ledgers):
        opened.close()


def test_two_recorders_on_one_database_see_each_others_totals(
    recorders: tuple[UsageRecorder, UsageRecorder],
) -> None:
    one, two = recorders
    one.add("ann", "m", "chat", prompt_tokens=10, completion_tokens=5, kudos=1.5)
    two.add("ann", "n", "chat", prompt_tokens=20, completion_tokens=5, kudos=1.0)
    one.flush()
    two.flush()
    one.flush()
    assert [recorder.used_today("ann") for recorder in recorders] == [
        DayUsage(40, 2.5),
        DayUsage(40, 2.5),
    ]
    assert one.usage(DAY, DAY) == two.usage(DAY, DAY)


def test_two_recorders_with_threads_come_to_the_same_totals(url: str) -> None:
    ledgers = open_ledger(url), open_ledger(url)
    recorders = [UsageRecorder(ledger, now=lambda: NOON, interval=0.01) for ledger in ledgers]
    for number in range(200):
        recorders[number % 2].add("ann", str(number % 7), "chat", prompt_tokens=1)
    until(lambda: [recorder.used_today("ann").tokens for recorder in recorders] == [200, 200])
    for recorder in recorders:
        recorder.close()
    assert sum(row.requests for row in ledgers[0].usage(DAY, DAY)) == 200
    for ledger in ledgers:
        ledger.close()


def test_usage_is_written_when_a_stopped_server_is_back(
    server: Server, recorders: tuple[UsageRecorder, UsageRecorder]
) -> None:
    one, two = recorders
    one.add("ann", "m", "chat", prompt_tokens=10)
    one.flush()
    server.stop()
    one.add("ann", "m", "chat", prompt_tokens=5)
    one.flush()
    assert one.used_today("ann") == DayUsage(15, 0.0)
    server.start()
    one.flush()
    two.flush()
    assert (one.used_today("ann"), two.used_today("ann")) == (DayUsage(15, 0.0), DayUsage(15, 0.0))


def test_a_wrong_password_is_an_error_that_does_not_show_it(url: str) -> None:
    ledger = open_ledger(url.replace(PASSWORD, "wrong-secret"))
    with pytest.raises(DatabaseError, match="password authentication failed") as caught:
        ledger.add_key("digest-a", ANN)
    assert "wrong-secret" not in str(caught.value)


def test_a_missing_database_is_named(server: Server) -> None:
    with pytest.raises(DatabaseError, match='database "nowhere" does not exist'):
        open_ledger(server.url("nowhere")).valid_keys()
