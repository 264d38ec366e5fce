"""Calling a WSGI app of this same process, without a socket or a thread.

Through requests, the proxy so talks to its own private horde as it talks to any other. Calls of its
own API need no session: api/internal_call.py uses `wsgi_environ` and `run_app`. Which app
that is, and under which URL, is not known here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from io import BytesIO
from typing import Any, cast
from urllib.parse import unquote_to_bytes, urlsplit

import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse
from werkzeug.datastructures import Headers
from werkzeug.test import run_wsgi_app

# PEP 3333 requires these. Threads of this process may call the app at the same time.
_SERVER = {
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
}


class WSGIAdapter(BaseAdapter):
    """Mount it on a session: requests to that prefix are answered by the app."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        self._app = app

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The app's whole answer; the time-outs have nothing to measure.

        An event stream is read as it comes, with `raw.read1`.
        """
        app_iter, status, headers = run_app(self._app, _environ(request))
        is_stream = headers.get("Content-Type", "").startswith("text/event-stream")
        body = _GrowingBody(app_iter) if is_stream else BytesIO(_joined(app_iter))
        raw = HTTPResponse(
            body=cast(Any, body),
            status=int(status.split()[0]),
            reason=status.partition(" ")[2],
            headers=dict(headers),
            preload_content=False,
        )
        response = requests.Response()
        response.status_code, response.reason = raw.status, raw.reason or ""
        response.headers.update(raw.headers)
        response.raw, response.request, response.url = raw, request, request.url or ""
        response.encoding = requests.utils.get_encoding_from_headers(response.headers)
        if not stream:
            _ = response.content  # reads the whole body
        return response

    def close(self) -> None:
        """Nothing is held open."""


class _GrowingBody:
    """An app's answer as a file: a read returns the next piece, however long it is."""

    closed = False

    def __init__(self, pieces: Any) -> None:
        self._pieces, self._iterator = pieces, iter(pieces)

    def read1(self, size: int = -1) -> bytes:
        """The next piece; b"" at the end. Pieces are events, which are shorter than any read."""
        return next(self._iterator, b"")

    read = read1

    def close(self) -> None:
        """End the app's work on the answer."""
        self.closed = True
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()


def _joined(pieces: Any) -> bytes:
    try:
        return b"".join(pieces)
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


def run_app(app: Any, environ: dict[str, Any]) -> tuple[Any, str, Headers]:
    """(the pieces of the app's answer, the status as in "404 NOT FOUND", the headers).

    Whoever reads the pieces calls their `close`, if they have one (PEP 3333).
    """
    # Werkzeug keeps it with its tests; what it does is the same for any call.
    return run_wsgi_app(app, environ)


def wsgi_environ(method: str, path: bytes, body: bytes) -> dict[str, Any]:
    """The environ of PEP 3333 for a call from this machine, without headers. Path: unquoted.

    create_environ of werkzeug.test makes one too, but took as long as the rest of a call.
    """
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        # WSGI's strings hold bytes as Latin-1.
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": "",
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        **_SERVER,
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
    }
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    return environ


def _environ(request: requests.PreparedRequest) -> dict[str, Any]:
    parts = urlsplit(request.url or "")
    # An upload's body is a file.
    body: Any = request.body or b""
    content = body.read() if hasattr(body, "read") else body
    content = content.encode() if isinstance(content, str) else content
    environ = wsgi_environ(request.method or "GET", unquote_to_bytes(parts.path), content)
    environ["QUERY_STRING"] = parts.query
    # Links in the answer lead to where the request went.
    environ["HTTP_HOST"] = parts.netloc.rpartition("@")[2]
    environ.update((_variable(name), value) for name, value in request.headers.items())
    return environ


def _variable(header: str) -> str:
    """A header's name in the environ, such as HTTP_ACCEPT; these two stand there without HTTP_."""
    name = header.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
