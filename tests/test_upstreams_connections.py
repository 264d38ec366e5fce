"""Real connections to servers that answer oddly. The network is a pair of sockets."""

from __future__ import annotations

import re
import socket
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from io import BytesIO
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, ProtocolError

from horde_proxy.caching.background import inline
from horde_proxy.errors import AnswerLost, ClientGone, ProxyError, Unreachable, UpstreamFailed
from horde_proxy.upstreams import watched_adapter
from horde_proxy.upstreams.base import Waiting
from horde_proxy.upstreams.beside import Beside, HelperThreads
from horde_proxy.upstreams.connections import ChunkedBody, FramedConnection
from horde_proxy.upstreams.disconnects import DisconnectMonitor
from horde_proxy.upstreams.inspection import Inspection
from horde_proxy.upstreams.openai.redirects import Redirected
from horde_proxy.upstreams.openai.upstream import OpenAIUpstream
from horde_proxy.upstreams.proxying import JsonBody, ProxyRequest, ProxyResponse
from horde_proxy.upstreams.watched_adapter import WatchedAdapter

URL = "http://server.invalid:1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
EVENT = CHUNKED + b"\r\na\r\ndata: {}\n\n\r\n0\r\n\r\n"
CLOSE = object()
"""In a script: the server closes the connection after it has read a request."""


