"""Counts of delivered jobs and tokens: for an hour by second, for a month by hour, and in total.

The age of the counts and the number of models bound the memory. There is no clock here: callers
pass `now` (seconds).
"""

from __future__ import annotations

from collections import deque

_HOUR = 3600.0
WINDOWS = {"minute": 60.0, "hour": _HOUR, "day": 24 * _HOUR, "month": 30 * 24 * _HOUR}
"""Seconds of the windows of GET stats/text/totals, besides "total"."""

Counts = dict[str, tuple[int, int]]
"""(jobs, tokens) by model."""
Buckets = deque[tuple[float, Counts]]
"""(start, counts) in order of time."""


class DeliveryCounts:
    """Delivered jobs and tokens by model. As in the real horde, tokens are requested ones."""

    def __init__(self) -> None:
        self._seconds: Buckets = deque()
        self._hours: Buckets = deque()
        self._total: Counts = {}

    def record(self, model: str, tokens: int, now: float) -> None:
        """Count one delivered job."""
        _count(_bucket(self._seconds, now, 1.0, WINDOWS["hour"]), model, tokens)
        _count(_bucket(self._hours, now, _HOUR, WINDOWS["month"]), model, tokens)
        _count(self._total, model, tokens)

    def models(self, window: str, now: float) -> Counts:
        """(jobs, tokens) by model; `window` is minute, hour, day, month or total."""
        if window == "total":
            return dict(self._total)
        length = WINDOWS[window]
        counts: Counts = {}
        for start, bucket in self._seconds if length <= _HOUR else self._hours:
            if start > now - length:
                for model, (jobs, tokens) in bucket.items():
                    _count(counts, model, tokens, jobs)
        return counts

    def totals(self, window: str, now: float) -> tuple[int, int]:
        """(jobs, tokens) of all models; `window` as in `models`."""
        counts = self.models(window, now).values()
        return sum(jobs for jobs, _ in counts), sum(tokens for _, tokens in counts)


def _bucket(buckets: Buckets, now: float, width: float, keep: float) -> Counts:
    """The counts of the bucket that `now` is in; buckets older than `keep` seconds are dropped."""
    start = now - now % width
    while buckets and buckets[0][0] <= now - keep:
        buckets.popleft()
    if not buckets or buckets[-1][0] != start:
        buckets.append((start, {}))
    return buckets[-1][1]


def _count(counts: Counts, model: str, tokens: int, jobs: int = 1) -> None:
    jobs_before, tokens_before = counts.get(model, (0, 0))
    counts[model] = (jobs_before + jobs, tokens_before + tokens)
