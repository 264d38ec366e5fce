"""What happened in the last day, in memory: counts for each ten minutes, and the latest errors.

Bounded in every direction, kept apart for each key's name; no prompts and no keys.
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
MOST_ERRORS = 50
_SAMPLES = 200
_SUMMED_SAMPLES = 2000
_MOST_NAMES = 1000
_LONGEST = 200


@dataclass
class Bucket:
    """Ten minutes from `start` (unix s) on; `seconds` are those of the latest that went well."""

    start: int
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    kudos: float = 0.0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def count(self, record: RequestLog) -> None:
        """One more request that was counted for somebody."""
        self.requests += 1
        self.errors += record.error is not None
        self.prompt_tokens += record.prompt_tokens or 0
        self.completion_tokens += record.completion_tokens or 0
        self.kudos += record.kudos or 0.0
        if record.error is None:
            self.seconds.append(record.seconds)

    def percentile(self, part: float) -> float | None:
        """The seconds that this part of the requests took at most; None without any."""
        found = sorted(self.seconds)
        if part == 0.5 and found:
            return statistics.median(found)
        return found[int(len(found) * part)] if found else None


@dataclass(frozen=True)
class Failure:
    """A request that went wrong. `at` is unix seconds, `key` the name of the key."""

    at: float
    route: str
    model: str
    endpoint: str
    status: int
    code: str
    key: str


class _Day:
    def __init__(self) -> None:
        self.buckets: deque[Bucket] = deque(maxlen=BUCKETS)
        self.errors: deque[Failure] = deque(maxlen=MOST_ERRORS)


class History:
    """The last day by the names of keys; None asks for all of them together."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._days: LRUCache[str, _Day] = LRUCache(_MOST_NAMES)

    def add(self, record: RequestLog) -> None:
        """Count a request that has ended; of those that nobody is charged for, only failures."""
        is_counted = record.account is not None
        if not (is_counted or record.status == 401 or record.status >= 500):
            return
        with self._lock:
            day = self._days.get(record.key or "") or _Day()
            self._days[record.key or ""] = day
            if is_counted:
                self._current(day).count(record)
            if record.error is not None or record.status >= 400:
                day.errors.append(_failure(record, self._now()))

    def buckets(self, name: str | None = None) -> list[Bucket]:
        """All of a day, empty ones too, the current one last."""
        last = self._start()
        first = last - (BUCKETS - 1) * BUCKET_SECONDS
        found = {start: sum_from(start) for start in range(first, last + 1, BUCKET_SECONDS)}
        with self._lock:
            for day in self._of(name):
                for bucket in day.buckets:
                    if bucket.start in found:
                        add(found[bucket.start], bucket)
        return list(found.values())

    def errors(self, name: str | None = None) -> list[Failure]:
        """The latest errors of the last day, newest first."""
        oldest = self._now() - BUCKETS * BUCKET_SECONDS
        with self._lock:
            found = [each for day in self._of(name) for each in day.errors if each.at > oldest]
        return sorted(found, key=lambda each: -each.at)[:MOST_ERRORS]

    def _of(self, name: str | None) -> Iterable[_Day]:
        """Within the lock."""
        if name is None:
            return list(self._days.values())
        day = self._days.get(name)
        return [day] if day else []

    def _current(self, day: _Day) -> Bucket:
        start = self._start()
        if not day.buckets or day.buckets[-1].start < start:
            day.buckets.append(Bucket(start))
        return day.buckets[-1]

    def _start(self) -> int:
        return int(self._now() // BUCKET_SECONDS) * BUCKET_SECONDS


def sum_from(start: int) -> Bucket:
    """An empty bucket that others are put into; it has room for the samples of several."""
    return Bucket(start, seconds=deque(maxlen=_SUMMED_SAMPLES))


def add(total: Bucket, more: Bucket) -> None:
    """Put what one bucket counted into another one."""
    total.requests += more.requests
    total.errors += more.errors
    total.prompt_tokens += more.prompt_tokens
    total.completion_tokens += more.completion_tokens
    total.kudos += more.kudos
    total.seconds.extend(more.seconds)


def _failure(record: RequestLog, now: float) -> Failure:
    model = record.model or record.asked or ""
    return Failure(
        now,
        f"{record.method} {record.path}"[:_LONGEST],
        model[:_LONGEST],
        record.upstream or "",
        record.status,
        record.error or f"status_{record.status}",
        record.key or "",
    )
