"""Reads an answer that another request began, on its way or complete, to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from flask import g

from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.auth import check_limits
from horde_proxy.api.context import AppContext
from horde_proxy.api.received_call import client_socket
from horde_proxy.api.shared_answer import AnswerReader, SharedAnswer
from horde_proxy.errors import UpstreamFailed
from horde_proxy.protocol.chunks import Chunk, is_complete
from horde_proxy.upstreams.base import DeadlinePassed, StreamItem, Waiting
from horde_proxy.upstreams.disconnects import DisconnectMonitor


def rejoin(ctx: AppContext, fits: Callable[[SharedAnswer], bool]) -> list[Chunk] | None:
    """All chunks of the first answer that fits, which is waited for; None where none does.

    The current request pays for what the client that left has not. Raises TimedOut, and the error
    with which the answer ends.
    """
    answer = ctx.live.in_flight.find(fits)
    if answer is None:
        return None
    # Its client has read it to the end, and its key was charged.
    if answer.is_delivered:
        return [item for item in answer.items if isinstance(item, dict)]
    check_limits()
    log = cast(RequestLog, g.record)
    with log.recording(ctx.clock), ctx.live.slots.held():
        reader = ctx.live.in_flight.rejoin(fits)
        if reader is None:
            return None
        chunks = []
        for item in _items(ctx, reader, ctx.live.disconnects):
            log.note(item)
            if isinstance(item, dict):
                chunks.append(item)
    if not is_complete(chunks):
        raise UpstreamFailed("The answer broke off.")
    return chunks


def _items(
    ctx: AppContext, reader: AnswerReader, disconnects: DisconnectMonitor
) -> Iterator[StreamItem]:
    """All items of an answer. Leaves it when its client is gone or the time is over."""
    deadline = ctx.clock() + ctx.serving.timeout
    with reader, disconnects.watch_client(client_socket()) as watch:
        watch.waiter = reader
        watch.check()
        while (item := reader.next()) is not None:
            if isinstance(item, Waiting):
                watch.check()
                if ctx.clock() > deadline:
                    raise DeadlinePassed()
            yield item