class Server:
    """Answers the requests of its connections in order, each with the next entry of `script`."""

    def __init__(self, *script: Any) -> None:
        self.script, self.connections = list(script), 0
        self._threads: list[threading.Thread] = []
        self._ends: list[socket.socket] = []
        self.requests: list[bytes] = []

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.connections += 1
        self._ends += [ours, theirs]
        thread = threading.Thread(target=self._serve, args=(theirs,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return ours

    def end(self) -> None:
        for end in self._ends:
            end.close()
        for thread in self._threads:
            thread.join(60)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while self.script and (request := whole_request(connection)):
                self.requests.append(request)
                answer = self.script.pop(0)
                if answer is CLOSE:
                    return
                if callable(answer):
                    answer(connection)
                    return
                connection.sendall(answer)
                if b"Connection: close" in answer:
                    return


def whole_request(connection: socket.socket) -> bytes:
    request = b""
    try:
        while piece := connection.recv(65_536):
            request += piece
            head, end, body = request.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            if end and len(body) >= (int(length[1]) if length else 0):
                break
    except OSError:
        pass
    return request


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []
    # No connection is idle for too long, however slow the machine is.
    monkeypatch.setattr(watched_adapter, "monotonic", lambda: 1000.0)

    def begin(*script: Any) -> Server:
        server = Server(*script)
        monkeypatch.setattr(HTTPConnection, "_new_conn", lambda connection: server.connect())
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.end()


def redirect(status: int, location: str) -> bytes:
    head = f"HTTP/1.1 {status} R\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    return head.encode()


def upstream(monitor: DisconnectMonitor | None = None, url: str = URL) -> OpenAIUpstream:
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", WatchedAdapter(pool_maxsize=4))
    return OpenAIUpstream("server", url, session, monitor or DisconnectMonitor(), run=inline)


def call(method: str = "POST", path: str = "chat/completions", **extra: Any) -> ProxyRequest:
    body = JsonBody(b'{"model": "m"}', {"model": "m"}) if method == "POST" else JsonBody(b"")
    return ProxyRequest(**{"method": method, "path": path, "headers": {}, "body": body, **extra})


def answer(server: OpenAIUpstream, *arguments: str) -> tuple[int, bytes]:
    response = server.proxy(call(*arguments), None)
    try:
        return response.status, b"".join(response)
    finally:
        response.close()


def headers(response: ProxyResponse) -> list[tuple[str, str]]:
    response.close()
    return response.headers


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nX: 1\r\n\r\n" * 20,
        b"HTTP/1.1 199 What\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_interim_answers_are_skipped_in_calls_and_lists(
    serve: Callable[..., Server], interim: bytes
) -> None:
    text = b'{"data": [{"id": "a"}]}'
    models = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
    server = serve(interim + models, interim + OK, interim + OK)
    found = upstream()
    assert [model["id"] for model in found.models()] == ["a"]
    assert answer(found) == answer(found, "GET", "files") == (200, b"{}")
    assert (len(server.requests), server.connections) == (3, 1)


def test_an_answer_that_switches_protocols_is_a_failure(serve: Callable[..., Server]) -> None:
    serve(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
    with pytest.raises(UpstreamFailed, match="it switched to another protocol"):
        answer(upstream())


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Content-Length: 2, 3\r\n",
        b"Content-Length: -2\r\n",
        b"Content-Length: +2\r\n",
        b"Content-Length: 2.0\r\n",
        b"Content-Length: 0x2\r\n",
        b"Content-Length: 1_0\r\n",
        b"Content-Length: \r\n",
        b"Content-Length: " + b"9" * 5000 + b"\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: xchunked\r\nContent-Length: 2\r\n",
    ],
)
def test_an_answer_without_one_clear_end_is_a_failure(
    serve: Callable[..., Server], head: bytes
) -> None:
    server = serve(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n{}", OK)
    found = upstream()
    with pytest.raises(UpstreamFailed, match="without one clear length|in an unknown coding"):
        answer(found)
    # Nothing of it can be taken for the next answer.
    assert answer(found) == (200, b"{}")
    assert server.connections == 2


@pytest.mark.parametrize("length", [b"2, 2", b"2\r\nContent-Length: 2", b" 2 "])
def test_a_length_that_is_said_twice_is_one(serve: Callable[..., Server], length: bytes) -> None:
    serve(b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n{}" % length)
    response = upstream().proxy(call(), None)
    assert (b"".join(response), headers(response)) == (b"{}", [("Content-Length", "2")])


@pytest.mark.parametrize(
    "head", [b"Content-Length: 99\r\n", b"Content-Length: 1\r\nContent-Length: 2\r\n", b""]
)
@pytest.mark.parametrize("coding", [b"chunked", b"Chunked"])
def test_a_length_beside_chunks_is_dropped(
    serve: Callable[..., Server], head: bytes, coding: bytes
) -> None:
    body = b"\r\n2;a=b\r\n{}\r\n3  \r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"
    top = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n" % coding
    server = serve(top + head + b"X-A: 1\r\n" + body, OK)
    found = upstream()
    response = found.proxy(call(), None)
    assert (b"".join(response), headers(response)) == (b"{}abc", [("X-A", "1")])
    assert answer(found) == (200, b"{}")
    # What follows an answer with both belongs to nobody knows whom.
    assert server.connections == (2 if head else 1)


@pytest.mark.parametrize(
    "body",
    [
        *(b"2\r\n{}\r\n-1\r\n", b"2\r\n{}\r\n+1\r\na\r\n0\r\n\r\n", b"2\r\n{}\r\n0x1\r\na\r\n"),
        *(b"2\r\n{}\r\n1_0\r\n", b"2\r\n{}\r\n\r\n", b"2\r\n{}\r\nfffffffffffffffff\r\n"),
        *(b"2\r\n{}\r\n<html>\r\n", b"2\r\n{}\r\n1\na\n0\n\n", b"2\r\n{}abcd\r\n0\r\n\r\n"),
        *(b"2\r\n{}\r\n", b"2\r\n{}\r\n5\r\nab", b"2\r\n{}\r\n0\r\n" + b"X: 1\r\n" * 200),
    ],
)
def test_garbage_between_chunks_breaks_the_answer_off(
    serve: Callable[..., Server], body: bytes
) -> None:
    server = serve(CHUNKED + b"Connection: close\r\n\r\n" + body, OK)
    found = upstream()
    response = found.proxy(call(), None)
    with pytest.raises(AnswerLost, match="broke the answer off"):
        b"".join(response)
    response.close()
    assert answer(found) == (200, b"{}")
    assert server.connections == 2


def test_chunks_that_come_together_are_one_piece(serve: Callable[..., Server]) -> None:
    serve(CHUNKED + b"\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")
    assert list(upstream().proxy(call(), None)) == [b"abc"]


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=5), st.data())
def test_a_chunked_body_is_read_from_any_portions(chunks: list[bytes], data: st.DataObject) -> None:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    sent += b"0;last\r\nX-Trailer: 1\r\n\r\n"
    body, received = ChunkedBody(), b""
    while sent:
        assert not body.is_complete
        size = data.draw(st.integers(1, len(sent)))
        received += body.data_of(sent[:size])
        body.check()
        sent = sent[size:]
    assert (received, body.is_complete) == (b"".join(chunks), True)


