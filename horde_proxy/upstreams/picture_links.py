"""Fetches the pictures that a server's results link to, within bounds.

A link is whatever the server says: it is fetched from that server itself, or from a public
address of the Internet, never from another server of this site. No key goes with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from horde_proxy.errors import UpstreamFailed
from horde_proxy.networks import is_public, parse_address
from horde_proxy.pictures import BadPicture, Raster, decoded
from horde_proxy.response_body import with_body
from horde_proxy.upstreams.public_addresses import PublicAdapter
from horde_proxy.upstreams.sessions import new_session, with_proxy
from horde_proxy.version import VERSION

_MOST_BYTES = 30_000_000
"""Of one picture: the largest of the horde, 3072x3072 pixels as PNG, has less."""
_MOST_SECONDS = 60.0
"""For one picture in all, however slowly its bytes come: 0.5 MB/s for the largest."""
_TIMEOUT = (5.0, 20.0)
_OPTIONS: Mapping[str, Any] = {"timeout": _TIMEOUT, "allow_redirects": False, "stream": True}
"""Of each call. Redirects are not followed: they could lead to a host of this site."""
_TRIES = 3
_PORTS = {"http": 80, "https": 443}
# AI-Horde gives links to a storage with S3's API, which at home is often on the same machine: those
# of MinIO, Garage, SeaweedFS, Ceph and LocalStack. No other service is usual there.
_STORAGE_PORTS = frozenset({9000, 3900, 8333, 7480, 4566})
_AGENT = f"horde-proxy/{VERSION}"


class PictureLost(UpstreamFailed):
    """A picture was made, and cannot be fetched."""

    code = "picture_lost"


class PictureLinks:
    """Fetches pictures of one server, whose API is at `base`. Thread-safe.

    `open_session` makes a session for one picture: True for the server's own host.
    """

    def __init__(
        self,
        base: str,
        *,
        proxy_url: str | None = None,
        open_session: Callable[[bool], requests.Session] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._own, self._proxy_url = urlsplit(base), proxy_url
        self._open_session = open_session or self._session

    def fetch(self, image: str) -> tuple[bytes, Raster]:
        """(the bytes, the picture) of a result: a link, or base64. Raises PictureLost."""
        try:
            data = self._download(image) if "://" in image[:10] else decoded(image)
            return data, Raster.read(data, most_bytes=_MOST_BYTES)
        except BadPicture as exc:
            raise PictureLost(f"The picture cannot be used. {exc}") from exc

    def upload(self, url: str, data: bytes, media_type: str) -> None:
        """Send a picture to a link that takes it. Raises PictureLost."""
        headers = {"User-Agent": _AGENT, "Content-Type": media_type}
        self._answer(
            url,
            "uploaded",
            lambda session: session.put(url, data=data, headers=headers, **_OPTIONS),
        )

    def _download(self, url: str) -> bytes:
        headers = {"User-Agent": _AGENT}
        return self._answer(
            url, "fetched", lambda session: session.get(url, headers=headers, **_OPTIONS)
        )

    def _answer(
        self, url: str, word: str, send: Callable[[requests.Session], requests.Response]
    ) -> bytes:
        """The body that a link is answered with. `word` is for the error. Raises PictureLost."""
        is_own = self._is_own(url)
        error: Exception | None = None
        until = self._clock() + _MOST_SECONDS
        for _ in range(_TRIES):
            if (seconds_left := until - self._clock()) <= 0:
                break
            # A session of its own: links are rare, and sessions are not made for several threads.
            with self._open_session(is_own) as session:
                try:
                    response = send(session)
                    content = with_body(
                        response, _MOST_BYTES, seconds=seconds_left, clock=self._clock
                    ).content
                except (requests.RequestException, ValueError) as exc:
                    error = exc
                    continue
            # A redirect is none: it could lead to a host of this site.
            if 200 <= response.status_code < 300:
                return content
            error = None
        # The exception's text may contain the link, whose signature lets anybody read the picture.
        reason = type(error).__name__ if error else f"status {response.status_code}"
        raise PictureLost(f"The picture cannot be {word} ({reason}).")

    def _is_own(self, url: str) -> bool:
        """Whether a link leads to the server itself. Raises PictureLost for one to nowhere.

        An address in a link is looked at here, that of a name where the connection is made.
        """
        try:
            parts = urlsplit(url)
            hostname, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
        except ValueError as exc:
            raise PictureLost("The link to the picture is not valid.") from exc
        if parts.scheme not in ("http", "https") or not hostname:
            raise PictureLost("The link to the picture is not valid.")
        is_own = hostname == self._own.hostname and port in self._own_ports()
        if not is_own and parse_address(hostname) is not None and not is_public(hostname):
            raise PictureLost("The link to the picture leads to a private address.")
        return is_own

    def _own_ports(self) -> set[int | None]:
        """Those of the server's API and of a storage. Other ports of its host are other services.

        A server behind a proxy with TLS may write links with http, so that both usual ones count.
        """
        port = self._own.port or _PORTS.get(self._own.scheme)
        return {*(_PORTS.values() if port in _PORTS.values() else [port]), *_STORAGE_PORTS}

    def _session(self, is_own: bool) -> requests.Session:
        return with_proxy(new_session(None if is_own else PublicAdapter()), self._proxy_url)
