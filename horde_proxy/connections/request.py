"""One request while it arrives: its head, parsed by gunicorn, and its body, kept in a file.

    HEAD --empty line--> BODY --last byte--> COMPLETE
                           \\--more than the bound--> OVERSIZED: a thread reads the rest

Bytes in, a gunicorn request out. Only StreamedBody, which a thread reads, knows a socket.
"""

from __future__ import annotations

import io
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from gunicorn.http import RequestParser
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import UnsupportedTransferCoding
from gunicorn.http.unreader import IterUnreader

from horde_proxy.connections.framing import BodyDecoder, ChunkedDecoder, LengthDecoder

LONGEST_HEAD = 65_536
"""Bytes of a request line and its fields; gunicorn bounds each line. nginx takes 32 kB."""
IN_MEMORY = 65_536
"""Bytes of a body that stay in memory; a longer one is in a temporary file."""
_READ_AT_ONCE = 262_144
"""Bytes: each read gives up the interpreter's lock, and a busy process returns it after 5 ms."""
STALLED_SECONDS = 10.0
"""How long a client may send nothing in the middle of a request."""
_SLOW_SECONDS, _SLOWEST = 60.0, 10_000
"""Seconds that a thread waits for an oversized body, and the bytes that buy one more second."""


class HeadTooLong(ValueError):
    """The request line and the fields are longer than LONGEST_HEAD."""


class State(Enum):
    """How far a request has come."""

    HEAD = auto()
    BODY = auto()
    COMPLETE = auto()
    OVERSIZED = auto()


class IncomingRequest:
    """A request of which some bytes have come. `most_body` bounds what is collected here.

    `has_begun` tells whether a byte has come; `parsed` is gunicorn's request once its head is
    complete. Close it in any case.
    """

    def __init__(self, settings: Any, client: Any, most_body: int) -> None:
        self.state = State.HEAD
        self.parsed: Any = None
        self.has_begun = self._expects_continue = False
        self.body_size = 0
        self._settings, self._client, self._most_body = settings, client, most_body
        self._decoder: BodyDecoder = LengthDecoder(0)
        self._file: IO[bytes] | None = None
        # Bytes of the head that have been searched for its end.
        self._searched = 0

    @property
    def wanted(self) -> int:
        """How many bytes to read at most, so that few belong to the next request."""
        if self.state is State.HEAD:
            return LONGEST_HEAD
        return min(self._decoder.wanted, _READ_AT_ONCE)

    @property
    def spooled(self) -> int:
        """Bytes of the body in a file on the disk."""
        return self.body_size if self.body_size > IN_MEMORY else 0

    @property
    def is_body_complete(self) -> bool:
        """Whether the whole body was read from the connection, by whomever."""
        return self.parsed is not None and self._decoder.is_complete

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for "100 Continue" before it sends the body that we collect."""
        return self.state is State.BODY and self._expects_continue

    def feed(self, received: bytearray) -> None:
        """Take the bytes of this request from those that came.

        Raises MalformedBody, HeadTooLong, OSError where the body cannot be kept, or one of
        gunicorn's many errors for a wrong head.
        """
        self.has_begun = self.has_begun or bool(received)
        if self.state is State.HEAD:
            self._take_head(received)
        if self.state is State.BODY:
            self._take_body(received)

    def with_body(self, received: bytearray, sock: socket.socket) -> Any:
        """gunicorn's request with its body: a file, or what reads the rest from the socket."""
        if self._file is not None:
            self._file.seek(0)
        if self.state is State.OVERSIZED:
            # Whether all of it will be read is unknown, and so is where the next request begins.
            self.parsed.force_close()
            raw = StreamedBody(self._file, self._decoder, received, sock)
            self.parsed.body = io.BufferedReader(raw, IN_MEMORY)
        else:
            self.parsed.body = self._file or io.BytesIO()
            self._take_expectation()
        return self.parsed

    def continued(self) -> None:
        """The client was told to send its body."""
        self._expects_continue = False

    def _take_expectation(self) -> None:
        """Keep gunicorn from saying "100 Continue" when the body is here already."""
        headers = self.parsed.headers
        self.parsed.headers = [header for header in headers if header[0] != "EXPECT"]
        # gunicorn looks here since version 25, and at the header before.
        self.parsed._expected_100_continue = False

    def close(self) -> None:
        """Delete the body."""
        if self._file is not None:
            # On a full disk, the bytes of a refused body that are not written yet fail once more.
            with suppress(OSError):
                self._file.close()

    def _take_head(self, received: bytearray) -> None:
        begin = max(0, self._searched - 3)
        end = received.find(b"\r\n\r\n", begin)
        if end < 0 and not _is_hopeless(received, begin):
            self._searched = len(received)
            return
        head = bytes(received[: end + 4] if end >= 0 else received)
        if len(head) > LONGEST_HEAD:
            raise HeadTooLong("The head of the request is too long.")
        del received[: len(head)]
        self._begin_body(next(RequestParser(self._settings, [head], self._client)))

    def _begin_body(self, parsed: Any) -> None:
        self.parsed, reader = parsed, parsed.body.reader
        # Clients of HTTP/1.0 know no answers before the last (RFC 9110, 10.1.1).
        self._expects_continue = parsed.version >= (1, 1) and any(
            name == "EXPECT" and value.lower() == "100-continue" for name, value in parsed.headers
        )
        if isinstance(reader, ChunkedReader):
            _check_transfer_coding(parsed.headers)
            self._decoder = ChunkedDecoder()
        else:
            self._decoder = LengthDecoder(reader.length)
            if reader.length > self._most_body:
                self.state = State.OVERSIZED
                return
        self.state = State.COMPLETE if self._decoder.is_complete else State.BODY

    def _take_body(self, received: bytearray) -> None:
        content = self._decoder.decode(received)
        if content:
            if self._file is None:
                self._file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
            self._file.write(content)
            self.body_size += len(content)
        if self._decoder.is_complete:
            self.state = State.COMPLETE
        elif self.body_size > self._most_body:
            self.state = State.OVERSIZED
        # What the disk has no room for fails here, where the client gets an answer.
        if self._file is not None and self.state is not State.BODY:
            self._file.flush()


