"""`horde-proxy horde` on a fresh machine: no settings, the printed worker, a power cut."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.live.processes import answers, free_port, until

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hello you"}]}


class FreshMachine:
    """A home without any file, and the processes of a user there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = ("PATH", "PYTHONPATH", "LANG")
        self.environ = {name: os.environ[name] for name in kept if name in os.environ}
        self.environ["HOME"] = str(home)
        self.bind = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.bind}"
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], output: Path, **environ: str) -> subprocess.Popen[bytes]:
        with output.open("w") as file:
            process = subprocess.Popen(
                command,
                env={**self.environ, **environ},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def serve(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "horde_proxy", "horde", "--bind", self.bind]
        process = self.start(command, self.home / "said")
        until(lambda: answers(f"{self.url}/health/ready"))
        return process

    def chat(self, key: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {key}"}
        url = f"{self.url}/v1/chat/completions"
        return requests.post(url, json=CHAT, headers=headers, timeout=60)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[FreshMachine]:
    machine = FreshMachine(tmp_path)
    yield machine
    for process in reversed(machine.started):
        process.terminate()
        process.wait(60)


def test_a_horde_alone_needs_nothing_but_its_command(machine: FreshMachine) -> None:
    server = machine.serve()
    line = (machine.home / "said").read_text().splitlines()
    [pasted] = [text.strip() for text in line if text.endswith("--backend URL")]
    shell = ["/bin/sh", "-c", "exec env " + pasted.replace("URL", "echo")]
    machine.start(shell, machine.home / "worker")
    until(lambda: "echo" in requests.get(f"{machine.url}/v1/models", timeout=60).text)
    [named] = [text for text in line if text.startswith("Owner's key:")]
    key = Path(shlex.split(named.replace("'", ""))[-1]).read_text()
    assert machine.chat(key).json()["choices"][0]["message"]["content"] == "Hello you"
    assert machine.chat("no-such-key").status_code == 401

    # The process that serves as well, as a power cut would.
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    until(lambda: not answers(f"{machine.url}/health/live"))
    machine.serve()
    # The worker comes back by itself, with the key that it has.
    until(lambda: machine.chat(key).ok)
    user = requests.get(
        f"{machine.url}/api/v2/find_user", headers={"apikey": key}, timeout=60
    ).json()
    assert user["username"] == "owner#1"
