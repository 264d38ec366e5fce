"""Whether an answer has come over a connection, without reading any of it.

A thread that may not block looks here first. What it finds stays in the system's buffer, so that
another thread can read the answer from its beginning.
"""

from __future__ import annotations

import re
import socket
from time import monotonic

from urllib3.util.wait import wait_for_read

_MORE_SECONDS = 0.005
"""How long the rest of a beginning is waited for: many servers, uvicorn and gunicorn among them,
send the head and the first event as two packets, one right behind the other."""
_LOOK = 65_536
"""Bytes that are looked at, at most."""
# "HTTP/1.1 103 Early Hints": the final answer follows.
_INTERIM = re.compile(rb"HTTP/1\.[01] 1[0-9]{2}\b")
# "HTTP/1.1 200 OK": errors are read to their end.
_SUCCESS = re.compile(rb"HTTP/1\.[01] 200\b")
# "\r\nTransfer-Encoding: chunked": overrides a length (RFC 9112, 6.3).
_CODED = re.compile(rb"\r\nTransfer-Encoding:", re.IGNORECASE)
# "\r\nContent-Length: 42\r"
_LENGTH = re.compile(rb"\r\nContent-Length:[ \t]*([0-9]{1,18})[ \t]*\r", re.IGNORECASE)
# "data: {...}\n\n", as all servers write events; Anthropic has "event: message_start\n" before it.
# An empty "data:\n\n" only keeps a connection alive.
_EVENT = re.compile(rb"(?:^|[\r\n])data:[ \t]*\S[^\r\n]*(?:\r?\n){2}")
_LAST_CHUNK = b"\r\n0\r\n\r\n"


def has_answer(connection: socket.socket, seconds: float) -> bool:
    """Whether an answer can be read up to its first event without blocking, within so many seconds.

    True also where the connection has ended without an answer: reading says why. False for a
    beginning without an event, a comment for example, unless the whole answer is there.
    """
    try:
        return _looked(connection, seconds)
    except OSError:
        return True
    finally:
        _wake_for(connection, 1)


def _looked(connection: socket.socket, seconds: float) -> bool:
    seen, until = 0, monotonic() + seconds
    while wait_for_read(connection, timeout=max(until - monotonic(), 0)):
        arrived = connection.recv(_LOOK, socket.MSG_PEEK)
        if not arrived or _is_begun(arrived):
            return True
        # Readable without more bytes: it has ended in the middle, or this kind of socket ignores
        # how many were asked for.
        if len(arrived) in (seen, _LOOK):
            return False
        if not seen:
            until = monotonic() + _MORE_SECONDS
        seen = len(arrived)
        _wake_for(connection, seen + 1)
    return False


def _wake_for(connection: socket.socket, size: int) -> None:
    """Let the connection count as readable with so many bytes, or at its end: socket(7)."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
    except OSError:
        # It was closed meanwhile.
        return


def _is_begun(arrived: bytes) -> bool:
    head, end, body = arrived.partition(b"\r\n\r\n")
    while _INTERIM.match(head):
        head, end, body = body.partition(b"\r\n\r\n")
    if not end:
        return False
    length = _LENGTH.search(head + b"\r")
    if length and not _CODED.search(head):
        return len(body) >= int(length[1])
    has_event = _SUCCESS.match(head) and _EVENT.search(body)
    return has_event is not None or body.endswith(_LAST_CHUNK)
