"""How requests are received before a thread serves them; the clock and the threads are the test's.

The sockets are pairs without a network. What needs real clients is in live/test_incoming.py.
"""

from __future__ import annotations

import errno
import io
import json
import os
import selectors
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import ExitStack
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gunicorn.config import Config
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.connections import worker as worker_module
from horde_proxy.connections.framing import ChunkedDecoder, LengthDecoder, MalformedBody
from horde_proxy.connections.request import IncomingRequest, State, StreamedBody
from horde_proxy.connections.waiting import WaitingConnections
from horde_proxy.connections.worker import CollectingWorker
from horde_proxy.networks import network_of
from horde_proxy.serving import Logger
from tests.support import full_disk

# Framing


@given(st.lists(st.binary(min_size=1, max_size=300)), st.lists(st.integers(0, 900)), st.binary())
def test_a_chunked_body_comes_out_whole_in_whatever_pieces_it_came(
    chunks: list[bytes], cuts: list[int], rest: bytes
) -> None:
    message = b"".join(b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    message += b"0\r\nX-Sum: 1\r\n\r\n" + rest
    decoder, received, content = ChunkedDecoder(), bytearray(), b""
    edges = sorted({0, len(message), *(cut for cut in cuts if cut < len(message))})
    for begin, end in pairwise(edges):
        received += message[begin:end]
        content += decoder.decode(received)
    assert decoder.is_complete
    assert content == b"".join(chunks)
    assert received == rest


@pytest.mark.parametrize(
    "message",
    [
        b"zz\r\n",
        b"\r\n",
        b" 5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5;a\x00\r\n",
        b"5\r\nhelloX",
        b"5\r\nhello\n",
        b"11111111111111111\r\n",
        b"5" * 2000,
        b"0\r\n" + b"a: b\r\n" * 2000,
        b"0\r\nX: 1\n\r\n",
        b"0\r\n" + b"x" * 9000,
        b"1\r\nx\r\n" * 10_200,
    ],
)
def test_a_chunked_body_that_can_be_read_in_two_ways_is_malformed(message: bytes) -> None:
    with pytest.raises(MalformedBody):
        ChunkedDecoder().decode(bytearray(message))


def test_what_follows_a_body_stays() -> None:
    decoder, received = LengthDecoder(5), bytearray(b"hel")
    assert decoder.decode(received) == b"hel"
    received += b"loGET / HTTP/1.1"
    assert (decoder.decode(received), decoder.is_complete) == (b"lo", True)
    assert received == b"GET / HTTP/1.1"


# One request


def incoming(most_body: int = 1000) -> IncomingRequest:
    return IncomingRequest(Config(), ("192.0.2.1", 1), most_body)


def test_a_request_is_complete_with_the_last_byte_of_its_body() -> None:
    request = incoming()
    message = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    received, states = bytearray(), []
    for byte in message:
        received.append(byte)
        request.feed(received)
        states.append(request.state)
    head = len(message) - 5
    assert states[: head - 1] == [State.HEAD] * (head - 1)
    assert states[head - 1 : -1] == [State.BODY] * 5
    assert states[-1] is State.COMPLETE
    with socket.socket() as unused:
        assert request.with_body(received, unused).body.read() == b"hello"
    request.close()


def test_a_long_body_is_kept_on_the_disk() -> None:
    request = incoming(200_000)
    head = b"POST / HTTP/1.1\r\nContent-Length: 150000\r\n\r\n"
    request.feed(bytearray(head + b"x" * 60_000))
    assert request.spooled == 0
    request.feed(bytearray(b"x" * 90_000))
    assert (request.state, request.spooled) == (State.COMPLETE, 150_000)
    request.close()


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
    ],
    ids=["length", "chunked"],
)
def test_a_body_beyond_the_bound_is_left_to_a_thread(head: bytes) -> None:
    request = incoming()
    request.feed(bytearray(head))
    assert request.state is State.OVERSIZED
    assert not request.is_body_complete
    request.close()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_thread_reads_the_rest_of_an_oversized_body(framing: str) -> None:
    request = incoming(1000)
    content = bytes(range(256)) * 20
    if framing == "length":
        message = b"POST / HTTP/1.1\r\nContent-Length: 5120\r\n\r\n" + content
    else:
        message = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        message += b"a00\r\n%b\r\n" % content[:2560] * 2 + b"0\r\n\r\n"
    received = bytearray(message[:2500])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request.feed(received)
        theirs.sendall(message[2500:])
        body = request.with_body(received, ours).body
        assert body.read() == content
    assert request.is_body_complete
    assert request.parsed.should_close()
    request.close()


