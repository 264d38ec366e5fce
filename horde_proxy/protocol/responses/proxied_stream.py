"""Watches the stream of a response that passes unchanged, to end it legally if it breaks off. Pure.

A failure is response.failed with the response's own id; Codex ignores all else.
"""

from __future__ import annotations

import re
from typing import Any

from horde_proxy.errors import ProxyError
from horde_proxy.json_reading import parse_json
from horde_proxy.protocol import sse
from horde_proxy.protocol.responses.failures import failure

# Fields of an event, as servers write them: `"sequence_number":17`, `"sequence_number": 17`.
# Quotation marks in a text have a backslash before them, so that no text can look like this.
_NUMBER = re.compile(rb'"sequence_number"\s*:\s*(?P<number>\d{1,12})')
_LAST = re.compile(rb'"type"\s*:\s*"response\.(?:completed|incomplete|failed|cancelled)"')
# The whole line "data: {...}".
_DATA = re.compile(rb"^data:(?P<data>[^\n]*)\n", re.MULTILINE)
_OVERLAP = 100
"""Bytes of a piece that are read again with the next one: more than any of these fields has."""
_LONGEST_HEAD = 1_000_000
"""Bytes in which the first event is looked for; it repeats the tools of the request."""


class ProxiedResponseStream:
    """What is known of one stream: its response, its last number, and whether it has ended."""

    def __init__(self) -> None:
        self.has_ended = False
        self._response: dict[str, Any] | None = None
        self._head: bytes | None = b""
        self._tail = b""
        self._number = -1

    def feed(self, data: bytes) -> None:
        """Read some more of it."""
        if self._head is not None:
            self._read_head(data)
        piece = self._tail + data
        for match in _NUMBER.finditer(piece):
            self._number = int(match["number"])
        self.has_ended = self.has_ended or _LAST.search(piece) is not None
        self._tail = piece[-_OVERLAP:]

    @property
    def has_begun(self) -> bool:
        """Whether an event with the response, or its end, has come."""
        return self._response is not None or self.has_ended

    def failed(self, error: ProxyError) -> bytes | None:
        """The event that ends it with a failure; None where no response has begun."""
        if self._response is None or self.has_ended:
            return None
        response = {**self._response, "status": "failed", "error": failure(error)}
        name = "response.failed"
        event = {"type": name, "sequence_number": self._number + 1, "response": response}
        return sse.event(event, name)

    def _read_head(self, data: bytes) -> None:
        """Look for the first event, which has the response as it began."""
        self._head = (self._head or b"") + data
        match = _DATA.search(self._head) if b"\n" in data else None
        if match is None and len(self._head) < _LONGEST_HEAD:
            return
        self._head = None
        try:
            event = parse_json(match["data"]) if match else None
        except (ValueError, RecursionError):
            return
        response = event.get("response") if isinstance(event, dict) else None
        self._response = response if isinstance(response, dict) else None
