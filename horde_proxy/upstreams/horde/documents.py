"""The horde's live documents: status, stats and workers, of text and of image models.

Each endpoint with its parameters is one LiveDocument, fetched once for the proxy's catalog and the
statistics together, in the background, and shared with other proxies where there is a Redis. The
last good document is served while the horde is down. What the documents mean is not known here.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from horde_proxy.caching.background import PATIENCE, BackgroundValue, in_background
from horde_proxy.caching.redis import LAST_GOOD_SECONDS, Document, SharedDocuments
from horde_proxy.errors import ProxyError, UpstreamFailed
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.horde.client import HordeClient

KINDS = ("text", "image")
_URL_DIGITS = 8
"""Digits of the digest that tells the few hordes on one Redis apart."""
log = logging.getLogger(__name__)

Runner = Callable[[Callable[[], None]], None]
"""Runs a load; see BackgroundValue."""


@dataclass(frozen=True)
class DocumentSource:
    """Where a document comes from. `ttl` is in seconds.

    `name` is its key in a shared Redis: the endpoint, its parameters and the horde. `label` is its
    name in the metrics.
    """

    name: str
    fetch: Callable[[], Any]
    ttl: float
    label: str = ""


class LiveDocument:
    """One document, renewed when it is used and older than `ttl` seconds.

    `lease`: the longest time that a fetch takes (s), for the proxies that it is shared with.
    """

    def __init__(
        self,
        source: DocumentSource,
        *,
        shared: SharedDocuments | None = None,
        lease: float = 60.0,
        timer: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        run: Runner = in_background,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self.name, self.ttl = source.name, source.ttl
        self._source, self._shared, self._lease = source, shared, lease
        self._now = now
        self._max_age = source.ttl  # for the next load only, see refresh
        self._has_failed = False
        self._loaded = BackgroundValue(
            self._load,
            ttl=source.ttl,
            stale=2 * source.ttl,
            age=_age,
            clock=timer,
            run=run,
            name=source.label,
            telemetry=telemetry,
        )

    def get(self) -> Document:
        """The document, however old. Raises a ProxyError while there has never been one."""
        return self._loaded.get()

    def recent(self) -> Document | None:
        """The document if it is at most an hour old. Does not wait once a fetch has failed."""
        try:
            document = self._loaded.peek() if self._has_failed else self._loaded.get()
        except ProxyError:
            return None
        return document if self._is_recent() else None

    @property
    def error(self) -> ProxyError | None:
        """Why the last load failed; None when it did not."""
        return self._loaded.error

    @property
    def is_degraded(self) -> bool:
        """Whether the last fetch failed, or the document is missing or older than twice its ttl."""
        return self._has_failed or self._loaded.age() > 2 * self.ttl + PATIENCE

    def load_if_due(self) -> None:
        """Begin the fetch that is due, without waiting."""
        self._loaded.load_if_due()

    def refresh(self, min_interval: float = PATIENCE) -> None:
        """Fetch anew now; the next `get` waits for it. At most once in `min_interval` seconds."""
        self._max_age = min(min_interval, self.ttl)
        self._loaded.refresh(min_interval)

    def _load(self) -> Document:
        # After a refresh, another proxy's document of a moment ago is new enough, an older one not.
        max_age, self._max_age = self._max_age, self.ttl
        try:
            document = self._fetch() if self._shared is None else self._fetch_shared(max_age)
        except ProxyError as exc:
            self._note_failure(exc)
            last = self._last_shared()
            if last is None:
                raise
            return last
        if self._has_failed:
            self._has_failed = False
            log.info("the horde's %s can be loaded again", self.name)
        return document

    def _fetch(self) -> Document:
        return Document(self._source.fetch(), self._now())

    def _fetch_shared(self, max_age: float) -> Document:
        assert self._shared is not None
        document = self._shared.load(
            self.name, self._fetch, max_age=max_age, lease=self._lease, is_known=self._is_recent()
        )
        # Anybody may write into that Redis: what comes from it is checked like a foreign answer.
        if not isinstance(document.value, list | dict):
            raise UpstreamFailed("The horde's document in Redis is neither a list nor an object.")
        return document

    def _last_shared(self) -> Document | None:
        """The last document of another proxy, when this one has no recent one."""
        if self._shared is None or self._is_recent():
            return None
        document = self._shared.last(self.name)
        return document if document and isinstance(document.value, list | dict) else None

    def _is_recent(self) -> bool:
        return self._loaded.age() <= LAST_GOOD_SECONDS

    def _note_failure(self, exc: ProxyError) -> None:
        if not self._has_failed:
            self._has_failed = True
            log.warning("the horde's %s cannot be loaded: %s", self.name, exc)


@dataclass(frozen=True)
class KindDocuments:
    """The documents about text models, or about image models."""

    status: LiveDocument
    stats: LiveDocument
    workers: LiveDocument

    def all(self) -> tuple[LiveDocument, LiveDocument, LiveDocument]:
        """The three, in the order of their names here."""
        return (self.status, self.stats, self.workers)


class HordeDocuments:
    """All documents of one horde. Nothing is fetched before its first use.

    `alchemists` are the workers that look at pictures.

    `ttl` (s) is for what changes fast, `stats_ttl` (s) for all else. `name` is the horde's
    endpoint, for the metrics.
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
        run: Runner = in_background,
        name: str = "horde",
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        def live(source: DocumentSource) -> LiveDocument:
            return LiveDocument(
                source,
                shared=shared,
                lease=lease,
                timer=timer,
                now=now,
                run=run,
                telemetry=telemetry,
            )

        slow_ttl = ttl if stats_ttl is None else stats_ttl
        self._shared = shared
        self.alchemists = live(_alchemists(client, ttl, name))
        self._by_kind = {
            kind: KindDocuments(*map(live, _sources(client, kind, ttl, slow_ttl, name)))
            for kind in KINDS
        }

    def of(self, kind: str) -> KindDocuments:
        """The documents of "text" or "image"."""
        return self._by_kind[kind]

    def try_lead(self, seconds: float) -> bool:
        """Whether this proxy keeps the documents warm for all proxies on its Redis."""
        return self._shared is None or self._shared.try_lead(seconds)