def test_a_client_that_leaves_in_an_oversized_body_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        body = io.BufferedReader(StreamedBody(None, LengthDecoder(9), bytearray(b"abc"), ours))
        assert body.read1(3) == b"abc"
        with pytest.raises(ConnectionError):
            body.read()


def test_a_client_that_stops_in_an_oversized_body_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("horde_proxy.connections.request.STALLED_SECONDS", 0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        body = io.BufferedReader(StreamedBody(None, LengthDecoder(9), bytearray(), ours))
        with pytest.raises(TimeoutError):
            body.read()


def test_a_client_that_sends_drops_cannot_hold_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 5))
    clock = SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr("horde_proxy.connections.request.time", clock)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        body = StreamedBody(None, LengthDecoder(1000), bytearray(), ours)
        for _ in range(12):
            theirs.sendall(b"x")
            assert body.read(1) == b"x"
        theirs.sendall(b"x")
        with pytest.raises(TimeoutError):
            body.read(1)


# Who waits


def test_the_connection_that_is_silent_for_longest_has_to_go() -> None:
    waiting = WaitingConnections[str](most=3, most_of_one=2)
    for now, (name, network) in enumerate([("a", "one"), ("b", None), ("c", "two")]):
        waiting.add(name, now, network)
    waiting.progressed("a", 3)
    assert (waiting.one_too_many("two"), waiting.silent(10, 8)) == ("b", ["b", "c"])
    assert waiting.older(10, 10) == ["a"]
    waiting.remove("b")
    assert waiting.one_too_many("two") is None
    waiting.add("d", 5, "two")
    waiting.progressed("a", 6)
    assert waiting.one_too_many("two") == "c"
    assert len(waiting) == 3


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("", None),
        ("nowhere", None),
    ],
)
def test_connections_are_counted_by_network(address: str, network: str | None) -> None:
    assert network_of(address) == network


# The worker


class InlinePool:
    """Serves a request at once, in the test's own thread."""

    def submit(self, call: Callable[[Any], Any], argument: Any) -> futures.Future[Any]:
        future: futures.Future[Any] = futures.Future()
        future.set_result(call(argument))
        return future

    def shutdown(self, wait: bool) -> None:
        """There is nothing to end."""


