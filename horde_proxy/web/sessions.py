"""Who has logged in at the page: sessions in memory, and how often an address may try.

A session knows its key's digest only; its cookie is a random id, of which the digest is kept.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cachetools import TTLCache

from horde_proxy.ledger.keys import sent_digest

SESSION_SECONDS = 12 * 3600
_MOST_SESSIONS = 1000
_MINUTE = 60.0
_TRIES = 10
_MOST_ADDRESSES = 10_000


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
        self._tries: TTLCache[str, deque[float]] = TTLCache(_MOST_ADDRESSES, _MINUTE, clock)

    def begin(self, key: str) -> str:
        """The id of a new session for a key that was recognised."""
        new_id = secrets.token_urlsafe(32)
        with self._lock:
            session = Session(sent_digest(key), secrets.token_urlsafe(32))
            self._found[sent_digest(new_id)] = session
        return new_id

    def find(self, session_id: str) -> Session | None:
        """The session of an id, or None."""
        with self._lock:
            return self._found.get(sent_digest(session_id))

    def end(self, session_id: str) -> None:
        """Forget a session."""
        with self._lock:
            self._found.pop(sent_digest(session_id), None)

    def may_try(self, address: str) -> bool:
        """Whether an address may try a key now; counts the try. Ten a minute."""
        with self._lock:
            tries = self._tries.get(address) or deque(maxlen=_TRIES)
            if len(tries) == _TRIES and tries[0] > self._clock() - _MINUTE:
                return False
            tries.append(self._clock())
            self._tries[address] = tries
            return True