class StreamedBody(io.RawIOBase):
    """A body that is too large to be collected: its beginning, and what the socket brings.

    A thread reads it. Reading raises an OSError when the client stops or leaves, and MalformedBody;
    werkzeug makes a response with status 400 of both.
    """

    def __init__(
        self,
        beginning: IO[bytes] | None,
        decoder: BodyDecoder,
        received: bytearray,
        sock: socket.socket,
    ) -> None:
        self._beginning = beginning or io.BytesIO()
        self._decoder, self._received, self._socket = decoder, received, sock
        self._decoded = b""
        # Seconds that were waited, and bytes that came.
        self._waited, self._arrived = 0.0, 0

    def readable(self) -> bool:
        """True: it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See io.RawIOBase."""
        content = self._beginning.read(len(buffer)) or self._next(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _next(self, size: int) -> bytes:
        while not self._decoded and not self._decoder.is_complete:
            self._decoded = self._decoder.decode(self._received)
            if not self._decoded and not self._decoder.is_complete:
                self._received += self._read()
        content, self._decoded = self._decoded[:size], self._decoded[size:]
        return content

    def _read(self) -> bytes:
        poll, began = select.poll(), time.monotonic()
        poll.register(self._socket, select.POLLIN)
        is_ready = poll.poll(STALLED_SECONDS * 1000)
        self._waited += time.monotonic() - began
        if not is_ready or self._waited > _SLOW_SECONDS + self._arrived / _SLOWEST:
            raise TimeoutError("the client stopped in the middle of its body, or is too slow")
        received = self._socket.recv(min(self._decoder.wanted, _READ_AT_ONCE))
        if not received:
            raise ConnectionError("the client left in the middle of its body")
        self._arrived += len(received)
        return received


class ReceivedParser:
    """A request in the place of gunicorn's parser, which would read it from the socket."""

    def __init__(self, take: Callable[[], Any]) -> None:
        self._take = take
        # gunicorn looks into its parser's buffer for a request that was sent at once with this one.
        self.unreader = IterUnreader(())

    def __next__(self) -> Any:
        return self._take()

    def finish_body(self, deadline: float | None = None) -> bool:
        """True: nothing of the body needs to be read from the socket."""
        return True


def _is_hopeless(received: bytearray, begin: int) -> bool:
    """Whether these bytes cannot become a head, so that gunicorn is to say what is wrong.

    They are too long, begin with no letter (TLS: 0x16), or have a line without CR: "GET /\\n".
    """
    if len(received) > LONGEST_HEAD:
        return True
    start = received[:1]
    if start and not start.isalpha() and start != b"\r":
        return True
    return received.count(b"\n", begin) != received.count(b"\r\n", max(0, begin - 1))


def _check_transfer_coding(headers: list[tuple[str, str]]) -> None:
    """Raises UnsupportedTransferCoding (501) for codings beside chunked, as in "gzip, chunked"."""
    codings = ",".join(value for name, value in headers if name == "TRANSFER-ENCODING")
    if codings.strip().lower() != "chunked":
        raise UnsupportedTransferCoding(codings)
