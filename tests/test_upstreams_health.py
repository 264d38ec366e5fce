"""When an endpoint is left alone, and when it is tried again."""

from __future__ import annotations

from horde_proxy.router.circuit_breaker import Attempt, CircuitBreaker
from tests.support import Clock


def asked(health: CircuitBreaker) -> Attempt:
    attempt = health.ask()
    assert attempt is not None
    return attempt


def fail(health: CircuitBreaker, seconds: float | None = None) -> None:
    attempt = asked(health)
    attempt.failed("connection refused", seconds)
    attempt.end()


def test_a_failure_is_followed_by_a_pause_that_doubles_up_to_the_longest() -> None:
    clock = Clock()
    health = CircuitBreaker(1, 5, clock)
    pauses = []
    for _ in range(5):
        fail(health)
        pauses.append(health.cools_for())
        assert health.ask() is None
        clock.seconds += health.cools_for()
    assert pauses == [1, 2, 4, 5, 5]


def test_one_request_probes_and_an_answer_opens_it_to_all() -> None:
    clock = Clock()
    health = CircuitBreaker(1, 60, clock)
    fail(health)
    clock.seconds += 1
    probe = asked(health)
    assert (health.ask(), health.why_not()) == (None, "being tried again after: connection refused")
    probe.answered()
    assert health.ask() is not None


def test_a_probe_that_ends_without_an_answer_leaves_room_for_the_next() -> None:
    clock = Clock()
    health = CircuitBreaker(1, 60, clock)
    fail(health)
    clock.seconds += 1
    asked(health).end()
    assert health.ask() is not None


def test_a_pause_that_the_server_asks_for_is_kept() -> None:
    clock = Clock()
    health = CircuitBreaker(1, 60, clock)
    fail(health, 90)
    assert health.cools_for() == 90
    assert health.why_not() == "left alone for 90 s after: connection refused"


def test_without_a_cooldown_it_is_always_asked() -> None:
    health = CircuitBreaker(0)
    fail(health)
    assert health.ask() is not None
    assert health.state()["state"] == "up"


def test_what_runs_is_counted_once_however_often_it_is_ended() -> None:
    health = CircuitBreaker()
    first, second = asked(health), asked(health)
    assert health.running == 2
    first.end()
    first.end()
    assert health.running == 1
    second.end()
    assert health.running == 0


def test_latencies_are_told_in_seconds() -> None:
    clock = Clock()
    health = CircuitBreaker(1, 60, clock)
    for number in range(1, 101):
        attempt = asked(health)
        clock.seconds += number / 100
        attempt.answered()
        clock.seconds += 5
        attempt.end()
    assert health.state() == {
        "state": "up",
        "retry_in": None,
        "last_error": None,
        "running": 0,
        "latency": {"count": 100, "p50": 0.505, "p95": 0.96},
    }


def test_the_last_error_is_told_when_it_is_up_again() -> None:
    clock = Clock()
    health = CircuitBreaker(1, 60, clock)
    fail(health)
    assert health.state()["state"] == "cooling"
    clock.seconds += 1
    assert health.state()["state"] == "probing"
    probe = asked(health)
    probe.answered()
    assert (health.state()["state"], health.state()["last_error"]) == ("up", "connection refused")


def test_one_outage_is_one_failure_however_many_requests_meet_it() -> None:
    clock = Clock()
    health = CircuitBreaker(1, 60, clock)
    running = [asked(health) for _ in range(8)]
    clock.seconds += 1
    for attempt in running:
        attempt.failed("connection refused")
        attempt.end()
    assert health.cools_for() == 1


def test_an_old_probe_that_ends_makes_no_room_for_a_second_new_one() -> None:
    clock = Clock()
    health = CircuitBreaker(1, 60, clock)
    fail(health)
    clock.seconds += 1
    old = asked(health)
    old.answered()
    clock.seconds += 1
    fail(health)
    clock.seconds += 1
    assert health.ask() is not None
    old.end()
    assert health.ask() is None
