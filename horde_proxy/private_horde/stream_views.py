"""The routes of the extension, which plain clients and workers never call: read, call, return."""

from __future__ import annotations

import json
from typing import Any

from flask import Response, g, request

from horde_proxy.private_horde import responses
from horde_proxy.private_horde.horde import PrivateHorde
from horde_proxy.private_horde.routing import (
    MOST_VALUES_OF_A_TEXT,
    HordeRoute,
    body,
    checked_key,
)
from horde_proxy.private_horde.streams import STREAM
from horde_proxy.private_horde.text_stream import StreamEvent, read_position

# Seconds after which a stream shows that it lives: many proxies end a connection that is silent
# for 30.
_KEEP_ALIVE = 10.0
_SHORTEST_KEEP_ALIVE, _LONGEST_KEEP_ALIVE = 0.2, 60.0


def _stream(horde: PrivateHorde, request_id: str) -> tuple[Any, int]:
    g.is_poll = True
    position = request.headers.get("Last-Event-ID") or request.args.get("offset", "")
    keep_alive = request.args.get("keep_alive", _KEEP_ALIVE, type=float)
    if not _SHORTEST_KEEP_ALIVE <= keep_alive <= _LONGEST_KEEP_ALIVE:
        keep_alive = _KEEP_ALIVE
    events = horde.streams.stream(request_id, read_position(position), keep_alive)
    response = Response(map(_event, events), mimetype="text/event-stream")
    # The server closes what it iterates, and so the events; nginx would collect them otherwise.
    response.call_on_close(getattr(events, "close", lambda: None))
    response.headers.update({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    return response, 200


def _event(event: StreamEvent | None) -> bytes:
    """An event on the wire; a comment for None. Source: the HTML standard, section 9.2."""
    if event is None:
        return b": keep-alive\n\n"
    lines = [f"event: {event.name}", *([f"id: {event.id}"] if event.id else ())]
    # In ASCII, so that no client takes a character for the end of a line.
    return "\n".join([*lines, f"data: {json.dumps(event.data)}\n\n"]).encode()


def _progress(horde: PrivateHorde) -> tuple[Any, int]:
    g.is_poll = True
    key = checked_key(horde)
    return horde.streams.progress(key, body(MOST_VALUES_OF_A_TEXT)), 200


def _capabilities(horde: PrivateHorde) -> tuple[Any, int]:
    return responses.capabilities(horde.streams.extensions), 200


def stream_routes(horde: PrivateHorde) -> tuple[HordeRoute, ...]:
    """The routes of the extensions that a horde offers."""
    capabilities = HordeRoute("/status/capabilities", {"GET": _capabilities}, "none")
    if STREAM not in horde.streams.extensions:
        return (capabilities,) if horde.streams.extensions else ()
    return (
        capabilities,
        HordeRoute("/generate/text/stream/<request_id>", {"GET": _stream}, "status"),
        HordeRoute("/generate/text/progress", {"POST": _progress}, "worker_queue"),
    )
