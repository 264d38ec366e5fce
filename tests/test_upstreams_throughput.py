"""What is measured of slots, and how long a line takes by that."""

from __future__ import annotations

from horde_proxy.upstreams.throughput import Throughput, line_seconds


def test_the_mean_of_the_last_twenty_requests_is_how_long_a_slot_is_held() -> None:
    throughput = Throughput()
    assert throughput.of("gpu").mean_held is None
    for seconds in [1000.0] + [10.0] * 19 + [30.0]:
        throughput.learn_held("gpu", seconds)
    assert throughput.of("gpu").mean_held == 11.0


def test_a_line_takes_as_many_turns_as_there_are_requests_for_each_slot() -> None:
    throughput = Throughput()
    throughput.learn_held("gpu", 20.0)
    assert throughput.seconds_in_line("gpu", 0, 2) == 10.0
    assert throughput.seconds_in_line("gpu", 5, 2) == 60.0
    assert throughput.seconds_in_line("other", 5, 2) is None
    assert line_seconds(-3, 20.0, 2) == 0.0


def test_names_that_clients_choose_do_not_fill_the_memory() -> None:
    throughput = Throughput()
    for number in range(6000):
        throughput.learn_held(f"model-{number}", 1.0)
    assert len(throughput._speeds) == 5000
    assert throughput.of("model-0").mean_held is None
    assert throughput.of("model-5999").mean_held == 1.0
