"""The settings file emptied, cut off, replaced and deleted under load: where do the chats go?

The public horde is a stub on this machine: in the proxy's process, aihorde.net has its address.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from tests.live.processes import Processes, answers, free_port, until

KEY = "laptop-key-0123456789"
CHATS_PER_SECOND = 20
SERVE = """\
import socket, sys
from horde_proxy.app import reload
from horde_proxy.commands.cli import main

find = socket.getaddrinfo

def found(host, port, *more, **options):
    if host == "aihorde.net":
        host, port = "127.0.0.1", int(sys.argv[1])
    return find(host, port, *more, **options)

socket.getaddrinfo = found
# A file is cut off at hundreds of places here, and each one is looked at twice.
reload._POLL_SECONDS = 0.01
main(sys.argv[2:])
"""


class PublicHorde:
    """Counts the connections to the public horde, and ends each: nobody should come."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.connections = self.listener.getsockname()[1], 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()


class Model:
    """An OpenAI-compatible server with the model "m", and the number of its chats."""

    def __init__(self) -> None:
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer({"object": "list", "data": [{"id": "m", "object": "model"}]})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                model.chats += 1
                message = {"role": "assistant", "content": "Hello."}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                self.answer(
                    {
                        "id": "chatcmpl-1",
                        "object": "chat.completion",
                        "created": 1,
                        "model": "m",
                        "choices": [choice],
                        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                    }
                )

            def answer(self, document: object) -> None:
                content = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.chats = 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Proxy:
    """A proxy with a settings file, and what it logs of reloads."""

    def __init__(self, processes: Processes, folder: Path, public: PublicHorde) -> None:
        self.processes, self.public, self.log = processes, public, folder / "log"
        bind = f"127.0.0.1:{free_port()}"
        self.bind, self.url = bind, f"http://{bind}"

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SERVE, str(self.public.port), "serve"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*command, "--bind", self.bind, *options],
                env={**os.environ, "AI_HORDE_API_KEY": "a-key-of-the-public-horde"},
                stderr=log,
                start_new_session=True,
            )
        self.processes.started.append(process)
        until(lambda: answers(f"{self.url}/health/live"))
        return process

    def reloads(self) -> int:
        """How often the settings were read again, with or without success."""
        text = self.log.read_text()
        return text.count("the settings were reloaded") + text.count("settings were not reloaded")

    def after_reload(self, change: Callable[[], object]) -> None:
        """Change the file, and wait until the proxy has looked at it."""
        before = self.reloads()
        change()
        until(lambda: self.reloads() > before)

    def settings(self) -> dict[str, object]:
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = requests.get(f"{self.url}/v1/endpoints", headers=headers, timeout=60)
        status: dict[str, object] = answer.json()["settings"]
        return status

    def chat(self, key: str | None) -> tuple[int, str | None]:
        """The status of a chat, and who answered it."""
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = f"{self.url}/v1/chat/completions"
        response = requests.post(url, json=body, headers=headers, timeout=60)
        return response.status_code, response.headers.get("X-Endpoint")


@contextmanager
def load(proxy: Proxy) -> Iterator[Counter[tuple[bool, int, str | None]]]:
    """Twenty chats a second, every fifth without a key; the answers by (key, status, endpoint)."""
    seen: Counter[tuple[bool, int, str | None]] = Counter()
    stop, pending = threading.Event(), list[tuple[bool, Future[tuple[int, str | None]]]]()

    def send() -> None:
        with ThreadPoolExecutor(50) as pool:
            number = 0
            while not stop.wait(1 / CHATS_PER_SECOND):
                number += 1
                has_key = number % 5 > 0
                pending.append((has_key, pool.submit(proxy.chat, KEY if has_key else None)))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield seen
    finally:
        stop.set()
        sender.join()
        seen.update((has_key, *future.result()) for has_key, future in pending)


def settings_file(lan: Model, cloud: Model) -> str:
    """Chats for "m" go to the first server; the paid one has another name for them."""
    return f"""\
[[endpoints]]
url = "{lan.url}"
name = "lan"
[[endpoints]]
url = "{cloud.url}"
name = "cloud"
priority = 10
prefix = "cloud/"
models = ["m"]
[server]
timeout = 120
[horde]
max_kudos_per_request = 20
[access]
mode = "keys"
[access.keys.laptop]
key = "{KEY}"
admin = true
requests_per_minute = 100000
"""


