"""A machine that sleeps: a server process that a magic packet on loopback starts."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from horde_proxy.upstreams.idle_hook import run_hook
from horde_proxy.upstreams.wake_on_lan import (
    Datagram,
    can_connect,
    mac_address,
    magic_packet,
    send_datagram,
)
from tests.live.processes import Processes, free_port, until

MAC = "02:00:5e:10:00:ff"
BOOT = 4.0
"""Seconds from the first packet to the server's start."""
SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHOICE = {"index": 0, "finish_reason": "stop"}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/v1/models":
            return self.answer(200, json.dumps({"object": "list", "data": [{"id": "m"}]}))
        self.answer(404, "")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {"id": "1", "created": 1, "model": "m"}
        if not body.get("stream"):
            choice = {**CHOICE, "message": {"role": "assistant", "content": "Awake."}}
            text = json.dumps({**answer, "object": "chat.completion", "choices": [choice]})
            return self.answer(200, text)
        choice = {**CHOICE, "delta": {"role": "assistant", "content": "Awake."}}
        text = json.dumps({**answer, "object": "chat.completion.chunk", "choices": [choice]})
        self.answer(200, f"data: {text}\\n\\ndata: [DONE]\\n\\n", "text/event-stream")

    def answer(self, status, text, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Desktop:
    """A machine on loopback: its network card listens for packets, and starts its server."""

    def __init__(self) -> None:
        self.port, self.packets = free_port(), list[bytes]()
        self._server: subprocess.Popen[bytes] | None = None
        self._card = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._card.bind(("127.0.0.1", 0))
        self.card_port: int = self._card.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self) -> None:
        self._server = subprocess.Popen([sys.executable, "-c", SERVER, str(self.port)])

    def sleep(self) -> None:
        """End the server without a word."""
        if self._server is not None:
            self._server.send_signal(signal.SIGKILL)
            self._server.wait()
            self._server = None

    def close(self) -> None:
        self.sleep()
        self._card.close()

    def settings(self, **more: Any) -> str:
        """The proxy's endpoints."""
        wake = {"wake": MAC, "wake_address": f"127.0.0.1:{self.card_port}", "boot_seconds": 60}
        url = f"http://127.0.0.1:{self.port}"
        return json.dumps([{"name": "desktop", "url": url, **wake, **more}])

    def _listen(self) -> None:
        while True:
            try:
                self.packets.append(self._card.recv(2000))
            except OSError:
                return
            if len(self.packets) == 1:
                threading.Timer(BOOT, self.start).start()


@pytest.fixture
def desktop() -> Iterator[Desktop]:
    machine = Desktop()
    yield machine
    machine.close()


def serve(processes: Processes, endpoints: str) -> str:
    return processes.serve(
        endpoints=endpoints, server__keepalive_interval="1", routing__models_ttl="1"
    )[0]


def models(url: str) -> list[str]:
    return [model["id"] for model in requests.get(f"{url}/v1/models", timeout=120).json()["data"]]


def state(url: str) -> str:
    [endpoint] = requests.get(f"{url}/v1/endpoints", timeout=120).json()["data"]
    return str(endpoint["state"])


def chat(url: str, **body: Any) -> requests.Response:
    question = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **body}
    return requests.post(f"{url}/v1/chat/completions", json=question, timeout=120)


