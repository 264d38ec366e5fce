"""Connections whose answers are read as RFC 9112 demands: what http.client takes, and should not.

Interim answers are skipped, and an answer without one clear end is refused: whoever reads its
length otherwise takes its rest for the next answer. What an answer means is not known here.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ProtocolError

from horde_proxy.errors import UpstreamFailed

_MOST_INTERIM = 1000
"""Interim answers before the final one. A 102 every second lasts longer than any time-out."""
_MOST_TRAILERS = 100
"""Lines after a chunked body, as many as http.client takes for headers."""
_LONGEST_LINE = 65_536
"""Bytes of a chunk's first line or of a trailer; http.client's own bound for a header."""
_PIECE = 65_536
"""Bytes that are read at once, at most."""
SHORT = 16_384
"""Bytes of a request, with its head, that are sent at once. Joining more costs what it saves, and
so many fit into the buffer of any idle connection."""
# "0", "42": no sign, no dot, no list. Eighteen digits are more than any disk holds.
_LENGTH = re.compile(r"[0-9]{1,18}")
# RFC 9112, 7.1: "1a2b\r\n" or "5;name=value\r\n". Some old servers put spaces after the size.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")


class _HeadLines:
    """The lines of a head. http.client takes one that breaks off for an answer without a body."""

    def __init__(self, stream: Any) -> None:
        self.is_whole = False
        self.close = stream.close
        self._readline = stream.readline

    def readline(self, limit: int) -> bytes:
        """The next line. An empty one ends the head."""
        line: bytes = self._readline(limit)
        self.is_whole = line in (b"\r\n", b"\n")
        return line


class FramedResponse(http.client.HTTPResponse):
    """A final answer with one clear end."""

    def begin(self) -> None:
        """Read the head. Raises UpstreamFailed for one that leaves in doubt where the body ends."""
        if self.headers is None:
            self._read_final_head()
            self._set_framing()

    def chunks(self) -> Iterator[bytes]:
        """What comes of a chunked body, without waiting for more. Raises ProtocolError, OSError.

        Chunks that come together are one piece: a fast server sends many events in one packet, and
        each piece is a packet for the client.
        """
        stream: Any = self.fp
        body = ChunkedBody()
        while not body.is_complete:
            arrived = stream.read1(_PIECE)
            data = body.data_of(arrived)
            if data:
                yield data
            body.check()
        # Whatever comes behind its end, this connection is not used again then.
        if not body.rest:
            self.close()

    def _read_final_head(self) -> None:
        """http.client skips 100 only; 102 and 103 are interim as well (RFC 9110, 15.2)."""
        state: Any = self
        for _ in range(_MOST_INTERIM):
            self._read_head()
            if self.status == 101:
                raise UpstreamFailed("it switched to another protocol, which nobody requested")
            if self.status >= 200:
                return
            state.headers = state.msg = None
        raise UpstreamFailed("it sent interim answers only")

    def _read_head(self) -> None:
        state: Any = self
        stream = state.fp
        lines = state.fp = _HeadLines(stream)
        try:
            super().begin()
        finally:
            # It is None after what is no HTTP.
            if state.fp is lines:
                state.fp = stream
        if not lines.is_whole:
            raise http.client.RemoteDisconnected("the answer ended within its head")

    def _set_framing(self) -> None:
        """RFC 9112, 6.3. The headers are corrected as well: others read and pass them on."""
        coding = ",".join(self.headers.get_all("Transfer-Encoding") or ()).strip().lower()
        lengths = self.headers.get_all("Content-Length") or []
        if coding not in ("", "identity"):
            self._set_chunked(coding, is_ambiguous=bool(lengths))
        elif lengths:
            length = _only_length(lengths)
            if lengths != [str(length)]:
                del self.headers["Content-Length"]
                self.headers["Content-Length"] = str(length)
            if self.length is None:
                self.length = length

    def _set_chunked(self, coding: str, *, is_ambiguous: bool) -> None:
        if coding != "chunked":
            raise UpstreamFailed(f"it sent its answer in an unknown coding ({coding[:40]!r})")
        state: Any = self
        # A HEAD, a 204 and a 304 have no body, whatever their headers say.
        self.chunked = state._method != "HEAD" and self.status not in (204, 304)
        state.length = None if self.chunked else 0
        # What comes after such an answer may belong to it: this connection is not used again.
        self.will_close = self.will_close or is_ambiguous or self.version < 11
        del self.headers["Content-Length"]


class ChunkedBody:
    """The data of a chunked body, whose bytes come in any portions (RFC 9112, 7.1). No I/O."""

    def __init__(self) -> None:
        self.is_complete = False
        self.rest = b""
        """The beginning of a line; of a complete body, what came behind its end."""
        self._error: ProtocolError | None = None
        self._left = 0
        """Bytes of data until the end of the chunk, without the line's end behind it."""
        self._is_behind_data = False
        self._trailers: int | None = None
        """Lines behind the last chunk by now; None before it."""

    def check(self) -> None:
        """Raises ProtocolError for what came behind the data so far."""
        if self._error is not None:
            raise self._error

    def data_of(self, arrived: bytes) -> bytes:
        """The data among the next bytes, maybe none; b"" is the connection's end. See check()."""
        data: list[bytes] = []
        try:
            self._read(arrived, data)
        except ProtocolError as exc:
            self._error = exc
        return b"".join(data)

    def _read(self, arrived: bytes, data: list[bytes]) -> None:
        if not arrived:
            self._end()
        buffer, at = self.rest + arrived, 0
        while not self.is_complete:
            if self._left:
                piece = buffer[at : at + self._left]
                if not piece:
                    break
                at += len(piece)
                self._left -= len(piece)
                self._is_behind_data = not self._left
                data.append(piece)
                continue
            # Its line may never end.
            if self._is_behind_data and not b"\r\n".startswith(buffer[at : at + 2]):
                raise ProtocolError("a chunk is longer than it said")
            end = buffer.find(b"\n", at, at + _LONGEST_LINE) + 1
            if not end:
                if len(buffer) - at >= _LONGEST_LINE:
                    raise ProtocolError("a line between chunks does not end")
                break
            self._read_line(buffer[at:end])
            at = end
        self.rest = buffer[at:]

    def _end(self) -> None:
        # Some servers close without the last, empty line: the body is complete even so.
        if self._trailers is None:
            raise ProtocolError("the answer ended within a chunk")
        self.is_complete = True

    def _read_line(self, line: bytes) -> None:
        if self._trailers is not None:
            self._trailers += 1
            self.is_complete = line in (b"\r\n", b"\n")
            if self._trailers > _MOST_TRAILERS:
                raise ProtocolError("the trailers do not end")
        elif self._is_behind_data:
            self._is_behind_data = False
        else:
            match = _CHUNK_LINE.fullmatch(line)
            if not match:
                raise ProtocolError("no chunk begins where one has to")
            self._left = int(match[1], 16)
            if not self._left:
                self._trailers = 0


