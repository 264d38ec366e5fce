"""Collects the facts of each hour in memory, and writes them to the database once an hour.

    request threads  --add-->                    _endpoints ┐
    the loop         --sample, every 5 min-->    _hordes    ┴--write, once an hour--> the database

Counting never waits for the database. The loop is the only thread of this process that writes, but
for `close`. Several processes and hosts may write the same hour: the database adds their sums. Sums
of samples are divided by the number of samples, so that it does not matter how many hosts sample.
Without a database nothing is counted, and an answer costs one `if` more.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Protocol, TypeVar

from horde_proxy.caching.background import in_background
from horde_proxy.caching.lazy_thread import LazyThread
from horde_proxy.database.errors import DatabaseError
from horde_proxy.database.names import storable_name
from horde_proxy.errors import ClientGone, ShuttingDown
from horde_proxy.stats.history.records import (
    DAY,
    HOUR,
    EndpointFacts,
    EndpointKey,
    HordeFacts,
    HordeKey,
    Period,
    duration_step,
    hour_of,
)
from horde_proxy.stats.history.sampling import sample

if TYPE_CHECKING:
    from horde_proxy.stats.history.database import HistoryDatabase
    from horde_proxy.upstreams.horde.documents import HordeDocuments

KINDS = ("text", "image")
TICK = 60.0
"""Seconds between two looks at what is due."""
SAMPLE_SECONDS = 300.0
"""Between two samples of a horde: twelve an hour. The horde's own lists are 10 to 30 s old."""
_MOST_ROWS = 20_000
"""Rows of endpoints that wait for the database. Clients choose names of models where a server lists
none, so that there is a bound; further models count as `OTHER`."""
_MOST_HOURS = 48
"""Hours that wait while the database fails; then the oldest are dropped, and the log says so."""
_LARGEST = 2**40
"""Of one request's tokens: keeps the sums of many rows within a BIGINT."""
OTHER = "other"
log = logging.getLogger(__name__)

K = TypeVar("K", HordeKey, EndpointKey)
F = TypeVar("F", HordeFacts, EndpointFacts)


class EndedRequest(Protocol):
    """A request that has ended. Times are in seconds, and None is what is not known.

    `failed_at`: the endpoint and the model of each attempt that failed. `key` is the name of the
    client's key, `cached_tokens` are those of the prompt that were in the server's cache.
    """

    status: int
    seconds: float
    first_text: float | None
    model: str | None
    upstream: str | None
    key: str | None
    account: str | None
    error: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    failed_at: list[tuple[str, str]]


