"""Addresses that moderators have put into time-out: no submits and no pops come from there.

A time-out is for an address or a network, in the form of `canonical`, until it expires. Of IPv6, it
is for a /64 at least, in which one home chooses its addresses. Rules over the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

from horde_proxy.networks import HOME_BITS, parse_address
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import HordeAccount, Worker

MOST_TIMEOUTS = 1000
"""Time-outs at a time: more are no list that a moderator reads."""
_FEW = 30
"""So many are read at once; of more, those of an address are looked up by their networks."""
MOST_HOURS = 8760
"""A year. Who is to be kept out for good is blocked by the account."""

_OWN_ADDRESS = (
    "This is an address of the horde's own machine. If its clients come through a reverse proxy, "
    "name that one in server.trusted_proxies."
)


@dataclass(eq=False)
class AddressTimeout:
    """No submit and no pop comes from the network `id`, "203.0.113.9" or "198.51.100.0/24".

    It ends at `expires` (Unix s); `account_id` is the moderator who made it.
    """

    id: str
    created: float
    expires: float
    account_id: int


def canonical(text: str) -> str:
    """The one form of an address or a network. Raises BadRequest (400).

    A network is that of its first address: "198.51.100.7/24" is "198.51.100.0/24".
    """
    address, slash, bits = text.strip().partition("/")
    parsed = parse_address(address)
    try:
        if parsed is None:
            raise ValueError(address)
        network = ip_network(f"{parsed}{slash}{bits}", strict=False)
    except ValueError as exc:
        raise refusal("BadRequest", reason="Invalid IP Address") from exc
    if isinstance(network, IPv6Network) and network.prefixlen > HOME_BITS:
        network = network.supernet(new_prefix=HOME_BITS)
    return _written(network)


def listed(op: Operation) -> list[AddressTimeout]:
    """The time-outs that have not expired, the longest first."""
    page = op.tx.page(AddressTimeout, "expires", descending=True, offset=0, limit=MOST_TIMEOUTS)
    return [timeout for timeout in page if timeout.expires > op.now]


def matching(op: Operation, address: str) -> list[AddressTimeout]:
    """The time-outs that hold for an address or a network, the longest first.

    This machine's addresses are in none, nor is text that is no address, as clients of a Unix
    socket have.
    """
    # Each submit and each pop comes here, and most hordes have none: then one query tells.
    longest = op.tx.page(AddressTimeout, "expires", descending=True, offset=0, limit=_FEW)
    if not longest or longest[0].expires <= op.now or _is_loopback(address):
        return []
    around = _networks_around(address)
    if len(longest) == _FEW:
        found = (op.tx.get(AddressTimeout, network) for network in around)
        longest = sorted(filter(None, found), key=lambda timeout: -timeout.expires)
    return [timeout for timeout in longest if timeout.id in around and timeout.expires > op.now]


def _is_loopback(text: str) -> bool:
    """Whether an address is this machine's, from which an operator's own requests come."""
    parsed = parse_address(text.partition("/")[0])
    return parsed is not None and parsed.is_loopback


def _networks_around(text: str) -> set[str]:
    """All networks that an address or a network is in, in the form of `canonical`."""
    address, slash, bits = text.partition("/")
    parsed = parse_address(address)
    if parsed is None:
        return set()
    length = int(bits) if slash else parsed.max_prefixlen
    if isinstance(parsed, IPv6Address):
        length = min(length, HOME_BITS)
    networks = (ip_network((parsed.packed, prefix), strict=False) for prefix in range(length + 1))
    return {_written(network) for network in networks}


def _written(network: IPv4Network | IPv6Network) -> str:
    is_single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if is_single else str(network)


def check(op: Operation, address: str) -> None:
    """Raises TimeoutIP (403) if an address is in time-out."""
    if timeouts := matching(op, address):
        raise refusal("TimeoutIP", seconds=seconds_left(op, timeouts[0]))


def seconds_left(op: Operation, timeout: AddressTimeout) -> int:
    """Whole seconds until it ends."""
    return max(1, round(timeout.expires - op.now))


def add(op: Operation, author: HordeAccount, text: str, seconds: float) -> None:
    """Put an address or a network into time-out; one that is already gets this end.

    Raises BadRequest (400) for what is no address, for this machine's own, and for too many.
    """
    network = canonical(text)
    if _is_loopback(text.strip()):
        raise refusal("BadRequest", reason=_OWN_ADDRESS)
    known = op.tx.lock(AddressTimeout, network)
    if known is not None:
        known.expires, known.account_id = op.now + seconds, author.id
        op.tx.save(known)
        return
    if len(listed(op)) >= MOST_TIMEOUTS:
        raise refusal("BadRequest", reason=f"There are {MOST_TIMEOUTS} time-outs. Delete some.")
    op.tx.add(AddressTimeout(network, op.now, op.now + seconds, author.id))


def delete(op: Operation, text: str) -> None:
    """End the time-out of an address or a network; nothing happens where there is none.

    Raises BadRequest (400) if another network's time-out goes on for it.
    """
    network = canonical(text)
    timeout = op.tx.lock(AddressTimeout, network)
    if timeout is not None:
        op.tx.delete(timeout)
    elif around := matching(op, network):
        reason = f"{text} is in the network {around[0].id}: delete the time-out of that."
        raise refusal("BadRequest", reason=reason)


def address_of(worker: Worker) -> str:
    """The address that a worker popped from. Raises BadRequest (400) if none is known."""
    if parse_address(worker.address) is None:
        raise refusal("BadRequest", reason="No IP address of this worker is known.")
    return worker.address
