"""Connections to URLs that strangers choose: only to addresses of the Internet.

The address is checked where the connection is made: a name may resolve to another address later.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from requests.adapters import HTTPAdapter
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
