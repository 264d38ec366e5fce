"""The text of a request as it grows, from a horde that streams: events in, one growing text out.

The horde's protocol is in docs/private-horde.md. Whatever does not fit it breaks the stream, and
the request is polled as at any horde. Each wait ends with the read time-out at the latest.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from horde_proxy.errors import UpstreamFailed
from horde_proxy.json_reading import parse_json

KEEP_ALIVE = 0.5
"""Seconds after which the horde shows that it lives: the chat's thread looks at its client then."""
_LONGEST_EVENT = 8_000_000
"""Bytes, as of a status with its results."""

Event = tuple[str, dict[str, Any]]
Events = Generator[Event | None, None, None]
"""Events by name with their data, and None for each sign of life."""


class BrokenStream(UpstreamFailed):
    """The stream ended early, or is not what the protocol says. The request itself goes on."""


def read_events(pieces: Iterator[bytes]) -> Iterator[Event | None]:
    """The events in a body that comes in pieces. Raises BrokenStream.

    Source of the rules for lines and fields: the HTML standard, section 9.2.6.
    """
    buffer = b""
    for piece in pieces:
        buffer += piece
        *blocks, buffer = buffer.split(b"\n\n")
        if len(buffer) > _LONGEST_EVENT:
            raise BrokenStream("The horde sent an event that is too large.")
        yield from map(_event, blocks)
        # A piece of an event is a sign of life, too: whoever reads looks at its client meanwhile.
        if not blocks:
            yield None
    raise BrokenStream("The horde's stream ended early.")


def _event(block: bytes) -> Event | None:
    fields = dict(
        line.partition(": ")[::2] for line in block.decode("utf-8", "replace").split("\n")
    )
    if "event" not in fields:
        return None
    try:
        data = parse_json(fields.get("data", "").encode())
    except (ValueError, RecursionError) as exc:
        raise BrokenStream("The horde sent an event that is not JSON.") from exc
    if not isinstance(data, dict):
        raise BrokenStream("The horde sent an event that is not an object.")
    return fields["event"], data


def longer(text: str, data: dict[str, Any]) -> str:
    """The text of the only result, with the piece of a "text" event. Raises BrokenStream."""
    offset, piece = data.get("offset"), data.get("text")
    if data.get("index") != 0 or not isinstance(offset, int) or not isinstance(piece, str):
        raise BrokenStream("The horde sent a piece of text that cannot be read.")
    if not 0 <= offset <= len(text):
        raise BrokenStream("The horde left out a piece of text.")
    # What was given to the client stays, whatever another worker wrote there.
    whole = text + piece[len(text) - offset :]
    if len(whole) > _LONGEST_EVENT:
        raise BrokenStream("The horde sent a text that is too long.")
    return whole
