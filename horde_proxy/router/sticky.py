"""Sticky sessions: the endpoint that answered a conversation last has read it, and gets it again.

    key       the digest of client, model and conversation. No text is kept
    storage   this process's memory, or a Redis that several processes share
    ends      an hour after the last turn; beyond the bound the least recently used one is dropped

A session only changes the order of candidates. The router decides which endpoints are candidates.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Protocol

from cachetools import TTLCache

SESSION_SECONDS = 3600
"""How long a session is known after its last turn (s). Servers at home keep a prompt until another
one needs the room; OpenAI keeps one for up to an hour."""
_MOST_SESSIONS = 10_000
"""Sessions in memory, of about 300 bytes each. The least recently used one is dropped first."""


class SharedSessions(Protocol):
    """Short texts by key that several processes share; see caching.shared_texts."""

    def get(self, key: str) -> tuple[bool, str | None]:
        """(Whether the storage answered, the text if there is one)."""

    def put(self, key: str, text: str) -> None:
        """Store a text. Never waits, and never raises."""


class StickySessions:
    """The endpoint of each session. Any thread may use it."""

    def __init__(
        self, shared: SharedSessions | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shared = shared
        # Guards `_endpoints`; no I/O under it.
        self._lock = threading.Lock()
        self._endpoints: TTLCache[str, str]
        self._endpoints = TTLCache(_MOST_SESSIONS, SESSION_SECONDS, timer=clock)

    def session(self, model: str, identity: str) -> StickySession:
        """The session of a conversation with a model; `identity` must tell clients apart, too."""
        text = f"{model.casefold()}\0{identity}".encode("utf-8", "surrogatepass")
        return StickySession(self, hashlib.sha256(text).hexdigest())

    def endpoint(self, key: str) -> str | None:
        """The name of the endpoint that answered the session last; None if none is known."""
        with self._lock:
            own = self._endpoints.get(key)
        if self._shared is None:
            return own
        # Another process may have moved the session since this one saw it.
        is_known, shared = self._shared.get(key)
        return shared if is_known else own

    def remember(self, key: str, endpoint: str, before: str | None) -> None:
        """Note the endpoint that answers a session, which was at the endpoint `before`."""
        with self._lock:
            self._endpoints[key] = endpoint
        if self._shared is not None and endpoint != before:
            self._shared.put(key, endpoint)


class StickySession:
    """One session, as one request finds it. One thread at a time uses it."""

    def __init__(self, sessions: StickySessions, key: str) -> None:
        self._sessions, self._key = sessions, key
        self.endpoint = sessions.endpoint(key)

    def move_to(self, endpoint: str) -> None:
        """Note that this endpoint answers."""
        self._sessions.remember(self._key, endpoint, self.endpoint)
        self.endpoint = endpoint
