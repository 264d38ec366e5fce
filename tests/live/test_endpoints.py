"""The proxy in front of real servers: llama.cpp's, other proxies, OCF nodes; killed and changed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests

from tests.live.processes import Processes, answers, free_port, until

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "horde-proxy-tests"
ECHO = "horde-proxy/echo"


def front(processes: Processes, endpoints: list[dict[str, Any]], **settings: str) -> str:
    return processes.serve(endpoints=json.dumps(endpoints), **settings)[0]


def chat(url: str, model: str, text: str = "Hello", **body: Any) -> requests.Response:
    messages = [{"role": "user", "content": text}]
    return requests.post(
        f"{url}/v1/chat/completions",
        json={"model": model, "messages": messages, **body},
        timeout=60,
        stream=bool(body.get("stream")),
    )


def other_proxy(processes: Processes) -> tuple[str, subprocess.Popen[bytes]]:
    """A proxy with a private horde and an echo worker: its url and process."""
    url, process = processes.serve(
        private_horde__enabled="true", private_horde__api_key=("live-tests-owner-key")
    )
    processes.work(url, "--threads", "50")
    return url, process


@pytest.mark.slow
def test_llama_cpp_and_another_proxy_behind_one_front(processes: Processes, llama: str) -> None:
    second, _ = other_proxy(processes)
    url = front(
        processes,
        [{"url": llama, "name": "llama"}, {"url": second, "name": "second", "prefix": "far/"}],
        fallbacks=json.dumps({"smol": [f"far/{ECHO}"]}),
    )
    listed = requests.get(f"{url}/v1/models", timeout=60).json()["data"]
    assert [(each["id"], each["endpoints"]) for each in listed] == [
        ("smol", ["llama"]),
        (f"far/{ECHO}", ["second"]),
    ]
    question: dict[str, Any] = {
        "text": "What is the capital of France?",
        "max_tokens": 12,
        "temperature": 0,
    }
    whole, direct = chat(url, "smol", **question), chat(llama, "smol", **question)
    assert whole.json()["choices"] == direct.json()["choices"]
    assert (whole.json()["usage"]["completion_tokens"], whole.headers["X-Endpoint"]) == (
        12,
        "llama",
    )
    far = chat(url, f"far/{ECHO}", "Hello you")
    assert far.json()["choices"][0]["message"]["content"] == "Hello you"
    assert far.json()["model"] == ECHO
    with chat(url, "smol", stream=True, max_tokens=8) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == b"data: [DONE]"
    embedding = {"model": "smol", "input": "a"}
    refused = requests.post(f"{url}/v1/embeddings", json=embedding, timeout=60)
    assert (refused.status_code, refused.json()["error"]["type"]) == (501, "not_supported_error")
    overflow = chat(url, "smol", "word " * 3000, max_tokens=4)
    assert (overflow.status_code, overflow.headers["X-Endpoint"]) == (200, "second")
    rows = requests.get(f"{url}/v1/usage", timeout=60).json()["data"]
    assert {row["endpoint"] for row in rows} == {"llama", "second"}
    assert all(row["completion_tokens"] > 0 for row in rows)


@pytest.mark.slow
def test_a_client_that_goes_frees_its_place_at_llama_cpp(processes: Processes, llama: str) -> None:
    url = front(processes, [{"url": llama, "name": "llama"}])

    def busy() -> int:
        slots = requests.get(f"{llama}/slots", timeout=60).json()
        return sum(slot["is_processing"] for slot in slots)

    stories = {"max_tokens": 900, "ignore_eos": True}
    with chat(url, "smol", "Tell me a long story.", stream=True, **stories) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert (busy(), connected_to(llama)) == (1, 1)
    until(lambda: busy() == 0)
    with pytest.raises(requests.Timeout):
        requests.post(
            f"{url}/v1/chat/completions",
            timeout=1,
            json={"model": "smol", "messages": [{"role": "user", "content": "Hi"}], **stories},
        )
    # Before its first byte the server itself may not notice it, whoever goes.
    until(lambda: connected_to(llama) == 0)

    def state() -> tuple[int, str]:
        [endpoint] = requests.get(f"{url}/v1/endpoints", timeout=60).json()["data"]
        return endpoint["running"], endpoint["state"]

    # The proxy counts a call down after it has closed the connection.
    until(lambda: state() == (0, "up"))


def connected_to(url: str) -> int:
    """How many connections of this machine to a port of its own are open at the client's end."""
    address = f"0100007F:{int(url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2] == address and row[3] == "01" for row in rows)