def _only_length(lengths: list[str]) -> int:
    """The one value of all Content-Length headers: "5, 5" is a 5. Raises UpstreamFailed."""
    values = {part.strip() for value in lengths for part in value.split(",")}
    value = values.pop()
    if values or not _LENGTH.fullmatch(value):
        raise UpstreamFailed("it sent an answer without one clear length")
    return int(value)


class FramedConnection(HTTPConnection):
    """A connection with FramedResponses, which sends the head of a request with a short body.

    http.client sends them one after the other, as two packets: one system call more for us, and
    for the server a wake-up that brings it half a request.
    """

    response_class = FramedResponse
    _held: bytes | None = None
    """The beginning of a request, until more of it follows; None: everything is sent at once."""

    def request(self, *arguments: Any, **options: Any) -> None:
        """Send a request."""
        self._held = b""
        try:
            super().request(*arguments, **options)
            held = self._held
        finally:
            self._held = None
        if held:
            self.send(held)

    def send(self, data: Any) -> None:
        """Send a piece, or hold it back while it is short and the beginning of a request."""
        held = self._held
        if held is not None:
            if isinstance(data, bytes) and len(held) + len(data) <= SHORT:
                self._held = held + data
                return
            # From now on as well: a connection that is only made now sends for itself.
            self._held = None
            if held:
                super().send(held)
        super().send(data)


class _FramedSecureConnection(FramedConnection, HTTPSConnection):
    """The same over TLS."""


class _FramedPool(HTTPConnectionPool):
    ConnectionCls = FramedConnection


class _FramedSecurePool(HTTPSConnectionPool):
    ConnectionCls = _FramedSecureConnection


FRAMED_POOLS: dict[str, type[HTTPConnectionPool]] = {
    "http": _FramedPool,
    "https": _FramedSecurePool,
}
"""The classes of pools, by the scheme of the URLs."""