def _alchemists(client: HordeClient, ttl: float, name: str) -> DocumentSource:
    return DocumentSource(
        f"workers:type=interrogation:{_horde_digest(client)}",
        lambda: client.workers("interrogation"),
        ttl,
        f"workers:interrogation:{name}",
    )


def _horde_digest(client: HordeClient) -> str:
    """A part of the names of documents, which are keys in Redis: no two hordes share one."""
    return hashlib.sha256(client.base.encode()).hexdigest()[:_URL_DIGITS]


def _sources(
    client: HordeClient, kind: str, ttl: float, slow_ttl: float, name: str
) -> tuple[DocumentSource, ...]:
    """Status, stats and workers. Image models are fetched less often: no chat depends on them."""
    # The names are keys in Redis: with the parameters and the horde in them, no document is taken
    # for another one.
    horde = _horde_digest(client)
    fast_ttl = min(ttl, slow_ttl) if kind == "text" else slow_ttl
    stats = "stats/img/models" if kind == "image" else "stats/text/models"
    return (
        DocumentSource(
            f"status/models:type={kind}&model_state=all:{horde}",
            lambda: client.models(kind),
            fast_ttl,
            f"status:{kind}:{name}",
        ),
        DocumentSource(
            f"{stats}:model_state=all:{horde}",
            lambda: client.model_stats(kind),
            slow_ttl,
            f"stats:{kind}:{name}",
        ),
        DocumentSource(
            f"workers:type={kind}:{horde}",
            lambda: client.workers(kind),
            fast_ttl,
            f"workers:{kind}:{name}",
        ),
    )


def _age(document: Document) -> float:
    return document.age