def test_a_chunk_that_is_too_long_is_noticed_at_once() -> None:
    body = ChunkedBody()
    assert body.data_of(b"1\r\na\r") == b"a"
    body.check()
    assert body.data_of(b"b") == b""
    with pytest.raises(ProtocolError, match="longer than it said"):
        body.check()


def test_a_line_between_chunks_has_a_longest_length() -> None:
    body = ChunkedBody()
    assert body.data_of(b"1\r\na\r\n5;" + b"x" * 70_000) == b"a"
    with pytest.raises(ProtocolError, match="does not end"):
        body.check()


def test_a_chunk_is_passed_on_before_it_is_complete(serve: Callable[..., Server]) -> None:
    go_on = threading.Event()

    def slowly(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + b"\r\n6\r\nabc")
        assert go_on.wait(60)
        connection.sendall(b"def\r\n0\r\n\r\n")

    serve(slowly)
    pieces = iter(upstream().proxy(call(), None))
    assert next(pieces) == b"abc"
    go_on.set()
    assert list(pieces) == [b"def"]


def test_a_connection_is_not_used_again_where_more_came_than_the_chunks(
    serve: Callable[..., Server],
) -> None:
    server = serve(EVENT + b"HTTP/1.1 2", OK)
    found = upstream()
    assert answer(found) == (200, b"data: {}\n\n")
    assert answer(found) == (200, b"{}")
    assert server.connections == 2


@pytest.mark.parametrize("first", [OK, CLOSING, EVENT, redirect(307, "/v1/new")])
def test_a_connection_that_is_given_back_belongs_to_no_call(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    put, guards = HTTPConnectionPool._put_conn, list[Any]()

    def noted(pool: HTTPConnectionPool, connection: Any) -> None:
        guards.append(connection.guard)
        put(pool, connection)

    monkeypatch.setattr(HTTPConnectionPool, "_put_conn", noted)
    serve(first, OK)
    assert answer(upstream())[0] == 200
    assert guards == [None] * len(guards) != []


def test_a_client_that_goes_with_the_last_bytes_does_not_take_the_connection_along(
    serve: Callable[..., Server],
) -> None:
    server, monitor = serve(OK, OK), DisconnectMonitor()
    found = upstream(monitor)
    with closing(found.proxy(call(), None)) as response:
        assert response.head(2) == b"{}"
        monitor.hang_up_all()
        assert b"".join(response) == b"{}"
    assert answer(found) == (200, b"{}")
    assert server.connections == 1


@pytest.mark.parametrize("host", ["", "a..b"])
def test_a_host_that_is_no_name_cannot_be_reached(host: str) -> None:
    found, monitor = upstream(url=f"http://{host}:1"), DisconnectMonitor()
    with pytest.raises(Unreachable, match="cannot be reached"):
        found.proxy(call(), None)
    beside = Beside(HelperThreads(), lambda: monitor.watch(None), 60)
    with pytest.raises(Unreachable, match="cannot be reached"):
        whole(beside.send(lambda guard: found.proxy(call(), None, guard)))


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_an_answer_without_a_body_is_empty_whatever_its_headers_announce(
    serve: Callable[..., Server], status: bytes
) -> None:
    server = serve(b"HTTP/1.1 %s\r\nTransfer-Encoding: chunked\r\n\r\n" % status, OK)
    found = upstream()
    assert answer(found, "GET", "files") == (int(status[:3]), b"")
    assert answer(found) == (200, b"{}")
    assert server.connections == 1


@pytest.mark.parametrize("head", [b"Transfer-Encoding: chunked", b"Content-Length: 7"])
def test_the_answer_to_head_has_no_body(serve: Callable[..., Server], head: bytes) -> None:
    server = serve(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % head, OK)
    found = upstream()
    assert answer(found, "HEAD", "files") == (200, b"")
    assert answer(found) == (200, b"{}")
    assert server.connections == 1


@pytest.mark.parametrize("end", [b"", b"X-A: 1\r\n", b"X-A: 1", b"X-A"])
def test_a_head_that_breaks_off_is_no_answer(serve: Callable[..., Server], end: bytes) -> None:
    serve(OK, b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + end, OK)
    found = upstream()
    assert answer(found) == (200, b"{}")
    with pytest.raises(AnswerLost, match="closed the connection without an answer"):
        answer(found)
    assert answer(found) == (200, b"{}")


def test_an_answer_that_ends_with_its_connection_is_whole(serve: Callable[..., Server]) -> None:
    serve(b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nall of it")
    assert answer(upstream()) == (200, b"all of it")


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "stainless-1"}])
@pytest.mark.parametrize("before", [0, 1])
def test_a_post_that_the_server_took_is_sent_once(
    serve: Callable[..., Server], before: int, key: dict[str, str]
) -> None:
    server = serve(*[OK] * before, CLOSE, OK)
    found = upstream()
    for _ in range(before):
        assert answer(found) == (200, b"{}")
    with pytest.raises(AnswerLost, match="took the request and closed the connection") as raised:
        found.proxy(call(headers=key), None)
    assert raised.value.status == 502
    assert (len(server.requests), server.connections) == (before + 1, 1)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_an_idempotent_request_is_repeated_over_a_new_connection(
    serve: Callable[..., Server], method: str
) -> None:
    empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    server = serve(OK, CLOSE, empty)
    found = upstream()
    assert answer(found) == (200, b"{}")
    assert answer(found, method, "files/1") == (200, b"")
    assert (len(server.requests), server.connections) == (3, 2)


