"""Watching the client's connection and the clock while an answer is waited for."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator

from horde_proxy.errors import ClientGone, ProxyError
from horde_proxy.upstreams.base import StreamItem, Waiting

# Linux tells of a closed peer even behind bytes that nobody has read.
_HUNG_UP: int = getattr(select, "POLLRDHUP", 0)


def is_open(sock: socket.socket | None) -> bool:
    """Whether the client is still there. Without a socket (other servers) it is taken to be."""
    if sock is None:
        return True
    try:
        poll = select.poll()
        poll.register(sock, select.POLLIN | _HUNG_UP)
        events = poll.poll(0)
        if not events:
            return True
        if events[0][1] & (_HUNG_UP | select.POLLHUP | select.POLLERR):
            return False
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def watched(
    items: Iterator[StreamItem],
    *,
    is_open: Callable[[], bool],
    deadline: float,
    clock: Callable[[], float],
    late: ProxyError,
) -> Iterator[StreamItem]:
    """The items, as long as the client is there and the deadline has not passed.

    Looks at each Waiting, of which there is one a second or more. Raises ClientGone or `late`.
    """
    try:
        for item in items:
            if isinstance(item, Waiting):
                if not is_open():
                    raise ClientGone()
                if clock() > deadline:
                    raise late
            yield item
    finally:
        close = getattr(items, "close", None)
        if close:
            close()
