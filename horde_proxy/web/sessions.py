"""Who has logged in at the page: sessions in memory, and how often an address may try.

A session knows its key's digest only; its cookie is a random id, of which the digest is kept.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cachetools import TTLCache

from horde_proxy.key_digest import key_digest
from horde_proxy.windows import CallWindows

SESSION_SECONDS = 12 * 3600
_MOST_SESSIONS = 1000
_MINUTE = 60
_TRIES = 10


@dataclass(frozen=True)
class Session:
    """`digest` is its key's; `token` goes with whatever the page changes or sends."""

    digest: str = field(repr=False)
    token: str = field(repr=False)


class Sessions:
    """Sessions by id, each for 12 hours; the oldest go first where there are too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._found: TTLCache[str, Session] = TTLCache(_MOST_SESSIONS, SESSION_SECONDS, clock)
        self._tries = CallWindows("logins", _MINUTE, clock=clock)

    def begin(self, key: str) -> str:
        """The id of a new session for a key that was recognised."""
        new_id = secrets.token_urlsafe(32)
        with self._lock:
            session = Session(key_digest(key), secrets.token_urlsafe(32))
            self._found[key_digest(new_id)] = session
        return new_id

    def find(self, session_id: str) -> Session | None:
        """The session of an id, or None."""
        with self._lock:
            return self._found.get(key_digest(session_id))

    def end(self, session_id: str) -> None:
        """Forget a session."""
        with self._lock:
            self._found.pop(key_digest(session_id), None)

    def try_login(self, address: str) -> int:
        """0 where an address may try a key now (ten a minute); counts it. Else the wait (s)."""
        return self._tries.hit(address, _TRIES)