def test_an_idempotent_request_over_a_new_connection_is_not_repeated(
    serve: Callable[..., Server],
) -> None:
    server = serve(CLOSE, OK)
    with pytest.raises(Unreachable, match="the connection broke"):
        answer(upstream(), "GET", "files/1")
    assert len(server.requests) == 1


def break_next_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the connection when the next request begins to be written."""
    send, breaks = HTTPConnection.send, [True]

    def broken(connection: HTTPConnection, data: Any) -> None:
        if breaks:
            breaks.clear()
            assert connection.sock is not None
            connection.sock.shutdown(socket.SHUT_RDWR)
        send(connection, data)

    monkeypatch.setattr(HTTPConnection, "send", broken)


def test_a_post_that_could_not_be_written_is_sent_again(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(OK, OK)
    found = upstream()
    assert answer(found) == (200, b"{}")
    break_next_write(monkeypatch)
    assert answer(found) == (200, b"{}")
    assert (len(server.requests), server.connections) == (2, 2)


def test_a_post_that_is_lost_when_it_is_sent_again_is_lost(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(OK, CLOSE, OK)
    found = upstream()
    assert answer(found) == (200, b"{}")
    break_next_write(monkeypatch)
    with pytest.raises(AnswerLost):
        answer(found)
    assert (len(server.requests), server.connections) == (2, 2)


def test_a_connection_that_the_server_closed_is_not_used_for_a_post(
    serve: Callable[..., Server],
) -> None:
    server = serve(OK[:17] + b"Connection: close\r\n" + OK[17:], OK)
    found = upstream()
    assert answer(found) == answer(found) == (200, b"{}")
    assert server.connections == 2


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(OK, OK, OK)
    found, now = upstream(), [100.0]
    monkeypatch.setattr(watched_adapter, "monotonic", lambda: now[0])
    answer(found)
    now[0] += 3.9
    answer(found)
    assert server.connections == 1
    now[0] += 4.0
    answer(found)
    assert server.connections == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("status", [301, 307, 308])
@pytest.mark.parametrize(
    "location", ["/v1/files/", "files/", "http://server.invalid:1/v1/files/#top", "/v1/new?a=b"]
)
def test_a_redirect_within_the_server_is_followed(
    serve: Callable[..., Server], method: str, status: int, location: str
) -> None:
    server = serve(redirect(status, location), OK)
    assert answer(upstream(), method, "files") == (200, b"{}")
    lines = [request.split(b" HTTP/1.1")[0].decode() for request in server.requests]
    target = "/v1/new?a=b" if "new" in location else "/v1/files/"
    assert lines == [f"{method} /v1/files", f"{method} {target}"]
    bodies = [request.partition(b"\r\n\r\n")[2] for request in server.requests]
    assert bodies[0] == bodies[1] == (b'{"model": "m"}' if method == "POST" else b"")


def test_a_late_answer_behind_a_redirect_is_one_to_its_own_url(
    serve: Callable[..., Server],
) -> None:
    may_answer = threading.Event()

    def late(connection: socket.socket) -> None:
        assert may_answer.wait(60)
        connection.sendall(redirect(307, "b"))

    deep = redirect(307, "/v1/deep/a")
    server = serve(OK, deep, deep, late, EVENT)
    steps = Streams("http://192.168.1.5").begin(pause=0.5)
    next(steps)
    may_answer.set()
    assert whole(steps)[:2] == (200, b"data: {}\n\n")
    urls = [request.split(b" ")[1] for request in server.requests]
    assert urls[-2:] == [b"/v1/deep/a", b"/v1/deep/b"]


def test_an_upload_is_sent_whole_after_a_redirect(serve: Callable[..., Server]) -> None:
    class File:
        def with_model(self, model: str | None) -> tuple[BytesIO, int]:
            return BytesIO(b"speech"), 6

    server = serve(redirect(308, "/v1/audio/"), OK)
    assert upstream().proxy(call(path="audio", body=File()), None).status == 200
    assert [request.partition(b"\r\n\r\n")[2] for request in server.requests] == [b"speech"] * 2


@pytest.mark.parametrize("status", [302, 303])
def test_a_post_is_not_repeated_after_a_redirect_that_may_mean_that_it_was_taken(
    serve: Callable[..., Server], status: int
) -> None:
    server = serve(redirect(status, "/v1/result"), OK)
    with pytest.raises(UpstreamFailed, match="redirects to another address"):
        answer(upstream())
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "location",
    [
        "https://server.invalid:1/v1/files",
        "http://server.invalid:2/v1/files",
        "http://10.0.0.7:8000/v1/files?token=secret",
        "//other.invalid/v1/files",
        "http://user:pass@server.invalid:1/v1/files",
        "/admin",
        "/v1beta/files",
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/a\\..\\..\\admin",
        "http://[broken",
        "ftp://server.invalid:1/v1/files",
        "",
    ],
)
@pytest.mark.parametrize(("method", "kind"), [("POST", UpstreamFailed), ("GET", Redirected)])
def test_a_redirect_elsewhere_is_neither_followed_nor_shown(
    serve: Callable[..., Server],
    caplog: pytest.LogCaptureFixture,
    location: str,
    method: str,
    kind: type[ProxyError],
) -> None:
    server = serve(redirect(307, location), OK)
    with pytest.raises(kind, match="correct its url in the settings") as raised:
        answer(upstream(), method, "files")
    assert (raised.value.status, len(server.requests)) == (502, 1)
    for secret in ("10.0.0.7", "admin", "other.invalid", "pass", "secret"):
        assert secret not in str(raised.value)
    [logged] = caplog.messages
    assert logged.startswith("server redirects to ")
    assert "secret" not in logged and "pass" not in logged


def test_redirects_in_a_circle_end(serve: Callable[..., Server]) -> None:
    server = serve(*[redirect(307, "/v1/chat/completions")] * 9)
    with pytest.raises(UpstreamFailed, match="redirects in a circle"):
        answer(upstream())
    assert len(server.requests) == 4


def test_a_list_of_models_is_found_behind_a_slash_and_not_on_another_host(
    serve: Callable[..., Server],
) -> None:
    text = b'{"data": [{"id": "a"}]}'
    serve(
        redirect(307, "/v1/models/"),
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text),
    )
    assert [model["id"] for model in upstream().models()] == ["a"]
    serve(redirect(301, "http://other.invalid/v1/models"))
    with pytest.raises(ProxyError, match="correct its url"):
        upstream().models()


def test_a_304_is_passed_on(serve: Callable[..., Server]) -> None:
    serve(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n")
    assert answer(upstream(), "GET", "files") == (304, b"")


@pytest.mark.parametrize("head", [b"", b"Connection: close\r\n", b"Content-Length: 9\r\n"])
def test_a_client_that_goes_ends_the_call_also_over_a_connection_that_is_not_kept(
    serve: Callable[..., Server], head: bytes
) -> None:
    ended = threading.Event()

    def begin(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\nfirst")
        while connection.recv(65_536):
            pass
        ended.set()

    serve(begin)
    monitor = DisconnectMonitor()
    ours, client = socket.socketpair()
    with ours, client:
        response = upstream(monitor).proxy(call(client=ours), None)
        pieces = iter(response)
        assert next(pieces) == b"first"
        client.close()
        with pytest.raises(ClientGone):
            next(pieces)
        assert ended.wait(60)
        response.close()


def gzipped(*pieces: bytes) -> list[bytes]:
    """Each piece as a server sends it that flushes after each, in one gzip stream."""
    packer = zlib.compressobj(wbits=31)
    packed = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return [*packed, packer.flush()]


def as_chunks(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("coding", [b"gzip", b"GZIP", b"x-gzip"])
def test_an_answer_that_was_compressed_all_the_same_is_decoded_as_it_comes(
    serve: Callable[..., Server], coding: bytes
) -> None:
    events = [b"data: one\n\n", b"data: two\n\n"]
    head = CHUNKED + b"X-A: 1\r\nContent-Encoding: %s\r\n\r\n" % coding
    server = serve(head + as_chunks(gzipped(*events)), OK)
    found = upstream()
    response = found.proxy(call(), None)
    assert (list(response), headers(response)) == ([b"".join(events)], [("X-A", "1")])
    assert answer(found) == (200, b"{}")
    assert server.connections == 1


def test_a_small_answer_that_unpacks_to_much_comes_in_pieces(
    serve: Callable[..., Server],
) -> None:
    body = b"".join(gzipped(b"x" * 10_000_000))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    serve(head % len(body) + body)
    lengths = [len(piece) for piece in upstream().proxy(call(), None)]
    assert (sum(lengths), max(lengths)) == (10_000_000, 65_536)


@pytest.mark.parametrize("body", [b"no gzip", gzipped(b"x" * 99)[0][:-4]])
def test_an_answer_that_is_compressed_wrongly_is_a_failure(
    serve: Callable[..., Server], body: bytes
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    serve(head % len(body) + body)
    with pytest.raises(UpstreamFailed, match="not valid gzip"):
        answer(upstream())


@pytest.mark.parametrize(
    ("method", "status", "coding"),
    [("HEAD", b"200 OK", b"gzip"), ("GET", b"304 N", b"gzip"), ("POST", b"200 OK", b"br")],
)
def test_an_answer_without_a_body_or_in_an_unknown_coding_keeps_its_headers(
    serve: Callable[..., Server], method: str, status: bytes, coding: bytes
) -> None:
    serve(b"HTTP/1.1 %s\r\nContent-Encoding: %s\r\nContent-Length: 0\r\n\r\n" % (status, coding))
    response = upstream().proxy(call(method), None)
    assert ("Content-Encoding", coding.decode()) in headers(response)


class Sent:
    """A socket that keeps what is sent, each call by itself."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def settimeout(self, seconds: object) -> None:
        pass

    def sendall(self, data: bytes) -> None:
        self.pieces.append(bytes(data))