@pytest.mark.slow
def test_a_packet_starts_the_server_and_all_clients_are_kept_alive_meanwhile(
    processes: Processes, desktop: Desktop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    desktop.start()
    first = serve(processes, desktop.settings())
    until(lambda: models(first) == ["m"])
    until(lambda: list(tmp_path.rglob("*.json")))
    desktop.sleep()
    # Another proxy than the one that knew the machine awake: only the file knows its models.
    url = serve(processes, desktop.settings())
    assert models(url) == ["m"]
    until(lambda: models(url) == ["m"] and state(url) == "asleep")
    assert requests.get(f"{url}/health/ready", timeout=120).json()["asleep"] == 1
    assert desktop.packets == []
    with ThreadPoolExecutor(5) as clients:
        streams = [clients.submit(chat, url, stream=True) for _ in range(4)]
        whole = clients.submit(chat, url)
        texts = [stream.result().text for stream in streams]
        assert whole.result().json()["choices"][0]["message"]["content"] == "Awake."
    for text in texts:
        assert ": waking" in text
        assert "Awake." in text and text.rstrip().endswith("data: [DONE]")
    assert set(desktop.packets) == {magic_packet(mac_address(MAC))}
    # One every five seconds, however many wait.
    assert len(desktop.packets) <= 5
    assert state(url) == "up"


@pytest.mark.slow
def test_an_idle_hook_runs_once_and_puts_the_machine_to_sleep(
    processes: Processes, desktop: Desktop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    script = (
        "import os, sys; file = open(sys.argv[1], 'a');"
        "file.write(' '.join(sorted(os.environ)) + '\\n')"
    )
    note = tmp_path / "note"
    hook = [sys.executable, "-c", script, str(note)]
    desktop.start()
    url = serve(processes, desktop.settings(idle_after=0.05, idle_hook=hook))
    until(lambda: models(url) == ["m"])
    until(note.exists)
    until(lambda: state(url) == "asleep")
    desktop.sleep()
    time.sleep(5)
    [names] = note.read_text().splitlines()
    assert "HORDE_PROXY_ENDPOINT" in names.split()
    assert "AI_HORDE_API_KEY" not in names
    assert "HORDE_PROXY_ENDPOINTS" not in names.split()
    assert chat(url).json()["choices"][0]["message"]["content"] == "Awake."
    until(lambda: len(note.read_text().splitlines()) == 2)


def test_packets_may_be_broadcasts_and_leave_by_the_card_that_leads_to_the_server() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("", 0))
        listener.settimeout(10)
        port = listener.getsockname()[1]
        send_datagram(Datagram(b"one", "127.255.255.255", port))
        assert listener.recv(100) == b"one"
        # Bound to loopback, a limited broadcast stays there.
        send_datagram(Datagram(b"two", "255.255.255.255", port, "127.0.0.1"))
        assert listener.recvfrom(100)[0] == b"two"


def test_a_look_tells_a_server_from_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert can_connect("127.0.0.1", port, 5.0)
    assert not can_connect("127.0.0.1", port, 5.0)
    assert not can_connect("desktop..lan", 80, 5.0)


def test_a_command_that_fails_or_cannot_be_started_says_why() -> None:
    fail = [sys.executable, "-c", "import sys; sys.stderr.write('No\\nroute'); sys.exit(3)"]
    assert run_hook(fail, "desktop", 60.0) == (f"{sys.executable} ended with status 3: No\\nroute")
    assert run_hook(["/nowhere/suspend"], "desktop", 60.0) == (
        "/nowhere/suspend cannot be started: No such file or directory"
    )
    assert run_hook([sys.executable, "-c", "pass"], "desktop", 60.0) is None


def test_a_command_that_writes_errors_without_end_is_killed() -> None:
    script = "import sys\nwhile True: sys.stderr.write('No route' * 1000)"
    assert run_hook([sys.executable, "-c", script], "desktop", 60.0) == (
        f"{sys.executable} wrote more than 1 MB of errors, and was killed"
    )


def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horde_proxy.upstreams.idle_hook._COMMAND_SECONDS", 3.0)
    script = (
        "import subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "open(sys.argv[1], 'w').write(str(child.pid)); time.sleep(600)"
    )
    note = tmp_path / "pid"
    assert run_hook([sys.executable, "-c", script, str(note)], "desktop", 60.0) == (
        f"{sys.executable} took longer than 3 s, and was killed"
    )
    child = Path(f"/proc/{note.read_text()}/stat")
    # Killed, and perhaps not yet buried by whoever adopted it.
    until(lambda: not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_hook_that_is_a_url_gets_a_post_and_its_status_counts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/secret"
        requests_seen = list[bytes]()

        def answer(status: bytes) -> None:
            connection, _ = server.accept()
            with connection:
                received = connection.recv(65_536)
                while not received.endswith(b"}"):
                    received += connection.recv(65_536)
                requests_seen.append(received)
                connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

        for status, problem in ((b"204 No Content", None), (b"500 No", "its URL answered 500")):
            thread = threading.Thread(target=answer, args=(status,))
            thread.start()
            assert run_hook(url, "desktop", 1200.4) == problem
            thread.join()
    assert requests_seen[0].startswith(b"POST /secret HTTP/1.1\r\n")
    body = json.loads(requests_seen[0].partition(b"\r\n\r\n")[2])
    assert body == {"event": "idle", "endpoint": "desktop", "idle_seconds": 1200}
    assert run_hook(url, "desktop", 60.0) == "its URL cannot be reached (ConnectionError)"
