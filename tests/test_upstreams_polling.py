"""When the horde is polled."""

from __future__ import annotations

import itertools

import pytest

from horde_proxy.upstreams.horde.polling import PollSchedule
from tests.support import Clock


def polled_for(seconds: float, **state: int) -> list[float]:
    clock = Clock()
    pace, start = PollSchedule(clock), clock()
    times: list[float] = []
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
    times = polled_for(120, **state)
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.5 - 1e-9


def test_the_first_seconds_are_polled_densely() -> None:
    assert polled_for(3) == [0.25, 0.75, 1.25, 1.75, 2.25, 2.75]


def test_gaps_widen_with_the_time_but_not_beyond_a_limit() -> None:
    times = polled_for(59)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(1.2)


def lateness(seconds: float) -> list[float]:
    """How late jobs of about this length are noticed, over all phases of the polls."""
    times = polled_for(seconds + 3)
    ends = [seconds + step / 50 for step in range(50)]
    return [min(time for time in times if time >= end) - end for end in ends]


def test_jobs_of_all_lengths_are_noticed_soon() -> None:
    late = sorted(each for length in (1, 3, 7, 15, 60) for each in lateness(length))
    assert late[len(late) // 2] <= 0.4
    assert late[len(late) * 95 // 100] <= 1.0


def test_far_back_in_the_queue_polls_are_rarer() -> None:
    assert len(polled_for(20, queue_position=50)) == 10


def test_when_a_worker_begins_the_polls_become_dense_again() -> None:
    clock = Clock()
    pace = PollSchedule(clock)
    pace.polled()
    clock.seconds += 40
    assert pace.delay() == 1.2
    assert pace.delay(processing=True) == 0.5


def test_very_many_requests_are_each_polled_less_often() -> None:
    pace = PollSchedule(Clock(), lambda: 500)
    pace.polled()
    assert pace.delay() == 1.0


def test_a_hold_is_kept() -> None:
    clock = Clock()
    pace = PollSchedule(clock)
    pace.hold(25)
    assert pace.delay() == 25
