"""The history as JSON: means of the horde's sums, percentiles of the endpoints' durations.

Each function reads from the HourlyFacts once or twice, and raises DatabaseError if that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from horde_proxy.aihorde.names import canonical
from horde_proxy.errors import ModelNotFound
from horde_proxy.stats.history.hourly_facts import HourlyFacts
from horde_proxy.stats.history.records import (
    HOUR,
    ONE_STEP,
    WHOLE_HORDE,
    EndpointFacts,
    HordeFacts,
    HordeKey,
    Period,
    hour_of,
    percentile,
)
from horde_proxy.stats.listing import has_more, page

Row = dict[str, Any]


def period_of(now: float, hours: int, step: int = HOUR) -> Period:
    """The last hours, with the current one; in steps of days as many UTC days, with today."""
    end = hour_of(now) + HOUR
    today = hour_of(now) - hour_of(now) % step
    # Hours that are no whole days are rounded up to such.
    return Period(today - (-(-hours * HOUR // step) - 1) * step, end, step)


def steps_of(period: Period) -> range:
    """The beginnings of all steps of a period (Unix s)."""
    return range(period.first, period.end, period.step)


def horde_rows(
    facts: HourlyFacts, horde: str, kind: str, period: Period, model: str | None = None
) -> list[Row]:
    """A row for each step with samples, the oldest first; of a model, or of the whole horde."""
    key = WHOLE_HORDE if model is None else canonical(model).key
    sums_by_key = facts.horde(horde, kind, period, [WHOLE_HORDE, key])
    rows = []
    for step in steps_of(period):
        whole = sums_by_key.get(HordeKey(step, horde, kind, WHOLE_HORDE))
        if whole is not None:
            sums = sums_by_key.get(HordeKey(step, horde, kind, key)) or HordeFacts()
            rows.append({"at": step, **_means(sums, whole.samples), "samples": whole.samples})
    return rows


def hours_seen(facts: HourlyFacts, horde: str, kind: str, model: str) -> Row:
    """The first and the last hour in which a worker served a model (Unix s), as far as is kept.

    Raises ModelNotFound if that is not known of any hour.
    """
    key, ever = canonical(model).key, Period(0, ONE_STEP, ONE_STEP)
    sums = facts.horde(horde, kind, ever, [key])
    if not sums:
        raise ModelNotFound(model)
    [of_model] = sums.values()
    return {"first_seen_at": of_model.first_seen, "last_seen_at": of_model.last_seen}


def horde_sums(facts: HourlyFacts, horde: str, kind: str, period: Period) -> dict[str, Row]:
    """A row with the means of each model of a period, by key: the one with most workers first."""
    sums = facts.horde(horde, kind, period._replace(step=ONE_STEP))
    by_model = {key.model: row for key, row in sums.items()}
    samples = by_model.pop(WHOLE_HORDE, HordeFacts()).samples
    order = sorted(by_model, key=lambda key: (-by_model[key].workers, by_model[key].name))
    return {key: _model_row(by_model[key], samples) for key in order}


def _model_row(sums: HordeFacts, samples: int) -> Row:
    return {
        "name": sums.name,
        **_means(sums, samples),
        "first_seen_at": sums.first_seen,
        "last_seen_at": sums.last_seen,
    }


def horde_models(
    facts: HourlyFacts,
    horde: str,
    kind: str,
    period: Period,
    *,
    limit: int | None = None,
    offset: int = 0,
) -> Row:
    """A page of the models of a period, each with its `worker_counts`, and its paging fields.

    These are the means of the steps, None for a step without samples.
    """
    sums = horde_sums(facts, horde, kind, period)
    keys = page([*sums], limit, offset)
    steps = facts.horde(horde, kind, period, [WHOLE_HORDE, *keys]) if keys else {}
    data = [
        {**sums[key], "worker_counts": _worker_counts(steps, horde, kind, key, period)}
        for key in keys
    ]
    return {**paging(len(sums), len(data), limit, offset), "data": data}


def endpoint_rows(
    facts: HourlyFacts,
    period: Period,
    *,
    key: str | None = None,
    is_shown: Callable[[str, str], bool] = lambda endpoint, model: True,
) -> list[Row]:
    """A row for each step and endpoint with requests, the oldest first.

    `key` is the name of a client's key, None for all. `is_shown(endpoint, model)` chooses what is
    counted.
    """
    sums: dict[tuple[int, str], EndpointFacts] = {}
    for facts_key, counts in facts.endpoints(period, key).items():
        if is_shown(facts_key.endpoint, facts_key.model):
            sums.setdefault((facts_key.hour, facts_key.endpoint), EndpointFacts()).add(counts)
    return [
        {"at": step, "endpoint": name, **counts_of(sums[step, name])} for step, name in sorted(sums)
    ]


def counts_of(facts: EndpointFacts) -> Row:
    """The facts of one step, as clients get them; durations in seconds."""
    return {
        "requests": facts.requests,
        "failures": facts.failures,
        "first_content": _durations(facts.first),
        "duration": _durations(facts.whole),
        "prompt_tokens": facts.prompt_tokens,
        "completion_tokens": facts.completion_tokens,
        "warm": {
            "known_tokens": facts.known_tokens,
            "tokens": facts.warm_tokens,
            "share": facts.warm_share,
        },
    }


def paging(total: int, returned: int, limit: int | None, offset: int) -> Row:
    """The fields of a page, as the horde's statistics have them."""
    return {
        "total_count": total,
        "returned_count": returned,
        "offset": offset,
        "limit": limit,
        "has_more": has_more(total, offset, returned),
    }


def paged(rows: Sequence[Row], limit: int | None, offset: int) -> Row:
    """A page of rows with its fields. Raises InvalidRequest with param."""
    data = page(rows, limit, offset)
    return {**paging(len(rows), len(data), limit, offset), "data": data}


def _means(sums: HordeFacts, samples: int) -> Row:
    """The means over all samples of the horde, also over those in which the model was not there."""
    speed = round(sums.speed / sums.speed_samples, 2) if sums.speed_samples else None
    return {
        "worker_count": _mean(sums.workers, samples),
        "threads": _mean(sums.threads, samples),
        "queued": _mean(sums.queued, samples),
        "queued_jobs": _mean(sums.jobs, samples),
        "performance": speed,
    }


def _mean(total: float, samples: int) -> float:
    return round(total / samples, 2) if samples else 0.0


def _worker_counts(
    facts: Mapping[HordeKey, HordeFacts], horde: str, kind: str, model: str, period: Period
) -> list[float | None]:
    counts: list[float | None] = []
    for step in steps_of(period):
        whole = facts.get(HordeKey(step, horde, kind, WHOLE_HORDE))
        sums = facts.get(HordeKey(step, horde, kind, model)) or HordeFacts()
        counts.append(_mean(sums.workers, whole.samples) if whole else None)
    return counts


def _durations(counts: Mapping[int, int]) -> Row:
    return {
        "count": sum(counts.values()),
        "p50": percentile(counts, 0.5),
        "p95": percentile(counts, 0.95),
    }
