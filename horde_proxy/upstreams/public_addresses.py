"""Connections to URLs that strangers choose: only to addresses of the Internet.

The address is checked where the connection is made: a name may resolve to another address later.
An HTTP proxy makes its connections itself. There the address is checked before the call, as far as
this machine knows it; what the proxy may reach is its own matter.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from requests import ConnectionError, PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

from horde_proxy.networks import is_public


class _PrivateAddress(OSError):
    """A name that has no public address."""


def public_address(name: str, port: int, resolve: Callable[..., Any] = socket.getaddrinfo) -> str:
    """The first address of a name. Raises OSError unless all of them are public."""
    addresses = [str(info[4][0]) for info in resolve(name, port, type=socket.SOCK_STREAM)]
    if not addresses or not all(map(is_public, addresses)):
        raise _PrivateAddress("its address is not public")
    return addresses[0]


class _PublicConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        name = self._dns_host
        try:
            # Certificates are checked against `host`, which is the name again afterwards.
            self._dns_host = public_address(name, self.port or 443)
            return super()._new_conn()
        except OSError as exc:
            raise NewConnectionError(self, str(exc)) from exc
        finally:
            self._dns_host = name


class PublicTlsConnection(_PublicConnection, HTTPSConnection):
    """Resolves as `_PublicConnection`, and speaks TLS."""


class _PublicPool(HTTPConnectionPool):
    ConnectionCls = _PublicConnection


class _PublicTlsPool(HTTPSConnectionPool):
    ConnectionCls = PublicTlsConnection


class PublicAdapter(HTTPAdapter):
    """Connections to public addresses only."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PublicPool, "https": _PublicTlsPool}

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        """The response. Raises ConnectionError for a name of this site."""
        url = request.url or ""
        if select_proxy(url, options.get("proxies") or {}):
            _check_address(url)
        return super().send(request, *args, **options)


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    try:
        public_address(parts.hostname or "", parts.port or 443)
    except _PrivateAddress as exc:
        raise ConnectionError(str(exc)) from exc
    # Only the proxy knows the names of the Internet, in many offices.
    except OSError:
        pass
