"""Counts of delivered jobs and tokens: for an hour by second, for a month by hour, then by day.

`fold` makes coarse counts of fine ones, so their number stays small however many jobs there are.
"""

from __future__ import annotations

from dataclasses import replace

from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import UseCount

_HOUR, _DAY = 3600, 86_400
WINDOWS = {"minute": 60.0, "hour": float(_HOUR), "day": float(_DAY), "month": 30.0 * _DAY}
"""Seconds of the windows of GET stats/text/totals, besides "total"."""

_WIDTHS = ((1, float(_HOUR), _HOUR), (_HOUR, WINDOWS["month"], _DAY))
"""(width of a count in seconds, for how long it is kept, the width that follows)."""

Counts = dict[str, tuple[int, int]]
"""(jobs, tokens) by model."""


def record(op: Operation, account_id: int, model: str, tokens: int, kudos: float) -> None:
    """Count one delivered job. As in the real horde, tokens are requested ones."""
    op.tx.count_use(UseCount(1, int(op.now), account_id, model, 1, tokens, kudos))


def models(op: Operation, window: str) -> Counts:
    """(jobs, tokens) by model; `window` is minute, hour, day, month or total."""
    counts: Counts = {}
    for width, after in _spans(window, op.now):
        for model, (jobs, tokens) in op.tx.use_by_model(width, after).items():
            jobs_before, tokens_before = counts.get(model, (0, 0))
            counts[model] = (jobs_before + jobs, tokens_before + tokens)
    return counts


def totals(op: Operation, window: str) -> tuple[int, int]:
    """(jobs, tokens) of all models; `window` as in `models`."""
    counts = models(op, window).values()
    return sum(jobs for jobs, _ in counts), sum(tokens for _, tokens in counts)


def _spans(window: str, now: float) -> list[tuple[int, float]]:
    """(width, begin) of the counts that make up a window."""
    length = WINDOWS.get(window)
    if length is None:
        return [(1, -1.0), (_HOUR, -1.0), (_DAY, -1.0)]
    spans = [(1, now - length)]
    # Coarse counts are those of older times; nothing is counted in two of them.
    return spans if length <= _HOUR else [*spans, (_HOUR, now - length)]


def fold(op: Operation) -> None:
    """Replace old counts by coarser ones."""
    for width, kept, wider in _WIDTHS:
        for use in op.tx.take_use(width, op.now - kept):
            start = use.start - use.start % wider
            op.tx.count_use(replace(use, width=wider, start=start))
