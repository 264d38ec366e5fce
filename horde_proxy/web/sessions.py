"""Sessions of the page: signed cookies, so that they survive a restart and hold in each process.

A cookie holds the session's id, the digest of its key and its end, signed with a secret that the
processes share. A session ends
- after twelve hours, by the time in the cookie;
- with its key, which every request looks up;
- by logging out. A signature cannot be taken back, so the id is kept among the ended sessions until
  the cookie would have expired. Other processes read those a few seconds later, as they do with
  revoked keys.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from itsdangerous import BadData, Signer, URLSafeSerializer

from horde_proxy.caching.background import BackgroundValue, in_background, inline
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import Unavailable

SESSION_SECONDS = 12 * 3600
_TTL = 5.0
"""How old the list of ended sessions may be (s): as old as the list of keys."""


class SessionState(NamedTuple):
    """The secret that signs cookies, and the ids of sessions that were ended early."""

    secret: str
    ended: frozenset[str]


class SessionStore(Protocol):
    """Keeps what all processes of a proxy must know about sessions. Raises DatabaseError."""

    def state(self) -> SessionState:
        """The secret, and the ended sessions that have not expired."""

    def end(self, session_id: str, until: int) -> None:
        """Note that a session has ended; its cookie expires at `until` (unix s)."""


class ProcessSessions:
    """The store without a database: all sessions end with this process."""

    def __init__(self) -> None:
        self._state = SessionState(secrets.token_urlsafe(32), frozenset())

    def state(self) -> SessionState:
        return self._state

    def end(self, session_id: str, until: int) -> None:
        """Nothing to note: Sessions knows what ended in its own process."""


@dataclass(frozen=True)
class Session:
    """A login. `digest` is its key's, `token` comes with every change it makes (CSRF)."""

    id: str
    digest: str = field(repr=False)
    token: str = field(repr=False)
    until: int


class Sessions:
    """Begins, finds and ends sessions. Thread-safe."""

    def __init__(
        self,
        store: SessionStore | None = None,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._store, self._now = store or ProcessSessions(), now
        self._state = BackgroundValue(
            self._load, ttl=_TTL / 2, stale=_TTL, clock=clock, run=run if store else inline
        )
        # Guards the ends of the sessions that ended in this process, by id: they are known before
        # the store is read again. No I/O happens under it.
        self._lock = threading.Lock()
        self._ended_here: dict[str, int] = {}

    def begin(self, digest: str) -> str:
        """The cookie of a new session for the key of a digest. Raises Unavailable."""
        until = int(self._now()) + SESSION_SECONDS
        # Signed, not encrypted: whoever holds the cookie may read this, and is logged in anyhow.
        payload = [secrets.token_urlsafe(16), digest, until]
        return str(_serializer(self._state.get().secret).dumps(payload))

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie; None where it has ended or was not signed here.

        Raises Unavailable while the secret could never be read.
        """
        if not cookie:
            return None
        secret, ended = self._state.get()
        try:
            session_id, digest, until = _serializer(secret).loads(cookie)
        except (BadData, ValueError):
            return None
        is_over = until <= self._now() or session_id in ended or session_id in self._ended_here
        return None if is_over else Session(session_id, digest, _token(secret, session_id), until)

    def end(self, cookie: str) -> None:
        """End a session: here at once, elsewhere soon. Raises Unavailable if elsewhere fails."""
        session = self.find(cookie)
        if session is None:
            return
        with self._lock:
            self._ended_here = {
                other: until for other, until in self._ended_here.items() if until > self._now()
            } | {session.id: session.until}
        try:
            self._store.end(session.id, session.until)
        except DatabaseError as exc:
            raise Unavailable(
                "The session ended in this process only: the database cannot be written now.",
                code="sessions_unavailable",
            ) from exc

    def _load(self) -> SessionState:
        try:
            return self._store.state()
        except DatabaseError as exc:
            raise Unavailable(
                "The proxy cannot read its sessions now.", code="sessions_unavailable"
            ) from exc


def _serializer(secret: str) -> URLSafeSerializer:
    return URLSafeSerializer(secret, salt="page session")


def _token(secret: str, session_id: str) -> str:
    """Derived, so that it needs no storage, and cannot be read from the cookie."""
    return Signer(secret, salt="page token").get_signature(session_id).decode()
