"""Wake-on-LAN: the magic packet, where it is sent, and a short look whether the machine answers.

The two functions that use the network are parts of Runtime, which tests replace. power.py decides
when a machine is woken.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

LIMITED_BROADCAST = "255.255.255.255"
"""All machines of the network that the packet goes out to; no router passes it on (RFC 919)."""
DISCARD_PORT = 9
"""The usual port. Network cards look for the bytes alone, in whatever packet they come."""
_HIGHEST_PORT = 65535
_DEFAULT_PORTS = {"http": 80, "https": 443}
# "aa:bb:cc:dd:ee:ff" of Linux, "AA-BB-CC-DD-EE-FF" of Windows, "aabb.ccdd.eeff" of switches.
_MAC = re.compile(
    r"[0-9a-f]{2}(?P<mark>[:-]?)(?:[0-9a-f]{2}(?P=mark)){4}[0-9a-f]{2}"
    r"|[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4}",
    re.IGNORECASE,
)
# "192.168.1.255", "192.168.1.255:7", "wol.lan:9".
_ADDRESS = re.compile(r"(?P<host>[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?", re.IGNORECASE)


@dataclass(frozen=True)
class Datagram:
    """A UDP packet. `towards`: it leaves by the network card that leads to this host."""

    content: bytes
    host: str
    port: int
    towards: str | None = None


SendDatagram = Callable[[Datagram], None]
"""Sends a packet. Raises OSError or ValueError."""
CanConnect = Callable[[str, int, float], bool]
"""Whether a host takes connections at a port, known within so many seconds."""


def mac_address(text: str) -> bytes:
    """The six bytes of a network card's address. Raises ValueError."""
    text = text.strip()
    if not _MAC.fullmatch(text):
        raise ValueError("write the MAC address of its network card, as in aa:bb:cc:dd:ee:ff")
    mac = bytes.fromhex(re.sub("[^0-9a-fA-F]", "", text))
    # The lowest bit of the first byte marks a group of cards (IEEE 802), ff:ff:ff:ff:ff:ff too.
    if mac[0] & 1 or not any(mac):
        raise ValueError("this is no MAC address of one network card")
    return mac


def wake_address(text: str) -> tuple[str, int]:
    """(host, port) of "HOST" or "HOST:PORT". Raises ValueError."""
    match = _ADDRESS.fullmatch(text.strip())
    port = int(match["port"] or DISCARD_PORT) if match else 0
    if match is None or not 0 < port <= _HIGHEST_PORT:
        raise ValueError("write it as HOST or HOST:PORT, for example 192.168.1.255:9")
    return match["host"], port


def magic_packet(mac: bytes) -> bytes:
    """What wakes the machine: six bytes of ff, and sixteen times the address of its card."""
    return b"\xff" * 6 + mac * 16


def magic_packets(mac: bytes, address: tuple[str, int] | None, url: str) -> list[Datagram]:
    """The packets that wake the machine of a server: to `address`, or as broadcasts.

    A limited broadcast leaves a machine with several networks by one of them only, so a second one
    goes to the network that leads to the server.
    """
    packet = magic_packet(mac)
    if address is not None:
        return [Datagram(packet, *address)]
    own_network = Datagram(packet, LIMITED_BROADCAST, DISCARD_PORT, urlsplit(url).hostname)
    return [Datagram(packet, LIMITED_BROADCAST, DISCARD_PORT), own_network]


def server_address(url: str) -> tuple[str, int]:
    """(host, port) of a server's URL."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 80)


def send_datagram(datagram: Datagram) -> None:
    """Send a packet, which may be a broadcast. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if datagram.towards:
            # Linux sends a limited broadcast by the card that has the sender's address.
            sender.bind((_local_address(datagram.towards), 0))
        sender.sendto(datagram.content, (datagram.host, datagram.port))


def can_connect(host: str, port: int, seconds: float) -> bool:
    """Whether a host takes connections at a port. A machine that sleeps does not even refuse."""
    try:
        with socket.create_connection((host, port), seconds):
            return True
    # A UnicodeError is about a host whose name cannot be one, as "desktop..lan".
    except (OSError, UnicodeError):
        return False


def _local_address(host: str) -> str:
    """The address of this machine that packets to a host come from. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unsent:
        # Connecting a UDP socket only chooses its route: nothing is sent.
        unsent.connect((host, DISCARD_PORT))
        address: str = unsent.getsockname()[0]
        return address
