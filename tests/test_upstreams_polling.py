"""When the horde is polled."""

from __future__ import annotations

import itertools

import pytest

from horde_proxy.upstreams.horde.polling import Expected, PollSchedule
from tests.support import Clock


def polled_for(seconds: float, expected: float | None = None, **state: int) -> list[float]:
    """The times of the polls; `expected` seconds is how long the job of a measured model takes."""
    clock = Clock()
    pace, start = PollSchedule(clock), clock()
    end = None if expected is None else Expected(start + expected, expected)
    times: list[float] = []
    while True:
        clock.seconds += pace.delay(expected=end, **state)  # type: ignore[arg-type]
        if clock() - start > seconds:
            return times
        pace.polled()
        times.append(clock() - start)


@pytest.mark.parametrize("expected", [None, 1, 10, 60, 500])
@pytest.mark.parametrize("state", [{}, {"processing": 1}, {"queue_position": 1}])
def test_there_are_never_more_than_sixty_polls_in_any_minute(
    state: dict[str, int], expected: float | None
) -> None:
    times = polled_for(600, expected, **state)
    for begin in times:
        assert sum(begin <= time < begin + 60 for time in times) <= 60


@pytest.mark.parametrize("state", [{}, {"processing": 1}, {"queue_position": 9}])
def test_polls_are_at_least_half_a_second_apart(state: dict[str, int]) -> None:
    times = polled_for(120, **state)
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.5 - 1e-9


def test_only_the_first_five_polls_are_less_than_a_second_apart() -> None:
    assert polled_for(6) == [0.25, 0.75, 1.25, 1.75, 2.25, 3.25, 4.25, 5.25]
    assert polled_for(6, processing=1) == [0.25, 0.75, 1.25, 1.75, 2.25, 3.25, 4.25, 5.25]


def test_gaps_widen_with_the_time_but_not_beyond_a_limit() -> None:
    times = polled_for(59)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(1.2)


def test_the_end_of_a_measured_job_is_polled_for_when_it_is_expected() -> None:
    times = polled_for(16.9, expected=15, processing=1)
    assert times == pytest.approx([3, 6, 9, 12, 13.5, 14.05, 14.6, 15.15, 15.7, 16.25, 16.8])


def outcomes(seconds: float, expected: float | None, spread: float) -> tuple[int, float, float]:
    """(most polls, p50 and p95 of the lateness) of jobs that take up to so much more or less."""
    lengths = [seconds * (1 - spread + spread * step / 100) for step in range(201)]
    times = polled_for(max(lengths) + 3, expected, processing=1)
    seen = [next(time for time in times if time >= length) for length in lengths]
    late = sorted(time - length for time, length in zip(seen, lengths, strict=True))
    return times.index(max(seen)) + 1, round(late[100], 2), round(late[190], 2)


# Of jobs that take between nine and eleven tenths of these seconds:
#
#            measured            not measured        before, for all
#    s      polls p50   p95     polls p50   p95     polls p50   p95
#    1        3  0.17  0.26       3  0.25  0.34       3  0.25  0.34
#    3        4  0.16  0.29       7  0.30  0.97       8  0.25  0.48
#    7        7  0.20  0.38      11  0.63  0.94      16  0.31  0.56
#    15      11  0.30  0.52      20  0.51  0.95      28  0.44  0.79
#    60      28  0.54  1.08      62  0.59  1.13      65  1.03  5.65
@pytest.mark.parametrize(
    ("seconds", "measured", "unmeasured"),
    [
        (1, (3, 0.17, 0.26), (3, 0.25, 0.34)),
        (3, (4, 0.16, 0.29), (7, 0.3, 0.97)),
        (7, (7, 0.2, 0.38), (11, 0.63, 0.94)),
        (15, (11, 0.3, 0.52), (20, 0.51, 0.95)),
        (60, (28, 0.54, 1.08), (62, 0.59, 1.13)),
    ],
)
def test_jobs_of_all_lengths_are_noticed_soon_and_with_few_polls(
    seconds: float, measured: tuple[int, float, float], unmeasured: tuple[int, float, float]
) -> None:
    assert outcomes(seconds, seconds, 0.1) == pytest.approx(measured, abs=0.02)
    assert outcomes(seconds, None, 0.1) == pytest.approx(unmeasured, abs=0.02)


@pytest.mark.parametrize(
    ("seconds", "measured", "unmeasured"),
    [(1, 3, 3), (3, 3, 6), (7, 5, 10), (15, 8, 18), (60, 23, 57)],
)
def test_a_job_that_takes_as_long_as_expected_needs_few_polls(
    seconds: float, measured: int, unmeasured: int
) -> None:
    assert outcomes(seconds, seconds, 0)[0] == measured
    assert measured <= seconds / 2 + 3
    assert outcomes(seconds, None, 0)[0] == unmeasured
    assert unmeasured <= 5 + seconds


def test_the_polls_for_a_short_job_are_spread_over_the_wait_for_its_worker() -> None:
    times = polled_for(4.5, expected=0.1)
    assert times == pytest.approx([0.252, 0.752, 1.252, 1.752, 2.252, 3.252, 4.252])


@pytest.mark.parametrize("expected", [0, 0.01, 1, 3, 7, 15, 60, 300])
def test_up_to_twice_the_expected_time_there_is_a_poll_each_two_seconds_and_three(
    expected: float,
) -> None:
    times = polled_for(400, expected, processing=1)
    expected_range = expected + max(expected, 1)
    for number, time in enumerate(times, 1):
        assert number <= time / 2 + 3 or time > expected_range + 1
    # A wrong expectation costs three seconds at most, and soon a second.
    gaps = [(time, gap) for time, gap in zip(times, _gaps(times), strict=True)]
    assert max(gap for _, gap in gaps) <= 3.0 + 1e-9
    assert all(0.5 <= gap <= 1.2 + 1e-9 for time, gap in gaps if time > expected_range + 3)


def _gaps(times: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise([0, *times])]


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


def test_very_many_requests_of_measured_models_are_polled_less_often_around_their_end() -> None:
    clock = Clock()
    pace, end = PollSchedule(clock, lambda: 1000), clock() + 20
    pace.polled()
    # A thousand of them make 333 polls a second before it, and 385 around it.
    assert pace.delay(processing=True, expected=Expected(end, 20)) == 3.0
    clock.seconds += 18
    assert pace.delay(processing=True, expected=Expected(end, 20)) == pytest.approx(2.6)


def test_a_hold_is_kept() -> None:
    clock = Clock()
    pace = PollSchedule(clock)
    pace.hold(25)
    assert pace.delay() == 25
    assert pace.delay(expected=Expected(clock() + 3, 3)) == 25
