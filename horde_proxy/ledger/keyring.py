"""The keys that may come in: those of the configuration, and those of a store, kept fresh.

Whoever asks hardly ever waits for the store: its keys are read by a thread of their own.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping

from horde_proxy.errors import Unavailable
from horde_proxy.key_digest import key_digest
from horde_proxy.ledger.keys import ClientKey
from horde_proxy.ledger.records import StoreError

_FIRST_PATIENCE = 15.0
_PATIENCE = 1.0
log = logging.getLogger(__name__)


def _in_a_thread(call: Callable[[], None]) -> None:
    threading.Thread(target=call, name="keys", daemon=True).start()


class KeyRing:
    """Keys by digest. `load` reads those of a store, which are at most `ttl` (s) old.

    They are read again when half of that has passed, so that nobody waits. After a pause in
    which nobody asked, the first waits for the reading; the others go on with what is there.
    """

    def __init__(
        self,
        configured: Mapping[str, ClientKey],
        load: Callable[[], Mapping[str, ClientKey]] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        ttl: float = 5.0,
        start: Callable[[Callable[[], None]], None] = _in_a_thread,
    ) -> None:
        self._configured, self._load = configured, load
        self._clock, self._ttl, self._start = clock, ttl, start
        self._lock = threading.Lock()
        self._stored: Mapping[str, ClientKey] | None = None
        self._read_at = -math.inf
        self._reading: threading.Event | None = None
        self._is_failing = False

    def renewed(
        self,
        configured: Mapping[str, ClientKey],
        load: Callable[[], Mapping[str, ClientKey]] | None,
    ) -> KeyRing:
        """A ring with other configured keys that knows the keys of the same store already."""
        ring = KeyRing(configured, load, clock=self._clock, ttl=self._ttl, start=self._start)
        ring._stored, ring._read_at = self._stored, self._read_at
        return ring

    def find(self, sent: str) -> ClientKey | None:
        """The key that a client sent, or None. The configuration goes before the store.

        Raises Unavailable while the store's keys could never be read: this may be one of them.
        """
        return self.known(key_digest(sent))

    def known(self, digest: str) -> ClientKey | None:
        """The key of a digest, as `find` finds it."""
        found = self._configured.get(digest)
        if found is not None or self._load is None:
            return found
        return self._current(self._load).get(digest)

    def _current(self, load: Callable[[], Mapping[str, ClientKey]]) -> Mapping[str, ClientKey]:
        age = self._clock() - self._read_at
        if age >= self._ttl / 2:
            reading, is_mine = self._read_soon(load)
            if self._stored is None:
                reading.wait(_FIRST_PATIENCE)
            elif is_mine and age >= self._ttl:
                reading.wait(_PATIENCE)
        if self._stored is None:
            raise Unavailable(
                "The proxy cannot read its keys now, so it cannot tell whether this is one.",
                code="keys_unavailable",
                retry_after=math.ceil(self._ttl),
            )
        return self._stored

    def _read_soon(
        self, load: Callable[[], Mapping[str, ClientKey]]
    ) -> tuple[threading.Event, bool]:
        """Set when the reading that is under way has ended; whether it was begun here."""
        with self._lock:
            if self._reading is not None:
                return self._reading, False
            reading = self._reading = threading.Event()
        try:
            self._start(lambda: self._read(load, reading))
        except RuntimeError:
            # No thread is to be had: the next request tries again.
            self._reading = None
            reading.set()
        return reading, True

    def _read(self, load: Callable[[], Mapping[str, ClientKey]], reading: threading.Event) -> None:
        began = self._clock()
        try:
            self._stored = load()
            self._is_failing = False
        except StoreError as exc:
            if not self._is_failing:
                log.warning("the store's keys are those read last: %s", exc)
            self._is_failing = True
        finally:
            with self._lock:
                self._read_at, self._reading = began, None
            reading.set()