@dataclass
class Streamed:
    """What became of one stream; it began at a time of time.monotonic()."""

    began: float
    endpoint: str = ""
    content: str = ""
    error: str = ""
    is_done: bool = False


def streamed(url: str, number: int) -> Streamed:
    found = Streamed(time.monotonic())
    with chat(url, ECHO, f"chat {number}", stream=True) as answer:
        if not answer.ok:
            found.error = answer.text
            return found
        found.endpoint = answer.headers["X-Endpoint"]
        for line in answer.iter_lines():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                found.error = found.error or str(event.get("error") or "")
                for choice in event.get("choices", ()):
                    found.content += choice["delta"].get("content") or ""
            found.is_done = found.is_done or line == b"data: [DONE]"
    return found


def test_one_server_killed_under_twenty_streams_a_second_loses_nothing(
    processes: Processes,
) -> None:
    (one, doomed), (two, _) = other_proxy(processes), other_proxy(processes)
    url = front(processes, [{"url": one, "name": "one"}, {"url": two, "name": "two"}])
    streamed(url, 0)
    killed = 0.0
    with ThreadPoolExecutor(120) as pool:
        waiting = []
        for number in range(120):
            waiting.append(pool.submit(streamed, url, number))
            if number == 60:
                os.killpg(doomed.pid, signal.SIGKILL)
                killed = time.monotonic()
            time.sleep(0.05)
        found = [each.result() for each in waiting]
    assert {each.endpoint for each in found[:60]} == {"one", "two"}
    for number, each in enumerate(found):
        assert each.is_done, each
        # What had begun to answer ends with an error; nothing else may be lost.
        assert each.content == f"chat {number}" or (each.error and each.endpoint == "one"), each
    after = [each for each in found if each.began > killed]
    assert {each.endpoint for each in after} == {"two"}
    assert [each.error for each in after] == [""] * len(after)
    # Had they waited for the dead server's time-out, its last error would be that.
    states = requests.get(f"{url}/v1/endpoints", timeout=60).json()["data"]
    assert "did not answer within" not in str(states)


def has_endpoints(url: str, names: list[str]) -> bool:
    listed = requests.get(f"{url}/v1/endpoints", timeout=60).json()["data"]
    return [endpoint["name"] for endpoint in listed] == names


def has_more_than(items: list[Streamed], number: int) -> bool:
    return len(items) > number


def test_a_file_that_changes_adds_rekeys_and_removes_endpoints_under_load(
    processes: Processes, tmp_path: Path
) -> None:
    one, two = other_proxy(processes)[0], other_proxy(processes)[0]
    file = tmp_path / "config.py"
    file.write_text(f"endpoints = [{{'url': {one!r}, 'name': 'one'}}]\n")
    bind = f"127.0.0.1:{free_port()}"
    processes.start("serve", "--bind", bind, "--config", str(file))
    url = f"http://{bind}"
    until(lambda: answers(f"{url}/health/ready"))
    stop = threading.Event()
    found: list[Streamed] = []

    def load() -> None:
        while not stop.is_set():
            found.append(streamed(url, len(found)))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for endpoints in (
            [{"url": one, "name": "one", "api_key": "k"}, {"url": two, "name": "two"}],
            [{"url": two, "name": "two"}],
        ):
            file.write_text(f"endpoints = {endpoints!r}\n")
            names = [each["name"] for each in endpoints]
            until(partial(has_endpoints, url, names))
            until(partial(has_more_than, found, len(found) + 10))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [each.error for each in found] == [""] * len(found)
    assert all(each.is_done and each.content.startswith("chat ") for each in found)
    assert found[-1].endpoint == "two"