class HourlyFacts:
    """The facts that are not written yet, and the database for all others.

    `hordes` returns the documents of each horde by its endpoint's name. `sleep` ends the loop by
    raising ShuttingDown.
    """

    def __init__(
        self,
        hordes: Callable[[], Mapping[str, HordeDocuments]] = dict,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        run_loop: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self.database: HistoryDatabase | None = None
        self.days = 0
        self._hordes_now, self._now, self._sleep = hordes, now, sleep
        self._thread = LazyThread(self._loop, run_loop)
        # Guards the two dictionaries. No I/O happens under it: every request takes it.
        self._lock = threading.Lock()
        # Held by the thread that writes or reads, so that each count is either pending or in the
        # database. The database is called under it.
        self._writing = threading.Lock()
        self._hordes: dict[HordeKey, HordeFacts] = {}
        self._endpoints: dict[EndpointKey, EndpointFacts] = {}
        self._sampled_at: dict[tuple[str, str], float] = {}
        self._is_failing = False

    def configure(self, database: HistoryDatabase | None, days: int) -> None:
        """Use this database from now on, and keep what it has for so many days; None: none.

        What is pending goes to the database before it.
        """
        before = self.database
        if before is not None and database is not before:
            self.write(everything=True)
            before.close()
        self.database, self.days = database, days

    def ensure_started(self) -> None:
        """Start the loop unless it was started, or there is no database."""
        if self.database is not None and not self._thread.ensure_started():
            log.warning("the history is not written yet: no thread can be started")

    def add(self, request: EndedRequest) -> None:
        """Count a request that has ended, at every endpoint that failed it, and where it ended.

        Requests of no account are not counted: nothing was generated for them.
        """
        if self.database is None or request.account is None:
            return
        hour, key = hour_of(self._now()), request.key or ""
        with self._lock:
            for endpoint, model in request.failed_at:
                facts = self._facts_of(EndpointKey(hour, endpoint, model, key))
                facts.requests += 1
                facts.failures += 1
            failed = {endpoint for endpoint, _ in request.failed_at}
            # A failed answer that was passed on is counted already.
            if request.upstream and not (request.error and request.upstream in failed):
                last = EndpointKey(hour, request.upstream, request.model or "", key)
                _count(self._facts_of(last), request)

    def look(self) -> None:
        """Do what is due: samples of the hordes, and writing the hours that have ended."""
        if self.database is None:
            return
        self._sample_hordes()
        self.write()

    def write(self, *, everything: bool = False) -> None:
        """Write the hours that have ended, or also the current one. Logs a failure once."""
        if self.database is None:
            return
        end = hour_of(self._now()) + (HOUR if everything else 0)
        with self._writing:
            with self._lock:
                hordes, self._hordes = _split(self._hordes, end)
                endpoints, self._endpoints = _split(self._endpoints, end)
            if hordes or endpoints:
                self._write(self.database, hordes, endpoints)

    def close(self) -> None:
        """Write all that is pending; the process ends. Logs an error if it is lost."""
        self.write(everything=True)
        if self._hordes or self._endpoints:
            log.error("facts of the history could not be written and are lost")
        atexit.unregister(self.close)

    def horde(
        self, horde: str, kind: str, period: Period, models: list[str] | None = None
    ) -> dict[HordeKey, HordeFacts]:
        """The facts of some models, or of all, by step; those included that are not written yet.

        Raises DatabaseError.
        """
        with self._writing:
            facts: dict[HordeKey, HordeFacts] = {}
            if self.database and self.database.exists:
                facts = self.database.horde(horde, kind, period, models)
            with self._lock:
                for key, pending in self._hordes.items():
                    is_meant = (key.horde, key.kind) == (horde, kind)
                    if is_meant and (models is None or key.model in models):
                        _add_at(facts, key, pending, period)
        return facts

    def endpoints(self, period: Period, key: str | None = None) -> dict[EndpointKey, EndpointFacts]:
        """The facts by step, endpoint and model, of one key or of all (under the key "").

        Raises DatabaseError.
        """
        with self._writing:
            facts: dict[EndpointKey, EndpointFacts] = {}
            if self.database and self.database.exists:
                facts = self.database.endpoints(period, key)
            with self._lock:
                for pending_key, pending in self._endpoints.items():
                    if key in (None, pending_key.key):
                        _add_at(facts, pending_key._replace(key=key or ""), pending, period)
        return facts

    def _facts_of(self, key: EndpointKey) -> EndpointFacts:
        """The pending facts of a key. Needs `_lock` held."""
        facts = self._endpoints.get(key)
        if facts is None:
            key = key._replace(model=storable_name(key.model), endpoint=storable_name(key.endpoint))
            if key not in self._endpoints and len(self._endpoints) >= _MOST_ROWS:
                key = key._replace(model=OTHER)
            facts = self._endpoints.setdefault(key, EndpointFacts())
        return facts

    def _sample_hordes(self) -> None:
        now = self._now()
        for horde, documents in self._hordes_now().items():
            for kind in KINDS:
                # A clock that was set back must not stop the samples.
                if 0 <= now - self._sampled_at.get((horde, kind), -SAMPLE_SECONDS) < SAMPLE_SECONDS:
                    continue
                models = sample(documents.of(kind), now - SAMPLE_SECONDS)
                # Without fresh documents it is tried again a minute later: a load takes seconds.
                if models is not None:
                    self._sampled_at[horde, kind] = now
                    self._add_sample(horde, kind, models)

    def _add_sample(self, horde: str, kind: str, models: Mapping[str, HordeFacts]) -> None:
        hour = hour_of(self._now())
        with self._lock:
            for model, facts in models.items():
                facts.name = storable_name(facts.name)
                facts.first_seen = facts.last_seen = hour if facts.workers else None
                key = HordeKey(hour, horde, kind, storable_name(model))
                self._hordes.setdefault(key, HordeFacts(facts.name)).add(facts)

    def _write(
        self,
        database: HistoryDatabase,
        hordes: dict[HordeKey, HordeFacts],
        endpoints: dict[EndpointKey, EndpointFacts],
    ) -> None:
        # Not `except DatabaseError` alone: whatever happens, facts must not be lost.
        is_written = False
        try:
            database.add(hordes, endpoints)
            is_written = True
            database.prune(hour_of(self._now()) - self.days * DAY)
        except DatabaseError as exc:
            if not self._is_failing:
                log.warning("the history is kept in memory until its database works: %s", exc)
            self._is_failing = True
        else:
            self._is_failing = False
        finally:
            if not is_written:
                self._put_back(hordes, endpoints)

    def _put_back(
        self, hordes: dict[HordeKey, HordeFacts], endpoints: dict[EndpointKey, EndpointFacts]
    ) -> None:
        oldest = hour_of(self._now()) - _MOST_HOURS * HOUR
        is_dropped = any(key.hour < oldest for keys in (hordes, endpoints) for key in keys)
        if is_dropped:
            log.error("facts of the history that are older than %s hours are lost", _MOST_HOURS)
        with self._lock:
            for key, facts in self._hordes.items():
                hordes.setdefault(key, HordeFacts(facts.name)).add(facts)
            for endpoint_key, counts in self._endpoints.items():
                endpoints.setdefault(endpoint_key, EndpointFacts()).add(counts)
            self._hordes = {key: facts for key, facts in hordes.items() if key.hour >= oldest}
            self._endpoints = {key: facts for key, facts in endpoints.items() if key.hour >= oldest}

    def _loop(self) -> None:
        atexit.register(self.close)
        while True:
            try:
                self._sleep(TICK)
                self.look()
            except ShuttingDown:
                return
            # The last guard: a document that nobody foresaw must not end the history.
            except Exception:
                log.exception("the history could not be collected")


def _count(facts: EndpointFacts, request: EndedRequest) -> None:
    """Count a request where it ended."""
    facts.requests += 1
    facts.failures += _is_failure(request)
    prompt = min(max(request.prompt_tokens or 0, 0), _LARGEST)
    facts.prompt_tokens += prompt
    facts.completion_tokens += min(max(request.completion_tokens or 0, 0), _LARGEST)
    if request.cached_tokens is not None:
        facts.known_tokens += prompt
        facts.warm_tokens += min(max(request.cached_tokens, 0), prompt)
    if request.error is None:
        facts.whole[duration_step(request.seconds)] += 1
        if request.first_text is not None:
            facts.first[duration_step(request.first_text)] += 1


def _is_failure(request: EndedRequest) -> bool:
    """Whether the endpoint failed. A refusal, or a client that left, is no fault of an endpoint."""
    if request.error is None or request.error == ClientGone.code:
        return False
    # A stream that broke off began with a good status.
    return request.status >= 500 or request.status < 400


def _split(facts: dict[K, F], end: int) -> tuple[dict[K, F], dict[K, F]]:
    """(the facts of hours before `end`, the others)."""
    before = {key: counts for key, counts in facts.items() if key.hour < end}
    return before, {key: counts for key, counts in facts.items() if key.hour >= end}


def _add_at(facts: dict[K, F], key: K, pending: F, period: Period) -> None:
    """Add pending facts to the step that their hour is in, unless it is outside of the period."""
    if period.first <= key.hour < period.end:
        key = key._replace(hour=key.hour - key.hour % period.step)
        if key in facts:
            facts[key].add(pending)
        else:
            # Copied: the pending facts go on growing.
            facts[key] = deepcopy(pending)
