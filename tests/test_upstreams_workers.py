"""Which workers may take a request, and what was measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.aihorde.limits import MOST_WORKERS
from horde_proxy.prompts.fit import Capacity, Fitted
from horde_proxy.upstreams.horde.catalog import CatalogWorker, build_catalog
from horde_proxy.upstreams.horde.failures import Failures, dropped_by
from horde_proxy.upstreams.horde.jobs import Estimate
from horde_proxy.upstreams.horde.throughput import HordeThroughput
from horde_proxy.upstreams.horde.workers import Filters, WorkerPool
from tests.support import Clock


def worker(id: str, **fields: Any) -> CatalogWorker:
    usual = {"capacity": Capacity(512, 8192), "trusted": False, "threads": 1}
    return CatalogWorker(id, **{**usual, **fields})


ONE, TWO = worker("1", name="one", speed=20.0), worker("2", trusted=True)
SLOW = worker("3", speed=2.0)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (Filters(), "123"),
        (Filters(allow=["one", "3"]), "13"),
        (Filters(deny=["1"]), "23"),
        (Filters(trusted=True), "2"),
        (Filters(least_speed=5.0), "12"),
        (Filters(allow=["1"], deny=["one"]), ""),
    ],
)
def test_filters_admit_workers_by_id_name_trust_and_speed(filters: Filters, names: str) -> None:
    assert "".join(each.id for each in (ONE, TWO, SLOW) if filters.admits(each)) == names


def test_a_requests_options_go_over_the_settings() -> None:
    settings = Filters(allow=["a"], deny=["b"], validated=True)
    assert settings.overridden({"workers": ["c"]}) == Filters(allow=["c"], deny=["b"])
    assert settings.overridden({"workers": ["c"], "worker_blacklist": True}) == Filters(
        allow=["a"], deny=["b", "c"]
    )
    assert settings.overridden({"validated_backends": False, "least_speed": 3.0}) == Filters(
        allow=["a"], deny=["b"], validated=False, least_speed=3.0
    )


JOB = Fitted("", 100, max_length=512, max_context_length=2048, dropped=0)
NO_FILTERS = Filters()
SMALL = worker("4", capacity=Capacity(256, 8192))


def worker_list(
    serving: Sequence[CatalogWorker],
    failed: Sequence[str] = (),
    preferred: str | None = None,
    filters: Filters = NO_FILTERS,
) -> dict[str, Any]:
    """What a submit for JOB says about workers, apart from the horde's own filters."""
    fields = WorkerPool(tuple(serving), filters).fields(JOB, failed, preferred)
    return {name: value for name, value in fields.items() if name.startswith("worker")}


def test_a_failed_worker_is_left_out_while_another_is_there() -> None:
    assert worker_list([ONE, TWO]) == {}
    assert worker_list([ONE, TWO], ["1"]) == {"workers": ["1"], "worker_blacklist": True}
    assert worker_list([ONE], ["1"]) == {}
    assert worker_list([ONE, TWO], ["1"], filters=Filters(deny=["2"])) == {
        "workers": ["2"],
        "worker_blacklist": True,
    }


def test_a_failed_worker_is_tried_again_when_the_others_are_too_small_for_the_job() -> None:
    assert worker_list([ONE, SMALL], ["1"]) == {}
    narrow = worker("5", capacity=Capacity(512, 1024))
    assert worker_list([ONE, narrow], ["1"]) == {}
    assert worker_list([ONE, TWO, SMALL], ["1"]) == {"workers": ["1"], "worker_blacklist": True}


def test_workers_that_are_too_small_take_no_place_in_the_list() -> None:
    small = [worker(f"s{number}", capacity=Capacity(256, 8192), speed=99.0) for number in range(9)]
    assert worker_list([ONE, TWO, *small], ["1"]) == {"workers": ["1"], "worker_blacklist": True}
    denied = [worker(f"d{number}") for number in range(6)]
    assert worker_list([ONE, *small, *denied], filters=Filters(deny=[d.id for d in denied])) == {
        "workers": ["1"],
        "worker_blacklist": False,
    }


def test_a_job_is_made_smaller_where_only_failed_workers_can_take_it() -> None:
    pool = WorkerPool((ONE, SMALL), Filters())
    assert pool.shorter_length(JOB, []) is None
    assert pool.shorter_length(JOB, ["1"]) == 256
    assert pool.shorter_length(JOB, ["1", "4"]) is None
    # A prompt that the other worker has no room for, or hardly any.
    narrow = worker("5", capacity=Capacity(256, 150))
    assert WorkerPool((ONE, narrow), Filters()).shorter_length(JOB, ["1"]) is None