class Silent:
    """Accepts one connection, answers with `head`, and then says nothing."""

    def __init__(self, head: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.head, self.ended, self.has_begun = head, 0.0, False
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            if b"/models" in connection.recv(65536):
                # Or the next request might come over this connection before its end is seen.
                head = b"HTTP/1.1 404 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                connection.sendall(head)
                connection.close()
                continue
            connection.sendall(self.head)
            self.has_begun = True
            while connection.recv(65536):
                pass
            self.ended = time.monotonic()
            connection.close()


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"c\r\ndata: first\n\r\n",
    ],
)
def test_a_client_that_goes_closes_the_upstreams_connection(
    processes: Processes, head: bytes
) -> None:
    server = Silent(head)
    url = front(processes, [{"url": server.url, "name": "silent"}])
    body = b'{"model": "any", "stream": true, "messages": []}'
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        until(lambda: server.has_begun)
        if head:
            # The head may come in a packet of its own.
            received = b""
            while b"data: first" not in received:
                piece = client.recv(65536)
                assert piece, received
                received += piece
    until(lambda: server.ended)
    server.listener.close()


class Node(BaseHTTPRequestHandler):
    """A small OCF head: one peer serves the model, one that cannot be reached is listed too."""

    protocol_version = "HTTP/1.1"
    table: ClassVar = {
        "/QmA": {
            "id": "QmA",
            "connected": True,
            "service": [
                {
                    "name": "llm",
                    "status": "connected",
                    "host": "localhost",
                    "port": "8080",
                    "identity_group": ["model=Qwen/Qwen3-8B", "region=eu", "all", "model=*"],
                }
            ],
        },
        "/QmB": {"id": "QmB", "service": None},
        "/QmC": {"id": "QmC", "connected": False, "service": [{"identity_group": ["model=gone"]}]},
        "/QmD": {"id": "QmD", "service": [{"identity_group": ["model=far"]}]},
        "/QmE": {"id": "QmE", "service": [{"identity_group": ["model=nobody"]}]},
    }

    def do_GET(self) -> None:
        self.answer(json.dumps(self.table) if self.path == "/v1/dnt/table" else "{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/service/llm/v1/chat/completions"
        if body["model"] == "far":
            self.answer("ERROR: failed to dial QmD: no addresses")
        elif body["model"] == "nobody":
            self.answer('{"error":"No provider found for the requested service."}')
        else:
            self.answer(json.dumps({"choices": [{"message": {"content": body["model"]}}]}))

    def answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def node() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Node)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_ocf_node_offers_its_peers_models_and_its_failures_are_failures(
    processes: Processes, node: str
) -> None:
    url = front(
        processes,
        [
            {"type": "ocf", "url": node, "name": "node"},
            {
                "type": "ocf",
                "url": f"{node}/v1",
                "name": "again",
                "priority": 1,
                "models": ["Qwen/*"],
            },
        ],
    )
    listed = requests.get(f"{url}/v1/models", timeout=60).json()["data"]
    assert [each["id"] for each in listed] == ["Qwen/Qwen3-8B", "far", "nobody"]
    good = chat(url, "qwen3-8b")
    assert good.json()["choices"][0]["message"]["content"] == "Qwen/Qwen3-8B"
    nobody = chat(url, "nobody")
    assert nobody.status_code == 503
    far = chat(url, "far")
    assert far.status_code == 503
    assert "node: it answered with an error: failed to dial QmD: no addresses" in far.text
    assert "again: does not offer it" in far.text


