"""When an endpoint cools down, and when it is tried again."""

from __future__ import annotations

from horde_proxy.router.circuit_breaker import Attempt, CircuitBreaker
from tests.support import Clock


def acquired(breaker: CircuitBreaker) -> Attempt:
    attempt = breaker.try_acquire()
    assert attempt is not None
    return attempt


def fail(breaker: CircuitBreaker, seconds: float | None = None) -> None:
    attempt = acquired(breaker)
    attempt.failed("connection refused", seconds)
    attempt.end()


def test_a_failure_starts_a_cooldown_that_doubles_up_to_the_longest() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 5, clock)
    pauses = []
    for _ in range(5):
        fail(breaker)
        pauses.append(breaker.cooldown_left())
        assert breaker.try_acquire() is None
        clock.seconds += breaker.cooldown_left()
    assert pauses == [1, 2, 4, 5, 5]


def test_one_request_probes_and_an_answer_lets_all_others_follow() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 60, clock)
    fail(breaker)
    clock.seconds += 1
    probe = acquired(breaker)
    assert (breaker.try_acquire(), breaker.reason()) == (
        None,
        "being tried again after: connection refused",
    )
    probe.answered()
    assert breaker.try_acquire() is not None


def test_a_probe_that_ends_without_an_answer_leaves_room_for_the_next() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 60, clock)
    fail(breaker)
    clock.seconds += 1
    acquired(breaker).end()
    assert breaker.try_acquire() is not None


def test_a_cooldown_that_the_server_asks_for_is_respected() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 60, clock)
    fail(breaker, 90)
    assert breaker.cooldown_left() == 90
    assert breaker.reason() == "cooling down for 90 s after: connection refused"


def test_without_a_cooldown_requests_are_always_sent_although_it_is_down() -> None:
    breaker = CircuitBreaker(0)
    fail(breaker)
    assert breaker.try_acquire() is not None
    assert breaker.state()["state"] == "down"
    acquired(breaker).answered()
    assert breaker.state()["state"] == "up"


def test_an_attempt_may_be_ended_more_than_once() -> None:
    breaker = CircuitBreaker()
    first, second = acquired(breaker), acquired(breaker)
    assert breaker.running == 2
    first.end()
    first.end()
    assert breaker.running == 1
    second.end()
    assert breaker.running == 0


def test_latencies_are_in_seconds() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 60, clock)
    for number in range(1, 101):
        attempt = acquired(breaker)
        clock.seconds += number / 100
        attempt.answered()
        clock.seconds += 5
        attempt.end()
    assert breaker.state() == {
        "state": "up",
        "retry_in": None,
        "last_error": None,
        "running": 0,
        "latency": {"count": 100, "p50": 0.505, "p95": 0.96},
    }


def test_the_last_error_is_still_shown_when_it_is_up_again() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 60, clock)
    fail(breaker)
    assert breaker.state()["state"] == "cooling"
    clock.seconds += 1
    assert breaker.state()["state"] == "probing"
    probe = acquired(breaker)
    probe.answered()
    assert (breaker.state()["state"], breaker.state()["last_error"]) == ("up", "connection refused")


def test_one_outage_is_one_failure_however_many_requests_meet_it() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 60, clock)
    running = [acquired(breaker) for _ in range(8)]
    clock.seconds += 1
    for attempt in running:
        attempt.failed("connection refused")
        attempt.end()
    assert breaker.cooldown_left() == 1


def test_an_old_probe_that_ends_makes_no_room_for_a_second_new_one() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 60, clock)
    fail(breaker)
    clock.seconds += 1
    old = acquired(breaker)
    old.answered()
    clock.seconds += 1
    fail(breaker)
    clock.seconds += 1
    assert breaker.try_acquire() is not None
    old.end()
    assert breaker.try_acquire() is None
