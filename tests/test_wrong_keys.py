"""How wrong keys are slowed and refused by address."""

from __future__ import annotations

from threading import Event, Thread

from horde_proxy.wrong_keys import WrongKeys
from tests.support import Clock


def test_three_wrong_keys_are_free_the_next_wait_a_moment_and_the_eleventh_is_refused() -> None:
    clock, slept = Clock(), list[float]()
    wrong = WrongKeys(clock, slept.append)
    assert [wrong.count("10.0.0.1", f"key-{number}") for number in range(11)] == [0] * 10 + [60]
    assert slept == [0.25] * 7
    assert wrong.count("10.0.0.2", "key-0") == 0
    clock.seconds += 30
    assert wrong.count("10.0.0.1", "key-11") == 30
    clock.seconds += 30
    assert wrong.count("10.0.0.1", "key-11") == 0


def test_the_same_wrong_key_counts_once() -> None:
    slept = list[float]()
    wrong = WrongKeys(Clock(), slept.append)
    assert {wrong.count("10.0.0.1", "an-old-key") for _ in range(100)} == {0}
    assert slept == []
    for number in range(9):
        wrong.count("10.0.0.1", f"key-{number}")
    assert wrong.count("10.0.0.1", "another") == 60
    assert wrong.count("10.0.0.1", "another") == 60
    assert wrong.count("10.0.0.1", "an-old-key") == 0


def test_a_flood_of_addresses_is_kept_in_bounded_memory() -> None:
    wrong = WrongKeys(Clock(), lambda seconds: None)
    for number in range(10_100):
        wrong.count(f"address {number}", "key")
    for windows in (wrong._different, wrong._same):
        assert len(windows._storage._calls) == 10_000  # type: ignore[attr-defined]


def test_only_sixteen_threads_wait_at_a_time() -> None:
    go_on, asleep = Event(), list[float]()

    def sleep(seconds: float) -> None:
        asleep.append(seconds)
        go_on.wait(60)

    wrong = WrongKeys(Clock(), sleep)
    for number in range(3 * 20):
        wrong.count(f"10.0.0.{number % 20}", f"key-{number}")
    threads = [Thread(target=wrong.count, args=(f"10.0.0.{n}", "one more")) for n in range(16)]
    for thread in threads:
        thread.start()
    while len(asleep) < 16:
        pass
    assert wrong.count("10.0.0.19", "one more") == 0
    assert len(asleep) == 16
    go_on.set()
    for thread in threads:
        thread.join()
