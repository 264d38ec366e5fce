"""Where a request's body ends, and which of its bytes are content: RFC 9112, sections 6 and 7.

Bytes in, bytes out: nothing here reads from a socket, so that a body may come in any pieces.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Protocol

_LONGEST_SIZE_LINE = 1024
"""Bytes of "1f40;name=value": clients send no extensions, and 16 digits hold any size."""
_LONGEST_TRAILERS = 8192
"""Bytes of the fields after the last chunk. They are dropped, as WSGI has no place for them."""
_FREE_CHUNKS = 10_000
_SMALLEST_CHUNK = 256
"""Mean bytes in the chunks beyond the free ones: each takes 4 us, and so 32 MB half a second."""
# "1f40", "0;name=value", '5 ; name="a b"': a size and extensions of printable characters.
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")


class MalformedBody(ValueError):
    """A body whose end cannot be known. The connection cannot be used any longer."""


class BodyDecoder(Protocol):
    """Takes a body from the bytes of a connection."""

    @property
    def is_complete(self) -> bool:
        """Whether the last byte of the body was taken."""

    @property
    def wanted(self) -> int:
        """How many bytes may be read now without reading far beyond the body."""

    def decode(self, received: bytearray) -> bytes:
        """The next content; the bytes that it came in are removed. Raises MalformedBody."""


class LengthDecoder:
    """A body of the length that Content-Length says, or 0 without one."""

    def __init__(self, length: int) -> None:
        self.wanted = length

    @property
    def is_complete(self) -> bool:
        """See BodyDecoder."""
        return self.wanted == 0

    def decode(self, received: bytearray) -> bytes:
        """See BodyDecoder."""
        content = bytes(received[: self.wanted])
        del received[: len(content)]
        self.wanted -= len(content)
        return content


class _Expected(Enum):
    """What comes next in a chunked body."""

    SIZE_LINE = auto()
    DATA = auto()
    LINE_END = auto()
    TRAILERS = auto()
    NOTHING = auto()


class ChunkedDecoder:
    """A body with Transfer-Encoding: chunked.

    Strict, since a proxy in front that reads sizes in another way would see other requests: lines
    end with CR LF, a size has nothing before and only extensions after it.
    """

    wanted = 65_536

    def __init__(self) -> None:
        self._expected = _Expected.SIZE_LINE
        # Bytes of the current chunk that are still to come.
        self._remaining = 0
        self._chunks = self._decoded = self._trailers = 0

    @property
    def is_complete(self) -> bool:
        """See BodyDecoder."""
        return self._expected is _Expected.NOTHING

    def decode(self, received: bytearray) -> bytes:
        """See BodyDecoder."""
        pieces: list[bytes] = []
        while self._step(received, pieces):
            pass
        return b"".join(pieces)

    def _step(self, received: bytearray, pieces: list[bytes]) -> bool:
        """Take one part of the body. False when more bytes are needed, or none."""
        if self._expected is _Expected.SIZE_LINE:
            return self._take_size(received)
        if self._expected is _Expected.DATA:
            return self._take_data(received, pieces)
        if self._expected is _Expected.LINE_END:
            return self._take_line_end(received)
        if self._expected is _Expected.TRAILERS:
            return self._take_trailer(received)
        return False

    def _take_size(self, received: bytearray) -> bool:
        line = _take_line(received, _LONGEST_SIZE_LINE)
        if line is None:
            return False
        match = _SIZE_LINE.fullmatch(line)
        if not match:
            raise MalformedBody("A chunk of the request body begins without its size.")
        self._remaining = int(match[1], 16)
        self._expected = _Expected.DATA if self._remaining else _Expected.TRAILERS
        self._chunks += 1
        if self._chunks > _FREE_CHUNKS + self._decoded // _SMALLEST_CHUNK:
            raise MalformedBody("The request body has too many small chunks.")
        return True

    def _take_data(self, received: bytearray, pieces: list[bytes]) -> bool:
        piece = bytes(received[: self._remaining])
        del received[: len(piece)]
        pieces.append(piece)
        self._remaining -= len(piece)
        self._decoded += len(piece)
        if self._remaining == 0:
            self._expected = _Expected.LINE_END
        return self._remaining == 0

    def _take_line_end(self, received: bytearray) -> bool:
        if not b"\r\n".startswith(received[:2]):
            raise MalformedBody("A chunk of the request body is longer than its size.")
        if len(received) < 2:
            return False
        del received[:2]
        self._expected = _Expected.SIZE_LINE
        return True

    def _take_trailer(self, received: bytearray) -> bool:
        line = _take_line(received, _LONGEST_TRAILERS)
        if line is None:
            return False
        self._trailers += len(line) + 2
        if self._trailers > _LONGEST_TRAILERS:
            raise MalformedBody("The request body has too many trailers.")
        if not line:
            self._expected = _Expected.NOTHING
        return bool(line)


def _take_line(received: bytearray, longest: int) -> bytes | None:
    """The next line without its CR LF, which are removed as well; None while it is incomplete."""
    end = received.find(b"\r\n", 0, longest + 2)
    line = bytes(received[:end] if end >= 0 else received[: longest + 2])
    if b"\n" in line or (end < 0 and len(received) > longest + 1):
        raise MalformedBody("A line of the chunked request body is malformed.")
    if end < 0:
        return None
    del received[: end + 2]
    return line
