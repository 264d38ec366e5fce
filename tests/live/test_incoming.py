"""Clients that send slowly, stop half-way, or are refused before they have sent all: real sockets.

Nothing here measures seconds: the conditions hold while the slow connections are open.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
import requests

from tests.live.processes import Processes, until

MODEL = "horde-proxy/echo"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello you"}]}
HALF_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-"
HALF_BODY = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 5000\r\n\r\n{"model": '
)
HALF_CHUNKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Transfer-Encoding: chunked\r\n\r\nffff\r\n{"model": '
)
# Larger than server.max_body: a thread reads it, when the key is known.
HALF_UPLOAD = (
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    b"Content-Length: 100000000\r\n\r\nabc"
)
SILENT = b""


def connect(url: str) -> socket.socket:
    return socket.create_connection(urlsplit(url).netloc.split(":"), timeout=60)  # type: ignore[arg-type]


@contextmanager
def held_open(url: str, beginnings: list[bytes]) -> Iterator[list[socket.socket]]:
    """Connections that sent a beginning and nothing more."""
    with ExitStack() as stack:
        clients = []
        for beginning in beginnings:
            client = stack.enter_context(connect(url))
            client.sendall(beginning)
            clients.append(client)
        yield clients


@pytest.mark.parametrize(
    "beginning",
    [HALF_BODY, HALF_HEAD, HALF_CHUNKED, HALF_UPLOAD, SILENT],
    ids=["body", "head", "chunked", "upload", "silent"],
)
def test_1200_half_sent_requests_leave_the_others_alone(
    processes: Processes, beginning: bytes
) -> None:
    url = processes.serve_horde()
    processes.work(url)
    with held_open(url, [beginning] * 1200), requests.Session() as session:
        for _ in range(5):
            # On a new connection each, and on a kept one.
            assert requests.get(f"{url}/health/live", timeout=20).ok
            assert session.get(f"{url}/health/live", timeout=20).ok
            chat = session.post(f"{url}/v1/chat/completions", json=CHAT, timeout=60)
            assert chat.json()["choices"][0]["message"]["content"] == "Hello you"


@pytest.mark.parametrize(
    ("beginning", "status"),
    [(HALF_BODY, b"408"), (HALF_HEAD, b"408"), (HALF_CHUNKED, b"408"), (SILENT, b"")],
    ids=["body", "head", "chunked", "silent"],
)
def test_a_client_that_stops_half_way_is_told_and_closed(
    processes: Processes, beginning: bytes, status: bytes
) -> None:
    url, _ = processes.serve(horde__url="http://127.0.0.1:9")
    with connect(url) as client:
        client.sendall(beginning)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer[9:12] == status


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/chat/completions", b"401"),
        ("/v1/embeddings", b"401"),
        ("/v1/audio/speech", b"404"),
        ("/api/v2/generate/text/async", b"404"),
        ("/nowhere", b"404"),
        ("/health/live", b"405"),
    ],
)
def test_no_early_refusal_is_lost(
    processes: Processes, path: str, status: bytes, framing: str
) -> None:
    """Node writes the whole body before it reads: a closed connection was an EPIPE for it."""
    url, _ = processes.serve(horde__url="http://127.0.0.1:9", access__mode="keys")
    statuses = [refused(url, path, framing) for _ in range(50)]
    assert statuses == [status] * 50


def test_no_refusal_for_a_limit_is_lost(processes: Processes) -> None:
    key = "a-key-with-a-limit"
    keys = json.dumps({"ann": {"key": key, "requests_per_minute": 1}})
    url, _ = processes.serve(
        horde__url="http://127.0.0.1:9", access__mode="keys", access__keys=keys
    )
    bearer = f"\r\nAuthorization: Bearer {key}"
    statuses = [refused(url, "/v1/chat/completions", "length", fields=bearer) for _ in range(51)]
    assert statuses == [b"400"] + [b"429"] * 50


def refused(url: str, path: str, framing: str, size: int = 2_000_000, fields: str = "") -> bytes:
    """The status of the answer to a POST that is read only after its body was sent."""
    piece = b"x" * 50_000
    with connect(url) as client:
        header = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
        client.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{header}{fields}\r\n\r\n".encode()
        )
        for _ in range(size // len(piece)):
            client.sendall(b"c350\r\n%b\r\n" % piece if framing == "chunked" else piece)
        if framing == "chunked":
            client.sendall(b"0\r\n\r\n")
        return client.recv(65536)[9:12]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_refusal_of_a_body_beyond_the_bound_arrives_as_well(
    processes: Processes, framing: str
) -> None:
    url, _ = processes.serve(horde__url="http://127.0.0.1:9", server__max_body="100000")
    statuses = [refused(url, "/v1/chat/completions", framing) for _ in range(20)]
    assert statuses == [b"413"] * 20


NODE = """
const [url, tries] = process.argv.slice(1);
const body = "x".repeat(2_000_000);
const statuses = [];
for (let n = 0; n < tries; n++) {
  try {
    const answer = await fetch(url, {method: "POST", body});
    await answer.text();
    statuses.push(answer.status);
  } catch (error) { statuses.push(String(error.cause?.code ?? error)); }
}
console.log(JSON.stringify(statuses));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
@pytest.mark.parametrize(("path", "status"), [("/v1/chat/completions", 401), ("/nowhere", 404)])
def test_node_gets_each_early_refusal(processes: Processes, path: str, status: int) -> None:
    url, _ = processes.serve(horde__url="http://127.0.0.1:9", access__mode="keys")
    command = ["node", "--input-type=module", "-e", NODE, "--", url + path, "50"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    assert json.loads(output.stdout) == [status] * 50


def test_a_client_that_waits_for_100_continue_is_asked_to_go_on(processes: Processes) -> None:
    url = processes.serve_horde()
    processes.work(url)
    content = json.dumps(CHAT).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    with connect(url) as client:
        client.sendall(head.encode())
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(content)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Hello you" in answer


def test_requests_that_are_sent_at_once_are_answered_in_order(processes: Processes) -> None:
    url = processes.serve_horde()
    processes.work(url)
    chat = json.dumps(CHAT).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (chat[:9], chat[9:]))
    pipelined = (
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
        b"%b0\r\n\r\n"
        b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ) % (len(chat), chat, chunks)
    with connect(url) as client:
        client.sendall(pipelined)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"200", b"404"]
    assert answer.count(b"Hello you") == 2


