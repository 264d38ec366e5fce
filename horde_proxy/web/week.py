"""The last seven days on the page, from the history: own endpoints, a horde, one of its models.

Everything is read from the HourlyFacts, and kept for a minute, because open pages ask every 15 s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from cachetools import TTLCache

from horde_proxy.aihorde.names import canonical
from horde_proxy.database.errors import DatabaseError
from horde_proxy.stats.history.answers import (
    horde_rows,
    horde_sums,
    period_of,
    steps_of,
)
from horde_proxy.stats.history.hourly_facts import KINDS, HourlyFacts
from horde_proxy.stats.history.records import DAY, EndpointFacts, EndpointKey, Period, percentile
from horde_proxy.web import charts, tables
from horde_proxy.web.charts import Series, TimeAxis
from horde_proxy.web.tables import Table, number, number_cell, seconds, seconds_cell, text_cell

_DAYS = 7
_HOURS = _DAYS * 24
_AXIS = TimeAxis.back(_HOURS, (6, 4, 2, 0), 24, "d")
_KEPT_SECONDS = 60.0
"""How long a section is shown before it is read again: facts change every five minutes."""
_MOST_KEPT = 64
"""Sections in memory: of each key that looks at the page, and of the models that are looked at."""
_MOST_MODELS = 100
"""Models of a kind in the table and in the list to choose from; those with the most workers."""
_PROBLEM = "The history cannot be read right now."
_SPEEDS = {"text": ("tokens/s", 1.0), "image": ("megapixelsteps/s", 1e6)}
"""The unit of a speed of each kind, and what it is divided by to have that unit."""

_COLUMNS = (
    "#Requests",
    "#Failed",
    "#First content p50",
    "#p95",
    "#Whole p50",
    "#p95",
    "#Tokens read",
    "#Warm",
    "#Tokens written",
)

Section = dict[str, Any]
G = TypeVar("G", int, str)


class ShownModel(NamedTuple):
    """The model whose week is shown, as the form names it."""

    kind: str
    name: str

    @classmethod
    def read(cls, value: str) -> ShownModel | None:
        """The model of a form's value such as "text Big-8B"; None for the whole horde."""
        kind, _, name = value.partition(" ")
        return cls(kind, name) if kind in KINDS and name else None

    @property
    def value(self) -> str:
        """The value for the form."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Visitor:
    """What a visitor may see: the requests of one key, of all (None), or none at all."""

    key: str | None
    sees_requests: bool


class Week:
    """The sections of the last seven days, each kept for a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: TTLCache[tuple[Any, ...], Section] = TTLCache(
            _MOST_KEPT, _KEPT_SECONDS, timer=clock
        )
        # Guards `_kept`. The database is read without it: two visitors may read the same at once.
        self._lock = threading.Lock()

    def of_endpoints(self, facts: HourlyFacts, now: float, visitor: Visitor) -> Section | None:
        """The requests that the visitor may see: charts, and a table by the day."""
        if facts.database is None or not visitor.sees_requests:
            return None
        return self._recent(("endpoints", visitor.key), lambda: _endpoints(facts, now, visitor.key))

    def of_horde(
        self, facts: HourlyFacts, now: float, horde: str, model: ShownModel | None
    ) -> Section | None:
        """A horde, or one of its models: charts, a table of models, and those to choose from."""
        if facts.database is None:
            return None
        return self._recent(("horde", horde, model), lambda: _horde(facts, now, horde, model))

    def _recent(self, key: tuple[Any, ...], make: Callable[[], Section]) -> Section:
        with self._lock:
            section = self._kept.get(key)
        if section is None:
            try:
                section = make()
            except DatabaseError:
                # Kept as well: a database that is down makes each of its callers wait.
                section = {"problem": _PROBLEM, "charts": []}
            with self._lock:
                self._kept[key] = section
        return section


def _endpoints(facts: HourlyFacts, now: float, key: str | None) -> Section:
    period = period_of(now, _HOURS)
    read = facts.endpoints(period, key)
    by_hour = _summed(read, lambda key: key.hour)
    hours = [by_hour.get(hour, EndpointFacts()) for hour in steps_of(period)]
    return {
        "problem": None,
        "charts": [_requests(hours), *_durations(hours), _prompts(hours)],
        "endpoints": _by_endpoint(_summed(read, lambda key: key.endpoint)),
        "days": _by_day(_summed(read, lambda key: key.hour - key.hour % DAY)),
    }


