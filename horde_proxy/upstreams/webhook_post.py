"""Posts to webhooks, whose URLs strangers choose: only to addresses of the Internet by default.

The address is checked where the connection is made: a name may resolve to another address later.
Redirects are not followed, and no answer is read.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

from horde_proxy.networks import is_public
from horde_proxy.upstreams.sessions import new_session
from horde_proxy.version import VERSION

_AGENT = f"horde-proxy/{VERSION}"
_TIMEOUT = (3.0, 5.0)
"""Seconds to connect and to wait for the answer; the real horde allows 3 in all."""


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


class _PublicAdapter(HTTPAdapter):
    """Connections to public addresses only."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PublicPool, "https": _PublicTlsPool}


class WebhookPost:
    """Posts to any URL; to private addresses only with `private`. Thread-safe."""

    def __init__(self, *, private: bool = False) -> None:
        self._private = private

    def __call__(self, url: str, content: bytes, headers: Mapping[str, str]) -> str | None:
        """Post a body. None, or in a few words why the receiver did not get it."""
        # A session of its own: it is used once, and sessions are not made for several threads.
        with new_session(None if self._private else _PublicAdapter()) as session:
            try:
                with session.post(
                    url,
                    data=content,
                    headers={"User-Agent": _AGENT, **headers},
                    timeout=_TIMEOUT,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    status = response.status_code
            except (requests.RequestException, ValueError) as exc:
                # The whole message may contain the URL, and so the receiver's secret.
                return _reason(exc)
        return None if 200 <= status < 300 else f"it answered {status}"


def _reason(exc: Exception) -> str:
    if "not public" in str(exc):
        return "its address is not public (private_horde.webhooks)"
    return type(exc).__name__
