"""Reads whole bodies of responses within a limit: a server may send more than memory holds.

Bodies that are proxied are not read here: they pass in pieces.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import IO, Any, cast

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError
from werkzeug.exceptions import HTTPException

from horde_proxy.content_codings import decoded

LONGEST_BODY = 32_000_000
"""Bytes of any answer that is read as a whole. The longest that is known, the public horde's list
of workers, has less than 2 MB."""
LONGEST_SECONDS = 120.0
"""Seconds that a body may take in all. The time-out of a session is for one read: a body that comes
byte by byte would take years."""
_READ = 65_536
"""Bytes of one read."""


class UnreadableBody(requests.RequestException):
    """A body is too long, or its coding is broken or unknown."""


def with_body(
    response: requests.Response,
    most: int = LONGEST_BODY,
    *,
    seconds: float = LONGEST_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> requests.Response:
    """The same response, whose `content` is its decoded body of at most `most` bytes.

    The request was made with stream=True. Raises UnreadableBody, ReadTimeout where the body takes
    more than so many seconds, and requests' other exceptions where the connection fails; the
    connection is closed then.
    """
    try:
        content = _read(response, most, _RawBody(response.raw, clock() + seconds, clock))
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


def _read(response: requests.Response, most: int, body_as_sent: _RawBody) -> bytes:
    """The decoded body, or a little more than `most` bytes of it."""
    coding = response.headers.get("Content-Encoding", "")
    raw = cast("IO[bytes]", body_as_sent)
    try:
        # Decoding goes piece by piece: a kilobyte of gzip may hold a megabyte.
        body = decoded(raw, coding) if coding else raw
        pieces, left = [], most + 1
        while left > 0 and (piece := body.read(min(left, _READ))):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)
    except requests.RequestException:
        raise
    except ReadTimeoutError as exc:
        raise requests.ReadTimeout(exc) from exc
    except (HTTPError, OSError) as exc:
        raise requests.ConnectionError(exc) from exc


class _RawBody:
    """The body of urllib3's response as it came, to be read like a file until some time."""

    def __init__(self, raw: Any, until: float, clock: Callable[[], float]) -> None:
        self._raw, self._until, self._clock = raw, until, clock

    def read(self, size: int) -> bytes:
        """What has come, at most so many bytes. Raises ReadTimeout when the time is over."""
        if self._clock() > self._until:
            raise requests.ReadTimeout("the answer takes too long")
        # read() would wait for all of them, and each byte would have the whole time-out.
        return bytes(self._raw.read1(size, decode_content=False))
