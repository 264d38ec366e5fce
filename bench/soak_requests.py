"""The requests of a soak, and the server, horde and clients that take part in it.

What is measured of the proxy meanwhile is in `soak`.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import requests

from bench.lab import session

SERVED = "soak-model"
"""The model of the server; those of the horde's workers are in bench.soak."""
CLIENT = "soak-client-key-0123456789"
ADMIN = "soak-admin-key-0123456789"
_LONGEST = 60.0
"""Seconds that any answer may take."""
_PICTURE = "data:image/png;base64," + "iVBORw0KGgo" * 4_000
_ENDED = frozenset({"completed", "failed", "expired", "cancelled", "incomplete"})

COOLING_DOWN = "cooling down"
"""The outcome where the server had failed within the last seconds, and was left alone."""
Request = Callable[[str, str], str]
"""Sends a request to a URL, for a text of its own; returns its outcome in a word."""


class SoakServer(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that answers at once. One text in a hundred makes it fail."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": SERVED, "object": "model"}]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if b"fails 00" in body:
            self._send({"error": {"message": "out of memory", "type": "server_error"}}, 500)
        elif self.path.endswith("/embeddings"):
            vector = {"object": "embedding", "index": 0, "embedding": [0.5] * 64}
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            self._send({"object": "list", "data": [vector], "model": SERVED, "usage": usage})
        elif not self.path.endswith("/chat/completions"):
            # So the proxy keeps files, batches and responses itself.
            self._send({"error": {"message": "no such route", "type": "not_found"}}, 404)
        elif json.loads(body).get("stream"):
            self._stream()
        else:
            self._send(_completion("chat.completion", "message"))

    def _send(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        event = b"data: %s\n\n" % json.dumps(_completion("chat.completion.chunk", "delta")).encode()
        for data in (event, b"data: [DONE]\n\n", b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


def _completion(kind: str, part: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": "A soak tells what a day would do."}
    choice = {"index": 0, part: message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    names = {"id": "chatcmpl-soak", "created": 1_700_000_000, "model": SERVED}
    return {"object": kind, **names, "choices": [choice], "usage": usage}


class _Server(ThreadingHTTPServer):
    """Its clients are the proxy's connections, which end when the proxy's own clients leave."""

    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: such an end is no error here."""


@contextmanager
def soak_server() -> Iterator[str]:
    """The base URL of such a server, in a thread of this process."""
    with _Server(("127.0.0.1", 0), SoakServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def _post(url: str, path: str, body: Any, key: str = CLIENT, **options: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}", **options.pop("headers", {})}
    return session().post(
        url + path, json=body, headers=headers, timeout=_LONGEST, allow_redirects=False, **options
    )


def _get(url: str, path: str, key: str = CLIENT) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return session().get(url + path, headers=headers, timeout=_LONGEST)


def _outcome(answer: requests.Response, *expected: int) -> str:
    """The words for a status that was expected, or the status that was not."""
    # The words of router/circuit_breaker.py, also while one request tries the server again.
    is_cooling = "cooling down" in answer.text or "being tried again" in answer.text
    if answer.status_code in (503, 529) and is_cooling:
        return COOLING_DOWN
    return "as expected" if answer.status_code in expected else str(answer.status_code)


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _body(path: str, fields: Callable[[str], Mapping[str, Any]], *expected: int) -> Request:
    """A request of JSON whose whole answer is read, whether it is a stream or not."""

    def send(url: str, text: str) -> str:
        return _outcome(_post(url, path, fields(text)), *(expected or (200,)))

    return send


def _leaving(url: str, text: str) -> str:
    """A client that begins a streamed chat, and is gone with the first bytes of the answer."""
    parts = urlsplit(url)
    chat = {"model": SERVED, "stream": True, "messages": _messages(text)}
    body = json.dumps(chat).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Authorization: Bearer {CLIENT}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((parts.hostname or "", parts.port or 80), 30) as client:
        client.sendall(head.encode() + body)
        if random.random() < 0.5:
            client.recv(100)
        # Half of them end with a reset, as a process that is killed does.
        if random.random() < 0.5:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return "as expected"


def _half_sent(url: str, text: str) -> str:
    """A client that announces more than it sends."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), 30) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 100000\r\n\r\n{")
    return "as expected"


def _stored_response(url: str, text: str) -> str:
    answer = _post(url, "/v1/responses", {"model": SERVED, "input": text})
    if answer.status_code != 200:
        return _outcome(answer, 200)
    return _outcome(_get(url, f"/v1/responses/{answer.json()['id']}"), 200)


def _background(url: str, text: str) -> str:
    answer = _post(url, "/v1/responses", {"model": SERVED, "input": text, "background": True})
    if answer.status_code != 200:
        return str(answer.status_code)
    return _ended(url, f"/v1/responses/{answer.json()['id']}")


def _ended(url: str, path: str) -> str:
    """The outcome of what a path names, once it has ended."""
    for _ in range(600):
        found = _get(url, path)
        if found.status_code != 200:
            return str(found.status_code)
        if found.json()["status"] in _ENDED:
            return "as expected" if found.json()["status"] == "completed" else "failed"
        threading.Event().wait(0.1)
    return "too late"


def _file(url: str, content: bytes, purpose: str) -> str:
    """The id of a new file; "" where it could not be sent, since the server cools down."""
    answer = session().post(
        f"{url}/v1/files",
        headers={"Authorization": f"Bearer {CLIENT}"},
        data={"purpose": purpose},
        files={"file": ("soak.jsonl", content)},
        timeout=_LONGEST,
    )
    return "" if _outcome(answer, 200) == COOLING_DOWN else str(answer.json().get("id"))


def _uploaded(url: str, text: str) -> str:
    """A file that is sent, read and deleted."""
    content = text.encode() * 4_000
    file = _file(url, content, "user_data")
    if not file:
        return COOLING_DOWN
    path = f"/v1/files/{file}"
    if _get(url, f"{path}/content").content != content:
        return "another file"
    headers = {"Authorization": f"Bearer {CLIENT}"}
    return _outcome(session().delete(url + path, headers=headers, timeout=_LONGEST), 200)


def _batch(url: str, text: str) -> str:
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": SERVED, "messages": _messages(f"{text} {number}")},
        }
        for number in range(3)
    ]
    file = _file(url, "\n".join(map(json.dumps, lines)).encode(), "batch")
    body = {
        "input_file_id": file,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    answer = _post(url, "/v1/batches", body)
    if answer.status_code != 200:
        return str(answer.status_code)
    return _ended(url, f"/v1/batches/{answer.json()['id']}")


def _wrong_key(url: str, text: str) -> str:
    chat = {"model": SERVED, "messages": _messages(text)}
    # Another one each time; the bound for wrong keys of one address answers in time.
    return _outcome(_post(url, "/v1/chat/completions", chat, f"wrong-{text}"), 401, 429)


def _broken_json(url: str, text: str) -> str:
    headers = {"Authorization": f"Bearer {CLIENT}", "Content-Type": "application/json"}
    answer = session().post(
        f"{url}/v1/chat/completions", data=b'{"model": "x", ' + text.encode(), headers=headers
    )
    return _outcome(answer, 400)


def _looked_at(*paths: str) -> Request:
    """What an open page and Prometheus fetch."""

    def send(url: str, text: str) -> str:
        found = [_get(url, path, ADMIN).status_code for path in paths]
        return "as expected" if all(status in (200, 302) for status in found) else str(found)

    return send


def requests_with(horde_model: str, image_model: str) -> dict[str, tuple[int, Request]]:
    """The requests by name, each with how many of 100 it is."""
    chat = "/v1/chat/completions"
    picture = [{"type": "image_url", "image_url": {"url": _PICTURE}}]
    return {
        "chats, proxied": (20, _body(chat, lambda t: {"model": SERVED, "messages": _messages(t)})),
        "chats, proxied, streamed": (
            14,
            _body(chat, lambda t: {"model": SERVED, "stream": True, "messages": _messages(t)}),
        ),
        "chats of the horde": (
            8,
            _body(chat, lambda t: {"model": horde_model, "messages": _messages(t)}),
        ),
        "chats of the horde, streamed": (
            5,
            _body(chat, lambda t: {"model": horde_model, "stream": True, "messages": _messages(t)}),
        ),
        "chats with a picture": (
            2,
            _body(
                chat,
                lambda t: {
                    "model": SERVED,
                    "messages": [{"role": "user", "content": [*picture, _text(t)]}],
                },
            ),
        ),
        "responses, stored": (6, _stored_response),
        "responses, streamed": (
            3,
            _body("/v1/responses", lambda t: {"model": SERVED, "input": t, "stream": True}),
        ),
        "responses, in the background": (2, _background),
        "messages": (
            5,
            _body(
                "/v1/messages",
                lambda t: {"model": SERVED, "max_tokens": 99, "messages": _messages(t)},
            ),
        ),
        "messages, streamed": (
            3,
            _body(
                "/v1/messages",
                lambda t: {
                    "model": SERVED,
                    "max_tokens": 99,
                    "stream": True,
                    "messages": _messages(t),
                },
            ),
        ),
        "Ollama's chat": (
            4,
            _body("/api/chat", lambda t: {"model": SERVED, "messages": _messages(t)}),
        ),
        "embeddings": (4, _body("/v1/embeddings", lambda t: {"model": SERVED, "input": t})),
        "pictures": (
            2,
            _body(
                "/v1/images/generations",
                lambda t: {"model": image_model, "prompt": t, "size": "64x64"},
            ),
        ),
        "files": (3, _uploaded),
        "batches of three lines": (1, _batch),
        "clients that leave": (5, _leaving),
        "bodies that are not sent": (1, _half_sent),
        "wrong bodies": (
            2,
            _body(chat, lambda t: {"model": horde_model, "messages": t}, 400),
        ),
        "broken JSON": (1, _broken_json),
        "unknown models": (
            1,
            _body(chat, lambda t: {"model": f"none-{t}", "messages": _messages(t)}, 404),
        ),
        "wrong keys": (1, _wrong_key),
        "servers that fail": (
            1,
            _body(
                chat,
                lambda t: {"model": SERVED, "messages": _messages(f"{t} fails 00")},
                *(500, 502, 503),
            ),
        ),
        "models, page, statistics": (
            6,
            _looked_at(
                *("/v1/models", "/", "/page/state.json", "/metrics", "/v1/usage"),
                *("/v1/endpoints", "/v1/horde/statistics", "/api/tags", "/health/ready"),
            ),
        ),
    }


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
