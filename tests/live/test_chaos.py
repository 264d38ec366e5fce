"""Two thousand chats over a horde that fails in every way: each ends, nothing is left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from horde_proxy.worker.backends import BackendError
from horde_proxy.worker.backends.echo import Echo
from horde_proxy.worker.horde import WorkerIdentity
from tests.live.processes import KEY, Processes, answers, free_port, running_requests, until
from tests.support import text_bridge

CHATS = 2000
AT_ONCE = 100
PLACES = 150
LIMIT = 60.0
STALL = 30.0
LEGAL = {"stop", "length", "content_filter"}
FAULTS = {
    "none": 880,
    "reset": 25,
    "500": 20,
    "502": 20,
    "truncated": 20,
    "429": 15,
    "429 bare": 15,
    "stall": 5,
}


class Injector(ThreadingHTTPServer):
    """Passes requests on to the horde, unless chance has a fault for them."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, horde: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.horde, self.faulty = horde, True
        self.random, self.lock = random.Random(7), threading.Lock()
        self.seen: Counter[str] = Counter()
        self.session = requests.Session()
        self.session.mount("http://", HTTPAdapter(pool_maxsize=AT_ONCE * 2))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is what is wanted here."""

    def next_fault(self) -> str:
        with self.lock:
            [fault] = self.random.choices(list(FAULTS), list(FAULTS.values()))
            fault = fault if self.faulty else "none"
            self.seen[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Injector

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body, fault = self.rfile.read(length), self.server.next_fault()
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.close_connection = True
            self.connection.close()
        elif fault == "stall":
            time.sleep(STALL)
            self.close_connection = True
        elif fault == "500":
            self.answer(500, b'{"message": "Internal Server Error"}')
        elif fault == "502":
            self.answer(502, b"<html>Bad Gateway</html>", kind="text/html")
        elif fault.startswith("429"):
            pause = {} if "bare" in fault else {"Retry-After": "1"}
            self.answer(429, b'{"message": "2 per 1 second"}', **pause)
        else:
            self.pass_on(body, cut=fault == "truncated")

    do_POST = do_DELETE = do_GET

    def pass_on(self, body: bytes, cut: bool) -> None:
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() in ("apikey", "client-agent", "content-type")
        }
        try:
            found = self.server.session.request(
                self.command, self.server.horde + self.path, data=body, headers=headers, timeout=10
            )
        except requests.RequestException:
            self.answer(502, b"")
            return
        content = found.content[: len(found.content) // 2] if cut else found.content
        self.answer(found.status_code, content)

    def answer(self, status: int, body: bytes, kind: str = "application/json", **more: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: there would be thousands of lines."""


class Shaky(Echo):
    """An echo that fails on one job in five."""

    def generate(self, payload: Any, cancelled: Any) -> str:
        if random.random() < 0.2:
            raise BackendError("shaky")
        return super().generate(payload, cancelled)


@pytest.fixture
def injector(processes: Processes) -> Iterator[tuple[Injector, str]]:
    """A horde on a port that it can come back to, and the injector before it."""
    bind = f"127.0.0.1:{free_port()}"
    start_horde(processes, bind)
    found = Injector(f"http://{bind}")
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found, bind
    found.shutdown()
    found.server_close()


def start_horde(processes: Processes, bind: str) -> Any:
    process = processes.start(
        "serve",
        "--bind",
        bind,
        private_horde__enabled="true",
        private_horde__api_key=KEY,
        private_horde__database="memory",
    )
    until(lambda: answers(f"http://{bind}/health/live"))
    return process


def chat(url: str, number: int) -> str:
    """How one chat ended: "stop" and the like, an error's code, or "left"."""
    leaves, stream = number % 10 == 9, number % 2 == 0
    body = {
        "model": "horde-proxy/echo",
        "stream": stream,
        "messages": [{"role": "user", "content": f"chat number {number}"}],
    }
    try:
        response = requests.post(
            f"{url}/v1/chat/completions", json=body, stream=True, timeout=0.7 if leaves else LIMIT
        )
        text = response.content.decode()
    except requests.RequestException:
        return "left" if leaves else "broken"
    if not stream or response.status_code != 200:
        return how_ended(json.loads(text), f"chat number {number}")
    return how_streamed(text)


def how_ended(answer: dict[str, Any], expected: str) -> str:
    if "error" in answer:
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        return str(answer["error"]["code"])
    choice = answer["choices"][0]
    assert choice["message"]["content"] == expected
    return str(choice["finish_reason"])


def how_streamed(text: str) -> str:
    *events, last = [line for line in text.split("\n\n") if line]
    assert last == "data: [DONE]"
    end = json.loads(events[-1].removeprefix("data: "))
    return str(end["error"]["code"] if "error" in end else end["choices"][0]["finish_reason"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_thousand_chats_end_whatever_the_horde_does(
    processes: Processes, injector: tuple[Injector, str]
) -> None:
    between, bind = injector
    horde = f"http://{bind}"
    between.faulty = False
    url, _ = processes.serve(
        horde__url=f"http://127.0.0.1:{between.server_port}",
        horde__validated_backends="false",
        horde__read_timeout="3",
        server__timeout="50",
        server__stream_timeout="50",
        server__places=str(PLACES),
    )
    steady = [processes.work(horde, "--threads", "30") for _ in range(2)]
    stop = threading.Event()
    identity = WorkerIdentity(horde, "shaky", KEY, idle=0.05)
    shaky = text_bridge([identity], [Shaky()], stop=stop, threads=4)
    threading.Thread(target=shaky.run, daemon=True).start()
    until(lambda: answers(f"{url}/health/ready"))
    between.faulty = True
    troubles = threading.Thread(target=bring_trouble, args=(processes, bind, steady))
    troubles.start()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = Counter(pool.map(lambda number: chat(url, number), range(CHATS)))
    troubles.join()
    stop.set()
    between.faulty = False
    known = {
        "upstream_error",
        "rate_limit_exceeded",
        "no_workers",
        "timeout",
        "model_not_found",
        "busy",
        "left",
    }
    assert set(ends) <= LEGAL | known, ends
    assert sum(ends.values()) == CHATS
    assert ends["stop"] > CHATS / 2, ends
    assert all(between.seen[fault] for fault in FAULTS)
    nothing_is_left(url, horde)


def bring_trouble(processes: Processes, bind: str, workers: list[Any]) -> None:
    """A worker vanishes with its jobs; later the horde restarts and has forgotten everything."""
    time.sleep(4)
    workers[0].kill()
    time.sleep(4)
    os.killpg(processes.started[0].pid, signal.SIGKILL)
    processes.started[0].wait()
    time.sleep(1)
    start_horde(processes, bind)


def nothing_is_left(url: str, horde: str) -> None:
    """All places are free again, and the horde has no request that anybody waits for."""
    until(lambda: not running_requests(horde))
    until(lambda: answers(f"{url}/health/ready"))
    with ThreadPoolExecutor(PLACES) as pool:
        numbers = range(0, PLACES * 2, 2)
        assert set(pool.map(lambda number: chat(url, number), numbers)) == {"stop"}
    assert running_requests(horde) == []
