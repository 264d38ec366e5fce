"""The book counts at once and writes when it can; nothing is lost, nothing counts twice."""

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


class Unsteady(LedgerDatabase):
    """A real store that can be made to fail, and that calls `during` while it records."""

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
def store(tmp_path: Path) -> Iterator[Unsteady]:
    store = Unsteady(Database(f"sqlite:///{tmp_path}/ledger.db", setting="access.database"))
    yield store
    store.close()


def open_book(store: LedgerDatabase | None, clock: Clock) -> UsageRecorder:
    """A book whose thread never comes to write by itself."""
    return UsageRecorder(store, now=clock, interval=3600)


@pytest.fixture
def book(store: Unsteady, clock: Clock) -> Iterator[UsageRecorder]:
    book = open_book(store, clock)
    yield book
    store.fails = False
    book.close()


def add(book: UsageRecorder, name: str = "ann", tokens: int = 5, **more: Any) -> None:
    book.add(name, "m", "chat", prompt_tokens=10, completion_tokens=tokens, kudos=1.5, **more)


def rows(*requests_and_errors: tuple[str, int, int, int, int, float]) -> list[Usage]:
    return [Usage(row[0], "ann", "m", "chat", *row[1:]) for row in requests_and_errors]


def test_what_is_added_counts_at_once(book: UsageRecorder, store: Unsteady) -> None:
    add(book)
    add(book, failed=True)
    assert book.used_today("ann") == DayUsage(30, 3.0)
    assert book.used_today("bob") == DayUsage(0, 0.0)
    assert store.usage(DAY, DAY) == []


def test_a_flush_writes_and_nothing_counts_twice(book: UsageRecorder, store: Unsteady) -> None:
    add(book)
    book.flush()
    add(book, failed=True)
    assert store.usage(DAY, DAY) == rows((DAY, 1, 0, 10, 5, 1.5))
    assert book.usage(DAY, DAY) == rows((DAY, 2, 1, 20, 10, 3.0))
    assert book.used_today("ann") == DayUsage(30, 3.0)
    book.flush()
    book.flush()
    assert store.usage(DAY, DAY) == rows((DAY, 2, 1, 20, 10, 3.0))
    assert book.used_today("ann") == DayUsage(30, 3.0)


def test_what_is_added_during_a_flush_counts_once(book: UsageRecorder, store: Unsteady) -> None:
    seen = []

    def during() -> None:
        add(book)
        seen.append(book.used_today("ann"))

    add(book)
    assert book.used_today("ann") == DayUsage(15, 1.5)
    store.during = during  # type: ignore[method-assign]
    book.flush()
    assert seen == [DayUsage(30, 3.0)]
    assert book.used_today("ann") == DayUsage(30, 3.0)
    assert book.usage(DAY, DAY) == rows((DAY, 2, 0, 20, 10, 3.0))


def test_a_restart_goes_on_with_what_the_day_has_used(store: Unsteady, clock: Clock) -> None:
    store.add_usage(rows((DAY, 1, 0, 10, 5, 1.5), ("2026-01-30", 9, 0, 90, 90, 9.0)))
    book = open_book(store, clock)
    assert book.used_today("ann") == DayUsage(15, 1.5)
    book.close()


def test_books_on_one_store_see_each_other(store: Unsteady, clock: Clock) -> None:
    one, two = open_book(store, clock), open_book(store, clock)
    add(one)
    add(two)
    one.flush()
    two.flush()
    assert (one.used_today("ann"), two.used_today("ann")) == (DayUsage(15, 1.5), DayUsage(30, 3.0))
    one.flush()
    assert one.used_today("ann") == DayUsage(30, 3.0)
    one.close()
    two.close()


