"""The keys that may use the proxy: those of the configuration, and those of a database.

Requests rarely wait for the database: a background thread reads its keys again and again. When
that fails, the keys that were read last stay valid.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping

from horde_proxy.caching.background import BackgroundValue, in_background
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import ProxyError, Unavailable
from horde_proxy.key_digest import key_digest
from horde_proxy.ledger.keys import ClientKey

_FIRST_WAIT = 15.0
"""How long requests wait for the first keys (s): opening the database may include an upgrade."""
_WAIT = 1.0
"""How long requests wait when the keys are too old (s); after that they use the old keys."""
_NO_KEYS = (
    "access.mode is 'keys', and there is no key, so that no client can use this proxy; "
    "`horde-proxy keys add NAME` makes one"
)
log = logging.getLogger(__name__)

LoadKeys = Callable[[], Mapping[str, ClientKey]]


class KeyRing:
    """Keys by digest. `load` reads the keys of a database; requests see them at most `ttl` s late.

    The keys are read again after half of that time, so that in a steady flow no request waits.
    After a pause, the first requests wait until the keys have been read.
    """

    def __init__(
        self,
        configured: Mapping[str, ClientKey],
        load: LoadKeys | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        ttl: float = 5.0,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._configured, self._ttl, self._clock, self._run = configured, ttl, clock, run
        self._stored = load and BackgroundValue(
            _noting_trouble(load, has_others=bool(configured)),
            ttl=ttl / 2,
            stale=ttl,
            patience=_WAIT,
            first_patience=_FIRST_WAIT,
            failure_ttl=ttl / 2,
            clock=clock,
            run=run,
        )

    def with_configured(
        self, configured: Mapping[str, ClientKey], load: LoadKeys | None
    ) -> KeyRing:
        """A ring with other configured keys, which keeps the stored keys that were read already."""
        ring = KeyRing(configured, load, clock=self._clock, ttl=self._ttl, run=self._run)
        # Otherwise each reload of the settings would make requests wait for the database.
        if load and self._stored:
            ring._stored = self._stored
        return ring

    @property
    def configured(self) -> Mapping[str, ClientKey]:
        """The keys of the settings, by digest."""
        return self._configured

    def reload(self) -> None:
        """Read the database's keys again: one was made, changed or revoked. Begun, not awaited."""
        if self._stored is not None:
            self._stored.refresh(0.0)

    def find(self, key: str) -> ClientKey | None:
        """The rights of a key, as a client sends it; None for an unknown key.

        Raises Unavailable if the database's keys were never read: the key may be one of them.
        """
        return self.find_digest(key_digest(key))

    def find_digest(self, digest: str) -> ClientKey | None:
        """Like `find`, but for a key's digest. The configuration comes before the database."""
        key = self._configured.get(digest)
        if key is not None or self._stored is None:
            return key
        try:
            return self._stored.get().get(digest)
        except ProxyError as exc:
            raise Unavailable(
                "The proxy cannot read its keys now, so it cannot check this one.",
                code="keys_unavailable",
                retry_after=math.ceil(self._ttl),
            ) from exc


def _noting_trouble(load: LoadKeys, *, has_others: bool) -> LoadKeys:
    """`load`, but with Unavailable for a DatabaseError: a BackgroundValue expects a ProxyError.

    It is called again every few seconds, and logs a trouble once, until it is over: a database that
    fails, or that has no key although no others let clients in.
    """
    trouble = ""

    def note(message: str, *details: object) -> None:
        nonlocal trouble
        if message and message != trouble:
            log.warning(message, *details)
        trouble = message

    def load_or_unavailable() -> Mapping[str, ClientKey]:
        try:
            keys = load()
        except DatabaseError as exc:
            note("the database's keys cannot be read, the last ones stay valid: %s", exc)
            raise Unavailable(str(exc)) from exc
        note("" if keys or has_others else _NO_KEYS)
        return keys

    return load_or_unavailable