class Worker(CollectingWorker):
    """A worker whose app returns what it was sent."""

    def __init__(self) -> None:
        config = Config()
        config.set("worker_connections", 5000)
        super().__init__(1, os.getpid(), [], None, 30, config, Logger(config))
        self.tpool = self._upload_threads = self._urgent_threads = cast(Any, InlinePool())
        self.poller = selectors.DefaultSelector()
        self.method_queue.init()
        self.poller.register(
            self.method_queue.fileno(), selectors.EVENT_READ, self.method_queue.run_callbacks
        )
        self.wsgi = self.serve
        self.bodies: list[bytes] = []

    def most_body(self) -> int:
        return 1000

    def is_urgent(self, request: Any) -> bool:
        return bool(request.path == "/urgent")

    def serve(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/unread":
            self.bodies.append(environ["wsgi.input"].read())
        start("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def turn(self, times: int = 4) -> None:
        for _ in range(times):
            self.wait_for_and_dispatch_events(0)


class World:
    """A worker and its clients."""

    def __init__(self, stack: ExitStack) -> None:
        self.now = 100.0
        self.worker = Worker()
        self._stack = stack
        self.failure: OSError | None = None

    def client(self, content: bytes = b"", address: Any = ("192.0.2.1", 5)) -> socket.socket:
        """A client that has connected and sent something."""
        ours, theirs = socket.socketpair()
        self._stack.enter_context(theirs)
        self._stack.callback(ours.close)
        theirs.sendall(content)
        theirs.settimeout(0)

        def accept() -> tuple[socket.socket, Any]:
            if self.failure:
                raise self.failure
            return ours, address

        self.worker.accept(SimpleNamespace(accept=accept, getsockname=lambda: ("host", 80)))  # type: ignore[arg-type]
        self.worker.turn()
        return theirs


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with ExitStack() as stack:
        made = World(stack)
        clock = SimpleNamespace(monotonic=lambda: made.now)
        monkeypatch.setattr(worker_module, "time", clock)
        stack.callback(made.worker.tmp.close)
        stack.callback(made.worker.method_queue.close)
        stack.callback(made.worker.poller.close)
        yield made


def answer(client: socket.socket) -> bytes:
    """What the client has received so far; ends with "(closed)" if nothing more can come."""
    received = b""
    while True:
        try:
            piece = client.recv(65536)
        except BlockingIOError:
            return received
        if not piece:
            return received + b"(closed)"
        received += piece


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def test_a_thread_gets_a_request_only_when_it_is_whole(world: World) -> None:
    client = world.client()
    for piece in (POST[:10], POST[10:], b"hel"):
        client.sendall(piece)
        world.worker.turn()
        assert (world.worker.bodies, answer(client)) == ([], b"")
    client.sendall(b"lo")
    world.worker.turn()
    assert world.worker.bodies == [b"hello"]
    assert answer(client).startswith(b"HTTP/1.1 200 OK")


def test_a_kept_connection_brings_its_next_request_in_pieces(world: World) -> None:
    client = world.client(POST + b"first")
    assert b"keep-alive" in answer(client)
    client.sendall(POST + b"se")
    world.worker.turn()
    assert answer(client) == b""
    client.sendall(b"cnd")
    world.worker.turn()
    assert world.worker.bodies == [b"first", b"secnd"]


def test_requests_at_once_are_served_one_after_the_other(world: World) -> None:
    client = world.client(POST + b"firstPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert world.worker.bodies == [b"first"]
    client.sendall(b"3\r\ntwo\r\n0\r\n\r\n" + POST + b"third")
    world.worker.turn(10)
    assert world.worker.bodies == [b"first", b"two", b"third"]
    assert answer(client).count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(
    ("beginning", "status"),
    [(b"", b""), (b"POST / HT", b"408"), (POST, b"408"), (POST + b"hel", b"408")],
)
def test_ten_silent_seconds_end_a_request(world: World, beginning: bytes, status: bytes) -> None:
    client = world.client(beginning)
    world.now += 9.9
    world.worker.turn()
    assert answer(client) == b""
    world.now += 0.2
    world.worker.turn()
    received = answer(client)
    assert (received[9:12], received[-8:]) == (status or b"", b"(closed)")
    client.close()
    world.worker.turn()
    assert world.worker.nr_conns == 0


def test_a_refusal_is_openais_envelope(world: World) -> None:
    client = world.client(POST)
    world.now += 11
    world.worker.turn()
    head, _, body = answer(client).removesuffix(b"(closed)").partition(b"\r\n\r\n")
    assert b"Connection: close" in head.split(b"\r\n")
    assert json.loads(body)["error"] == {
        "message": "The rest of the request did not come.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


def test_a_byte_now_and_then_keeps_a_request(world: World) -> None:
    client = world.client()
    for byte in POST + b"hello":
        world.now += 9
        client.sendall(bytes([byte]))
        world.worker.turn()
    assert world.worker.bodies == [b"hello"]


def test_a_worker_that_is_to_end_waits_for_two_seconds(world: World) -> None:
    client = world.client(POST)
    world.worker.alive = False
    world.now += 2.1
    world.worker.turn()
    assert answer(client)[9:12] == b"408"


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"501"),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 65_536, b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", b"400"),
    ],
)
def test_what_is_no_request_is_refused(world: World, message: bytes, status: bytes) -> None:
    client = world.client(message)
    world.worker.turn()
    assert answer(client)[9:12] == status
    assert world.worker.bodies == []


def test_a_body_that_ends_early_is_refused(world: World) -> None:
    client = world.client(POST + b"hel")
    client.shutdown(socket.SHUT_WR)
    world.worker.turn()
    assert answer(client)[9:12] == b"400"
    assert (world.worker.bodies, world.worker.nr_conns) == ([], 0)


def test_a_client_that_waits_for_100_continue_gets_one_at_once(world: World) -> None:
    head = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    client = world.client(head)
    assert answer(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"hello")
    world.worker.turn()
    assert answer(client).startswith(b"HTTP/1.1 200 OK")


def test_no_100_continue_is_sent_once_the_body_is_here(world: World) -> None:
    head = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    assert answer(world.client(head + b"hello")).startswith(b"HTTP/1.1 200 OK")
    assert world.worker.bodies == [b"hello"]


def test_what_comes_after_an_answer_is_thrown_away(world: World) -> None:
    """A reset would destroy the answer on its way: Node reported EPIPE."""
    head = b"POST /unread HTTP/1.1\r\nContent-Length: 9000\r\n\r\n"
    client = world.client(head)
    for _ in range(9):
        client.sendall(b"x" * 1000)
        world.worker.turn()
    received = answer(client)
    assert (received[9:12], received[-8:]) == (b"200", b"(closed)")
    assert b"Connection: close" in received
    assert world.worker.nr_conns == 1
    client.close()
    world.worker.turn()
    assert world.worker.nr_conns == 0


@pytest.mark.parametrize("seconds", [5.1, 4.0])
def test_what_comes_after_an_answer_is_bounded(world: World, seconds: float) -> None:
    client = world.client(b"POST /unread HTTP/1.1\r\nContent-Length: 9000\r\n\r\n")
    for _ in range(8):
        world.now += seconds
        world.worker.turn()
        if world.worker.nr_conns:
            client.sendall(b"x")
            world.worker.turn()
    assert world.worker.nr_conns == 0


def test_one_address_may_not_take_all_connections(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.worker._receiving.most_of_one = 3
    other = world.client(POST, ("192.0.2.2", 5))
    clients = [world.client(POST) for _ in range(5)]
    assert [answer(client)[9:12] for client in clients] == [b"503", b"503", b"", b"", b""]
    assert answer(other) == b""


def test_a_crowd_of_half_sent_requests_loses_those_that_are_silent_for_longest(
    world: World,
) -> None:
    world.worker._receiving.most = 3
    clients = [world.client(POST, ("127.0.0.1", 5)) for _ in range(5)]
    assert [answer(client)[9:12] for client in clients] == [b"503", b"503", b"", b"", b""]
    assert answer(world.client(POST + b"hello"))[9:12] == b"200"


def test_incomplete_bodies_take_no_more_of_the_disk_than_is_allowed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.worker, "most_body", lambda: 1_000_000)
    monkeypatch.setattr(worker_module, "_SPOOLED", 250_000)
    head = b"POST / HTTP/1.1\r\nContent-Length: 200000\r\n\r\n"
    clients = [world.client(head + b"x" * 100_000) for _ in range(4)]
    assert [answer(client)[9:12] for client in clients] == [b"503", b"503", b"", b""]
    small = world.client(POST + b"hello")
    assert answer(small)[9:12] == b"200"
    for client in clients:
        client.close()
    world.worker.turn()
    assert (world.worker._spooled, world.worker.nr_conns) == (0, 1)


def test_a_crowd_of_uploads_is_told_to_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.worker._uploads = 132
    client = world.client(b"POST / HTTP/1.1\r\nContent-Length: 9000\r\n\r\nx")
    received = answer(client)
    assert received[9:12] == b"503"
    assert b"Retry-After: 10" in received


def test_what_is_urgent_is_answered_while_all_threads_are_taken(world: World) -> None:
    world.worker.tpool = SimpleNamespace(submit=lambda *_: futures.Future())
    client = world.client(b"GET / HTTP/1.1\r\n\r\n")
    urgent = world.client(b"GET /urgent HTTP/1.1\r\n\r\n" * 2)
    world.worker.turn()
    assert answer(urgent).count(b"HTTP/1.1 200 OK") == 2
    assert answer(client) == b""


def test_an_upload_leaves_its_thread_when_it_has_ended(world: World) -> None:
    world.client(b"POST / HTTP/1.1\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000)
    assert (world.worker.bodies, world.worker._uploads) == ([b"x" * 2000], 0)


@pytest.mark.parametrize("kind", ["lingering", "receiving", "idle"])
def test_a_connection_goes_when_there_are_no_descriptors(world: World, kind: str) -> None:
    contents = {"receiving": POST, "idle": POST + b"hello"}
    client = world.client(
        contents.get(kind, b"POST /unread HTTP/1.1\r\nContent-Length: 9000\r\n\r\n")
    )
    world.failure = OSError(errno.EMFILE, "Too many open files")
    world.client()
    assert answer(client).endswith(b"(closed)")
    assert world.worker.nr_conns == 0
    world.worker._accepting = True
    world.client()
    assert not world.worker._accepting


def test_a_body_that_cannot_be_stored_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(size: int) -> io.BytesIO:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("horde_proxy.connections.request.SpooledTemporaryFile", full)
    assert answer(world.client(POST + b"hel"))[9:12] == b"503"
    assert "No space left on device" in caplog.text


def test_a_full_disk_refuses_long_bodies_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("horde_proxy.connections.request.IN_MEMORY", 10)
    # It fails when Python's buffer is written, and again when the file is closed.
    monkeypatch.setattr("tempfile.TemporaryFile", full_disk)
    long = POST.replace(b"5", b"50")
    assert answer(world.client(long + b"x" * 50))[9:12] == b"503"
    assert "No space left on device" in caplog.text
    assert answer(world.client(long + b"x" * 30))[9:12] == b"503"
    assert answer(world.client(POST + b"hello"))[9:12] == b"200"


@pytest.mark.parametrize("place", ["receiving", "lingering", "idle"])
def test_a_client_may_reset_its_connection_anywhere(world: World, place: str) -> None:
    contents = {
        "receiving": POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"),
        "lingering": b"POST /unread HTTP/1.1\r\nContent-Length: 9000\r\n\r\n",
        "idle": POST + b"hello",
    }
    client = world.client(contents[place])
    assert world.worker.nr_conns == 1
    # It has not read what it was sent, which makes its end a reset.
    client.close()
    world.worker.turn()
    assert world.worker.nr_conns == 0


def test_a_crowd_that_lingers_loses_those_that_are_silent_for_longest(world: World) -> None:
    world.worker._lingering.most = 2
    for _ in range(4):
        world.client(b"POST /unread HTTP/1.1\r\nContent-Length: 9000\r\n\r\n")
    assert world.worker.nr_conns == 2


def test_a_fault_of_ours_ends_one_connection_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: IncomingRequest, received: bytearray) -> None:
        raise KeyError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr(IncomingRequest, "feed", broken)
        assert answer(world.client(POST))[9:12] == b"500"
    assert answer(world.client(POST + b"hello"))[9:12] == b"200"


def test_a_client_that_left_before_it_was_accepted_is_no_error(world: World) -> None:
    world.failure = OSError(errno.ECONNABORTED, "gone")
    world.client()
    world.failure = OSError(errno.EIO, "broken")
    with pytest.raises(OSError, match="broken"):
        world.client()


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1024, 524_288, [(16_384, 524_288)]),
        (1024, -1, [(16_384, -1)]),
        (1024, 4096, [(4096, 4096)]),
        (20_000, 20_000, []),
        (-1, -1, []),
    ],
)
def test_the_process_may_open_many_descriptors(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, expected: list[tuple[int, int]]
) -> None:
    limits: list[tuple[int, int]] = []
    resource = SimpleNamespace(
        RLIMIT_NOFILE=7,
        getrlimit=lambda kind: (soft, hard),
        setrlimit=lambda kind, pair: limits.append(pair),
    )
    monkeypatch.setattr(worker_module, "resource", resource)
    worker_module._raise_descriptor_limit()
    assert limits == expected


def test_a_sandbox_may_forbid_that(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(kind: int) -> tuple[int, int]:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(
        worker_module, "resource", SimpleNamespace(RLIMIT_NOFILE=7, getrlimit=forbidden)
    )
    worker_module._raise_descriptor_limit()
    assert [record.getMessage() for record in caplog.records] == [
        "the limit of open files could not be raised: Operation not permitted"
    ]
