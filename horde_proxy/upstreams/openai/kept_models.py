"""The models of a server whose machine sleeps: kept from the last time, also over a restart.

    AWAKE    each load is a look: a server that cannot be reached is ASLEEP, and its list stays
    ASLEEP   a load returns the kept list and sends nothing, so that it wakes nobody
    WAKING   a load is the look that ends the boot, once the server has loaded its model

The list is a file in the cache folder. model_list.py says how a list is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from horde_proxy.caching.disk import write_copy
from horde_proxy.errors import ProxyError, TimedOut, Unreachable, UpstreamFailed
from horde_proxy.upstreams.openai.model_list import model_objects
from horde_proxy.upstreams.power import Power, PowerState

Entries = Sequence[dict[str, Any]]
_NO_ENTRIES: Entries = ()


class NotStarted(UpstreamFailed):
    """A server that takes connections, and does not answer requests yet."""


class KeptModels:
    """The model list of the server on the machine `power`, kept in the file `path`.

    One thread at a time loads; any thread may call `shown`.
    """

    def __init__(self, power: Power, path: Path, run: Callable[[Callable[[], None]], None]) -> None:
        self.power, self._path, self._run = power, path, run
        self.last = self._read()
        self._seen = _NO_ENTRIES
        # Entries, and the same ones for the time of sleep. Without a lock: it is one assignment.
        self._asleep = _NO_ENTRIES, _NO_ENTRIES

    def load(self, load: Callable[[], Entries]) -> Entries:
        """The list that `load` returns, or the kept one. Raises its ProxyError without one."""
        # Without a list, no request can name a model, so that nothing would ever wake the machine.
        if self.last is not None and not self.power.may_look():
            return self.last
        is_waking = self.power.state is PowerState.WAKING
        try:
            entries = load()
        except (Unreachable, NotStarted, TimedOut) as exc:
            if isinstance(exc, Unreachable):
                self.power.unreachable()
            elif not is_waking:
                raise
            if self.last is None:
                raise
            return self.last
        except ProxyError:
            # It answers, if only to refuse the key.
            self.power.answered()
            raise
        self.power.answered()
        return entries

    def shown(self, entries: Entries) -> Entries:
        """The entries for clients: the same list while neither they nor the machine change.

        Those of a machine that is awake are kept. While it sleeps, none of them is in memory.
        """
        if not self.power.is_awake:
            if entries is not self._asleep[0]:
                self._asleep = entries, [_not_loaded(entry) for entry in entries]
            return self._asleep[1]
        if entries is not self._seen:
            self._seen = entries
            if list(entries) != self.last:
                # An empty list has no name by which a request could wake the machine.
                self.last = list(entries) or None
                self._run(lambda: write_copy(self._path, self.last))
        return entries

    def _read(self) -> list[dict[str, Any]] | None:
        """The list in the file; None without one, and for a damaged one."""
        try:
            entries, _ = model_objects(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError, UpstreamFailed):
            return None
        return entries or None


def _not_loaded(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a model that is not in memory, where it says anything about that."""
    return {**entry, "loaded": False} if "loaded" in entry else entry
