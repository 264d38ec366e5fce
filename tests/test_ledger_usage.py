"""The recorder counts at once and writes when it can; nothing is lost, nothing counts twice."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.ledger.database import LedgerDatabase, open_ledger
from horde_proxy.ledger.records import DayUsage, Usage
from horde_proxy.ledger.usage import UsageRecorder
from tests.support import Clock

NOON = 1_769_860_800.0
DAY, NEXT_DAY = "2026-01-31", "2026-02-01"
FAR = "9999-12-31"


class UnsteadyDatabase(LedgerDatabase):
    """A real database that can be made to fail, and that calls `during` while it records."""

    fails = False
    fails_to_read = False
    written: threading.Event | None = None

    def during(self) -> None:
        """Nothing, unless a test says so."""

    def add_usage(self, entries: Iterable[Usage]) -> None:
        if self.fails:
            raise DatabaseError("gone")
        self.during()
        super().add_usage(entries)
        if self.written is not None:
            self.written.set()

    def totals(self, day: str) -> dict[str, DayUsage]:
        if self.fails or self.fails_to_read:
            raise DatabaseError("gone")
        return super().totals(day)


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.seconds = NOON
    return clock


@pytest.fixture
def database(tmp_path: Path) -> Iterator[UnsteadyDatabase]:
    database = UnsteadyDatabase(
        Database(f"sqlite:///{tmp_path}/ledger.db", setting="access.database")
    )
    yield database
    database.close()


def new_recorder(database: LedgerDatabase | None, clock: Clock) -> UsageRecorder:
    """A recorder whose thread never comes to write by itself."""
    return UsageRecorder(database, now=clock, interval=3600)


@pytest.fixture
def recorder(database: UnsteadyDatabase, clock: Clock) -> Iterator[UsageRecorder]:
    recorder = new_recorder(database, clock)
    yield recorder
    database.fails = False
    recorder.close()


def add(recorder: UsageRecorder, name: str = "ann", tokens: int = 5, **more: Any) -> None:
    recorder.add(name, "m", "chat", prompt_tokens=10, completion_tokens=tokens, kudos=1.5, **more)


def rows(*requests_and_errors: tuple[str, int, int, int, int, float]) -> list[Usage]:
    return [Usage(row[0], "ann", "m", "chat", *row[1:]) for row in requests_and_errors]


def test_added_usage_counts_at_once(recorder: UsageRecorder, database: UnsteadyDatabase) -> None:
    add(recorder)
    add(recorder, failed=True)
    assert recorder.used_today("ann") == DayUsage(30, 3.0)
    assert recorder.used_today("bob") == DayUsage(0, 0.0)
    assert database.usage(DAY, DAY) == []


def test_a_flush_writes_and_nothing_counts_twice(
    recorder: UsageRecorder, database: UnsteadyDatabase
) -> None:
    add(recorder)
    recorder.flush()
    add(recorder, failed=True)
    assert database.usage(DAY, DAY) == rows((DAY, 1, 0, 10, 5, 1.5))
    assert recorder.usage(DAY, DAY) == rows((DAY, 2, 1, 20, 10, 3.0))
    assert recorder.used_today("ann") == DayUsage(30, 3.0)
    recorder.flush()
    recorder.flush()
    assert database.usage(DAY, DAY) == rows((DAY, 2, 1, 20, 10, 3.0))
    assert recorder.used_today("ann") == DayUsage(30, 3.0)


def test_usage_added_during_a_flush_counts_once(
    recorder: UsageRecorder, database: UnsteadyDatabase
) -> None:
    seen = []

    def during() -> None:
        add(recorder)
        seen.append(recorder.used_today("ann"))

    add(recorder)
    assert recorder.used_today("ann") == DayUsage(15, 1.5)
    database.during = during  # type: ignore[method-assign]
    recorder.flush()
    assert seen == [DayUsage(30, 3.0)]
    assert recorder.used_today("ann") == DayUsage(30, 3.0)
    assert recorder.usage(DAY, DAY) == rows((DAY, 2, 0, 20, 10, 3.0))


def test_a_restart_continues_the_day(database: UnsteadyDatabase, clock: Clock) -> None:
    database.add_usage(rows((DAY, 1, 0, 10, 5, 1.5), ("2026-01-30", 9, 0, 90, 90, 9.0)))
    recorder = new_recorder(database, clock)
    assert recorder.used_today("ann") == DayUsage(15, 1.5)
    recorder.close()


def test_recorders_on_one_database_see_each_other(database: UnsteadyDatabase, clock: Clock) -> None:
    one, two = new_recorder(database, clock), new_recorder(database, clock)
    add(one)
    add(two)
    one.flush()
    two.flush()
    assert (one.used_today("ann"), two.used_today("ann")) == (DayUsage(15, 1.5), DayUsage(30, 3.0))
    one.flush()
    assert one.used_today("ann") == DayUsage(30, 3.0)
    one.close()
    two.close()


def test_usage_is_written_later_after_a_failure_which_is_logged_once(
    recorder: UsageRecorder, database: UnsteadyDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    database.fails = True
    for _ in range(3):
        add(recorder)
        recorder.flush()
    assert recorder.used_today("ann") == DayUsage(45, 4.5)
    database.fails = False
    add(recorder)
    recorder.flush()
    assert database.usage(DAY, DAY) == rows((DAY, 4, 0, 40, 20, 6.0))
    assert recorder.used_today("ann") == DayUsage(60, 6.0)
    assert [record.message for record in caplog.records] == [
        "usage is kept in memory until the database works again: gone",
        "usage is written to the database again",
    ]


def test_nothing_counts_twice_when_totals_cannot_be_read(
    recorder: UsageRecorder, database: UnsteadyDatabase
) -> None:
    add(recorder)
    database.fails_to_read = True
    recorder.flush()
    add(recorder)
    assert recorder.used_today("ann") == DayUsage(30, 3.0)
    database.fails_to_read = False
    recorder.flush()
    assert recorder.used_today("ann") == DayUsage(30, 3.0)
    assert database.usage(DAY, DAY) == rows((DAY, 2, 0, 20, 10, 3.0))


def test_an_unexpected_exception_loses_nothing(
    recorder: UsageRecorder, database: UnsteadyDatabase
) -> None:
    def during() -> None:
        raise KeyError("a bug")

    add(recorder)
    database.during = during  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        recorder.flush()
    database.during = lambda: None  # type: ignore[method-assign]
    recorder.flush()
    assert database.usage(DAY, DAY) == rows((DAY, 1, 0, 10, 5, 1.5))


def test_a_day_begins_with_nothing_used(
    recorder: UsageRecorder, clock: Clock, database: UnsteadyDatabase
) -> None:
    add(recorder)
    clock.seconds += 86400
    assert recorder.used_today("ann") == DayUsage(0, 0.0)
    add(recorder)
    assert recorder.used_today("ann") == DayUsage(15, 1.5)
    recorder.flush()
    assert recorder.used_today("ann") == DayUsage(15, 1.5)
    assert database.usage(DAY, FAR) == rows((DAY, 1, 0, 10, 5, 1.5), (NEXT_DAY, 1, 0, 10, 5, 1.5))


def test_a_clock_put_back_over_midnight_keeps_the_days_apart(
    recorder: UsageRecorder, clock: Clock
) -> None:
    add(recorder)
    clock.seconds += 86400
    add(recorder, tokens=6)
    clock.seconds -= 86400
    assert recorder.used_today("ann") == DayUsage(15, 1.5)


def test_usage_is_of_the_given_days_and_name(recorder: UsageRecorder, clock: Clock) -> None:
    for name in ("ann", "bob"):
        add(recorder, name)
    recorder.flush()
    clock.seconds += 86400
    for name in ("ann", "bob"):
        add(recorder, name)
    assert [(row.day, row.name) for row in recorder.usage(NEXT_DAY, FAR)] == [
        (NEXT_DAY, "ann"),
        (NEXT_DAY, "bob"),
    ]
    assert [(row.day, row.name) for row in recorder.usage(DAY, FAR, "bob")] == [
        (DAY, "bob"),
        (NEXT_DAY, "bob"),
    ]


def test_without_a_database_usage_is_kept_for_a_month(clock: Clock) -> None:
    recorder = new_recorder(None, clock)
    for _ in range(40):
        add(recorder)
        clock.seconds += 86400
    add(recorder)
    recorder.flush()
    usage = recorder.usage("", FAR)
    assert (len(usage), usage[0].day, usage[-1].day) == (31, "2026-02-10", "2026-03-12")
    assert recorder.used_today("ann") == DayUsage(15, 1.5)
    recorder.close()


def test_without_a_database_no_thread_starts(clock: Clock) -> None:
    recorder = new_recorder(None, clock)
    add(recorder)
    assert recorder._thread is None


def test_threads_may_add_while_others_write(database: UnsteadyDatabase, clock: Clock) -> None:
    recorder = new_recorder(database, clock)

    def work(number: int) -> None:
        for _ in range(50):
            add(recorder)
        recorder.flush()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert recorder.used_today("ann") == DayUsage(12000, 1200.0)
    assert recorder.usage(DAY, DAY) == rows((DAY, 800, 0, 8000, 4000, 1200.0))
    recorder.close()
    assert database.usage(DAY, DAY) == rows((DAY, 800, 0, 8000, 4000, 1200.0))


def test_a_thread_writes_regularly(database: UnsteadyDatabase, clock: Clock) -> None:
    database.written = threading.Event()
    recorder = UsageRecorder(database, now=clock, interval=0.001)
    assert recorder._thread is None
    add(recorder)
    assert database.written.wait(60)
    recorder.close()
    assert database.usage(DAY, DAY) == rows((DAY, 1, 0, 10, 5, 1.5))


def test_a_database_that_fails_at_first_is_not_waited_for_again(
    recorder: UsageRecorder, database: UnsteadyDatabase
) -> None:
    database.add_usage(rows((DAY, 1, 0, 10, 5, 1.5)))
    database.fails = True
    assert recorder.used_today("ann") == DayUsage(0, 0.0)
    database.fails = False
    assert recorder.used_today("ann") == DayUsage(0, 0.0)
    recorder.flush()
    assert recorder.used_today("ann") == DayUsage(15, 1.5)


def test_usage_lost_at_the_end_is_logged(
    database: UnsteadyDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = new_recorder(database, clock)
    add(recorder)
    database.fails = True
    recorder.close()
    assert caplog.messages[-1] == "usage could not be written and is lost: 1 rows"


def test_usage_that_cannot_be_read_is_an_error(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("")
    recorder = new_recorder(open_ledger(f"sqlite:///{tmp_path}/file/ledger.db"), clock)
    with pytest.raises(DatabaseError):
        recorder.usage(DAY, DAY)


def test_late_kudos_count_on_the_day_of_their_request(
    database: UnsteadyDatabase, clock: Clock
) -> None:
    usage = UsageRecorder(database, now=clock, interval=3600)
    key = usage.add("ann", "m", "horde", completion_tokens=2, kudos=1.0)
    usage.add_kudos(key, 5.0)
    assert usage.used_today("ann") == DayUsage(2, 6.0)
    usage.flush()
    usage.add_kudos(key, 0.5)
    assert usage.used_today("ann") == DayUsage(2, 6.5)
    clock.seconds += 86400
    usage.add_kudos(key, 0.25)
    assert usage.used_today("ann") == DayUsage(0, 0.0)
    assert usage.usage(DAY, NEXT_DAY) == [Usage(DAY, "ann", "m", "horde", 1, 0, 0, 2, 6.75)]
    usage.close()


def test_usage_is_kept_for_its_days_and_all_of_it_without_a_number(
    database: UnsteadyDatabase, clock: Clock
) -> None:
    recorder = new_recorder(database, clock)
    for _ in range(4):
        add(recorder)
        recorder.flush()
        clock.seconds += 86400
    clock.seconds -= 86400
    assert len(database.usage("2000-01-01", "2100-01-01")) == 4
    recorder.keep_days(2)
    add(recorder)
    recorder.flush()
    kept = database.usage("2000-01-01", "2100-01-01")
    assert [row.requests for row in kept] == [1, 2]
    clock.seconds += 86400
    add(recorder)
    recorder.flush()
    assert [row.requests for row in database.usage("2000-01-01", "2100-01-01")] == [2, 1]
    recorder.close()
