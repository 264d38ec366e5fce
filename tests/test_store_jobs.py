"""Jobs in a table: who does which, what a killed process leaves, how they end.

`JobsBehaviour` is for any database: SQLite is real here, PostgreSQL in tests/live.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.caching.background import inline
from horde_proxy.database.engine import Database
from horde_proxy.errors import ClientGone, ProxyError, ShuttingDown
from horde_proxy.store.job_runner import JobRunner
from horde_proxy.store.jobs import JobStore
from horde_proxy.store.taken_job import Later, NewJob, TakenJob
from tests.support import Clock
from tests.test_store import WritesFirst


def job(identity: str, owner: str = "one", **fields: Any) -> NewJob:
    return NewJob(identity, "echo", owner, {"text": f"ü\0 {identity}"}, **fields)


class JobsBehaviour:
    """What holds in any database. A fixture gives `store` and its `clock`."""

    def ids(self, jobs: list[TakenJob]) -> list[str]:
        return [claimed.id for claimed in jobs]

    def test_a_job_is_claimed_once(self, store: JobStore) -> None:
        store.add([job("a")])
        [claimed] = store.claim("p1", 5)
        assert (claimed.kind, claimed.owner, claimed.attempts) == ("echo", "one", 0)
        assert claimed.details == {"text": "ü\0 a"}
        assert store.claim("p2", 5) == []

    def test_owners_take_turns_and_each_ones_jobs_keep_their_order(
        self, store: JobStore, clock: Clock
    ) -> None:
        store.add([job(f"a{number}", "one") for number in range(5)])
        clock.seconds += 1
        store.add([job("b0", "two"), job("b1", "two")])
        assert self.ids(store.claim("p", 4)) == ["a0", "b0", "a1", "b1"]
        assert self.ids(store.claim("p", 9)) == ["a2", "a3", "a4"]

    def test_an_owner_with_taken_jobs_comes_after_one_without(
        self, store: JobStore, clock: Clock
    ) -> None:
        store.add([job("a0"), job("a1")])
        store.claim("p", 1)
        clock.seconds += 1
        store.add([job("b0", "two")])
        assert self.ids(store.claim("p", 1)) == ["b0"]

    def test_the_lower_priority_comes_first(self, store: JobStore, clock: Clock) -> None:
        store.add([job("line", priority=1)])
        clock.seconds += 1
        store.add([job("response")])
        assert self.ids(store.claim("p", 2)) == ["response", "line"]

    def test_a_lease_that_ended_can_be_taken_with_its_journal(
        self, store: JobStore, clock: Clock
    ) -> None:
        store.add([job("a")])
        [first] = store.claim("p1", 1)
        assert first.save_journal({"entries": ["x"]})
        clock.seconds += 29
        assert store.claim("p2", 1) == []
        clock.seconds += 2
        [second] = store.claim("p2", 1)
        assert second.journal == {"entries": ["x"]}
        assert not first.save_journal({})
        assert store.renew("p1", ["a"]) == {}
        store.remove("p1", "a")
        assert store.renew("p2", ["a"]) == {"a": False}

    def test_a_renewed_lease_lasts(self, store: JobStore, clock: Clock) -> None:
        store.add([job("a")])
        store.claim("p1", 1)
        for _ in range(4):
            clock.seconds += 20
            assert store.renew("p1", ["a"]) == {"a": False}
            assert store.claim("p2", 1) == []

    def test_a_job_that_is_put_back_is_due_later(self, store: JobStore, clock: Clock) -> None:
        store.add([job("a")])
        store.claim("p1", 1)
        store.put_back("p1", "a", 10, is_attempt=True)
        assert store.claim("p2", 1) == []
        clock.seconds += 10
        [claimed] = store.claim("p2", 1)
        assert claimed.attempts == 1

    def test_a_waiting_job_is_removed_when_it_is_cancelled(self, store: JobStore) -> None:
        store.add([job("a", group="batch"), job("b", group="batch"), job("c")])
        store.claim("p", 1)
        assert store.cancel(group="batch") == 1
        assert store.count("batch") == 1
        assert store.renew("p", ["a"]) == {"a": True}
        assert store.cancel(job_id="c") == 1
        assert store.cancel(job_id="c") == 0

    def test_a_cancelled_job_of_a_killed_process_is_taken_at_once(
        self, store: JobStore, clock: Clock
    ) -> None:
        store.add([job("a")])
        store.claim("p1", 1)
        store.cancel(job_id="a")
        clock.seconds += 31
        [claimed] = store.claim("p2", 1)
        assert claimed.is_cancelled

    def test_the_places_in_the_line_are_counted_for_each_owner(self, store: JobStore) -> None:
        store.add([job("a"), job("b"), job("c", "two")])
        assert store.positions("one") == {"a": 1, "b": 2}
        store.claim("p", 1)
        assert store.positions("one") == {"b": 1}

    def test_many_processes_never_take_the_same_job(self, store: JobStore) -> None:
        store.add([job(f"{number:03}") for number in range(60)])

        def take(process: str) -> list[str]:
            taken: list[str] = []
            while claimed := store.claim(process, 3):
                taken += self.ids(claimed)
            return taken

        with ThreadPoolExecutor(4) as pool:
            taken = [name for names in pool.map(take, "abcd") for name in names]
        assert sorted(taken) == [f"{number:03}" for number in range(60)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> JobStore:
    url = f"sqlite:///{tmp_path}/store.db"
    return JobStore(Database(url, setting="store.database", now=clock), now=clock)


class TestJobsInSQLite(WritesFirst, JobsBehaviour):
    """The same in a file."""

    def test_no_file_is_made_by_a_look(self, store: JobStore, tmp_path: Path) -> None:
        assert JobRunner(lambda: store, {}, places=1).step() == 0
        assert not list(tmp_path.iterdir())


class Work:
    """Does each job by a function, and notes what it did."""

    def __init__(self, do: Callable[[TakenJob], Later | None] = lambda job: None) -> None:
        self.do = do
        self.done: list[str] = []
        self.given_up: list[str] = []

    def run(self, job: TakenJob) -> Later | None:
        self.done.append(job.id)
        return self.do(job)

    def give_up(self, job: TakenJob) -> None:
        self.given_up.append(job.id)


def runner(store: JobStore, work: Work, **options: Any) -> JobRunner:
    options = {"places": 2, "start": inline, **options}
    return JobRunner(lambda: store, {"echo": work}, **options)


class Held:
    """Threads that begin when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def go_on(self) -> None:
        while self.calls:
            self.calls.pop(0)()


