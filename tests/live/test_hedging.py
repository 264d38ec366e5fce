"""A server at home that stalls: another one answers beside it, over real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from tests.live.processes import Processes, free_port, until

STALL = 30.0
"""Seconds; a client that waits for the stalled server would wait for as long."""


class Server:
    """A server of one model, which answers at once, or stalls while `stalls` is set."""

    def __init__(self, name: str) -> None:
        self.name, self.stalls = name, threading.Event()
        self.running, self.broken = 0, 0

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self.running += 1
        try:
            # The first byte comes late, or the client has hung up before.
            end = time.monotonic() + STALL
            while self.stalls.is_set() and time.monotonic() < end:
                handler.connection.settimeout(0.1)
                try:
                    if not handler.connection.recv(1):
                        self.broken += 1
                        return
                except TimeoutError:
                    continue
            handler.connection.settimeout(None)
            self._send(handler, is_stream=bool(body.get("stream")))
        finally:
            self.running -= 1

    def _send(self, handler: BaseHTTPRequestHandler, *, is_stream: bool) -> None:
        choice = {"index": 0, "finish_reason": "stop"}
        said = {"role": "assistant", "content": self.name}
        shape = {"id": "x", "created": 1, "model": "m"}
        if is_stream:
            chunk = {**shape, "object": "chat.completion.chunk"}
            chunk["choices"] = [{**choice, "delta": said}]
            content = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
        else:
            whole = {**shape, "object": "chat.completion"}
            whole["choices"] = [{**choice, "message": said}]
            content = json.dumps(whole).encode()
        handler.send_response(200)
        kind = "text/event-stream" if is_stream else "application/json"
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


@contextmanager
def serving(server: Server) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

        def do_GET(self) -> None:
            content = b'{"data": [{"id": "m"}]}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.answer(self, body)

    port = free_port()
    http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        http.shutdown()
        http.server_close()


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_stalled_server_s_calls_come_from_another_one_and_end_there(
    processes: Processes, is_stream: bool
) -> None:
    first, second = Server("first"), Server("second")
    with serving(first) as one, serving(second) as two:
        endpoints = [
            {"url": one, "name": "first"},
            {"url": two, "name": "second", "priority": 1},
        ]
        url, _ = processes.serve(
            endpoints=json.dumps(endpoints), routing__hedge="true", server__loop_limit="0"
        )

        def chat(number: int) -> tuple[str, str, float]:
            messages = [{"role": "user", "content": f"Hello {number}"}]
            body = {"model": "m", "messages": messages, "stream": is_stream}
            began = time.monotonic()
            answer = requests.post(f"{url}/v1/chat/completions", json=body, timeout=60)
            assert answer.status_code == 200
            return answer.headers["X-Endpoint"], answer.text, time.monotonic() - began

        # What is usual has to be known first.
        assert {chat(number)[0] for number in range(21)} == {"first"}
        first.stalls.set()
        name, text, seconds = chat(99)
        assert (name, '"content": "second"' in text) == ("second", True)
        assert seconds < STALL / 2
        # Its call at the server that stalls was ended.
        until(lambda: first.running == 0)
        assert first.broken == 1
