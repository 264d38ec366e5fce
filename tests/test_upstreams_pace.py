"""How often the horde is asked."""

from __future__ import annotations

import pytest

from conftest import Clock
from horde_proxy.upstreams.horde.pace import Pace


def polled_for(seconds: float, **state: int) -> list[float]:
    clock = Clock()
    pace, start, times = Pace(clock), clock(), []
    while True:
        clock.seconds += pace.delay(**state)  # type: ignore[arg-type]
        if clock() - start > seconds:
            return times
        pace.polled()
        times.append(clock() - start)


@pytest.mark.parametrize("state", [{}, {"processing": 1}, {"queue_position": 1}])
def test_there_are_never_more_than_sixty_polls_in_any_minute(state: dict[str, int]) -> None:
    times = polled_for(600, **state)
    for begin in times:
        assert sum(begin <= time < begin + 60 for time in times) <= 60


@pytest.mark.parametrize("state", [{}, {"processing": 1}, {"queue_position": 9}])
def test_polls_are_at_least_half_a_second_apart(state: dict[str, int]) -> None:
    times = [0.0, *polled_for(120, **state)]
    assert min(b - a for a, b in zip(times, times[1:], strict=False)) >= 0.5 - 1e-9


def test_the_first_seconds_are_polled_densely() -> None:
    assert polled_for(3) == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


def test_later_on_a_poll_comes_about_every_second() -> None:
    times = [time for time in polled_for(60) if time > 10]
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert max(gaps) < 1.2


def test_far_back_in_the_queue_polls_are_rarer() -> None:
    assert len(polled_for(20, queue_position=50)) == 10


def test_when_a_worker_begins_the_polls_become_dense_again() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(15):
        pace.delay()
    assert pace.delay() == 1.1
    assert pace.delay(processing=True) == 0.5


def test_a_hold_is_kept() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.hold(25)
    assert pace.delay() == 25
