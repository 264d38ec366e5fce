"""Which endpoints the operator has paused: these get no new requests, and running ones end.

    admin's page --pause, resume--> the store, which all processes share
    requests     --since----------> the pauses that were read last, at most some seconds ago

A pause belongs to a name, so that it outlives a restart and a change of the endpoint's settings.
Without a store, pauses are kept in memory. While the store fails, the last pauses stay.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from horde_proxy.caching.background import BackgroundValue, in_background
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import ProxyError

_TTL, _STALE = 2.0, 5.0
"""Seconds until the pauses are read again beside a request, and until a request waits for that."""
_PATIENCE = 1.0
"""Seconds that a request waits for a store that is slow; then the last pauses count."""

log = logging.getLogger(__name__)


class PauseStore(Protocol):
    """Where pauses are kept. Methods raise DatabaseError."""

    def paused(self) -> dict[str, float]:
        """The paused endpoints, each with the time of its pause (Unix s)."""

    def pause(self, name: str, at: float) -> None:
        """Store a pause. An endpoint that is paused already keeps its time."""

    def resume(self, name: str) -> None:
        """Remove a pause, if there is one."""


class Pauses:
    """The paused endpoints of a proxy. Any thread may call any method."""

    def __init__(
        self,
        store: PauseStore | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._store, self._clock, self._run = store, clock, run
        # Guards changes of `_in_memory`, so that none is lost. No I/O happens under it. The mapping
        # is replaced as a whole, never changed: readers need no lock.
        self._lock = threading.Lock()
        self._in_memory: Mapping[str, float] = {}
        self._is_failing = False
        self._read = self._reader()

    @property
    def is_kept(self) -> bool:
        """Whether pauses outlive a restart."""
        return self._store is not None

    def keep_in(self, store: PauseStore | None) -> None:
        """Use another store from now on; the same one changes nothing.

        The first one takes over the pauses that were kept in memory until now.
        """
        if store == self._store:
            return
        if store is not None and self._store is None:
            self._hand_over(store)
        self._store = store
        self._read = self._reader()

    def since(self, name: str) -> float | None:
        """When an endpoint was paused (Unix s); None for one that is not."""
        if self._store is None:
            return self._in_memory.get(name)
        try:
            return self._read.get().get(name)
        except ProxyError:
            # The first reading takes too long.
            return None

    def pause(self, name: str, at: float) -> None:
        """Pause an endpoint. Raises DatabaseError."""
        if self._store is None:
            with self._lock:
                self._in_memory = {name: at, **self._in_memory}
            return
        self._store.pause(name, at)
        self._read.refresh(0.0)

    def resume(self, name: str) -> None:
        """End a pause. Raises DatabaseError."""
        if self._store is None:
            with self._lock:
                left = {other: at for other, at in self._in_memory.items() if other != name}
                self._in_memory = left
            return
        self._store.resume(name)
        self._read.refresh(0.0)

    def _hand_over(self, store: PauseStore) -> None:
        """Store the pauses that were in memory only. A failure is logged: settings go on."""
        try:
            for name, at in self._in_memory.items():
                store.pause(name, at)
        except DatabaseError as exc:
            log.warning("the paused endpoints cannot be stored, pause them again: %s", exc)

    def _reader(self) -> BackgroundValue[Mapping[str, float]]:
        return BackgroundValue(
            self._load,
            ttl=_TTL,
            stale=_STALE,
            patience=_PATIENCE,
            clock=self._clock,
            run=self._run,
        )

    def _load(self) -> Mapping[str, float]:
        """The stored pauses, or those that were read last. Logs the first of several failures."""
        assert self._store is not None
        try:
            self._in_memory = self._store.paused()
        except DatabaseError as exc:
            # It is tried again every few seconds: one line is enough.
            if not self._is_failing:
                log.warning("the paused endpoints cannot be read, the last ones stay: %s", exc)
            self._is_failing = True
        else:
            self._is_failing = False
        return self._in_memory