def test_a_body_that_comes_in_drops_is_taken_whole(processes: Processes) -> None:
    url = processes.serve_horde()
    processes.work(url)
    chat = json.dumps(CHAT).encode()
    message = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
        % (
            len(chat),
            chat,
        )
    )
    with connect(url) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in message:
            client.sendall(bytes([byte]))
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            b"400",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"400",
        ),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000, b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    ],
    ids=["no size", "too long a chunk", "two lengths", "too long a head", "TLS"],
)
def test_what_is_no_request_is_refused_at_once(
    processes: Processes, message: bytes, status: bytes
) -> None:
    url, _ = processes.serve(horde__url="http://127.0.0.1:9")
    with connect(url) as client:
        client.sendall(message)
        assert client.recv(65536)[9:12] == status


def test_a_half_sent_request_does_not_hold_up_the_end(processes: Processes) -> None:
    url, process = processes.serve(horde__url="http://127.0.0.1:9", server__grace="200")
    with held_open(url, [HALF_BODY, HALF_HEAD, SILENT]):
        process.terminate()
        assert process.wait(100) == 0


def test_kept_connections_are_answered_again_and_again(processes: Processes) -> None:
    url, _ = processes.serve(horde__url="http://127.0.0.1:9")
    with requests.Session() as session:
        first = session.get(f"{url}/health/live", timeout=60)
        assert first.headers["Connection"] == "keep-alive"
        for _ in range(20):
            assert until(lambda: session.get(f"{url}/health/live", timeout=60).ok)
