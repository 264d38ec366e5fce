"""Five hundred chats that are bound home, over real sockets, while the server at home fails.

A provider and a horde stand by: they have the same model, come first, and would answer at once.
They keep what they are sent.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from typing import Any, ClassVar

import pytest
import requests

from tests.live.processes import Processes

CHATS, WITHOUT_SERVER, AT_ONCE, TRIES = 500, 60, 16, 15
MODEL, SECRET = "test/model", "The safe is behind the painting."
TURNS = [{"role": "user", "content": SECRET}]
FRONTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": TURNS},
    "/v1/completions": {"prompt": SECRET},
    "/v1/responses": {"input": SECRET},
    "/v1/messages": {"messages": TURNS, "max_tokens": 20},
    "/api/chat": {"messages": TURNS},
    "/api/generate": {"prompt": SECRET},
    "/v1/embeddings": {"input": SECRET},
    "/v1/images/generations": {"prompt": SECRET},
}
FAULTS = ("none", "429", "500", "503", "reset", "hang", "broken stream", "too long", "404", "empty")
HANG = 2.5
"""Seconds for which the server says nothing, beyond its endpoint's time-out of 1 s."""


class Server(ThreadingHTTPServer):
    """Answers chats, fails as `faults` say, and keeps all that was sent to it but GETs."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, faults: tuple[str, ...] = ("none",)) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        # Guards what follows; no I/O happens under it.
        self.lock = threading.Lock()
        self.faults, self.seen = cycle(faults), Counter[str]()
        self.received: list[bytes] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, body: bytes) -> str:
        """The fault of the next call."""
        with self.lock:
            self.received.append(body)
            fault = next(self.faults)
            self.seen[fault] += 1
            return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are what is wanted here."""

    def end(self) -> None:
        """Let no connection in any more."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    refusals: ClassVar[dict[str, tuple[int, str]]] = {
        "429": (429, "Slow down"),
        "500": (500, "CUDA out of memory"),
        "503": (503, "Loading model"),
        "404": (404, "no such route"),
        "too long": (400, "Prompt contains 40000 tokens, too large for model with 32768 maximum "
                     "context length"),
    }  # fmt: skip

    def do_GET(self) -> None:
        listed: Any = {"data": [{"id": MODEL}]}
        if self.path.startswith("/api/v2/status/models"):
            listed = [{"name": MODEL, "count": 3, "eta": 0, "queued": 0, "performance": 50}]
        elif self.path.startswith("/api/v2/workers"):
            listed = []
        self._send(200, listed)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.take(body)
        if fault in self.refusals:
            status, message = self.refusals[fault]
            self._send(status, {"error": {"message": message}})
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif fault == "hang":
            time.sleep(HANG)
        elif fault == "empty":
            self._send(200, None)
        else:
            self._answer(json.loads(body), is_broken=fault == "broken stream")

    def _answer(self, body: dict[str, Any], *, is_broken: bool) -> None:
        head = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "Yes."}
            choice = {"index": 0, "message": message, "text": "Yes.", "finish_reason": "stop"}
            self._send(200, {**head, "choices": [choice], "data": []}, is_broken=is_broken)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta, reason in (({"role": "assistant", "content": "Yes."}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "text": "", "finish_reason": reason}
            chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            if is_broken:
                return
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, status: int, document: Any, *, is_broken: bool = False) -> None:
        content = json.dumps(document).encode() if document is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if is_broken else content)

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server, Server]]:
    """The server at home, a provider, and a horde."""
    servers = Server(FAULTS), Server(), Server()
    yield servers
    for server in servers[1:]:
        server.end()


def posted(url: str, body: dict[str, Any], headers: dict[str, str]) -> int:
    """The status of an answer that was read to its end; 0 for one that broke off."""
    try:
        return requests.post(url, json=body, headers=headers, timeout=120).status_code
    except requests.RequestException:
        return 0


def test_five_hundred_chats_bound_home_send_nothing_elsewhere(
    processes: Processes, servers: tuple[Server, Server, Server]
) -> None:
    home, provider, horde = servers
    endpoints = [
        {"url": provider.url, "name": "provider", "place": "paid"},
        {"url": horde.url, "name": "crowd", "type": "horde", "place": "crowd", "priority": 1},
        {"url": home.url, "name": "box", "priority": 2, "timeout": 1},
    ]
    url, _ = processes.serve(
        endpoints=json.dumps(endpoints),
        fallbacks=json.dumps({"*": [MODEL, "auto"]}),
        aliases=json.dumps({"diary": {"model": MODEL, "places": ["home"]}}),
        routing__cooldown="0.01",
        routing__longest_cooldown="0.05",
        horde__images="true",
        server__timeout="20",
    )
    statuses: Counter[int] = Counter()

    def ask(number: int) -> int:
        path = [*FRONTS][number % len(FRONTS)]
        body = {"model": MODEL, "stream": number % 3 == 0, **FRONTS[path]}
        headers = {}
        # What binds takes turns as well.
        if number % 5 == 0:
            body["model"] = "diary"
        elif number % 2:
            body["places"] = ["home"]
        else:
            headers["X-Places"] = "home"
        for _ in range(TRIES):
            status = posted(url + path, body, headers)
            # The circuit breaker lets one request at a time try a server that has failed.
            if status != 503:
                break
            time.sleep(0.1)
        return status

    with ThreadPoolExecutor(AT_ONCE) as pool:
        statuses.update(pool.map(ask, range(CHATS - WITHOUT_SERVER)))
        home.end()
        without = Counter(pool.map(ask, range(WITHOUT_SERVER)))
    assert provider.received == []
    assert horde.received == []
    # The server at home failed in each way, and answered in between.
    assert min(home.seen[fault] for fault in FAULTS) > 0
    assert statuses[200] > 0
    assert 200 not in without
    # Without a binding, the same request leaves at once.
    body = {"model": MODEL, **FRONTS["/v1/chat/completions"]}
    assert requests.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == 200
    assert SECRET.encode() in b"".join(provider.received)