def test_a_job_that_nobody_can_take_any_more_is_made_smaller() -> None:
    assert WorkerPool((SMALL,), Filters()).shorter_length(JOB, []) == 256
    assert WorkerPool((SMALL,), Filters()).shorter_length(JOB, ["4"]) == 256


def test_the_preferred_worker_is_listed_alone() -> None:
    assert worker_list([ONE, TWO], preferred="2") == {"workers": ["2"], "worker_blacklist": False}
    assert worker_list([ONE, TWO], preferred="gone") == {}
    assert worker_list([ONE, SMALL], preferred="4") == {}
    assert worker_list([ONE, TWO], ["2"], preferred="2") == {
        "workers": ["2"],
        "worker_blacklist": True,
    }


def test_workers_that_the_horde_leaves_out_itself_take_no_place_in_the_list() -> None:
    """Else the five fastest would be listed, and all others be idle."""
    unvalidated = [worker(f"u{number}", validated=False) for number in range(9)]
    slow = [worker(f"s{number}", is_slow=True) for number in range(9)]
    good = [worker(f"g{number}") for number in range(9)]
    workers = [*unvalidated, *slow, *good]
    assert worker_list(workers, filters=Filters(slow=False)) == {}
    assert worker_list(workers, ["g1"], filters=Filters(slow=False)) == {
        "workers": ["g1"],
        "worker_blacklist": True,
    }


def test_a_denied_worker_is_named_also_while_it_could_not_take_the_job() -> None:
    resting = worker("6", in_maintenance=True)
    assert worker_list([ONE, SMALL, resting, TWO], filters=Filters(deny=["4", "6"])) == {
        "workers": ["4", "6"],
        "worker_blacklist": True,
    }


def test_workers_that_alone_may_answer_are_always_listed_by_name() -> None:
    mine = Filters(allow=["one", "2"])
    both = {"workers": ["1", "2"], "worker_blacklist": False}
    assert worker_list([ONE, TWO], filters=mine) == both
    assert worker_list([ONE, TWO, SLOW], filters=mine) == both
    assert worker_list([ONE, TWO, SLOW], ["1"], filters=mine) == {
        "workers": ["2"],
        "worker_blacklist": False,
    }


def test_with_many_unwanted_workers_the_five_fastest_are_listed() -> None:
    many = [worker(str(number), speed=float(number)) for number in range(1, 21)]
    denied = Filters(deny=[str(number) for number in range(1, 11)])
    assert worker_list(many, filters=denied) == {
        "workers": ["20", "19", "18", "17", "16"],
        "worker_blacklist": False,
    }


@given(
    serving=st.lists(
        st.tuples(st.integers(0, 30), st.booleans()), unique_by=lambda pair: pair[0], max_size=20
    ),
    denied=st.sets(st.integers(0, 30)),
    failed=st.lists(st.integers(0, 30), max_size=10),
)
def test_no_more_than_five_workers_are_listed_and_one_that_can_take_the_job_always_may(
    serving: list[tuple[int, bool]], denied: set[int], failed: list[int]
) -> None:
    workers = [
        worker(str(number), speed=float(number), capacity=Capacity(512 if is_large else 256, 8192))
        for number, is_large in serving
    ]
    filters = Filters(deny=[str(number) for number in denied])
    fields = worker_list(workers, [str(number) for number in failed], filters=filters)
    named = fields.get("workers", [])
    assert len(named) <= MOST_WORKERS
    admitted = [one for one in workers if (one.id in named) != fields.get("worker_blacklist", True)]
    able = [one for one in workers if int(one.id) not in denied and one.capacity.max_length == 512]
    if able:
        takers = [one for one in admitted if one.capacity.max_length == 512]
        assert takers and set(takers) <= set(able)
        assert set(admitted).isdisjoint(one for one in workers if int(one.id) in denied)


def test_failures_are_counted_for_an_hour_worst_first() -> None:
    clock = Clock()
    failures = Failures(clock)
    for each in ("a", "b", "b"):
        failures.add(each)
    assert failures.workers() == ["b", "a"]
    clock.seconds += 3601
    assert failures.workers() == []


