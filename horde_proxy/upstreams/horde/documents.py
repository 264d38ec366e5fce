"""The horde's live documents, each fetched once for whoever asks: the proxy's own catalog and the
statistics.

One feed for each endpoint and its parameters, loaded in the background, shared with other
proxies where there is a Redis. The last good document is kept while the horde is gone.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from horde_proxy.caching.background import PATIENCE, BackgroundValue, in_background
from horde_proxy.caching.redis import KEPT, Document, SharedDocuments
from horde_proxy.errors import ProxyError, UpstreamFailed
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.horde.client import HordeClient

KINDS = ("text", "image")
_DIGITS = 8
log = logging.getLogger(__name__)

RunningRequest = Callable[[Callable[[], None]], None]


@dataclass(frozen=True)
class DocumentSource:
    """Where a document comes from. `name` has the endpoint and its parameters.

    `label` is short and told to the observer.
    """

    name: str
    fetch: Callable[[], Any]
    ttl: float
    label: str = ""


class LiveDocument:
    """One document, at most `ttl` seconds old as long as it is asked for. Times are in seconds.

    `lease`: how long a fetch takes at most, for those that it is shared with.
    """

    def __init__(
        self,
        source: DocumentSource,
        *,
        shared: SharedDocuments | None = None,
        lease: float = 60.0,
        timer: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        run: RunningRequest = in_background,
        observer: Telemetry = NO_TELEMETRY,
    ) -> None:
        self.name, self.ttl = source.name, source.ttl
        self._source, self._shared, self._lease = source, shared, lease
        self._now = now
        self._max_age = source.ttl
        self._has_failed = False
        self._loaded = BackgroundValue(
            self._load,
            ttl=source.ttl,
            stale=2 * source.ttl,
            age=_age,
            clock=timer,
            run=run,
            name=source.label,
            observer=observer,
        )

    def get(self) -> Document:
        """The document, however old. Raises a ProxyError when there has never been one."""
        return self._loaded.get()

    def known(self) -> Document | None:
        """The document, at most an hour old. Waits only as long as no fetch has failed."""
        try:
            found = self._loaded.peek() if self._has_failed else self._loaded.get()
        except ProxyError:
            return None
        return found if self._loaded.age() <= KEPT else None

    @property
    def degraded(self) -> bool:
        """Whether the document is not there, or could not be renewed for twice its time."""
        return self._has_failed or self._loaded.age() > 2 * self.ttl + PATIENCE

    def begin(self) -> None:
        """Have the document fetched if that is due, without waiting."""
        self._loaded.begin()

    def refresh(self, least: float = PATIENCE) -> None:
        """Have it fetched anew for whoever asks next, unless that began within `least` seconds."""
        self._max_age = min(least, self.ttl)
        self._loaded.refresh(least)

    def _load(self) -> Document:
        max_age, self._max_age = self._max_age, self.ttl
        try:
            found = self._fetched() if self._shared is None else self._fetched_by_one(max_age)
        except ProxyError as exc:
            self._note(exc)
            spare = self._spare()
            if spare is None:
                raise
            return spare
        if self._has_failed:
            self._has_failed = False
            log.info("the horde's %s can be loaded again", self.name)
        return found

    def _fetched(self) -> Document:
        return Document(self._source.fetch(), self._now())

    def _fetched_by_one(self, max_age: float) -> Document:
        assert self._shared is not None
        found = self._shared.load(
            self.name,
            self._fetched,
            max_age=max_age,
            lease=self._lease,
            is_known=self._loaded.age() <= KEPT,
        )
        if not isinstance(found.value, list | dict):
            raise UpstreamFailed("The shared answer of the horde is none.")
        return found

    def _spare(self) -> Document | None:
        """Where nothing is known yet, what another proxy got last."""
        if self._shared is None or self._loaded.age() <= KEPT:
            return None
        found = self._shared.last(self.name)
        return found if found and isinstance(found.value, list | dict) else None

    def _note(self, exc: ProxyError) -> None:
        if not self._has_failed:
            self._has_failed = True
            log.warning("the horde's %s cannot be loaded: %s", self.name, exc)


@dataclass(frozen=True)
class KindDocuments:
    """What the horde tells of its text models, or of its image models."""

    status: LiveDocument
    stats: LiveDocument
    workers: LiveDocument

    def all(self) -> tuple[LiveDocument, LiveDocument, LiveDocument]:
        """The three, in the order of their names here."""
        return (self.status, self.stats, self.workers)


class HordeDocuments:
    """All feeds of one horde. `ttl` is that of what changes fast, `stats_ttl` of all else (s).

    `name` is that of the horde's endpoint, for the `observer`. Nothing is fetched before it is
    asked for.
    """

    def __init__(
        self,
        client: HordeClient,
        *,
        ttl: float,
        stats_ttl: float | None = None,
        shared: SharedDocuments | None = None,
        lease: float = 60.0,
        timer: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        run: RunningRequest = in_background,
        name: str = "horde",
        observer: Telemetry = NO_TELEMETRY,
    ) -> None:
        def feed(source: DocumentSource) -> LiveDocument:
            return LiveDocument(
                source,
                shared=shared,
                lease=lease,
                timer=timer,
                now=now,
                run=run,
                observer=observer,
            )

        slow = ttl if stats_ttl is None else stats_ttl
        self.shared = shared
        self._of = {
            kind: KindDocuments(*map(feed, _sources(client, kind, ttl, slow, name)))
            for kind in KINDS
        }

    def of(self, kind: str) -> KindDocuments:
        """The feeds of "text" or "image"."""
        return self._of[kind]


def _sources(
    client: HordeClient, kind: str, ttl: float, slow: float, name: str
) -> tuple[DocumentSource, ...]:
    """Status, stats and workers. Image models are asked for less often: nobody chats with them."""
    horde = hashlib.sha256(client.base.encode()).hexdigest()[:_DIGITS]
    quick = min(ttl, slow) if kind == "text" else slow
    stats = "stats/img/models" if kind == "image" else "stats/text/models"
    return (
        DocumentSource(
            f"status/models:type={kind}&model_state=all:{horde}",
            lambda: client.models(kind),
            quick,
            f"status:{kind}:{name}",
        ),
        DocumentSource(
            f"{stats}:model_state=all:{horde}",
            lambda: client.model_stats(kind),
            slow,
            f"stats:{kind}:{name}",
        ),
        DocumentSource(
            f"workers:type={kind}:{horde}",
            lambda: client.workers(kind),
            quick,
            f"workers:{kind}:{name}",
        ),
    )


def _age(document: Document) -> float:
    return document.age
