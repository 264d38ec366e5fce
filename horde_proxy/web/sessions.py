"""Sessions of the page: signed cookies, which survive a restart and are valid in every process.

A cookie holds the session's id, the digest of its key and its expiry, signed with a secret that the
processes share. A session ends
- after twelve hours, by the time in the cookie;
- when its key is revoked, because every request looks the key up;
- by logging out. A signature cannot be revoked, so the id is stored among the ended sessions until
  the cookie expires. Other processes read it there a few seconds later, as they do with revoked
  keys.
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
"""The age at which the list of ended sessions is too old (s), as for the list of keys."""


class SessionState(NamedTuple):
    """The secret that signs cookies, and the ids of sessions that were ended early."""

    secret: str
    ended: frozenset[str]


class SessionStore(Protocol):
    """The state of sessions that all processes of a proxy share. Raises DatabaseError."""

    def state(self) -> SessionState:
        """The secret, and the ended sessions that have not expired."""

    def end(self, session_id: str, until: int) -> None:
        """Store that a session has ended. Its cookie expires at `until` (unix s)."""


class ProcessSessions:
    """The store without a database: all sessions end with this process."""

    def __init__(self) -> None:
        self._state = SessionState(secrets.token_urlsafe(32), frozenset())

    def state(self) -> SessionState:
        return self._state

    def end(self, session_id: str, until: int) -> None:
        """Nothing to store: Sessions itself keeps the sessions that ended in this process."""


@dataclass(frozen=True)
class Session:
    """A login. `digest` is the digest of its key. Every change must come with `token` (CSRF)."""

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
        # Guards the sessions that ended in this process, as expiry by id: they are over before the
        # store is read again. No I/O happens under it.
        self._lock = threading.Lock()
        self._ended_here: dict[str, int] = {}

    def begin(self, digest: str) -> str:
        """The cookie of a new session for the key of a digest. Raises Unavailable."""
        until = int(self._now()) + SESSION_SECONDS
        # Signed but not encrypted: the payload is no secret to the holder of the cookie.
        payload = [secrets.token_urlsafe(16), digest, until]
        return str(_serializer(self._state.get().secret).dumps(payload))

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie; None if it has ended or has no valid signature.

        Raises Unavailable if the secret was never read.
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
        """End a session: here at once, in other processes soon.

        Raises Unavailable if the database fails, so that other processes do not learn of it.
        """
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
    """The session's CSRF token. It is derived, so it is not stored, and it is not in the cookie."""
    return Signer(secret, salt="page token").get_signature(session_id).decode()
