"""The history in a database. Whoever writes an hour adds to what is there.

This module imports SQLAlchemy, so import it only if there is a database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    case,
    delete,
    func,
    literal_column,
    select,
)

from horde_proxy.database.engine import Database
from horde_proxy.stats.history.records import (
    ONE_STEP,
    EndpointFacts,
    EndpointKey,
    HordeFacts,
    HordeKey,
    Period,
)
from horde_proxy.stats.history.schema import (
    DURATIONS,
    ENDPOINT_SUMS,
    ENDPOINTS,
    HORDE_SUMS,
    HORDES,
    SCHEMA,
)

_AT_ONCE = 500
"""Rows of one statement. SQLite allows 32766 values in one, and a row has at most 12."""


class HistoryDatabase:
    """The history's tables. If the database fails, every method raises DatabaseError."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(
        self, hordes: Mapping[HordeKey, HordeFacts], endpoints: Mapping[EndpointKey, EndpointFacts]
    ) -> None:
        """Add the facts to those that are stored: all of them or, with an error, none."""
        # Sorted: two proxies that lock the same rows in different orders deadlock.
        horde_rows = [
            {**key._asdict(), **{name: getattr(facts, name) for name in ("name", *HORDE_SUMS)}}
            for key, facts in sorted(hordes.items(), key=lambda item: item[0])
        ]
        endpoint_rows, durations = [], []
        for key, facts in sorted(endpoints.items(), key=lambda item: item[0]):
            row = {name: getattr(facts, name) for name in ENDPOINT_SUMS}
            endpoint_rows.append({**key._asdict(), **row})
            durations += _duration_rows(key, facts)
        with self._begin() as connection:
            self._upsert(connection, HORDES, HORDE_SUMS, horde_rows, replaced=("name",))
            self._upsert(connection, ENDPOINTS, ENDPOINT_SUMS, endpoint_rows)
            self._upsert(connection, DURATIONS, ("count",), durations)

    def prune(self, first_hour: int) -> None:
        """Delete what is of an earlier hour (Unix s)."""
        with self._begin() as connection:
            for table in (HORDES, ENDPOINTS, DURATIONS):
                connection.execute(delete(table).where(table.c.hour < first_hour))

    def horde(
        self, horde: str, kind: str, period: Period, models: Sequence[str] | None = None
    ) -> dict[HordeKey, HordeFacts]:
        """The facts of some models, or all, by the beginning of each step."""
        is_meant = _within(HORDES, period)
        is_meant &= and_(HORDES.c.horde == horde, HORDES.c.kind == kind)
        if models is not None:
            is_meant &= HORDES.c.model.in_(models)
        # Not in the WHERE clause: an hour without a worker counts for the sums as well.
        served = case((HORDES.c.workers > 0, HORDES.c.hour))
        columns = HORDES.c.model, func.max(HORDES.c.name), func.min(served), func.max(served)
        sums = [func.sum(HORDES.c[name]) for name in HORDE_SUMS]
        groups: list[ColumnElement[Any]] = [HORDES.c.model]
        if period.step < ONE_STEP:
            groups.append(_step_of(HORDES, period))
        statement = select(*columns, *sums, *groups[1:]).where(is_meant).group_by(*groups)
        with self._begin() as connection:
            facts = {}
            for row in connection.execute(statement):
                hour = int(row[-1]) if period.step < ONE_STEP else 0
                facts[HordeKey(hour, horde, kind, row[0])] = _horde_facts(*row[1:11])
            return facts

    def endpoints(self, period: Period, key: str | None = None) -> dict[EndpointKey, EndpointFacts]:
        """The facts by step, endpoint and model, of one key or summed over all (key "")."""
        facts: dict[EndpointKey, EndpointFacts] = {}
        with self._begin() as connection:
            for row in connection.execute(_by_model(ENDPOINTS, period, key, ENDPOINT_SUMS)):
                step_key = EndpointKey(int(row[0]), row[1], row[2], key or "")
                facts[step_key] = _endpoint_facts(row[3:])
            columns = DURATIONS.c.measure, DURATIONS.c.step
            for row in connection.execute(_by_model(DURATIONS, period, key, ("count",), columns)):
                step_key = EndpointKey(int(row[0]), row[1], row[2], key or "")
                counts = facts.setdefault(step_key, EndpointFacts())
                counts.durations(row[3])[int(row[4])] += int(row[5])
        return facts

    @property
    def exists(self) -> bool:
        """Whether there is something to read."""
        return self.database.exists

    def close(self) -> None:
        """Close the connections. The next call opens them again."""
        self.database.close()

    def _begin(self) -> AbstractContextManager[Connection]:
        return self.database.begin(SCHEMA)

    def _upsert(
        self,
        connection: Connection,
        table: Table,
        sums: Sequence[str],
        rows: Sequence[dict[str, Any]],
        replaced: Sequence[str] = (),
    ) -> None:
        """Insert the rows, or add their sums to those of the same key."""
        statement = self.database.insert(table)
        added = {name: table.c[name] + statement.excluded[name] for name in sums}
        statement = statement.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={**added, **{name: statement.excluded[name] for name in replaced}},
        )
        for start in range(0, len(rows), _AT_ONCE):
            connection.execute(statement, rows[start : start + _AT_ONCE])


def _duration_rows(key: EndpointKey, facts: EndpointFacts) -> list[dict[str, Any]]:
    return [
        {**key._asdict(), "measure": measure, "step": step, "count": count}
        for measure, counts in (("first", facts.first), ("whole", facts.whole))
        for step, count in sorted(counts.items())
    ]


def _within(table: Table, period: Period) -> ColumnElement[bool]:
    return and_(table.c.hour >= period.first, table.c.hour < period.end)


def _step_of(table: Table, period: Period) -> ColumnElement[int]:
    """The beginning of the step that an hour is in, in a form that both databases calculate."""
    # In the text of the statement: PostgreSQL takes two parameters of one value for different ones,
    # and then refuses to group by the expression.
    return table.c.hour - table.c.hour % literal_column(str(int(period.step)))


def _by_model(
    table: Table,
    period: Period,
    key: str | None,
    sums: Sequence[str],
    columns: Sequence[ColumnElement[Any]] = (),
) -> Any:
    """A query for the sums of each step by endpoint, model and these columns."""
    groups = (_step_of(table, period), table.c.endpoint, table.c.model, *columns)
    statement = select(*groups, *(func.sum(table.c[name]) for name in sums)).where(
        _within(table, period)
    )
    if key is not None:
        statement = statement.where(table.c.key == key)
    return statement.group_by(*groups)


def _horde_facts(name: str, first: int | None, last: int | None, *sums: Any) -> HordeFacts:
    """The facts of a row. PostgreSQL's sums of BIGINT are decimals."""
    samples, workers, threads, queued, jobs, speed, speed_samples = sums
    return HordeFacts(
        name,
        int(samples),
        int(workers),
        int(threads),
        float(queued),
        float(jobs),
        float(speed),
        int(speed_samples),
        first,
        last,
    )


def _endpoint_facts(sums: Sequence[Any]) -> EndpointFacts:
    requests, failures, prompt, completion, known, warm = map(int, sums)
    return EndpointFacts(requests, failures, prompt, completion, known, warm)


def open_history(url: str) -> HistoryDatabase:
    """The history in the database of a URL, opened at its first use. Raises DatabaseError."""
    return HistoryDatabase(Database(url, setting="stats.history_database"))
