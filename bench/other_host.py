"""Another host on this machine: a network namespace, its link, the calls over it (Linux, root).

    other host                     link (the kernel counts its bytes)        this host
    model server <-- worker  ------------------------------->  Relay (counts calls) --> horde

What is measured, and of what server, is not said here.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

KEY = "bench-private-horde-22"
OURS = [sys.executable, "-m", "horde_proxy"]
NEAR, FAR = "10.213.77.1", "10.213.77.2"
"""The addresses of this host and of the other one."""
_NAMESPACE, _LINK, _FAR_LINK = "hp-bench", "hp-bench0", "hp-bench1"
_START_SECONDS = 60.0
# "POST /api/v2/generate/text/pop HTTP/1.1", as the worker's HTTP client writes it.
_CALL = re.compile(rb"(?:GET|POST|DELETE) (/api/v2/\S+) HTTP/1.1\r\n")

Pieces = list[tuple[float, str]]
"""(time, text) of each piece of a stream."""


class Relay:
    """Between the worker's host and the horde: counts the calls by their path."""

    def __init__(self, port: int) -> None:
        self.calls: Counter[str] = Counter()
        self._port = port
        self._listening = socket.create_server((NEAR, 0))
        self.url = f"http://{NEAR}:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listening.accept()
            far = socket.create_connection(("127.0.0.1", self._port))
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        try:
            while data := source.recv(65_536):
                if counts:
                    self.calls.update(path.decode() for path in _CALL.findall(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()


def timed(answer: requests.Response, text: Callable[[Any], str]) -> Pieces:
    """The pieces of an event stream that have text."""
    pieces = []
    for line in answer.iter_lines(chunk_size=1):
        if line.startswith(b"data: {") and (piece := text(json.loads(line[6:]))):
            pieces.append((time.monotonic(), piece))
    return pieces


def link_bytes() -> int:
    """What passed the link, in both directions, with the headers of TCP, IP and Ethernet."""
    folder = Path(f"/sys/class/net/{_LINK}/statistics")
    return sum(int((folder / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


@contextmanager
def other_host() -> Iterator[list[str]]:
    """The words that begin a command on the other host."""
    run = ["ip", "netns", "exec", _NAMESPACE]
    commands = (
        f"ip netns add {_NAMESPACE}",
        f"ip link add {_LINK} type veth peer name {_FAR_LINK}",
        f"ip link set {_FAR_LINK} netns {_NAMESPACE}",
        f"ip addr add {NEAR}/30 dev {_LINK}",
        f"ip link set {_LINK} up",
        f"ip -n {_NAMESPACE} addr add {FAR}/30 dev {_FAR_LINK}",
        f"ip -n {_NAMESPACE} link set {_FAR_LINK} up",
        f"ip -n {_NAMESPACE} link set lo up",
    )
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield run
    finally:
        subprocess.run(f"ip link del {_LINK}".split(), check=False)
        subprocess.run(f"ip netns del {_NAMESPACE}".split(), check=False)


@contextmanager
def processes() -> Iterator[Callable[..., None]]:
    """A function that starts a process; all of them end with the block."""
    started: list[subprocess.Popen[bytes]] = []
    log = tempfile.TemporaryFile()  # noqa: SIM115

    def start(command: list[str], **environ: str) -> None:
        process = subprocess.Popen(command, env={**os.environ, **environ}, stdout=log, stderr=log)
        started.append(process)

    try:
        yield start
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)


def serve(start: Callable[..., None], **settings: str) -> int:
    """Start a proxy with a private horde on this host: its port, once it answers."""
    port = free_port()
    start(
        [*OURS, "serve", "--bind", f"127.0.0.1:{port}"],
        HORDE_PROXY_PRIVATE_HORDE__ENABLED="true",
        HORDE_PROXY_PRIVATE_HORDE__API_KEY=KEY,
        HORDE_PROXY_PRIVATE_HORDE__DATABASE="memory",
        HORDE_PROXY_HORDE__VALIDATED_BACKENDS="false",
        HORDE_PROXY_HORDE__ADDRESS_LIMITS="[]",
        HORDE_PROXY_HORDE__KEY_LIMITS="[]",
        **settings,
    )
    wait_for(lambda: requests.get(f"http://127.0.0.1:{port}/health/live", timeout=5).ok)
    return port


def wait_for(is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            if is_ready():
                return
        except requests.RequestException:
            pass
        time.sleep(0.2)
    sys.exit("the processes were not ready in time")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