def _summed(
    facts: Mapping[EndpointKey, EndpointFacts], group: Callable[[EndpointKey], G]
) -> dict[G, EndpointFacts]:
    """The facts of each group together."""
    sums: dict[G, EndpointFacts] = {}
    for key, counts in facts.items():
        sums.setdefault(group(key), EndpointFacts()).add(counts)
    return sums


def _requests(hours: Sequence[EndpointFacts]) -> Section:
    total, failed = sum(hour.requests for hour in hours), sum(hour.failures for hour in hours)
    return charts.bars(
        _AXIS,
        "week-requests",
        "Requests to endpoints",
        [
            Series("good", "answered", [hour.requests - hour.failures for hour in hours]),
            Series("bad", "failed", [hour.failures for hour in hours]),
        ],
        f"{number(total)} request{'s' * (total != 1)} to endpoints in the last seven days, "
        f"{number(failed)} of them failed.",
    )


def _durations(hours: Sequence[EndpointFacts]) -> list[Section]:
    drawn = []
    for name, title, measured in (
        ("week-first", "Time to first content", [hour.first for hour in hours]),
        ("week-whole", "Time to the end", [hour.whole for hour in hours]),
    ):
        medians = [percentile(counts, 0.5) for counts in measured]
        drawn.append(
            charts.lines(
                _AXIS,
                name,
                title,
                [
                    Series("good", "median", medians),
                    Series("warn", "95th percentile", [percentile(c, 0.95) for c in measured]),
                ],
                _range("The median of an hour", medians, seconds, "No request succeeded"),
            )
        )
    return drawn


def _prompts(hours: Sequence[EndpointFacts]) -> Section:
    whole = EndpointFacts()
    for hour in hours:
        whole.add(hour)
    share = whole.warm_share
    warm = "No server said which of them met a warm cache."
    if share is not None:
        warm = (
            f"Of the {number(whole.known_tokens)} of which servers say it, {share:.0%} met a warm "
            "cache."
        )
    return charts.bars(
        _AXIS,
        "week-prompts",
        "Prompt tokens",
        [
            Series("good", "from a warm cache", [hour.warm_tokens for hour in hours]),
            Series("warn", "others", [hour.prompt_tokens - hour.warm_tokens for hour in hours]),
        ],
        f"{number(whole.prompt_tokens)} tokens of prompts in the last seven days. {warm}",
    )


def _by_day(days: Mapping[int, EndpointFacts]) -> Table:
    """The numbers of the charts by UTC day, newest first."""
    rows = [
        _counts_row(str(day), text_cell(tables.clock_time(day, "%d %b"), day), days[day])
        for day in sorted(days, reverse=True)
    ]
    return tables.table("week-days", ("Day (UTC)", *_COLUMNS), rows, "No requests yet.")


def _by_endpoint(endpoints: Mapping[str, EndpointFacts]) -> Table:
    """The same numbers by endpoint, by name."""
    rows = [_counts_row(name, text_cell(name), endpoints[name]) for name in sorted(endpoints)]
    return tables.table("week-endpoints", ("Endpoint", *_COLUMNS), rows, "No requests yet.")


def _counts_row(key: str, head: tables.Cell, counts: EndpointFacts) -> dict[str, Any]:
    share = counts.warm_share
    cells = [
        head,
        number_cell(counts.requests),
        number_cell(counts.failures),
        *(
            seconds_cell(percentile(durations, fraction))
            for durations in (counts.first, counts.whole)
            for fraction in (0.5, 0.95)
        ),
        number_cell(counts.prompt_tokens),
        text_cell(
            tables.NOTHING if share is None else f"{share:.0%}", -1 if share is None else share
        ),
        number_cell(counts.completion_tokens),
    ]
    return tables.row(key, cells)


def _horde(facts: HourlyFacts, now: float, horde: str, model: ShownModel | None) -> Section:
    period = period_of(now, _HOURS)
    models = {
        kind: list(horde_sums(facts, horde, kind, period).values())[:_MOST_MODELS] for kind in KINDS
    }
    choices = [
        {"kind": kind.capitalize(), "models": [_choice(kind, row["name"]) for row in rows]}
        for kind, rows in models.items()
        if rows
    ]
    if model is None:
        drawn = [chart for kind in KINDS for chart in _whole_horde(facts, horde, kind, period)]
    else:
        drawn = _one_model(facts, horde, period, model)
    return {
        "problem": None,
        "model": model and _listed(model, choices),
        "charts": drawn,
        "choices": choices,
        "models": _models(models),
    }


