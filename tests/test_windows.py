"""How calls are counted in moving and fixed windows, and how long the next one waits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from horde_proxy.windows import CallWindows, MemoryWindows
from tests.support import Clock


def windows(clock: Clock, label: str = "calls") -> CallWindows:
    return CallWindows(label, 60, clock=clock)


def test_a_call_beyond_the_limit_waits_until_the_oldest_is_a_minute_ago() -> None:
    clock = Clock()
    calls = windows(clock)
    assert calls.hit("ann", 2) == 0
    clock.seconds += 10
    assert calls.hit("ann", 2) == 0
    clock.seconds += 10.5
    assert calls.hit("ann", 2) == 40
    clock.seconds += 39.5
    assert calls.hit("ann", 2) == 0
    assert calls.hit("ann", 2) == 10


def test_the_wait_counts_no_call() -> None:
    calls = windows(Clock())
    assert [calls.wait("ann", 1) for _ in range(3)] == [0, 0, 0]
    assert calls.hit("ann", 1) == 0
    assert calls.wait("ann", 1) == 60


def test_the_wait_is_at_least_a_second() -> None:
    clock = Clock()
    calls = windows(clock)
    calls.hit("ann", 1)
    clock.seconds += 59.9
    assert calls.wait("ann", 1) == 1


def test_a_lowered_limit_holds_for_earlier_calls() -> None:
    clock = Clock()
    calls = windows(clock)
    for _ in range(4):
        calls.hit("ann", 10)
        clock.seconds += 1
    assert calls.hit("ann", 2) == 58


def test_a_limit_of_zero_admits_nothing() -> None:
    assert windows(Clock()).hit("ann", 0) == 60


def test_names_are_counted_apart() -> None:
    calls = windows(Clock())
    assert (calls.hit("ann", 1), calls.hit("bob", 1)) == (0, 0)


def test_labels_are_counted_apart_in_one_storage() -> None:
    clock = Clock()
    storage = MemoryWindows(clock)
    one, two = (CallWindows(label, 60, clock=clock, storage=storage) for label in ("a", "b"))
    assert (one.hit("ann", 1), two.hit("ann", 1), one.hit("ann", 1)) == (0, 0, 60)


def test_a_flood_of_names_pushes_out_the_least_recent() -> None:
    calls = windows(Clock())
    calls.hit("first", 1)
    for number in range(10_000):
        calls.hit(str(number), 1)
    assert calls.wait("first", 1) == 0
    assert calls.wait("9999", 1) == 60


def test_a_cleared_window_is_empty() -> None:
    storage = MemoryWindows(Clock())
    storage.acquire_entry("a", 1, 60)
    storage.clear("a")
    assert storage.acquire_entry("a", 1, 60)
    assert storage.reset() == 1
    assert storage.check()
    assert storage.acquire_entry("a", 1, 60)


def test_many_threads_get_no_more_than_the_limit() -> None:
    calls = windows(Clock())
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda number: calls.hit("ann", 20), range(200)))
    assert waits.count(0) == 20


def test_a_fixed_window_starts_with_its_first_call_and_ends_as_a_whole() -> None:
    clock = Clock()
    storage = MemoryWindows(clock)
    assert storage.get_expiry("a") == clock.seconds
    start = clock.seconds
    assert storage.incr("a", 60) == 1
    clock.seconds += 59
    assert storage.incr("a", 60, amount=2) == 3
    assert (storage.get("a"), storage.get_expiry("a")) == (3, start + 60)
    clock.seconds += 1
    assert storage.get("a") == 0
    assert storage.incr("a", 60) == 1
    storage.clear("a")
    assert storage.get("a") == 0


def test_a_flood_of_fixed_windows_pushes_out_the_least_recent() -> None:
    storage = MemoryWindows(Clock())
    for number in range(10_001):
        storage.incr(str(number), 60)
    assert (storage.get("0"), storage.get("10000")) == (0, 1)
