"""A real PostgreSQL on a loopback port, in a directory of its own.

The server refuses to run as root; then it runs as the user that Debian's package made for it.
psycopg is imported late, because the tests that need no PostgreSQL run without it.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.live.processes import free_port, until

PASSWORD = "password-of-the-tests"


def programs() -> Path | None:
    """Where the server's programs are; Debian keeps them out of the PATH."""
    initdb = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(initdb).parent if initdb else debian[-1].parent if debian else None


def server_user() -> pwd.struct_passwd | None:
    """Who runs the server: postgres where the tests run as root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    return next((user for user in pwd.getpwall() if user.pw_name == "postgres"), None)


def obstacle() -> str:
    """Why no server can run here; "" where one can."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed"
    if programs() is None:
        return "PostgreSQL is not installed"
    return "" if server_user() else "there is no user postgres to run PostgreSQL"


needs_postgresql = pytest.mark.skipif(bool(obstacle()), reason=obstacle())


class Postgresql:
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
        """A fast shutdown, which cuts connections off."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)
            self.process = None

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Within it, no process of the server runs; the kernel goes on taking what is sent."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        # The postmaster first: it starts no more of them.
        stopped = [pid, *map(int, children)]
        _signal(stopped, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(stopped, signal.SIGCONT)

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str) -> str:
        return f"postgresql://tests:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a database without tables."""
        import psycopg

        name = f"ledger{next(self.numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


def _signal(processes: list[int], number: int) -> None:
    """Send a signal to all that still run: the process of a closed connection ends by itself."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)
