"""The model references, loaded in the background, so that no request waits for one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from horde_proxy.caching.background import BackgroundValue, in_background
from horde_proxy.errors import ProxyError, UpstreamFailed
from horde_proxy.stats.reference import Reference, read_reference

_FAILURE_TTL = 300.0
"""The pause after a failed load (s): long, since references are large and not necessary."""
log = logging.getLogger(__name__)


class _Loaded(NamedTuple):
    reference: Reference
    age: float


class References:
    """The references by kind. A source returns a document and its age in seconds."""

    def __init__(
        self,
        sources: Mapping[str, Callable[[], tuple[Any, float]]],
        *,
        ttl: float = 86400.0,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        # `age`, because the first load may return a copy on disk, which is as old as its file.
        self._loaded = {
            kind: BackgroundValue(
                _loader(kind, source),
                ttl=ttl,
                failure_ttl=_FAILURE_TTL,
                clock=clock,
                run=run,
                age=lambda loaded: loaded.age,
            )
            for kind, source in sources.items()
        }

    def get(self, kind: str) -> Reference | None:
        """The reference of "text" or "image"; None without a source, or before it is loaded."""
        loaded = self._loaded[kind].peek() if kind in self._loaded else None
        return loaded.reference if loaded else None


def _loader(kind: str, source: Callable[[], tuple[Any, float]]) -> Callable[[], _Loaded]:
    def load() -> _Loaded:
        try:
            document, age = source()
            reference = read_reference(document)
            # An empty one would replace a good one: an error keeps the last value instead.
            if not reference:
                raise UpstreamFailed("It holds no models.")
        except ProxyError as exc:
            log.warning("the reference of %s models cannot be loaded: %s", kind, exc)
            raise
        return _Loaded(reference, age)

    return load
