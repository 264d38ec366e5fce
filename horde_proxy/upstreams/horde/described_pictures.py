"""The pictures of a chat in words, for models that cannot see: a horde's alchemists describe them.

    picture --> known by its bytes? --no--> shrunk --> DescriptionJob --> words
                        |                                                   |
                        '--yes--> "[image: a blue square; tags: ...]" <-----'

A chat never fails for it: what nobody describes in time stays "[image left out]", with a warning.
Links are not followed. Which requests come here is decided in upstream.py.

The thread that serves a client drives the jobs of its chat, several in turn. Chats share what is
known of pictures, which a lock guards.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Set
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from cachetools import LRUCache, TTLCache

from horde_proxy.errors import ClientGone, InsufficientKudos, ProxyError, ShuttingDown
from horde_proxy.pictures import BadPicture, Raster, decoded
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.upstreams.base import Caller, Waiting
from horde_proxy.upstreams.horde.alchemy import (
    CAPTION,
    DESCRIBE,
    NOBODY,
    TAGS,
    WORDS,
    DescriptionJob,
)
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.lifecycle import Lifecycle, Submitted
from horde_proxy.upstreams.horde.options import HordeOptions
from horde_proxy.upstreams.horde.workers import Filters
from horde_proxy.upstreams.interleave import take_turns

MOST_AT_ONCE = 4
"""Pictures of one chat that are described: the newest ones. A chat carries its older ones with each
request, and by then their descriptions are known."""
_MOST_PIXELS = 1024 * 1024
"""Of a picture that is sent: alchemists look at a fifth of it, and charge by no size."""
_MOST_BYTES = 30_000_000
"""Of a picture that a client sends, decoded. A whole body has 32 MB by default."""
_DECODING = 2
"""Pictures that are decoded at the same time: one of 8K needs 250 MB for a moment."""
_QUALITY = 85
"""Of the JPEG that is sent."""
_MOST_KNOWN = 2000
"""Descriptions that are kept, of about 300 characters each."""
_SHARE_OF_KUDOS = 0.5
"""The part of a chat's max_kudos that descriptions may cost: the text needs the rest."""
_FAILED_SECONDS = 300.0
"""Seconds for which an older picture that nobody described is not tried again: each further request
of its chat would wait for it."""
log = logging.getLogger(__name__)

Forms = tuple[tuple[str, ...], ...]
"""The forms to request, as DescriptionJob has them; empty where no alchemist offers any."""


class PictureDescriber:
    """Describes pictures by the alchemists of one horde. `name` is the endpoint's. Thread-safe."""

    def __init__(self, horde: HordeContext, options: HordeOptions, name: str) -> None:
        # Alchemy is only polled: it is pushed form by form, not request by request. Its status
        # tells no kudos, neither now nor later.
        self.horde = replace(horde, webhook=None, settlements=None)
        self.options, self.name = options, name
        self._alchemists = horde.catalog.documents.alchemists
        # Held while a picture is decoded, which takes memory; no I/O happens under it.
        self.decoding = threading.Semaphore(_DECODING)
        # Guards both caches. No I/O happens under it.
        self._lock = threading.Lock()
        self._known: LRUCache[str, str] = LRUCache(_MOST_KNOWN)
        self._failed: TTLCache[str, bool] = TTLCache(_MOST_KNOWN, _FAILED_SECONDS, horde.clock)

    def begin(self, request: GenerationRequest, caller: Caller) -> DescribedChat:
        """The description of a chat's pictures, of which nothing is done yet."""
        return DescribedChat(self, request, caller)

    def known(self, digest: str) -> str | None:
        """The words for a picture, by the digest of its bytes."""
        with self._lock:
            return self._known.get(digest)

    def has_failed(self, digest: str) -> bool:
        """Whether nobody described a picture a while ago."""
        with self._lock:
            return digest in self._failed

    def learn(self, digest: str, words: str) -> None:
        """Keep the words for a picture; "": that nobody described it."""
        with self._lock:
            if words:
                self._known[digest] = words
            else:
                self._failed[digest] = True

    def forms(self, filters: Filters) -> tuple[Forms, str]:
        """(the forms to request, why there are none)."""
        document = self._alchemists.recent()
        entries = document.value if document and isinstance(document.value, list) else []
        able = [worker for worker in map(_read_alchemist, entries) if worker.forms]
        if filters.trusted:
            able = [worker for worker in able if worker.trusted]
        if not able:
            return (), "no alchemist is online"
        # A request for alchemy cannot name workers: any of them may get it.
        allowed, denied = set(filters.allow), set(filters.deny)
        if any(
            (allowed and not worker.names & allowed) or worker.names & denied for worker in able
        ):
            return (), "the settings leave out some of the online alchemists"
        return _forms_of(frozenset().union(*(worker.forms for worker in able))), ""


