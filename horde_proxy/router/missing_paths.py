"""What an endpoint's server was found not to have: paths that only some servers know, for a model.

Any thread may call any method.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cachetools import TTLCache

_REMEMBERED = 1000
"""Pairs of path and model. Clients choose the names of models where a server lists none."""
_SECONDS = 600
"""How long a path counts as missing: the server may be updated, or load another model."""


class MissingPaths:
    """The paths and models for which a server answered that it does not know them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        # Guards the pairs; no I/O happens under it.
        self._lock = threading.Lock()
        self._pairs: TTLCache[tuple[str, str], bool] = TTLCache(_REMEMBERED, _SECONDS, clock)

    def add(self, path: str, model: str) -> None:
        """Note that the path is missing; a query belongs to no path."""
        with self._lock:
            self._pairs[path.partition("?")[0], model] = True

    def has(self, path: str, model: str) -> bool:
        """Whether the path was found missing of late."""
        with self._lock:
            return (path.partition("?")[0], model) in self._pairs