class Waiter:
    """Notes what it was stopped with."""

    def __init__(self) -> None:
        self.errors: list[ProxyError] = []

    def wake(self) -> None:
        raise AssertionError

    def stop(self, error: ProxyError) -> None:
        self.errors.append(error)


def test_each_job_is_done_once(store: JobStore) -> None:
    work = Work()
    store.add([job(name) for name in "abcde"])
    looks = runner(store, work)
    assert [looks.step() for _ in range(4)] == [2, 2, 1, 0]
    assert work.done == list("abcde")


def test_no_more_jobs_are_done_at_a_time_than_there_are_places(store: JobStore) -> None:
    work, threads = Work(), Held()
    store.add([job(name) for name in "abc"])
    looks = runner(store, work, start=threads)
    assert [looks.step(), looks.step()] == [2, 0]
    threads.go_on()
    assert looks.step() == 1


def test_a_job_that_is_to_wait_is_tried_again(store: JobStore, clock: Clock) -> None:
    attempts: list[int] = []

    def busy(running: TakenJob) -> Later | None:
        attempts.append(running.attempts)
        return Later(7) if len(attempts) < 3 else None

    store.add([job("a")])
    looks = runner(store, Work(busy))
    for _ in range(30):
        looks.step()
        clock.seconds += 1
    assert attempts == [0, 1, 2]