def sent_for(body: Any, length: int) -> list[bytes]:
    connection, sock = FramedConnection("server.invalid"), Sent()
    connection.sock = sock
    connection.request("POST", "/x", body=body, headers={"Content-Length": str(length)})
    return sock.pieces


def test_a_short_request_is_sent_at_once() -> None:
    [request] = sent_for(b"{}", 2)
    assert request.startswith(b"POST /x HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\n{}")


@pytest.mark.parametrize("body", [None, bytearray(b"ab"), memoryview(b"ab"), BytesIO(b"ab")])
def test_the_head_of_a_request_comes_before_its_body(body: Any) -> None:
    pieces = sent_for(body, 2)
    assert b"".join(pieces).endswith(b"\r\n\r\n" + (b"ab" if body else b""))
    assert pieces[0].startswith(b"POST /x HTTP/1.1\r\n")


def test_a_long_body_is_not_joined_to_its_head() -> None:
    body = b"x" * 100_000
    head, rest = sent_for(body, len(body))
    assert head.endswith(b"\r\n\r\n")
    assert rest == body


class Streams:
    """Streams of one client through a server's kept connections."""

    def __init__(self, url: str = URL) -> None:
        self.monitor, self.helpers = DisconnectMonitor(), HelperThreads()
        self.upstream = upstream(self.monitor, url)
        # As an earlier call leaves it: a connection that is kept open.
        assert answer(self.upstream) == (200, b"{}")

    def begin(
        self, pause: float, client: socket.socket | None = None, **extra: Any
    ) -> Generator[Waiting, None, ProxyResponse]:
        beside = Beside(self.helpers, lambda: self.monitor.watch(client), pause)
        return beside.send(lambda guard: self.upstream.proxy(call(**extra), None, guard))