def _choice(kind: str, name: str) -> dict[str, str]:
    return {"name": name, "value": ShownModel(kind, name).value}


def _listed(model: ShownModel, choices: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The model as the list has it, by any of its names, so that it is the selected one."""
    key = canonical(model.name).key
    for group in choices:
        for choice in group["models"]:
            other = ShownModel.read(choice["value"])
            if other and other.kind == model.kind and canonical(other.name).key == key:
                return dict(choice)
    return _choice(*model)


def _whole_horde(facts: HourlyFacts, horde: str, kind: str, period: Period) -> list[Section]:
    rows = _by_hour(horde_rows(facts, horde, kind, period), period)
    title = kind.capitalize()
    return [
        _workers(f"week-{kind}-workers", f"{title} workers", rows),
        _jobs(f"week-{kind}-jobs", f"{title} jobs", rows),
    ]


def _one_model(facts: HourlyFacts, horde: str, period: Period, model: ShownModel) -> list[Section]:
    rows = _by_hour(horde_rows(facts, horde, model.kind, period, model.name), period)
    unit, divisor = _SPEEDS[model.kind]
    speeds = _values(rows, "performance", divisor)
    return [
        _workers("week-model-workers", "Workers", rows),
        _jobs("week-model-jobs", "Jobs", rows),
        charts.lines(
            _AXIS,
            "week-model-speed",
            "Speed",
            [Series("good", unit, speeds)],
            _range(f"The speed in {unit}", speeds, number, "No speed was measured"),
            charts.short,
        ),
    ]


def _workers(name: str, title: str, rows: Sequence[Section | None]) -> Section:
    workers = _values(rows, "worker_count")
    return charts.lines(
        _AXIS,
        name,
        title,
        [
            Series("warn", "threads", _values(rows, "threads")),
            Series("good", "workers", workers),
        ],
        _range("The number of workers", workers, number, "Nothing is known"),
        charts.short,
    )


def _jobs(name: str, title: str, rows: Sequence[Section | None]) -> Section:
    jobs = _values(rows, "queued_jobs")
    return charts.bars(
        _AXIS,
        name,
        title,
        [Series("good", "waiting and running", jobs)],
        _range("The number of waiting and running jobs", jobs, number, "Nothing is known"),
    )


def _by_hour(rows: Sequence[Section], period: Period) -> list[Section | None]:
    """A row for each hour of the period; None without samples."""
    by_hour = {row["at"]: row for row in rows}
    return [by_hour.get(hour) for hour in steps_of(period)]


def _values(rows: Sequence[Section | None], name: str, divisor: float = 1.0) -> list[float | None]:
    """One field of the rows; None where there is no row, or nothing is known."""
    values = (None if row is None else row[name] for row in rows)
    return [None if value is None else value / divisor for value in values]


def _range(
    what: str, values: Sequence[float | None], write: Callable[[float], str], nothing: str
) -> str:
    """A sentence about the lowest and the highest value."""
    known = [value for value in values if value is not None]
    if not known:
        return f"{nothing} in the last seven days."
    return f"{what} was between {write(min(known))} and {write(max(known))} in the last seven days."


def _models(models: Mapping[str, Sequence[Section]]) -> Table:
    columns = ("Model", "Kind", "#Workers", "#Threads", "#Jobs", "#Speed", "#Last seen")
    rows = [_model_row(kind, row) for kind, of_kind in models.items() for row in of_kind]
    return tables.table("week-models", columns, rows, "No samples of models yet.")


def _model_row(kind: str, model: Section) -> dict[str, Any]:
    unit, divisor = _SPEEDS[kind]
    speed, last = model["performance"], model["last_seen_at"]
    shown = tables.NOTHING if speed is None else f"{number(speed / divisor)} {unit}"
    seen = tables.NOTHING if last is None else tables.clock_time(last, "%d %b %H:%M UTC")
    cells = [
        text_cell(model["name"]),
        text_cell(kind),
        number_cell(model["worker_count"]),
        number_cell(model["threads"]),
        number_cell(model["queued_jobs"]),
        text_cell(shown, -1 if speed is None else speed),
        text_cell(seen, last or 0),
    ]
    return tables.row(f"{kind} {model['name']}", cells)