def test_a_fault_of_ours_is_tried_again_and_then_given_up(store: JobStore, clock: Clock) -> None:
    def fail(running: TakenJob) -> Later | None:
        raise ValueError

    work = Work(fail)
    store.add([job("a")])
    looks = runner(store, work)
    for _ in range(20):
        looks.step()
        clock.seconds += 15
    assert work.done == ["a"] * 5
    assert work.given_up == ["a"]


def test_the_jobs_of_a_killed_process_are_done_by_the_next(store: JobStore, clock: Clock) -> None:
    store.add([job("a"), job("b")])
    assert runner(store, Work(), start=Held()).step() == 2
    clock.seconds += 31
    work = Work()
    assert runner(store, work).step() == 2
    assert work.done == ["a", "b"]


def test_a_job_that_another_process_took_is_left_to_it(store: JobStore, clock: Clock) -> None:
    waiter, threads = Waiter(), Held()

    def wait(running: TakenJob) -> Later | None:
        running.control.attach(waiter)
        clock.seconds += 31
        assert len(store.claim("another process", 1)) == 1
        slow.step()
        assert running.is_handed_over
        return None

    store.add([job("a")])
    slow = runner(store, Work(wait), start=threads)
    slow.step()
    threads.go_on()
    assert [type(error) for error in waiter.errors] == [ShuttingDown]
    assert store.renew("another process", ["a"]) == {"a": False}


def test_a_job_is_not_begun_beside_a_thread_that_lost_it(store: JobStore, clock: Clock) -> None:
    threads = Held()

    def lose(running: TakenJob) -> Later | None:
        clock.seconds += 31
        [taken] = store.claim("another process", 1)
        assert looks.step() == 0
        assert running.is_handed_over
        store.put_back("another process", taken.id, 0, is_attempt=False)
        assert looks.step() == 0
        return None

    store.add([job("a")])
    work = Work(lose)
    looks = runner(store, work, start=threads)
    looks.step()
    threads.go_on()
    assert (looks.step(), store.count("")) == (0, 1)
    clock.seconds += 16
    work.do = lambda job: None
    assert looks.step() == 1
    threads.go_on()
    assert (work.done, store.count("")) == (["a", "a"], 0)


def test_a_cancelled_job_ends_and_is_gone(store: JobStore) -> None:
    waiter, threads = Waiter(), Held()

    def wait(running: TakenJob) -> Later | None:
        running.control.attach(waiter)
        store.cancel(job_id="a")
        looks.step()
        return Later(1)

    store.add([job("a")])
    looks = runner(store, Work(wait), start=threads)
    looks.step()
    threads.go_on()
    assert [type(error) for error in waiter.errors] == [ClientGone]
    assert store.positions("one") == {}
    assert store.count("") == 0


def test_a_stop_gives_the_jobs_back(store: JobStore) -> None:
    waiter, threads = Waiter(), Held()

    def wait(running: TakenJob) -> Later | None:
        running.control.attach(waiter)
        running.is_handed_over = True
        return None

    store.add([job("a")])
    looks = runner(store, Work(wait), start=threads)
    looks.step()
    threads.go_on()
    [again] = store.claim("the next process", 1)
    assert (again.id, again.attempts) == ("a", 0)


def test_a_kind_that_is_not_known_is_left_to_others(store: JobStore) -> None:
    store.add([NewJob("a", "newer", "one", {})])
    assert runner(store, Work()).step() == 1
    assert store.count("") == 1


def test_nothing_is_begun_while_the_proxy_ends(store: JobStore) -> None:
    store.add([job("a")])
    assert runner(store, Work(), is_stopping=lambda: True).step() == 0


def test_the_loop_is_started_once(store: JobStore) -> None:
    threads = Held()
    looks = runner(store, Work(), start_loop=threads)
    looks.ensure_started()
    looks.ensure_started()
    assert len(threads.calls) == 1
