"""Bodies that were compressed for their way (RFC 9110, 8.4): decoded piece by piece, within bounds.

No Flask and no limit of a whole body here: whoever reads a DecodedStream stops where it is enough.
"""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Callable
from typing import IO, Any, ClassVar, Protocol

from werkzeug.exceptions import BadRequest, UnsupportedMediaType

_PIECE = 65_536
"""Bytes that are read at a time."""
_MOST_MEMBERS = 100
"""Members of a gzip or frames of a zstd body: pigz and pzstd write some. Empty ones cost time."""
_FREE_INPUT = 1024 * 1024
"""Bytes that may be read before anything comes out: empty blocks could go on for ever."""
_WINDOW_BITS = 23
"""RFC 9659 lets a zstd body ask for 8 MB of memory; more is for files."""
_GZIP, _ZLIB, _DEFLATE = 31, 15, -15
"""zlib's numbers for the three wrappings of the same compression."""
ACCEPTED = "gzip, deflate, zstd"


class UnsupportedCoding(UnsupportedMediaType):
    """415: a Content-Encoding that is not decoded here. `headers` belong to the response."""

    # RFC 9110, 15.5.16: the client learns from it what to send.
    headers: ClassVar = {"Accept-Encoding": ACCEPTED}

    def __init__(self, coding: str) -> None:
        super().__init__(
            f"The Content-Encoding {coding[:50]!r} is not supported. Send the body without one, or "
            f"with one of these: {ACCEPTED}."
        )


class _Decoder(Protocol):
    """One member of a compressed body. zstd's decoders are like this already."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most so many of the next bytes."""


class _Inflater:
    """zlib's decoder with the interface of the others."""

    def __init__(self, wrapping: int) -> None:
        self._object = zlib.decompressobj(wrapping)
        self.eof, self.needs_input, self.unused_data = False, True, b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        content = self._object.decompress(self._object.unconsumed_tail + data, max_length)
        self.eof, self.unused_data = self._object.eof, self._object.unused_data
        self.needs_input = not self._object.unconsumed_tail
        return content


class DecodedStream(io.RawIOBase):
    """The content of a compressed body. Raises BadRequest where it is malformed or cut off."""

    def __init__(self, body: IO[bytes], coding: str) -> None:
        self._body, self._coding = body, coding
        self._new = _CODINGS[coding]
        self._decoder: _Decoder | None = None
        self._input = b""
        self._members = self._taken = self._given = 0

    def readable(self) -> bool:
        """True: it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See io.RawIOBase."""
        content = self._next(len(buffer))
        buffer[: len(content)] = content
        self._given += len(content)
        return len(content)

    def _next(self, size: int) -> bytes:
        """At most so many of the next bytes; none at the end."""
        content = b""
        while not content and self._begin_member():
            assert self._decoder is not None
            content = self._decode(self._decoder, size)
            if self._decoder.eof:
                self._input, self._decoder = self._decoder.unused_data, None
        return content

    def _begin_member(self) -> bool:
        """Whether there is a member to decode. Between two of them, the body may end."""
        if self._decoder is None:
            self._input = self._input or self._read()
            # tar and some file systems fill the rest of a gzip file with zeros.
            if not self._input or (self._members and not self._input.strip(b"\0")):
                return False
            self._members += 1
            if self._members > _MOST_MEMBERS:
                raise self._malformed()
            self._decoder = self._new(self._input)
        return True

    def _decode(self, decoder: _Decoder, size: int) -> bytes:
        data, self._input = self._input, b""
        if decoder.needs_input and not data:
            data = self._read()
        is_end = decoder.needs_input and not data
        try:
            content = decoder.decompress(data, size)
        except (zlib.error, _zstd().ZstdError) as exc:
            raise self._malformed() from exc
        # zlib may hold some bytes back after the last input; without any, the rest is missing.
        if is_end and not content and not decoder.eof:
            raise self._malformed()
        return content

    def _read(self) -> bytes:
        data = self._body.read(_PIECE)
        self._taken += len(data)
        if self._taken > _FREE_INPUT + 2 * self._given:
            raise self._malformed()
        return data

    def _malformed(self) -> BadRequest:
        return BadRequest(f"The request body is not valid {self._coding}, or it is cut off.")


def decoded(body: IO[bytes], header: str) -> IO[bytes]:
    """The content of a body with this Content-Encoding. Raises UnsupportedCoding.

    One coding at most: each further one would multiply the work that few bytes can ask for.
    """
    codings = [coding.strip().lower() for coding in header.split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if not codings:
        return body
    if len(codings) > 1 or codings[0] not in _CODINGS:
        raise UnsupportedCoding(header)
    return io.BufferedReader(DecodedStream(body, codings[0]), _PIECE)


def _gzip(_: bytes) -> _Decoder:
    return _Inflater(_GZIP)


def _deflate(beginning: bytes) -> _Decoder:
    """RFC 9110 means zlib's format, but some clients send the bare one (8.4.1.2 of it)."""
    # zlib's first two bytes are a multiple of 31, and its method is 8: 0x78 0x9c.
    is_zlib = beginning[0] & 15 == 8 and int.from_bytes(beginning[:2], "big") % 31 == 0
    return _Inflater(_ZLIB if is_zlib else _DEFLATE)


def _zstandard(_: bytes) -> _Decoder:
    module = _zstd()
    options = {module.DecompressionParameter.window_log_max: _WINDOW_BITS}
    decoder: _Decoder = module.ZstdDecompressor(options=options)
    return decoder


def _zstd() -> Any:
    """The module for zstd, which Python has from 3.14 on."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


_CODINGS: dict[str, Callable[[bytes], _Decoder]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    # Codex sends it when enable_request_compression is set.
    "zstd": _zstandard,
}
