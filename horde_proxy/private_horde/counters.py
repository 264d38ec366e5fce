"""Counts of delivered jobs and their work: for an hour by second, for a month by hour, then by day.

`fold` makes coarse counts of fine ones, so their number stays small however many jobs there are.
"""

from __future__ import annotations

from dataclasses import replace

from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.queue_order import model_of, queue_name
from horde_proxy.private_horde.records import TEXT, HordeRequest, UseCount

_HOUR, _DAY = 3600, 86_400
WINDOWS = {"minute": 60.0, "hour": float(_HOUR), "day": float(_DAY), "month": 30.0 * _DAY}
"""Seconds of the windows of GET stats/text/totals, besides "total"."""

_WIDTHS = ((1, float(_HOUR), _HOUR), (_HOUR, WINDOWS["month"], _DAY))
"""(width of a count in seconds, for how long it is kept, the width that follows)."""

Counts = dict[str, tuple[int, int]]
"""(jobs, work) by model. Work are tokens, pixel-steps, or forms."""


def record(op: Operation, request: HordeRequest, model: str, kudos: float) -> None:
    """Count one delivered job. As in the real horde, tokens are requested ones."""
    name = queue_name(request.kind, model)
    op.tx.count_use(UseCount(1, int(op.now), request.account_id, name, 1, request.work, kudos))


def models(op: Operation, window: str, kind: str = TEXT) -> Counts:
    """(jobs, work) by model; `window` is minute, hour, day, month or total."""
    counts: Counts = {}
    for width, after in _spans(window, op.now):
        for name, (jobs, tokens) in op.tx.use_by_model(width, after).items():
            model = model_of(kind, name)
            if model is None:
                continue
            jobs_before, tokens_before = counts.get(model, (0, 0))
            counts[model] = (jobs_before + jobs, tokens_before + tokens)
    return counts


def totals(op: Operation, window: str, kind: str = TEXT) -> tuple[int, int]:
    """(jobs, work) of all models; `window` as in `models`."""
    counts = models(op, window, kind).values()
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