def whole(steps: Generator[Waiting, None, ProxyResponse]) -> tuple[int, bytes, int]:
    """(status, body, number of Waitings) of a stream."""
    waitings = 0
    while True:
        try:
            next(steps)
            waitings += 1
        except StopIteration as end:
            with closing(end.value) as response:
                return response.status, b"".join(response), waitings


@pytest.mark.parametrize("late", [EVENT, OK, CLOSE])
def test_a_stream_that_is_answered_at_once_needs_no_other_thread(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, late: Any
) -> None:
    server, streams = serve(OK, late), Streams()
    monkeypatch.setattr(streams.helpers, "run", lambda call: pytest.fail("a helper was called"))
    if late is CLOSE:
        with pytest.raises(AnswerLost, match="it is not sent there again"):
            whole(streams.begin(pause=60))
    else:
        assert whole(streams.begin(pause=60))[::2] == (200, 0)
    assert (len(server.requests), server.connections) == (2, 1)
    assert server.requests[0] == server.requests[1]


@pytest.mark.parametrize(
    ("host", "is_at_once"),
    [
        ("192.168.1.5:8080", True),
        ("[fd00::5]:8080", True),
        ("localhost", True),
        # Its address may have to be looked up for seconds.
        ("gpu.local:8080", False),
        ("cafe.dead", False),
    ],
)
def test_a_new_connection_is_made_at_once_where_nothing_is_looked_up(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, host: str, is_at_once: bool
) -> None:
    server, streams = serve(CLOSING, EVENT), Streams(f"http://{host}")
    helped, run = list[Callable[[], object]](), streams.helpers.run

    def help_with(call: Callable[[], object]) -> None:
        helped.append(call)
        run(call)

    monkeypatch.setattr(streams.helpers, "run", help_with)
    assert whole(streams.begin(pause=60))[:2] == (200, b"data: {}\n\n")
    assert (len(server.requests), server.connections) == (2, 2)
    assert bool(helped) is not is_at_once