@dataclass(frozen=True)
class _Alchemist:
    """An online worker, by id and name, with those of its forms that say what a picture shows."""

    names: frozenset[str]
    forms: frozenset[str]
    trusted: bool


def _read_alchemist(worker: Any) -> _Alchemist:
    """An entry of the list of workers; without forms where it cannot be used."""
    entry = worker if isinstance(worker, dict) else {}
    forms = entry.get("forms")
    is_active = entry.get("online") and not entry.get("maintenance_mode")
    return _Alchemist(
        frozenset({str(entry.get("id")), str(entry.get("name"))}),
        frozenset(
            form for form in WORDS if is_active and isinstance(forms, list) and form in forms
        ),
        bool(entry.get("trusted")),
    )


def _forms_of(offered: Set[str]) -> Forms:
    """The best forms first: a text, else a sentence and tags."""
    best = (DESCRIBE,) if DESCRIBE in offered else ()
    other = tuple(form for form in (CAPTION, TAGS) if form in offered)
    return tuple(forms for forms in (best, other) if forms)


class DescribedChat:
    """The pictures of one chat. `cost` is that of their descriptions. One thread uses it."""

    def __init__(self, describer: PictureDescriber, request: GenerationRequest, caller: Caller):
        self.cost = AnswerCost()
        self._describer, self._request, self._caller = describer, request, caller
        # By URL: the digest of a picture's bytes, or the URL where it has none.
        self._keys: dict[str, str] = {}
        # By key: what is seen in a picture, or why it is left out.
        self._words: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        options, now = describer.options, describer.horde.clock()
        self._deadline = now + options.describe_seconds
        if caller.deadline is not None:
            # The answer itself needs the other half of the time.
            self._deadline = min(self._deadline, now + (caller.deadline - now) / 2)

    def items(self) -> Generator[Waiting, None, None]:
        """Waitings, until each picture is described or left out. Closing it cancels the rest."""
        if not self._describer.options.describe_images:
            return
        self._read_urls()
        wanted = self._wanted()
        if not wanted:
            return
        filters = self._describer.options.filters.overridden(self._request.horde)
        forms, reason = self._describer.forms(filters)
        if not forms:
            self._reasons |= dict.fromkeys(wanted, reason)
            return
        jobs = [self._described(*pair, forms, filters) for pair in wanted.items()]
        with closing(take_turns(jobs, MOST_AT_ONCE)) as turns:
            for _, waiting in turns:
                yield waiting
        self.cost.workers.pop(NOBODY, None)

    def request(self) -> GenerationRequest:
        """The request with words for pictures, as far as they are known, and with warnings."""
        counts: Counter[str] = Counter()
        messages = []
        for message in self._request.messages:
            notes = [self._note(picture.url, counts) for picture in message.pictures]
            messages.append(message.with_notes(notes) if notes else message)
        warnings = [
            warning if count == 1 else f"{warning} ({count} times)"
            for warning, count in counts.items()
        ]
        return replace(
            self._request,
            messages=tuple(messages),
            warnings=(*self._request.warnings, *warnings),
        )

    def _note(self, url: str, counts: Counter[str]) -> str | None:
        """What stands for a picture; None: it is left out. The warning is counted."""
        key = self._keys.get(url, url)
        words = self._words.get(key)
        if words:
            counts[f"messages: image described by alchemists of {self._describer.name}"] += 1
            return f"[image: {words}]"
        reason = self._reasons.get(key)
        counts["messages: image left out" + (f", {reason}" if reason else "")] += 1
        return None

    def _read_urls(self) -> None:
        """Note the key of each picture, and the words that are known."""
        for url in dict.fromkeys(self._urls()):
            if url[:5].lower() != "data:":
                self._reasons[url] = "links are not fetched"
                continue
            try:
                key = hashlib.sha256(decoded(url, most_bytes=_MOST_BYTES)).hexdigest()
            except BadPicture:
                self._reasons[url] = ""
                continue
            self._keys[url] = key
            words = self._describer.known(key)
            if words is not None:
                self._words[key] = words

    def _urls(self, *, is_new: bool = False) -> Iterator[str]:
        """The pictures, the newest first; with `is_new` those since the last answer."""
        for message in reversed(self._request.messages):
            if is_new and message.role == "assistant":
                return
            for picture in reversed(message.pictures):
                yield picture.url

    def _wanted(self) -> dict[str, str]:
        """The newest pictures that are not known, as key -> data URL."""
        new = {self._keys.get(url) for url in self._urls(is_new=True)}
        unknown: dict[str, str] = {}
        for url in self._urls():
            key = self._keys.get(url)
            if key is None or key in self._words:
                continue
            if key in new or not self._describer.has_failed(key):
                unknown.setdefault(key, url)
        return dict(list(unknown.items())[:MOST_AT_ONCE])

    def _described(
        self, key: str, url: str, forms: Forms, filters: Filters
    ) -> Generator[Waiting, None, None]:
        """Waitings until one picture is described, or cannot be."""
        job = self._job(url, forms, filters)
        if job is None:
            self._describer.learn(key, "")
            return
        horde = self._describer.horde
        ticket = horde.submit_queue.new_ticket(
            job.api_key,
            job.caller.client,
            is_background=job.caller.is_job,
            weight=job.caller.weight,
        )
        lifecycle, request_id = Lifecycle(horde, job, ticket, self.cost), ""
        reason = "nobody described it in time"
        try:
            with closing(lifecycle.items()) as items:
                for item in items:
                    if isinstance(item, Submitted):
                        request_id = item.request_id
                    elif isinstance(item, Waiting):
                        yield item
                        if horde.clock() >= self._deadline:
                            break
        except (ClientGone, ShuttingDown):
            raise
        except ProxyError as exc:
            log.info("a picture is not described: %s", exc)
            is_dear = isinstance(exc, InsufficientKudos)
            reason = "too few kudos for a description" if is_dear else "nobody described it"
        words = lifecycle.generations[0].words if lifecycle.generations else ""
        if words:
            self._words[key] = words
            self.cost.add_kudos(request_id, job.price(1), None)
        else:
            self._reasons[key] = reason
        self._describer.learn(key, words)

    def _job(self, url: str, forms: Forms, filters: Filters) -> DescriptionJob | None:
        """The job for a picture; None for bytes that are no picture, or one beyond the bounds."""
        try:
            with self._describer.decoding:
                raster = Raster.read(decoded(url), most_bytes=_MOST_BYTES).within(_MOST_PIXELS)
            data = raster.encoded("jpeg", quality=_QUALITY)
        except BadPicture:
            return None
        options = self._describer.options
        most = self._request.horde.get("max_kudos", options.max_kudos)
        return DescriptionJob(
            # Bare, without the head of a data URL (images-api.md 3.7).
            base64.b64encode(data).decode("ascii"),
            raster.size,
            forms,
            options.key_for(self._caller.api_key),
            replace(self._caller, deadline=self._deadline),
            None if most is None else most * _SHARE_OF_KUDOS,
            slow_workers=filters.slow,
            trusted_workers=filters.trusted,
        )
