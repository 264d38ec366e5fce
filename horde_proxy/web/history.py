"""The requests of the last day, in memory: counts for every ten minutes, and the latest errors.

They are kept by key name. The number of names, buckets, durations and errors is bounded. No prompts
and no keys are kept.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cachetools import LRUCache

from horde_proxy.api.access_log import RequestLog

BUCKET_SECONDS = 600
BUCKETS = 144
"""A day of ten minutes each. In the charts, a bar is then about two pixels wide."""
MOST_ERRORS = 50
_DURATIONS = 200
"""Durations that a bucket keeps: enough for a 95th percentile."""
_SUMMED_DURATIONS = 2000
"""The same for a bucket that sums the buckets of many keys."""
_MOST_NAMES = 1000
_LONGEST = 200
"""Characters that are kept of what clients send, such as a model's name."""


@dataclass
class TimeBucket:
    """Counts of ten minutes from `start` (unix s), and the durations of the last successes (s).

    `warm_tokens` are those of prompts that were in a server's cache, of the `known_tokens` of all
    prompts whose server says it.
    """

    start: int
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    warm_tokens: int = 0
    known_tokens: int = 0
    images: int = 0
    kudos: float = 0.0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_DURATIONS))

    def count(self, record: RequestLog) -> None:
        """Count one request."""
        self.requests += 1
        self.errors += record.error is not None
        self.prompt_tokens += record.prompt_tokens or 0
        self.completion_tokens += record.completion_tokens or 0
        if record.cached_tokens is not None:
            prompt = record.prompt_tokens or 0
            self.known_tokens += prompt
            self.warm_tokens += min(record.cached_tokens, prompt)
        self.images += record.images or 0
        self.kudos += record.kudos or 0.0
        if record.error is None:
            self.seconds.append(record.seconds)

    def add(self, other: TimeBucket) -> None:
        """Add the counts of another bucket."""
        self.requests += other.requests
        self.errors += other.errors
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.warm_tokens += other.warm_tokens
        self.known_tokens += other.known_tokens
        self.images += other.images
        self.kudos += other.kudos
        self.seconds.extend(other.seconds)

    def percentile(self, fraction: float) -> float | None:
        """The duration (s) that this fraction of the successes did not exceed, or None."""
        durations = sorted(self.seconds)
        # Of an even number of durations, the median is between two of them.
        if fraction == 0.5 and durations:
            return statistics.median(durations)
        return durations[int(len(durations) * fraction)] if durations else None


@dataclass(frozen=True)
class ErrorRecord:
    """A request that failed. `at` is unix seconds, `key` the name of the key."""

    at: float
    route: str
    model: str
    endpoint: str
    status: int
    code: str
    key: str


class _KeyHistory:
    """The last day of one key."""

    def __init__(self) -> None:
        self.buckets: deque[TimeBucket] = deque(maxlen=BUCKETS)
        self.errors: deque[ErrorRecord] = deque(maxlen=MOST_ERRORS)

    def current(self, start: int) -> TimeBucket:
        """The bucket that begins at `start`."""
        if not self.buckets or self.buckets[-1].start < start:
            self.buckets.append(TimeBucket(start))
        return self.buckets[-1]


class History:
    """The last day by key name. The name None means all keys together."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        # Guards everything below. No I/O happens under it.
        self._lock = threading.Lock()
        self._by_key: LRUCache[str, _KeyHistory] = LRUCache(_MOST_NAMES)

    def add(self, record: RequestLog) -> None:
        """Count a request that has ended.

        Requests without an account are not counted. Of their errors, only refused keys and server
        errors are kept.
        """
        is_counted = record.account is not None
        # These are the page's own requests, static files and unknown paths.
        if not (is_counted or record.status == 401 or record.status >= 500):
            return
        name = record.key or ""
        with self._lock:
            history = self._by_key.get(name) or _KeyHistory()
            self._by_key[name] = history
            if is_counted:
                history.current(self._bucket_start()).count(record)
            if record.error is not None or record.status >= 400:
                history.errors.append(_error_record(record, self._now()))

    def add_kudos(self, record: RequestLog, kudos: float) -> None:
        """Count kudos of a request that has ended, which came to be known late."""
        with self._lock:
            history = self._by_key.get(record.key or "")
            if history is not None and record.account is not None:
                history.current(self._bucket_start()).kudos += kudos

    def buckets(self, name: str | None = None) -> list[TimeBucket]:
        """All buckets of the day, even those without requests, with the current one last."""
        last = self._bucket_start()
        first = last - (BUCKETS - 1) * BUCKET_SECONDS
        sums = {start: summing_bucket(start) for start in range(first, last + 1, BUCKET_SECONDS)}
        with self._lock:
            for history in self._histories(name):
                for bucket in history.buckets:
                    if bucket.start in sums:
                        sums[bucket.start].add(bucket)
        return list(sums.values())

    def errors(self, name: str | None = None) -> list[ErrorRecord]:
        """The latest errors of the last day, newest first."""
        oldest = self._now() - BUCKETS * BUCKET_SECONDS
        with self._lock:
            errors = [
                error
                for history in self._histories(name)
                for error in history.errors
                if error.at > oldest
            ]
        return sorted(errors, key=lambda error: -error.at)[:MOST_ERRORS]

    def _histories(self, name: str | None) -> Iterable[_KeyHistory]:
        """Needs the lock held."""
        if name is None:
            return list(self._by_key.values())
        history = self._by_key.get(name)
        return [history] if history else []

    def _bucket_start(self) -> int:
        return int(self._now() // BUCKET_SECONDS) * BUCKET_SECONDS


def summing_bucket(start: int) -> TimeBucket:
    """An empty bucket to which others can be added, with room for their durations."""
    return TimeBucket(start, seconds=deque(maxlen=_SUMMED_DURATIONS))


def _error_record(record: RequestLog, now: float) -> ErrorRecord:
    model = record.model or record.requested or ""
    return ErrorRecord(
        now,
        f"{record.method} {record.path}"[:_LONGEST],
        model[:_LONGEST],
        record.upstream or "",
        record.status,
        record.error or f"status_{record.status}",
        record.key or "",
    )
