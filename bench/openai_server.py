"""The server that is relayed to: OpenAI-like, and as little work for each call as can be.

A streamed chat sends "max_tokens" chunks, 100 a second, each with the time at which it was sent;
one that asks for no number of them gets its text at once.
Usage: openai_server.py PORT
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
import time
from typing import Any

MODEL = "bench-model"
PACE = 0.01
PHASES = 10
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
NAMES = {"id": "chatcmpl-bench0123456789", "created": 1700000000, "model": MODEL}
USAGE = {"prompt_tokens": 9, "completion_tokens": 24, "total_tokens": 33}
TEXT = "A relay hands on what it is given, and the less it does besides, the less it takes."
streams = itertools.count()


def answer(content: Any, status: str = "200 OK") -> bytes:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def completion() -> dict[str, Any]:
    message = {"role": "assistant", "content": TEXT}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"object": "chat.completion", **NAMES, "choices": [choice], "usage": USAGE}


def event(delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
    """A chunk as an event, in an HTTP chunk of its own."""
    choices = [] if more else [{"index": 0, "delta": delta, "finish_reason": finish}]
    chunk = {"object": "chat.completion.chunk", **NAMES, "choices": choices, **more}
    return framed(b"data: %s\n\n" % json.dumps(chunk).encode())


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


WHOLE = answer(completion())
MODELS = answer({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]})
MISSING = answer({"error": {"message": "no such route", "type": "not_found"}}, "404 Not Found")
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + event({"role": "assistant", "content": ""})
)
BEFORE, AFTER = event({"content": "1234567890.123456"}).split(b"1234567890.123456")
END = event({}, "stop") + event({}, usage=USAGE) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Server(asyncio.Protocol):
    """One connection, kept alive."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        if CHUNKED.search(head):
            if not body.endswith(b"0\r\n\r\n"):
                return
            body = b"".join(body.split(b"\r\n")[1::2])
        else:
            length = LENGTH.search(head)
            if length and len(body) < int(length[1]):
                return
        self.buffer = b""
        self.serve(head, body)

    def serve(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST /v1/chat/completions "):
            asked = json.loads(body)
            if asked.get("stream") and "max_tokens" in asked:
                self.begin_stream(asked["max_tokens"])
            elif asked.get("stream"):
                self.transport.write(STREAM + event({"content": TEXT}) + END)
            else:
                self.transport.write(WHOLE)
        else:
            self.transport.write(MODELS if head.startswith(b"GET /v1/models ") else MISSING)

    def begin_stream(self, chunks: int) -> None:
        """Streams that run together send in turn, each at a beat of its own."""
        self.transport.write(STREAM)
        beat = next(streams) % PHASES / PHASES * PACE
        loop = asyncio.get_running_loop()
        first = (loop.time() // PACE + 1) * PACE + beat
        loop.call_at(first, self.send_chunk, loop, first, chunks)

    def send_chunk(self, loop: asyncio.AbstractEventLoop, due: float, left: int) -> None:
        if self.transport.is_closing():
            return
        if not left:
            self.transport.write(END)
            return
        self.transport.write(BEFORE + b"%.6f" % time.time() + AFTER)
        loop.call_at(due + PACE, self.send_chunk, loop, due + PACE, left - 1)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