def test_what_a_store_refuses_is_written_later_and_logged_once(
    book: UsageRecorder, store: Unsteady, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store.fails = True
    for _ in range(3):
        add(book)
        book.flush()
    assert book.used_today("ann") == DayUsage(45, 4.5)
    store.fails = False
    add(book)
    book.flush()
    assert store.usage(DAY, DAY) == rows((DAY, 4, 0, 40, 20, 6.0))
    assert book.used_today("ann") == DayUsage(60, 6.0)
    assert [record.message for record in caplog.records] == [
        "usage is kept in memory until the database works again: gone",
        "usage is written to the database again",
    ]


def test_a_store_that_only_writes_makes_nothing_count_twice(
    book: UsageRecorder, store: Unsteady
) -> None:
    add(book)
    store.fails_to_read = True
    book.flush()
    add(book)
    assert book.used_today("ann") == DayUsage(30, 3.0)
    store.fails_to_read = False
    book.flush()
    assert book.used_today("ann") == DayUsage(30, 3.0)
    assert store.usage(DAY, DAY) == rows((DAY, 2, 0, 20, 10, 3.0))


def test_a_bug_in_the_store_loses_nothing(book: UsageRecorder, store: Unsteady) -> None:
    def during() -> None:
        raise KeyError("a bug")

    add(book)
    store.during = during  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        book.flush()
    store.during = lambda: None  # type: ignore[method-assign]
    book.flush()
    assert store.usage(DAY, DAY) == rows((DAY, 1, 0, 10, 5, 1.5))


def test_a_day_begins_with_nothing_spent(
    book: UsageRecorder, clock: Clock, store: Unsteady
) -> None:
    add(book)
    clock.seconds += 86400
    assert book.used_today("ann") == DayUsage(0, 0.0)
    add(book)
    assert book.used_today("ann") == DayUsage(15, 1.5)
    book.flush()
    assert book.used_today("ann") == DayUsage(15, 1.5)
    assert store.usage(DAY, FAR) == rows((DAY, 1, 0, 10, 5, 1.5), (NEXT_DAY, 1, 0, 10, 5, 1.5))


def test_a_clock_that_is_put_back_over_midnight_keeps_the_days_apart(
    book: UsageRecorder, clock: Clock
) -> None:
    add(book)
    clock.seconds += 86400
    add(book, tokens=6)
    clock.seconds -= 86400
    assert book.used_today("ann") == DayUsage(15, 1.5)


def test_usage_is_of_the_days_and_the_name_that_are_asked_for(
    book: UsageRecorder, clock: Clock
) -> None:
    for name in ("ann", "bob"):
        add(book, name)
    book.flush()
    clock.seconds += 86400
    for name in ("ann", "bob"):
        add(book, name)
    assert [(row.day, row.name) for row in book.usage(NEXT_DAY, FAR)] == [
        (NEXT_DAY, "ann"),
        (NEXT_DAY, "bob"),
    ]
    assert [(row.day, row.name) for row in book.usage(DAY, FAR, "bob")] == [
        (DAY, "bob"),
        (NEXT_DAY, "bob"),
    ]


def test_without_a_store_all_is_kept_for_a_month(clock: Clock) -> None:
    book = open_book(None, clock)
    for _ in range(40):
        add(book)
        clock.seconds += 86400
    add(book)
    book.flush()
    found = book.usage("", FAR)
    assert (len(found), found[0].day, found[-1].day) == (31, "2026-02-10", "2026-03-12")
    assert book.used_today("ann") == DayUsage(15, 1.5)
    book.close()


def test_without_a_store_nobody_writes(clock: Clock) -> None:
    book = open_book(None, clock)
    add(book)
    assert book._thread is None


def test_many_add_while_others_write(store: Unsteady, clock: Clock) -> None:
    book = open_book(store, clock)

    def work(number: int) -> None:
        for _ in range(50):
            add(book)
        book.flush()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert book.used_today("ann") == DayUsage(12000, 1200.0)
    assert book.usage(DAY, DAY) == rows((DAY, 800, 0, 8000, 4000, 1200.0))
    book.close()
    assert store.usage(DAY, DAY) == rows((DAY, 800, 0, 8000, 4000, 1200.0))


def test_a_thread_writes_by_itself(store: Unsteady, clock: Clock) -> None:
    store.written = threading.Event()
    book = UsageRecorder(store, now=clock, interval=0.001)
    assert book._thread is None
    add(book)
    assert store.written.wait(10)
    book.close()
    assert store.usage(DAY, DAY) == rows((DAY, 1, 0, 10, 5, 1.5))


def test_a_store_that_fails_at_first_is_not_waited_for_again(
    book: UsageRecorder, store: Unsteady
) -> None:
    store.add_usage(rows((DAY, 1, 0, 10, 5, 1.5)))
    store.fails = True
    assert book.used_today("ann") == DayUsage(0, 0.0)
    store.fails = False
    assert book.used_today("ann") == DayUsage(0, 0.0)
    book.flush()
    assert book.used_today("ann") == DayUsage(15, 1.5)


def test_what_is_lost_at_the_end_is_told(
    store: Unsteady, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    book = open_book(store, clock)
    add(book)
    store.fails = True
    book.close()
    assert caplog.messages[-1] == "usage could not be written and is lost: 1 rows"


def test_usage_that_cannot_be_read_is_an_error(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("")
    book = open_book(open_ledger(f"sqlite:///{tmp_path}/file/ledger.db"), clock)
    with pytest.raises(DatabaseError):
        book.usage(DAY, DAY)