def test_a_server_that_does_not_answer_at_once_is_called_by_a_helper(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(CLOSING, EVENT)
    streams = Streams("http://192.168.1.5")
    connect, timeouts = HTTPConnection._new_conn, list[float]()

    def only_patiently(connection: Any) -> socket.socket:
        timeouts.append(connection.timeout)
        if len(timeouts) == 1:
            raise ConnectTimeoutError(connection, "it is late")
        return connect(connection)

    monkeypatch.setattr(HTTPConnection, "_new_conn", only_patiently)
    assert whole(streams.begin(pause=60))[:2] == (200, b"data: {}\n\n")
    assert timeouts == [0.05, 5.0]


def test_a_late_stream_is_read_by_a_helper_and_sent_once(serve: Callable[..., Server]) -> None:
    may_answer = threading.Event()

    def late(connection: socket.socket) -> None:
        assert may_answer.wait(60)
        connection.sendall(EVENT)

    server, streams = serve(OK, late), Streams()
    steps = streams.begin(pause=0.001)
    assert [next(steps), next(steps)] == [Waiting("generating")] * 2
    may_answer.set()
    assert whole(steps)[:2] == (200, b"data: {}\n\n")
    assert (len(server.requests), server.connections) == (2, 1)


def test_a_late_stream_leaves_a_connection_that_the_next_one_uses(
    serve: Callable[..., Server],
) -> None:
    may_answer = threading.Event()

    def late(connection: socket.socket) -> None:
        assert may_answer.wait(60)
        connection.sendall(EVENT)
        whole_request(connection)
        connection.sendall(EVENT)

    server, streams = serve(OK, late), Streams()
    steps = streams.begin(pause=0.001)
    next(steps)
    may_answer.set()
    whole(steps)
    assert whole(streams.begin(pause=60)) == (200, b"data: {}\n\n", 0)
    assert server.connections == 1


def first_piece(steps: Generator[Waiting, None, ProxyResponse]) -> ProxyResponse:
    """A stream that was answered at once, of which all that is there was read."""
    with pytest.raises(StopIteration) as ended:
        next(steps)
    response: ProxyResponse = ended.value.value
    assert response.head(99) == b"data: {}\n\n"
    return response


def are_kept(server: Server, streams: Streams) -> bool:
    """Whether a connection behind a stream is used for the next one."""
    before = server.connections
    for _ in range(3):
        assert whole(streams.begin(pause=60))[:2] == (200, b"data: {}\n\n")
    return server.connections - before <= 1


def test_a_client_that_leaves_amid_a_stream_says_nothing_of_the_server(
    serve: Callable[..., Server],
) -> None:
    def begin(connection: socket.socket) -> None:
        connection.sendall(EVENT[: -len(b"0\r\n\r\n")])
        whole_request(connection)

    server = serve(OK, begin, *[EVENT] * 3)
    streams = Streams()
    with pytest.raises(StopIteration) as ended:
        next(streams.begin(pause=60))
    ended.value.value.close()
    assert are_kept(server, streams)


def test_a_client_that_leaves_at_the_end_of_a_stream_says_nothing_of_the_server(
    serve: Callable[..., Server],
) -> None:
    server = serve(OK, *[EVENT] * 4)
    streams = Streams()
    client, ours = socket.socketpair()
    with ours:
        response = first_piece(streams.begin(60, ours))
        client.close()
        [guard] = streams.monitor._all
        pause = threading.Event()
        while guard.error is None:
            pause.wait(0.001)
        response.close()
    assert are_kept(server, streams)


def test_a_server_that_closed_after_a_stream_is_tried_again_later(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a server that is being stopped.
    server, now = serve(OK, lambda connection: connection.sendall(EVENT), *[EVENT] * 5), [100.0]
    monkeypatch.setattr(watched_adapter, "monotonic", lambda: now[0])
    streams = Streams()
    assert whole(streams.begin(pause=60))[0] == 200
    for _ in range(2):
        assert whole(streams.begin(pause=60))[0] == 200
    assert server.connections == 3
    now[0] += 61
    assert are_kept(server, streams)


@pytest.mark.parametrize(
    "extra",
    [
        {"path": "chat/completions?api-version=1"},
        {"body": JsonBody(b'{"messages": "' + b"x" * 20_000 + b'"}')},
        {"inspection": Inspection(lambda: 0.0)},
    ],
)
def test_what_could_block_is_sent_by_a_helper(serve: Callable[..., Server], extra: Any) -> None:
    server, streams = serve(OK, EVENT), Streams()
    assert whole(streams.begin(pause=60, **extra))[:2] == (200, b"data: {}\n\n")
    assert (len(server.requests), server.connections) == (2, 1)


def test_a_kept_connection_that_broke_is_replaced_before_anything_is_sent(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, streams = serve(OK, EVENT), Streams()
    request, failures = FramedConnection.request, [BrokenPipeError()]

    def broken_once(*arguments: Any, **options: Any) -> None:
        if failures:
            raise failures.pop()
        request(*arguments, **options)

    monkeypatch.setattr(FramedConnection, "request", broken_once)
    assert whole(streams.begin(pause=60))[:2] == (200, b"data: {}\n\n")
    assert (len(server.requests), server.connections) == (2, 2)


@pytest.mark.parametrize("is_beside", [False, True])
def test_a_client_that_leaves_a_silent_stream_ends_its_call(
    serve: Callable[..., Server], is_beside: bool
) -> None:
    client, ours = socket.socketpair()
    ended = threading.Event()

    def silent(connection: socket.socket) -> None:
        if not is_beside:
            client.close()
        whole_request(connection)
        ended.set()

    with ours:
        serve(OK, silent)
        streams = Streams()
        steps = streams.begin(0.001 if is_beside else 60, ours)
        if is_beside:
            next(steps)
            client.close()
        with pytest.raises(ClientGone):
            whole(steps)
    assert ended.wait(60)


def test_a_client_that_leaves_amid_the_head_of_an_answer_is_no_failure_of_its_server(
    serve: Callable[..., Server],
) -> None:
    def begin(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: ")
        whole_request(connection)

    client, ours = socket.socketpair()
    with ours:
        serve(OK, begin)
        steps = Streams().begin(0.001, ours)
        next(steps)
        client.close()
        with pytest.raises(ClientGone):
            whole(steps)


def test_a_silent_stream_that_is_given_up_ends_its_call(serve: Callable[..., Server]) -> None:
    ended = threading.Event()

    def silent(connection: socket.socket) -> None:
        whole_request(connection)
        ended.set()

    serve(OK, silent)
    steps = Streams().begin(pause=0.001)
    next(steps)
    steps.close()
    assert ended.wait(60)


def test_an_inspected_answer_that_its_server_breaks_off_says_so(
    serve: Callable[..., Server],
) -> None:
    serve(CHUNKED + b"Connection: close\r\n\r\na\r\ndata: {}\n\n\r\n")
    inspection = Inspection(lambda: 0.0)
    response = upstream().proxy(call(inspection=inspection), None)
    with pytest.raises(AnswerLost, match="broke the answer off"), closing(response):
        b"".join(response)
    [attempt] = inspection.as_json()["attempts"]
    assert (attempt["received"], attempt["problem"]) == (
        "data: {}\n\n",
        "server.invalid:1 broke the answer off",
    )
