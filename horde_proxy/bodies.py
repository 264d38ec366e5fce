"""The bodies of requests, for all of our Flask apps: decoded from their coding, and bounded.

Whoever reads a body, as bytes, a form or a stream, reads it through this class.
"""

from __future__ import annotations

from functools import cached_property
from typing import IO, cast

import flask
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wsgi import LimitedStream, get_input_stream

from horde_proxy.content_codings import decoded


class BoundedStream(LimitedStream):
    """At most `limit` bytes of a stream. Raises RequestEntityTooLarge where there are more.

    werkzeug's own would cut off a body that is read at once, and refuse one of just this length.
    """

    def on_exhausted(self) -> None:
        """The limit is reached: look whether there is more."""
        try:
            has_more = bool(self._stream.read(1))
        except OSError as exc:
            self.on_disconnect(exc)
        else:
            if has_more:
                raise RequestEntityTooLarge()

    def readall(self) -> bytes:
        """The whole content."""
        content = super().readall()
        if self.is_exhausted:
            self.on_exhausted()
        return content


class Request(flask.Request):
    """A request whose body is read decoded, and of which no more is decoded than is allowed.

    Headers stay as they came: Content-Length is the length of the body before it was decoded.
    """

    # Werkzeug's is a cached property as well; what it returns is kept for the next reader.
    @cached_property
    def stream(self) -> IO[bytes]:
        """The content of the body, to be read once. See `max_content_length`.

        Raises RequestEntityTooLarge, UnsupportedCoding, and while it is read BadRequest.
        """
        most, length = self.max_content_length, self.content_length
        if most is not None and length is not None and length > most:
            raise RequestEntityTooLarge()
        stream = decoded(get_input_stream(self.environ), self.headers.get("Content-Encoding", ""))
        if most is None:
            return stream
        return cast("IO[bytes]", BoundedStream(stream, most, is_max=True))
