"""A tap between a client and the proxy: it passes calls on, and notes what the client sends.

With HORDE_PROXY_RECORD_CLIENTS=1 the notes become files in tests/data/client_requests/, from which
tests/test_client_requests.py makes the same calls without the client. Keys and most headers are not
noted.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

from tests import client_recordings

_IS_RECORDING = bool(os.environ.get("HORDE_PROXY_RECORD_CLIENTS"))

_HEADERS = {
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "openai-beta",
    "originator",
    "user-agent",
    "x-app",
    "x-stainless-helper-method",
    "x-stainless-retry-count",
}
"""What a front may act on. The others are keys, ids and facts of the machine."""


class RequestTap:
    """Listens at `url`. `requests`: method, path, headers, body and status of each call."""

    def __init__(self, target: str) -> None:
        self.requests: list[dict[str, Any]] = []
        self._answers: list[tuple[int, str]] = []
        self._target = target
        tap = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                tap._pass_on(self)

            do_GET = do_HEAD = do_DELETE = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                """The proxy itself has a log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def posts(self, path: str) -> list[dict[str, Any]]:
        """The bodies that were sent to the path."""
        return [
            call["body"]
            for call in self.requests
            if call["method"] == "POST" and call["path"].partition("?")[0] == path
        ]

    def answers(self) -> list[str]:
        """The answers' bodies, in the order of the requests."""
        return [text for _, text in sorted(self._answers)]

    def _pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        number = len(self.requests)
        self.requests.append(
            {
                "method": handler.command,
                "path": handler.path,
                "headers": {name: headers[name] for name in sorted(headers) if name in _HEADERS},
                "body": json.loads(body) if body else None,
            }
        )
        for name in ("host", "connection", "content-length", "accept-encoding"):
            headers.pop(name, None)
        with requests.request(
            handler.command,
            self._target + handler.path,
            data=body,
            # Else the answer is compressed, and has no ids that can be read.
            headers={**headers, "Accept-Encoding": "identity"},
            stream=True,
            timeout=300,
        ) as answer:
            self._send(handler, answer, number)

    def _send(
        self, handler: BaseHTTPRequestHandler, answer: requests.Response, number: int
    ) -> None:
        self.requests[number]["status"] = answer.status_code
        handler.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                handler.send_header(name, value)
        # Its end tells where the body ends: this is HTTP/1.0.
        handler.end_headers()
        text = b""
        for piece in answer.raw.stream(65536, decode_content=False):
            handler.wfile.write(piece)
            handler.wfile.flush()
            text += piece
        self._answers.append((number, text.decode("utf-8", "replace")))

    def record(self, name: str, folders: Mapping[str, str]) -> None:
        """Write the calls to a file, if recordings are wanted. `folders` get other names."""
        if _IS_RECORDING:
            client_recordings.write(name, self.requests, self.answers(), folders)
