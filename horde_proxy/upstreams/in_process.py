"""Calling a WSGI app of this same process through requests, without a socket or a thread.

So the proxy talks to its own private horde as it talks to any other. Which app that is, and under
which URL, is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse
from werkzeug.test import create_environ, run_wsgi_app


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
        app_iter, status, headers = run_wsgi_app(self._app, _environ(request))
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


def _environ(request: requests.PreparedRequest) -> Any:
    parts = urlsplit(request.url or "")
    body = request.body or b""
    return create_environ(
        path=parts.path,
        query_string=parts.query,
        method=request.method or "GET",
        headers=dict(request.headers),
        data=body.encode() if isinstance(body, str) else body,
        environ_base={"REMOTE_ADDR": "127.0.0.1"},
    )