def test_no_chat_leaves_the_servers_of_the_last_good_file(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    public, lan, cloud = PublicHorde(), Model(), Model()
    file, whole = tmp_path / "config.toml", settings_file(lan, cloud)
    file.write_text(whole)
    proxy = Proxy(processes, tmp_path, public)
    process = proxy.start("--config", str(file))

    def rename(text: str) -> None:
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", file)

    def refused(change: Callable[[], object]) -> str:
        proxy.after_reload(change)
        problem = proxy.settings()["problem"]
        assert isinstance(problem, str)
        return problem

    with load(proxy) as seen:
        assert "sets nothing" in refused(lambda: file.write_text(""))
        commented = "".join(f"# {line}\n" for line in whole.splitlines())
        assert "sets nothing" in refused(lambda: file.write_text(commented))
        assert "name no endpoint" in refused(lambda: rename(whole[whole.index("[server]") :]))
        assert "no access.mode" in refused(lambda: rename(whole[: whole.index("[access]")]))
        assert "cannot read" in refused(file.unlink)
        assert "cannot read" in refused(lambda: process.send_signal(signal.SIGHUP))
        proxy.after_reload(lambda: file.write_text(whole))
        assert proxy.settings()["problem"] is None
        for length in reversed(range(len(whole))):
            proxy.after_reload(lambda length=length: os.truncate(file, length))  # type: ignore[misc]
        proxy.after_reload(lambda: file.write_text(whole))
        assert proxy.settings()["problem"] is None
        until(lambda: proxy.chat(KEY) == (200, "lan"))
    assert public.connections == 0
    assert cloud.chats == 0
    assert lan.chats > 0
    # Where the file was cut off behind [access], there were no keys: nobody was let in.
    assert set(seen) <= {(True, 200, "lan"), (True, 401, None), (False, 401, None)}
    assert sum(seen.values()) > CHATS_PER_SECOND


def test_a_killed_worker_does_not_bring_the_settings_of_the_start_back(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    public, lan, cloud = PublicHorde(), Model(), Model()
    file = tmp_path / "config.toml"
    file.write_text("[server]\ntimeout = 100\n")
    proxy = Proxy(processes, tmp_path, public)
    process = proxy.start("--config", str(file))
    proxy.after_reload(lambda: file.write_text(settings_file(lan, cloud)))
    proxy.after_reload(lambda: file.write_text(""))
    before, worker = public.connections, worker_of(process.pid)
    os.kill(worker, signal.SIGKILL)
    until(lambda: worker_of(process.pid) not in (worker, 0))
    until(lambda: answers(f"{proxy.url}/health/live"))
    assert proxy.chat(KEY) == (200, "lan")
    assert proxy.chat(None) == (401, None)
    assert "sets nothing" in str(proxy.settings()["problem"])
    assert public.connections == before


def worker_of(pid: int) -> int:
    """The process id of a master's only worker; 0 while it has none."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def test_the_stub_stands_where_the_public_horde_does(processes: Processes, tmp_path: Path) -> None:
    public = PublicHorde()
    proxy = Proxy(processes, tmp_path, public)
    proxy.start()
    requests.get(f"{proxy.url}/v1/models", timeout=60)
    until(lambda: public.connections)


def test_signals_while_a_file_is_being_written_drop_no_chat(
    processes: Processes, tmp_path: Path
) -> None:
    public, lan, other = PublicHorde(), Model(), Model()
    file = tmp_path / "config.toml"
    file.write_text(f"[[endpoints]]\nurl = '{lan.url}'\nname = 'lan'\n")
    proxy = Proxy(processes, tmp_path, public)
    process = proxy.start("--config", str(file))
    with load(proxy) as seen:
        before = proxy.reloads()
        until_written = time.monotonic() + 1
        with file.open("w") as writing:
            writing.write(f"[[endpoints]]\nurl = '{other.url}'\nname = 'other'\n")
            number = 0
            while time.monotonic() < until_written:
                number += 1
                writing.write(f"# line {number}\n")
                writing.flush()
                process.send_signal(signal.SIGHUP)
                time.sleep(0.001)
            writing.write("models = ['m']\n")
        until(lambda: proxy.reloads() > before and proxy.chat(None) == (200, "other"))
    assert public.connections == 0
    assert {endpoint for _, _, endpoint in seen} <= {"lan", "other"}
    assert {status for _, status, _ in seen} == {200}
