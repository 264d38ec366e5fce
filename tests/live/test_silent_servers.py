"""Streams of a real server that is silent for seconds, as OpenAI's and Anthropic's SDKs see them.

The proxy is the real one, behind gunicorn. The server stands still until the test lets it go on.
"""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import anthropic
import openai
import pytest
import requests

from tests.live.processes import Processes, until

INTERVAL = 1
CHAT = {"model": "any", "messages": [{"role": "user", "content": "Hello"}]}
PARTS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {
            "id": "chatcmpl-server",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "any",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        }
        for delta, reason in (({"role": "assistant", "content": "Hi"}, None), ({}, "stop"))
    ],
    "/v1/messages": [
        {
            "type": "message_start",
            "message": {
                "id": "msg_server",
                "type": "message",
                "role": "assistant",
                "model": "any",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {"input_tokens": 1, "output_tokens": 0},
            },
        },
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Hi"},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 1},
        },
        {"type": "message_stop"},
    ],
}


class _PatientServer(ThreadingHTTPServer):
    # With the usual 5, connections of many streams at once are refused on a busy machine.
    request_queue_size = 128


class Server:
    """A server without a list of models. `status` is that of its answers, once it may answer."""

    def __init__(self) -> None:
        self.may_answer, self.asked, self.left = (threading.Event() for _ in range(3))
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(404)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.set()
                while not outer.may_answer.wait(0.05):
                    self.connection.setblocking(False)
                    try:
                        if not self.connection.recv(1):
                            outer.left.set()
                            return
                    except BlockingIOError:
                        self.connection.setblocking(True)
                self.answer()

            def answer(self) -> None:
                self.send_response(outer.status)
                kind = "text/event-stream" if outer.status == 200 else "application/json"
                self.send_header("Content-Type", kind)
                self.end_headers()
                if outer.status != 200:
                    self.wfile.write(b'{"error": {"message": "Out of memory"}}')
                    return
                for part in PARTS[self.path]:
                    name = f"event: {part['type']}\n" if "type" in part else ""
                    self.wfile.write(f"{name}data: {json.dumps(part)}\n\n".encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = _PatientServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.endpoint = {"url": f"http://127.0.0.1:{self.http.server_port}", "name": "silent"}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.may_answer.set()
    server.http.shutdown()
    server.http.server_close()


def before(processes: Processes, server: Server, **settings: str) -> str:
    """The URL of a proxy in front of the server."""
    endpoints = json.dumps([server.endpoint])
    interval = str(INTERVAL)
    return processes.serve(endpoints=endpoints, server__keepalive_interval=interval, **settings)[0]


def begun(url: str) -> requests.Response:
    """A stream of a chat whose server is still silent."""
    body = {**CHAT, "stream": True}
    return requests.post(f"{url}/v1/chat/completions", json=body, stream=True, timeout=60)


def test_openais_sdk_reads_keep_alives_and_then_the_server_s_answer(
    processes: Processes, server: Server
) -> None:
    client = openai.OpenAI(base_url=f"{before(processes, server)}/v1", api_key="x", max_retries=0)
    stream = client.chat.completions.create(**CHAT, stream=True)  # type: ignore[call-overload]
    chunks = iter(stream)
    silent = [next(chunks), next(chunks)]
    assert [chunk.choices[0].delta.content for chunk in silent] == [None, None]
    server.may_answer.set()
    rest = [chunk for chunk in chunks if chunk.id]
    assert [chunk.choices[0].delta.content for chunk in rest] == ["Hi", None]
    assert [chunk.id for chunk in rest] == ["chatcmpl-server"] * 2


def test_anthropics_sdk_waits_through_the_pings(processes: Processes, server: Server) -> None:
    client = anthropic.Anthropic(base_url=before(processes, server), api_key="x", max_retries=0)
    threading.Timer(3.5 * INTERVAL, server.may_answer.set).start()
    with client.messages.stream(
        model="any", max_tokens=10, messages=[{"role": "user", "content": "Hello"}]
    ) as stream:
        message = stream.get_final_message()
    assert (message.id, message.stop_reason) == ("msg_server", "end_turn")


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_a_failure_after_the_silence_raises_in_the_sdk(
    processes: Processes, server: Server, sdk: str
) -> None:
    url, server.status = before(processes, server), 500
    threading.Timer(2.5 * INTERVAL, server.may_answer.set).start()
    if sdk == "openai":
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        with pytest.raises(openai.APIError, match="Out of memory"):
            list(client.chat.completions.create(**CHAT, stream=True))  # type: ignore[call-overload]
    else:
        other = anthropic.Anthropic(base_url=url, api_key="x", max_retries=0)
        with (
            pytest.raises(anthropic.APIError, match="Out of memory"),
            other.messages.stream(max_tokens=10, **CHAT) as stream,  # type: ignore[arg-type]
        ):
            stream.get_final_message()


def test_a_client_that_leaves_during_the_silence_ends_the_call_at_the_server(
    processes: Processes, server: Server
) -> None:
    answer = begun(before(processes, server))
    next(answer.iter_content(None))
    assert not server.left.is_set()
    answer.close()
    until(server.left.is_set)


def test_a_stop_during_the_silence_is_told_in_the_stream(
    processes: Processes, server: Server
) -> None:
    answer = begun(before(processes, server, server__grace="1"))
    pieces = answer.iter_content(None)
    next(pieces)
    processes.started[-1].send_signal(signal.SIGTERM)
    rest = b"".join(pieces)
    assert b'"code":"shutting_down"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")
    until(server.left.is_set)


def test_a_horde_goes_on_in_the_stream_that_a_silent_server_began(
    processes: Processes, server: Server
) -> None:
    url = before(
        processes,
        server,
        private_horde__enabled="true",
        private_horde__api_key="live-tests-owner-key",
        fallbacks=json.dumps({"any": ["horde-proxy/echo"]}),
    )
    processes.work(url)
    server.status = 500
    answer = begun(url)
    pieces = answer.iter_content(None)
    assert next(pieces).startswith(b": generating")
    server.may_answer.set()
    rest = b"".join(pieces).decode()
    assert '"content":' in rest and '"finish_reason":"stop"' in rest
    assert rest.endswith("data: [DONE]\n\n")


def test_many_silent_streams_share_one_proxy(processes: Processes, server: Server) -> None:
    url = before(processes, server)
    with ThreadPoolExecutor(30) as pool:
        streams = [*pool.map(begun, [url] * 30)]
    # An iterator that is forgotten closes its connection.
    pieces = [stream.iter_content(None) for stream in streams]
    assert all(next(piece).startswith(b": generating") for piece in pieces)
    server.may_answer.set()
    assert all(b"chatcmpl-server" in b"".join(piece) for piece in pieces)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class KeptConnections(StreamRequestHandler):
    """HTTP/1.1 in two packets an answer. Only a request for "late" waits for `may_answer` between.

    `numbers` are those of the requests over their connections.
    """

    may_answer: threading.Event
    numbers: list[int]

    def handle(self) -> None:
        for number in itertools.count(1):
            lines = [*iter(self.rfile.readline, b"\r\n")]
            if not lines:
                return
            length = next(
                (int(line[15:]) for line in lines if b"content-length" in line.lower()), 0
            )
            body = self.rfile.read(length)
            if b"GET" in lines[0]:
                self.wfile.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            self.numbers.append(number)
            self.wfile.write(HEAD)
            if b"late" in body:
                assert self.may_answer.wait(60)
            for part in PARTS["/v1/chat/completions"]:
                event = f"data: {json.dumps(part)}\n\n".encode()
                self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            self.wfile.write(b"0\r\n\r\n")


def test_a_server_that_sends_its_head_at_once_and_its_answer_late_is_waited_for(
    processes: Processes,
) -> None:
    class Handler(KeptConnections):
        may_answer, numbers = threading.Event(), []

    def begin(text: str) -> Iterator[bytes]:
        body = {"model": "any", "messages": [{"role": "user", "content": text}], "stream": True}
        answer = requests.post(f"{url}/v1/chat/completions", json=body, stream=True, timeout=60)
        return answer.iter_content(None)

    def is_kept() -> bool:
        assert b"chatcmpl-server" in b"".join(begin("now"))
        # The first request was that for the list of models.
        return Handler.numbers[-1] > 2

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoints = [{"url": f"http://127.0.0.1:{server.server_address[1]}", "name": "kept"}]
        interval = str(INTERVAL)
        url = processes.serve(endpoints=json.dumps(endpoints), server__keepalive_interval=interval)[
            0
        ]
        # After its first stream, a connection is watched for a moment before it is used again.
        until(is_kept)

        def is_waited_for() -> bool:
            Handler.may_answer.clear()
            pieces = begin("late")
            assert next(pieces).startswith(b": generating")
            Handler.may_answer.set()
            assert b"chatcmpl-server" in b"".join(pieces)
            # A machine that stands still for four seconds has made a new connection.
            return Handler.numbers[-1] > 3

        until(is_waited_for)
        server.shutdown()
