"""Answers that a server compressed although it was asked not to: decoded where they enter.

Errors, usage and the end of a stream are read in plain bytes, and an error of ours cannot be added
to compressed ones. What is not known here (brotli) passes as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from werkzeug.exceptions import BadRequest

from horde_proxy.content_codings import DecodedStream
from horde_proxy.errors import UpstreamFailed
from horde_proxy.upstreams.proxying import Headers

_CODINGS = frozenset({"gzip", "x-gzip", "deflate", "zstd"})
_READ = 65_536
"""Bytes of one piece, at most, however much a small one unpacks to."""
# Answers without a body, and parts of one, which cannot be decoded.
_NOT_DECODED = frozenset({204, 206, 304})


class _Pieces:
    """Pieces of a body as a file: one read gives what has come."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, _: int) -> bytes:
        return next(self._pieces, b"")


def decoded(
    status: int, headers: Headers, pieces: Iterator[bytes], method: str | None
) -> tuple[Headers, Iterator[bytes]]:
    """The headers and the body without a Content-Encoding, if it is one that is known."""
    coding = next((value for name, value in headers if name.lower() == "content-encoding"), "")
    coding = coding.strip().lower()
    if coding not in _CODINGS or status in _NOT_DECODED or method == "HEAD":
        return headers, pieces
    dropped = ("content-encoding", "content-length")
    plain = [(name, value) for name, value in headers if name.lower() not in dropped]
    return plain, _decoded_pieces(pieces, coding)


def _decoded_pieces(pieces: Iterator[bytes], coding: str) -> Iterator[bytes]:
    body: Any = _Pieces(pieces)
    stream = DecodedStream(body, coding)
    try:
        while piece := stream.read(_READ):
            yield piece
    except BadRequest as exc:
        raise UpstreamFailed(f"it sent an answer that is not valid {coding}, or cut off") from exc
