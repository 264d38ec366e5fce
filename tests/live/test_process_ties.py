"""What a server and a worker end with: the terminal that they were started in, and their master."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.processes import KEY, Processes, answers, free_port, until


@contextmanager
def in_terminal(*arguments: str, nohup: bool = False) -> Iterator[tuple[int, int]]:
    """(process id, the terminal's other end) of our command in a terminal of its own."""
    process, terminal = pty.fork()
    if process == 0:
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.environ["AI_HORDE_API_KEY"] = KEY
        os.execv(sys.executable, [sys.executable, "-m", "horde_proxy", *arguments])  # noqa: S606
    try:
        yield process, terminal
    finally:
        if not has_ended(process):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def has_ended(process: int) -> bool:
    try:
        return os.waitpid(process, os.WNOHANG)[0] == process
    except ChildProcessError:
        return True


def is_running(process: int) -> bool:
    """Whether it is there; one that ended may wait for whoever is to notice that."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def worker_of(master: int) -> int:
    return int(Path(f"/proc/{master}/task/{master}/children").read_text().split()[0])


def test_a_closed_terminal_ends_the_server_in_it() -> None:
    bind = f"127.0.0.1:{free_port()}"
    with in_terminal("serve", "--bind", bind) as (process, terminal):
        until(lambda: answers(f"http://{bind}/health/live"))
        os.kill(process, signal.SIGHUP)
        # That was no closed terminal, but the wish to have the settings read again.
        time.sleep(1)
        assert answers(f"http://{bind}/health/live")
        os.close(terminal)
        until(lambda: has_ended(process), 60)
    assert not answers(f"http://{bind}/health/live")


def test_a_server_that_nohup_started_outlives_its_terminal() -> None:
    bind = f"127.0.0.1:{free_port()}"
    with in_terminal("serve", "--bind", bind, nohup=True) as (process, terminal):
        until(lambda: answers(f"http://{bind}/health/live"))
        os.close(terminal)
        time.sleep(2)
        assert answers(f"http://{bind}/health/live")
        os.kill(process, signal.SIGTERM)
        until(lambda: has_ended(process), 60)


def test_a_closed_terminal_ends_the_worker_in_it(processes: Processes) -> None:
    url = processes.serve_horde()
    arguments = ("worker", "--horde", url, "--backend", "echo", "--api-key", KEY)
    with in_terminal(*arguments) as (process, terminal):
        until(lambda: b"offers" in os.read(terminal, 65_536))
        os.close(terminal)
        until(lambda: has_ended(process), 60)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_no_process_of_a_server_outlives_its_master(
    processes: Processes, number: signal.Signals
) -> None:
    url, master = processes.serve(server__grace="1")
    worker = worker_of(master.pid)
    master.send_signal(number)
    master.wait(60)
    until(lambda: not is_running(worker), 60)
    assert not answers(f"{url}/health/live")
