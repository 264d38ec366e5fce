"""Real processes on free loopback ports, each ended by its id after the test."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from bench import llama_cpp

KEY = "live-tests-owner-key"


# Below 32768, from where Linux gives ports to connections: one of those may take a port between our
# look and the start of a server. Each process of pytest-xdist draws from a range of its own.
_RANGE = 2000
_FIRST_PORT = 12_000 + _RANGE * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 10)


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    while True:
        port = random.randrange(_FIRST_PORT, _FIRST_PORT + _RANGE)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def until(came: Callable[[], Any], seconds: float = 120) -> Any:
    """What `came` returns as soon as that is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = came()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not come within {seconds} s")


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=10).ok
    except requests.RequestException:
        return False


class Processes:
    """Starts our own command with settings as environment variables."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        names = {"HORDE_PROXY_" + name.upper(): value for name, value in settings.items()}
        process = subprocess.Popen(
            [sys.executable, "-m", "horde_proxy", *arguments],
            env={**os.environ, "AI_HORDE_API_KEY": KEY, **names},
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def serve(self, **settings: str) -> tuple[str, subprocess.Popen[bytes]]:
        """A proxy and its URL, once it answers. The private horde has no pace to keep to."""
        settings = {
            "horde__address_limits": "[]",
            "horde__key_limits": "[]",
            "server__cancel_grace": "0",
            "server__reattach": "false",
            # Not the file of the one who runs the tests.
            "private_horde__database": "memory",
            **settings,
        }
        bind = f"127.0.0.1:{free_port()}"
        process = self.start("serve", "--bind", bind, **settings)
        until(lambda: answers(f"http://{bind}/health/live"))
        return f"http://{bind}", process

    def serve_horde(self, **settings: str) -> str:
        """A proxy with a private horde in it."""
        return self.serve(private_horde__enabled="true", private_horde__api_key=KEY, **settings)[0]

    def work(self, url: str, *options: str) -> subprocess.Popen[bytes]:
        """An echo worker, once its model is on offer."""
        process = self.start(
            "worker",
            "--horde",
            url,
            "--backend",
            "echo",
            "--idle",
            "0.05",
            "--drain",
            "0",
            *options,
        )
        until(lambda: "echo" in requests.get(f"{url}/v1/models", timeout=60).text)
        return process

    def llama_cpp(self, template: Path | None = None) -> str:
        """The URL of a real llama.cpp, by bench/llama_cpp.py; skips where there is none.

        `template` is a chat template, where it is not to be the model's own.
        """
        port = free_port()
        try:
            command = llama_cpp.command("127.0.0.1", port, template=template)
        except llama_cpp.NoLlamaCpp as exc:
            pytest.skip(str(exc))
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        self.started.append(server)
        url = f"http://127.0.0.1:{port}"
        until(lambda: server.poll() is not None or answers(f"{url}/health"))
        assert server.poll() is None, "llama.cpp ended by itself"
        return url

    def end(self) -> None:
        for process in reversed(self.started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.started):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def running_requests(url: str) -> list[str]:
    """Ids of the requests that the private horde still has."""
    user = requests.get(f"{url}/api/v2/find_user", headers={"apikey": KEY}, timeout=60).json()
    # Without a request so far, the account has no such field.
    ids: list[str] = user.get("active_generations", {}).get("text", [])
    return ids
