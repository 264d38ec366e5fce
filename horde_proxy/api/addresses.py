"""Addresses of clients and proxies: which are trusted, which are this machine's. No Flask here."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address, or None for other text, such as the "" of a Unix socket.

    An IPv4 client of an IPv6 socket has an address like "::ffff:10.0.0.1"; it becomes 10.0.0.1.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


class TrustedProxies:
    """The proxies whose X-Forwarded-* headers are believed: addresses or networks, 10.0.0.0/8."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        # "*" is gunicorn's, for the scheme; to believe every client's header would be a hole.
        self._networks = [ip_network(entry) for entry in entries if entry != "*"]

    def __contains__(self, address: str | None) -> bool:
        parsed = parse_address(address or "")
        return parsed is not None and any(parsed in network for network in self._networks)