def test_workers_that_dropped_jobs_are_known_by_their_counts() -> None:
    before = [worker("a", uncompleted=1), worker("b", uncompleted=5), worker("c")]
    after = [worker("a", uncompleted=2), worker("b", uncompleted=8), worker("c"), worker("d")]
    assert dropped_by(before, after) == ["b", "a"]


def test_expected_seconds_follow_the_queue_once_it_moves() -> None:
    expected = Estimate(queue=30.0, generation=10.0)
    assert expected.left(0, 20) == 40.0
    assert expected.left(10, 10) == 10 * 10 / 10 + 10
    assert expected.left(3, 0, processing=True) == 7.0
    assert expected.left(9.5, 0, processing=True) == 1.0


def test_a_job_that_is_late_is_expected_to_be_as_late_again_or_to_be_taken_back() -> None:
    expected = Estimate(queue=30.0, generation=10.0)
    assert expected.left(12, 0, processing=True) == 2.0
    assert expected.left(30, 0, processing=True) == 20.0
    assert expected.left(80, 0, processing=True) == 70.0
    # The horde takes it back after 150 s; then another worker needs ten.
    assert expected.left(100, 0, processing=True) == 60.0
    assert expected.left(200, 0, processing=True) == 1.0


def test_a_models_speed_and_length_are_learned() -> None:
    [entry] = build_catalog([{"name": "m", "count": 1, "performance": 50.0}], [], 0, {}).values()
    speeds = HordeThroughput()
    assert speeds.expected(entry, 512).generation == 200 / 50.0
    for _ in range(20):
        speeds.learn("m", 100, 20.0)
    assert speeds.expected(entry, 512).generation == pytest.approx(20.0)
    assert speeds.expected(entry, 512).queue == 1.0


def test_a_generation_that_stalled_does_not_change_the_speed_of_its_model() -> None:
    [entry] = build_catalog([{"name": "m", "count": 1}], [], 0, {}).values()
    speeds = HordeThroughput()
    # Two minutes for what takes five seconds: the first of all, and one later.
    speeds.learn("m", 100, 120.0)
    speeds.learn("m", 100, 5.0)
    assert speeds.expected(entry, 512).generation == 5.0
    for seconds in (5.0, 5.0, 120.0, 5.0, 120.0):
        speeds.learn("m", 100, seconds)
        assert speeds.expected(entry, 512).generation == 5.0
    # Five in a row are another speed.
    for _ in range(5):
        speeds.learn("m", 100, 10.0)
    assert speeds.expected(entry, 512).generation == 10.0


def test_what_is_usual_is_what_nineteen_of_twenty_generations_take() -> None:
    [entry] = build_catalog([{"name": "m", "count": 1}], [], 0, {}).values()
    speeds = HordeThroughput()
    speeds.learn("m", 100, 10.0)
    assert speeds.expected(entry, 512).longest == 30.0
    speeds.learn_duration("m", 4.0)
    assert speeds.expected(entry, 512).longest == 40.0
    for _ in range(19):
        speeds.learn_duration("m", 1.5)
    assert speeds.expected(entry, 512).longest == 15.0
    # The horde takes a job back after 150 s.
    for _ in range(20):
        speeds.learn_duration("m", 99.0)
    assert speeds.expected(entry, 512).longest == 150.0


def test_the_queue_takes_as_long_as_the_jobs_ahead() -> None:
    status = {"name": "m", "count": 1, "performance": 10.0, "queued": 600.0, "jobs": 5.0}
    [entry] = build_catalog([status], [], 0, {}).values()
    assert HordeThroughput().queue_seconds(entry) == 1 + 5 * 200 / 10.0


def test_our_own_requests_count_before_the_catalog_shows_them() -> None:
    [entry] = build_catalog([{"name": "m", "count": 1, "performance": 10.0}], [], 0, {}).values()
    speeds = HordeThroughput()
    speeds.count_in_flight("m", 3)
    assert speeds.queue_seconds(entry) == 1 + 3 * 200 / 10.0
    speeds.count_in_flight("m", -3)
    assert speeds.queue_seconds(entry) == 1


def test_the_hordes_own_filters_are_named_where_nobody_takes_a_request() -> None:
    assert Filters(validated=False).description() == ""
    assert Filters(trusted=True, slow=False).description() == (
        "trusted_workers = true, slow_workers = false, validated_backends = true"
    )
