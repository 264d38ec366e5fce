"""The events of a response that this process is making, for whoever fetches its stream.

The thread that serves the client waits for new events, and looks at the connection in between. It
holds a place, as any wait does. The bytes are those that the first client gets. What is in the
store only is read by background.followed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from horde_proxy.api.context import AppContext
from horde_proxy.api.event_log import EventLog
from horde_proxy.upstreams.disconnects import is_open

_PAUSE = 1.0
"""Seconds between two looks at the client."""


def live_events(
    ctx: AppContext, log: EventLog, after: int, client: socket.socket | None
) -> Iterator[bytes]:
    """All events of a log that follow the event of a number, until it is over."""
    sent, end = ctx.clock(), ctx.clock() + ctx.serving.stream_timeout
    count = after + 1
    while ctx.clock() < end and is_open(client) and not ctx.live.shutdown.has_begun:
        # In this order: the last events come together with it.
        is_over = log.is_over
        events = log.after(count)
        count += len(events)
        yield from events
        if is_over:
            return
        if events:
            sent = ctx.clock()
        elif ctx.clock() - sent >= ctx.serving.keepalive_interval:
            # Its own client may have gone, so that nobody else keeps the stream alive.
            log.keep_alive()
        log.wait(count, _PAUSE)
