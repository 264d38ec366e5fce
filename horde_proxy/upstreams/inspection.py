"""What one request sent to upstreams, and what they answered, word for word.

An upstream begins an attempt for each request that it sends, and notes results or a problem there.
Only a request whose client looks into it has an Inspection (see api/inspections.py); it lives in
memory, and nothing of it is logged.

Two attempts may run in two threads at a time. Each writes its own fields; the list of them has a
lock. What is kept of a request is bounded: MOST_SIZE for what was sent, MOST_TEXT for each answer.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.errors import ProxyError
from horde_proxy.printable import shortened

MOST_TEXT = 200_000
"""Characters of one text that are kept: a prompt of 50,000 tokens, or 200 kB of events."""
MOST_ATTEMPTS = 50
"""Attempts of one request that are kept. A long answer in segments of 64 tokens has more."""
_LONGEST_NAME = 1000
"""Characters of a field's name that are kept."""
# Fields whose text nobody is shown: whoever knows our webhook's URL can post results there. Tools
# that a client names have `authorization`, `authorization_token` and `headers`: "X-Api-Key",
# "Cookie". Not max_tokens, and not the schema of a field of such a name, which is no text.
_SECRET = re.compile(
    r"(.*[-_])?(webhook|api[-_]?key|authorization|cookie|password|secret"
    r"|(auth|authorization|access|bearer)[-_]?token)",
    re.IGNORECASE,
)
# "audio/mpeg" of /audio/speech; servers of texts send application/json, text/... or nothing.
_NO_TEXT = re.compile(r"audio/|image/|video/|application/octet-stream", re.IGNORECASE)
_MOST_DEPTH = 30
"""Levels of a document that are kept. Schemas of tools have ten or so."""
MOST_SIZE = 2_000_000
"""Characters of one document that are kept, with its numbers and names: ten texts of MOST_TEXT. All
attempts of a request have as much together."""
_VALUE_SIZE = 100
"""What a value, a list or a table costs beside its characters: about its bytes in Python. Without
it, 30 MB of short messages would be kept as 200 MB of tables."""


@dataclass
class UpstreamAttempt:
    """One request to an endpoint. Times are seconds since the client's request came.

    `sent` is the document that was sent, without its `prompt`. `results` are those of a horde; the
    bytes of another server are noted piece by piece, and shown as one text. Those of sound, or of
    another `media_type` that is no text, are only counted.
    """

    endpoint: str
    began: float
    sent: Any
    prompt: str | None = None
    request_id: str | None = None
    status: int | None = None
    results: list[Any] = field(default_factory=list)
    problem: str | None = None
    media_type: str = ""
    ended: float | None = None
    _clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    _pieces: list[bytes] = field(default_factory=list, repr=False)
    _received: int = 0

    def end(self, problem: str | None = None) -> None:
        """Note its end, and why it failed, if it did. Only the first end counts."""
        if self.ended is None:
            self.ended, self.problem = self._clock(), problem

    def note_results(self, results: Sequence[Any]) -> None:
        """Note all results by now, in place of earlier ones."""
        self.results = [kept_document(result) for result in results]

    def noted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The pieces of the answer as they come; they are noted, and what breaks them off is."""
        try:
            for piece in pieces:
                self.note_bytes(piece)
                yield piece
        except ProxyError as exc:
            self.end(exc.message)
            raise

    def note_bytes(self, piece: bytes) -> None:
        """Note a piece of the answer."""
        left = MOST_TEXT - self._received
        if left > 0 and not _NO_TEXT.match(self.media_type):
            self._pieces.append(piece[:left])
        self._received += len(piece)

    def as_json(self) -> dict[str, Any]:
        """What clients are shown of it."""
        return {
            "endpoint": self.endpoint,
            "request_id": self.request_id,
            "began": round(self.began, 3),
            "seconds": None if self.ended is None else round(self.ended - self.began, 3),
            "prompt": self.prompt,
            "sent": self.sent,
            "status": self.status,
            "results": self.results,
            "received": self._received_text(),
            "problem": self.problem,
        }

    def _received_text(self) -> str | None:
        if not self._received:
            return None
        if _NO_TEXT.match(self.media_type):
            return f"({self._received} bytes of {shortened(self.media_type, _LONGEST_NAME)})"
        text = b"".join(self._pieces).decode("utf-8", "replace")
        left_out = self._received - MOST_TEXT
        return text if left_out <= 0 else f"{text}... ({left_out} bytes left out)"


class Inspection:
    """The attempts of one request. `clock` counts seconds since the request came."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Guards the list of attempts and their number. No I/O happens under it.
        self._lock = threading.Lock()
        self._attempts: list[UpstreamAttempt] = []
        self._left_out = 0
        self._copier = _DocumentCopier()

    def begin(self, endpoint: str, sent: Any) -> UpstreamAttempt:
        """A new attempt: a document, or a text, is sent to an endpoint now."""
        document = self._copier.copy(sent)
        prompt = document.pop("prompt", None) if isinstance(document, dict) else None
        if not isinstance(prompt, str | None):
            document["prompt"], prompt = prompt, None
        attempt = UpstreamAttempt(endpoint, self._clock(), document, prompt, _clock=self._clock)
        with self._lock:
            if len(self._attempts) < MOST_ATTEMPTS:
                self._attempts.append(attempt)
            else:
                self._left_out += 1
        return attempt

    def as_json(self) -> dict[str, Any]:
        """{"attempts": [...], "attempts_left_out": a number}."""
        with self._lock:
            attempts, left_out = list(self._attempts), self._left_out
        return {
            "attempts": [attempt.as_json() for attempt in attempts],
            "attempts_left_out": left_out,
        }


def kept_document(document: Any) -> Any:
    """A copy of a JSON document with MOST_SIZE characters at most.

    Long texts are shortened, what is too much is left out, and there are no secrets.
    """
    return _DocumentCopier().copy(document)


class _DocumentCopier:
    """Copies documents until they have MOST_SIZE characters together."""

    def __init__(self) -> None:
        self._left = MOST_SIZE

    def copy(self, document: Any, depth: int = 0) -> Any:
        """A copy, see kept_document."""
        self._left -= _VALUE_SIZE
        if isinstance(document, str):
            text = shortened(document, max(min(MOST_TEXT, self._left), 0))
            self._left -= len(text)
            return text
        if depth >= _MOST_DEPTH:
            return "..."
        if isinstance(document, Mapping):
            return self._table(document, depth + 1)
        if isinstance(document, list | tuple):
            return self._list(document, depth + 1)
        return document

    def _table(self, document: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        copied: dict[str, Any] = {}
        for name, value in document.items():
            if self._left <= 0:
                copied["..."] = f"({len(document) - len(copied)} fields left out)"
                break
            field_name = shortened(str(name), _LONGEST_NAME)
            self._left -= len(field_name)
            is_secret = isinstance(value, str) and _SECRET.fullmatch(field_name)
            copied[field_name] = "(not shown)" if is_secret else self.copy(value, depth)
        return copied

    def _list(self, document: Sequence[Any], depth: int) -> list[Any]:
        copied: list[Any] = []
        for value in document:
            if self._left <= 0:
                copied.append(f"... ({len(document) - len(copied)} entries left out)")
                break
            copied.append(self.copy(value, depth))
        return copied
