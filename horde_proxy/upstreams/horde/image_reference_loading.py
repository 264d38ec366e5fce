"""The reference of image models, loaded in the background: without it, names tell the families.

No request waits for it, and none fails for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from horde_proxy.aihorde.image_reference import ImageModelFacts, read_image_reference
from horde_proxy.caching.background import BackgroundValue, in_background
from horde_proxy.errors import ProxyError, UpstreamFailed

_FAILURE_TTL = 300.0
"""The pause after a failed load (s): long, since the document is large and not necessary."""
_NOTHING: Mapping[str, ImageModelFacts] = {}
log = logging.getLogger(__name__)


class _LoadedFacts(NamedTuple):
    facts: Mapping[str, ImageModelFacts]
    age: float


class ImageReference:
    """The facts of a reference. `source` returns its document and the document's age (s)."""

    def __init__(
        self,
        source: Callable[[], tuple[Any, float]],
        *,
        ttl: float = 86400.0,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._source = source
        self._loaded = BackgroundValue(
            self._load,
            ttl=ttl,
            failure_ttl=_FAILURE_TTL,
            age=lambda loaded: loaded.age,
            clock=clock,
            run=run,
        )

    def facts(self) -> Mapping[str, ImageModelFacts]:
        """The facts by the models' names: the same object until they are loaded anew."""
        loaded = self._loaded.peek()
        return loaded.facts if loaded else _NOTHING

    def _load(self) -> _LoadedFacts:
        try:
            document, age = self._source()
            facts = read_image_reference(document)
            # An empty one would replace a good one: an error keeps the last value instead.
            if not facts:
                raise UpstreamFailed("It holds no models.")
        except ProxyError as exc:
            log.warning("the reference of image models cannot be loaded: %s", exc)
            raise
        return _LoadedFacts(facts, age)


def no_reference() -> Mapping[str, ImageModelFacts]:
    """What is known without a reference: nothing."""
    return _NOTHING
