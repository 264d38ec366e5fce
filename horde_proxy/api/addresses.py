"""Addresses of clients and proxies: which are trusted, which are this machine's. No Flask here.

`peer` is the address of a connection, "" for a Unix socket. The functions here alone decide whose
forwarding headers are believed.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from urllib.parse import urlsplit

from werkzeug.datastructures import Headers

from horde_proxy.networks import parse_address

_FORWARDING_HEADERS = frozenset(
    {
        "forwarded",  # RFC 7239
        "via",  # RFC 9110, 7.6.3
        "x-real-ip",  # nginx
        "x-client-ip",  # Apache, Azure
        "x-cluster-client-ip",  # Rackspace, Riverbed
        "true-client-ip",  # Akamai, Cloudflare
        "fastly-client-ip",
        "fly-client-ip",
        "cdn-loop",  # RFC 8586
        "x-amzn-trace-id",  # load balancers of AWS, also those that are told to add nothing else
    }
)
_FORWARDING_PREFIXES = ("x-forwarded", "x-original-", "x-envoy-", "cf-", "tailscale-")
"""Headers that a reverse proxy adds: X-Forwarded-For, -Host, -Proto and so on; X-Original-Host and
-Forwarded-For of Azure and Kubernetes; what Envoy, Cloudflare's and Tailscale's tunnels add."""


class TrustedProxies:
    """The proxies whose X-Forwarded-* headers are believed: addresses or networks, 10.0.0.0/8."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        # "*" is gunicorn's, for the scheme; to believe every client's header would be a hole.
        self._networks = [ip_network(entry) for entry in entries if entry != "*"]

    def __contains__(self, address: str | None) -> bool:
        if not self._networks:
            return False
        parsed = parse_address(address or "")
        return parsed is not None and any(parsed in network for network in self._networks)


def is_forwarded(headers: Headers) -> bool:
    """Whether a request came through a reverse proxy, as far as its headers show."""
    names = [name.lower() for name, _ in headers]
    return any(
        name in _FORWARDING_HEADERS or name.startswith(_FORWARDING_PREFIXES) for name in names
    )


def client_address(peer: str, headers: Headers, trusted: TrustedProxies) -> str:
    """The peer's address, or what a trusted proxy says of its client.

    Each proxy appends its peer to X-Forwarded-For; a client may have sent the beginning itself.
    So the client is the last address that no trusted proxy has.
    """
    return _named_client(peer, headers, trusted) or peer


def is_local(peer: str, headers: Headers, trusted: TrustedProxies) -> bool:
    """Whether the client is on this machine.

    A client of a Unix socket is. Behind a reverse proxy, clients may be anywhere: one that a
    trusted proxy names is local if its address is; of any other, nothing is known.
    """
    address = peer
    if is_forwarded(headers):
        address = _named_client(peer, headers, trusted) or "unknown"
    parsed = parse_address(address)
    return parsed.is_loopback if parsed else not address


def public_base(peer: str, headers: Headers, host_url: str, trusted: TrustedProxies) -> str:
    """The address under which the client reached us, without a slash at the end.

    A trusted proxy says it in X-Forwarded-Proto and X-Forwarded-Host, the last entries of which are
    its own; otherwise the request's Host does.
    """
    base = urlsplit(host_url)
    scheme, host = base.scheme, base.netloc
    if peer in trusted:
        scheme = headers.get("X-Forwarded-Proto", scheme).rpartition(",")[2].strip() or scheme
        host = headers.get("X-Forwarded-Host", host).rpartition(",")[2].strip() or host
    return f"{scheme if scheme in ('http', 'https') else base.scheme}://{host}"


def _named_client(peer: str, headers: Headers, trusted: TrustedProxies) -> str | None:
    """The client that trusted proxies name in X-Forwarded-For, or None."""
    if peer not in trusted:
        return None
    forwarded = [entry.strip() for entry in headers.get("X-Forwarded-For", "").split(",")]
    address, named = peer, None
    while address in trusted and forwarded and forwarded[-1]:
        address = named = forwarded.pop()
    return named
