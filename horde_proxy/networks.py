"""Addresses as text, and the networks that belong to one client. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_NETWORK_OF_ONE = 64
"""Bits: providers give a home an IPv6 network of this size, in which it chooses addresses."""


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address, or None for other text, such as the "" of a Unix socket.

    An IPv4 client of an IPv6 socket has an address like "::ffff:10.0.0.1"; it becomes 10.0.0.1.
    """
    try:
        # A link-local address names its interface, too: "fe80::1%eth0".
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def network_of(text: str) -> str | None:
    """What belongs to one home: an IPv4 address, or an IPv6 network; None for this machine's.

    None for text that is no address, too, as a Unix socket has.
    """
    address = parse_address(text)
    if address is None or address.is_loopback:
        return None
    if isinstance(address, IPv6Address):
        return str(ip_network((address.packed, _NETWORK_OF_ONE), strict=False))
    return str(address)
