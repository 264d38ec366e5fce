"""Looking for an answer that nobody reads yet."""

from __future__ import annotations

import socket

import pytest

from horde_proxy.upstreams.unread_answer import has_answer

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n"
LONG = 60
"""Seconds that nobody waits: all of it is there before."""


@pytest.mark.parametrize(
    ("arrived", "expected"),
    [
        # Whole first events.
        (HEAD + b'b\r\ndata: {"a":1}\n\n\r\n', True),
        (HEAD + b'19\r\ndata: {"a":1}\r\n\r\n\r\n', True),
        (HEAD + b"30\r\nevent: message_start\ndata: {}\n\n\r\n", True),
        (HEAD + b"9\r\n: PING\n\n\r\n9\r\ndata: {}\n\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\n\r\ndata: {}\n\n", True),
        (EARLY_HINTS * 2 + HEAD + b"a\r\ndata: {}\n\n\r\n", True),
        # Whole answers of other kinds.
        (b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", True),
        (HEAD + b"2\r\n{}\r\n0\r\n\r\n", True),
        # Reading the rest would block.
        (b"HTTP/1.1 200 OK\r\n", False),
        (HEAD, False),
        (HEAD + b"9\r\n: PING\n\n\r\n", False),
        (HEAD + b'11\r\ndata: {"a":\r\n', False),
        # Not an event: it only keeps the connection alive.
        (HEAD + b"7\r\ndata:\n\n\r\n", False),
        (HEAD + b"8\r\ndata: \n\n\r\n", False),
        (HEAD + b"f\r\n: your data: 1\n\n\r\n", False),
        # Errors are read to their end.
        (HEAD.replace(b"200 OK", b"500 No") + b"a\r\ndata: {}\n\n\r\n", False),
        # Another head follows, and chunks come whatever the length says.
        (EARLY_HINTS, False),
        (EARLY_HINTS + b"HTTP/1.1 200 OK\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\ntransfer-encoding: chunked\r\n\r\n", False),
        (b"HTTP/1.1 400 Bad\r\nContent-Length: 3\r\n\r\n{}", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000, False),
    ],
)
def test_an_answer_is_there_once_its_first_event_is(arrived: bytes, expected: bool) -> None:
    server, ours = socket.socketpair()
    with server, ours:
        server.sendall(arrived)
        assert has_answer(ours, LONG) is expected
        # None of it was read.
        ours.setblocking(False)
        assert ours.recv(len(arrived), socket.MSG_WAITALL)[:9] == arrived[:9]


def test_the_end_of_a_connection_can_be_read() -> None:
    server, ours = socket.socketpair()
    with ours:
        server.close()
        assert has_answer(ours, LONG) is True


def test_silence_is_no_answer() -> None:
    server, ours = socket.socketpair()
    with server, ours:
        assert has_answer(ours, 0) is False
