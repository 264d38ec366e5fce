"""Reads whole bodies of responses within a limit: a server may send more than memory holds.

Bodies that are proxied are not read here: they pass in pieces.
"""

from __future__ import annotations

from typing import IO, Any, cast

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError
from werkzeug.exceptions import HTTPException

from horde_proxy.content_codings import decoded

LONGEST_BODY = 32_000_000
"""Bytes of any answer that is read as a whole. The longest that is known, the public horde's list
of workers, has less than 2 MB."""
_READ = 65_536
"""Bytes of one read."""


class UnreadableBody(requests.RequestException):
    """A body is too long, or its coding is broken or unknown."""


def with_body(response: requests.Response, most: int = LONGEST_BODY) -> requests.Response:
    """The same response, whose `content` is its decoded body of at most `most` bytes.

    The request was made with stream=True. Raises UnreadableBody, and requests' other exceptions
    where the connection fails; the connection is closed then.
    """
    try:
        content = _read(response, most)
        if len(content) > most:
            raise UnreadableBody(f"an answer of more than {most // 1_000_000} MB")
    except HTTPException as exc:
        response.close()
        raise UnreadableBody("an answer in a coding that cannot be decoded") from exc
    except BaseException:
        response.close()
        raise
    response._content = content
    return response


def _read(response: requests.Response, most: int) -> bytes:
    """The decoded body, or a little more than `most` bytes of it."""
    coding = response.headers.get("Content-Encoding", "")
    raw = cast("IO[bytes]", _RawBody(response.raw))
    try:
        # Decoding goes piece by piece: a kilobyte of gzip may hold a megabyte.
        body = decoded(raw, coding) if coding else raw
        pieces, left = [], most + 1
        while left > 0 and (piece := body.read(min(left, _READ) if coding else left)):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)
    except ReadTimeoutError as exc:
        raise requests.ReadTimeout(exc) from exc
    except (HTTPError, OSError) as exc:
        raise requests.ConnectionError(exc) from exc


class _RawBody:
    """The body of urllib3's response as it came, to be read like a file."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def read(self, size: int) -> bytes:
        """At most so many bytes."""
        return bytes(self._raw.read(size, decode_content=False))
