"""Calls or streams, so many at a time, from raw sockets in one thread; prints what it saw as JSON.

Seconds for each call or chunk; calls in each second; all answers, those of the warm-up included.
Usage: relay_load.py calls PORT AT_A_TIME SECONDS, or relay_load.py streams PORT AT_A_TIME CHUNKS.
With "answers" for "calls", each answer comes as a stream, which the server sends at once.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import time
from typing import Any

KEY = "bench-key-0123456789abcdef"
WARM_UP = 0.5
PATIENCE = 30
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
SENT = re.compile(rb'"content": ?"(\d+\.\d+)"')
MESSAGES = [{"role": "user", "content": "What does a relay do?"}]


def request(**more: Any) -> bytes:
    body = json.dumps({"model": "bench-model", "messages": MESSAGES, **more}).encode()
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "",
        "",
    )
    return "\r\n".join(lines).encode() + body


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise SystemExit("the connection was closed in the middle of an answer")
    return data


def at(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


class Call:
    """One connection that calls again as soon as it is answered."""

    def __init__(self, port: int, asking: bytes) -> None:
        self.port, self.asking = port, asking
        self.connection = connect(port)
        self.ask()

    def ask(self) -> None:
        self.buffer = b""
        self.begun = time.perf_counter()
        self.connection.sendall(self.asking)

    def read(self) -> bool:
        """Whether the answer is complete."""
        self.buffer += received(self.connection)
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        length = LENGTH.search(head)
        if length and len(body) < int(length[1]):
            return False
        if not length and not body.endswith(b"0\r\n\r\n"):
            return False
        if not head.startswith(b"HTTP/1.1 200") or b'"usage"' not in body:
            raise SystemExit(f"not the answer that was expected: {self.buffer!r}")
        return True

    def again(self, poll: select.epoll) -> None:
        if CLOSE.search(self.buffer):
            self.connection.close()
            self.connection = connect(self.port)
            poll.register(self.connection, select.EPOLLIN)
        self.ask()


def calls(port: int, count: int, seconds: float, **more: Any) -> dict[str, float]:
    poll, asking, took = select.epoll(), request(**more), []
    by_number: dict[int, Call] = {}
    for _ in range(count):
        call = Call(port, asking)
        by_number[call.connection.fileno()] = call
        poll.register(call.connection, select.EPOLLIN)
    begin = time.perf_counter() + WARM_UP
    now, end, answers = 0.0, begin + seconds, 0
    while now < end:
        for number, _ in poll.poll(PATIENCE) or stuck():
            call = by_number.pop(number)
            if call.read():
                now, answers = time.perf_counter(), answers + 1
                if begin < now < end:
                    took.append(now - call.begun)
                call.again(poll)
            by_number[call.connection.fileno()] = call
    return {
        "p50": at(took, 0.5),
        "p99": at(took, 0.99),
        "rate": len(took) / seconds,
        "answers": answers,
    }


class Stream:
    """One connection that notes how long each chunk was under way."""

    def __init__(self, port: int, asking: bytes) -> None:
        self.connection = connect(port)
        self.raw, self.text, self.in_body, self.ended = b"", b"", False, False
        self.late: list[float] = []
        self.connection.sendall(asking)

    def read(self) -> bool:
        """Whether the stream has ended."""
        self.raw += received(self.connection)
        now = time.time()
        self.unframe()
        *lines, self.text = self.text.split(b"\n")
        for line in lines:
            sent = SENT.search(line)
            if sent:
                self.late.append(now - float(sent[1]))
        return self.ended

    def unframe(self) -> None:
        """Move what is complete from the HTTP chunks to the text."""
        if not self.in_body:
            head, end, rest = self.raw.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 200") or b"chunked" not in head.lower():
                raise SystemExit(f"not the answer that was expected: {self.raw!r}")
            self.raw, self.in_body = rest, True
        while not self.ended:
            size, end, rest = self.raw.partition(b"\r\n")
            length = int(size, 16) if end else 0
            if not end or len(rest) < length + 2:
                return
            self.text += rest[:length]
            self.raw, self.ended = rest[length + 2 :], length == 0


def streams(port: int, count: int, chunks: int) -> dict[str, float]:
    poll = select.epoll()
    asking = request(stream=True, max_tokens=chunks, stream_options={"include_usage": True})
    by_number = {
        each.connection.fileno(): each for each in [Stream(port, asking) for _ in range(count)]
    }
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    running = count
    while running:
        for number, _ in poll.poll(PATIENCE) or stuck():
            if by_number[number].read():
                poll.unregister(number)
                running -= 1
    for each in by_number.values():
        if len(each.late) != chunks:
            raise SystemExit(f"{len(each.late)} chunks of {chunks} came")
    late = [seconds for each in by_number.values() for seconds in each.late]
    return {"p50": at(late, 0.5), "p99": at(late, 0.99), "answers": len(late)}


def stuck() -> list[tuple[int, int]]:
    raise SystemExit(f"no answer for {PATIENCE} s")


if __name__ == "__main__":
    measure, port, at_a_time, extent = sys.argv[1:]
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    more = streamed if measure == "answers" else {}
    if measure == "streams":
        found = streams(int(port), int(at_a_time), int(extent))
    else:
        found = calls(int(port), int(at_a_time), int(extent), **more)
    print(json.dumps(found))
