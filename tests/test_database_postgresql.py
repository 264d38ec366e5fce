"""What a PostgreSQL that is lost costs, as far as no server is needed; more is in tests/live."""

from __future__ import annotations

from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from horde_proxy.database.errors import DatabaseError
from horde_proxy.private_horde.store import connections
from horde_proxy.private_horde.store.connections import Line

psycopg = pytest.importorskip("psycopg")

from horde_proxy.database import postgresql  # noqa: E402

NO_NEWS, READY = 0, 1
"""What psycopg sends to a generator that waits, ten times a second and when there are news."""


def answered() -> Generator[str, int, str]:
    """A statement whose answer comes with the first news."""
    while not (yield "for reading"):
        pass
    return "rows"


def bounded(seconds: float) -> tuple[Any, list[str]]:
    """The statement with a bound, and what was done to its connection."""
    done: list[str] = []
    connection: Any = SimpleNamespace(close=lambda: done.append("closed"))
    return postgresql.BoundedConnection._bounded(connection, answered(), seconds), done


def test_an_answer_within_its_time_comes_through() -> None:
    waiting, done = bounded(60)
    assert next(waiting) == "for reading"
    assert waiting.send(NO_NEWS) == "for reading"
    with pytest.raises(StopIteration) as end:
        waiting.send(READY)
    assert (end.value.value, done) == ("rows", [])


def test_a_connection_without_an_answer_is_closed() -> None:
    waiting, done = bounded(0)
    next(waiting)
    with pytest.raises(psycopg.OperationalError, match="no answer for 0 s"):
        waiting.send(NO_NEWS)
    assert done == ["closed"]


def test_a_thread_waits_for_a_connection_no_longer_than_a_statement_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_LONGEST_TURN", 0.01)
    line = Line(1)
    with line:
        with pytest.raises(DatabaseError, match="has not answered others"):
            line.__enter__()
    with line:
        """Whoever gave up has left the line."""
