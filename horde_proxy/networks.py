"""Addresses as text, the networks that belong to one client, and those of this site. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

HOME_BITS = 64
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
        return str(ip_network((address.packed, HOME_BITS), strict=False))
    return str(address)


_IPV4_IN_IPV6 = ip_network("64:ff9b::/96")
"""NAT64 reaches an IPv4 address through the last 32 bits (RFC 6052)."""


def is_public(text: str) -> bool:
    """Whether an address belongs to the Internet, and not to this machine or its site."""
    address = parse_address(text)
    if address is None or not address.is_global or address.is_multicast:
        return False
    if isinstance(address, IPv4Address):
        return True
    if address in _IPV4_IN_IPV6:
        return is_public(str(IPv4Address(address.packed[-4:])))
    # 6to4 and Teredo carry packets to the IPv4 address that they contain.
    inner = address.sixtofour or (address.teredo and address.teredo[1])
    return inner is None or is_public(str(inner))