class Closing(Node):
    """Closes a connection a moment after each stream, without a word, as llama.cpp does."""

    def do_GET(self) -> None:
        self.answer('{"data": [{"id": "closing"}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
        for data in (json.dumps({"choices": [choice]}), "[DONE]"):
            event = f"data: {data}\n\n"
            self.wfile.write(f"{len(event):x}\r\n{event}\r\n".encode())
        self.wfile.write(b"0\r\n\r\n")
        time.sleep(0.02)
        self.close_connection = True


def test_no_request_in_line_meets_a_server_that_closes_after_each_stream(
    processes: Processes,
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Closing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = {"url": f"http://127.0.0.1:{server.server_address[1]}", "max_concurrent": 1}
    url = front(processes, [endpoint], server__loop_limit="0", server__reattach="false")

    def status(number: int) -> int:
        with chat(url, "closing", f"Hello {number}", stream=True) as response:
            assert b"[DONE]" in response.content
            return response.status_code

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(status, range(60))) == [200] * 60
    server.shutdown()
    server.server_close()


class Counting(Node):
    """Takes any upload and says how many bytes it had."""

    def do_GET(self) -> None:
        self.answer('{"data": [{"id": "whisper"}]}')

    def do_POST(self) -> None:
        left = length = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        self.answer(json.dumps({"bytes": length}))


def test_a_large_upload_is_not_read_into_memory(processes: Processes, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = {"url": f"http://127.0.0.1:{server.server_address[1]}", "name": "counting"}
    url, process = processes.serve(endpoints=json.dumps([endpoint]))
    requests.get(f"{url}/v1/models", timeout=60)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    worker = children.split()[0]
    speech = tmp_path / "speech.wav"
    with speech.open("wb") as file:
        file.truncate(200 * 1024 * 1024)

    def peak() -> int:
        status = Path(f"/proc/{worker}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) // 1024

    before = peak()
    answer = subprocess.run(
        [
            "curl",
            "-s",
            "-F",
            f"file=@{speech}",
            "-F",
            "model=whisper",
            f"{url}/v1/audio/transcriptions",
        ],
        capture_output=True,
        check=True,
        timeout=240,
    )
    server.shutdown()
    server.server_close()
    assert json.loads(answer.stdout)["bytes"] > 200 * 1024 * 1024
    assert peak() - before < 40


def test_the_older_variables_serve_as_they_did(processes: Processes) -> None:
    second, _ = other_proxy(processes)
    port = free_port()
    environ = {
        **os.environ,
        "TARGET_OPENAI_URL": second,
        "API_KEY": "k",
        "TIMEOUT": "30",
        "PORT": str(port),
    }
    processes.started.append(
        subprocess.Popen(
            [sys.executable, "-m", "horde_proxy", "serve"], env=environ, start_new_session=True
        )
    )
    url = f"http://127.0.0.1:{port}"
    until(lambda: answers(f"{url}/health/ready"))
    assert chat(url, ECHO, "Hi there").json()["choices"][0]["message"]["content"] == "Hi there"


class Dropping:
    """Answers the first request of each connection, `answered` times in all; drops the rest."""

    def __init__(self, answered: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.answered, self.asked = answered, 0
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                if self.handle(connection):
                    self.asked += bool(whole_request(connection))

    def handle(self, connection: socket.socket) -> bool:
        """Whether the request was answered; a second one on a connection is dropped."""
        asked = whole_request(connection)
        if b"GET " in asked:
            connection.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        self.asked += bool(asked)
        if self.answered <= 0:
            return False
        self.answered -= 1
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        return True


def whole_request(connection: socket.socket) -> bytes:
    """Head and body, which may come in pieces; what there is of them when the client ends."""
    found = b""
    while piece := connection.recv(65536):
        found += piece
        head, end, body = found.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if end and len(body) >= (int(length[1]) if length else 0):
            break
    return found


def test_a_post_that_was_taken_is_not_sent_again_over_any_connection(
    processes: Processes,
) -> None:
    server = Dropping(2)
    url = front(processes, [{"url": server.url, "name": "dropping"}])
    lost = [chat(url, "m") for _ in range(2)][1]
    assert (lost.status_code, lost.json()["error"]["code"]) == (502, "upstream_error")
    assert "took the request and closed the connection" in lost.json()["error"]["message"]
    # Answered; read whole and dropped.
    assert server.asked == 2
    server.listener.close()


@pytest.mark.slow
def test_llama_cpp_tells_its_slots_what_it_has_loaded_and_what_was_warm(
    processes: Processes, llama: str
) -> None:
    url = front(processes, [{"url": llama, "name": "llama"}], access__mode="open")
    [model] = requests.get(f"{url}/v1/models", timeout=60).json()["data"]
    assert (model["id"], model["loaded"]) == ("smol", True)
    [endpoint] = requests.get(f"{url}/v1/endpoints", timeout=60).json()["data"]
    assert endpoint["max_concurrent"] == 2
    text = "Which of the rivers of Europe is the longest one, and where does it end?"
    usages = [chat(url, "smol", text, max_tokens=4).json()["usage"] for _ in range(2)]
    cold, warm = (usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    assert (cold < 10, warm > 20) == (True, True)
    metrics = requests.get(f"{url}/metrics", timeout=60).text
    name = 'horde_proxy_prompt_cache_tokens_total{model="smol",state="warm",upstream="llama"}'
    assert f"{name} {float(cold + warm)}" in metrics
