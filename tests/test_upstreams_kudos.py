"""What a request costs, whose kudos suffice for what, and who is asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.aihorde.limits import MOST_WORKERS
from horde_proxy.errors import InvalidApiKey, UpstreamFailed
from horde_proxy.prompts.fit import Capacity
from horde_proxy.upstreams.horde.accounts import Account, Accounts
from horde_proxy.upstreams.horde.catalog import CatalogWorker, build_catalog
from horde_proxy.upstreams.horde.failures import Failures, dropped_by
from horde_proxy.upstreams.horde.jobs import Estimate
from horde_proxy.upstreams.horde.throughput import Throughput
from horde_proxy.upstreams.horde.workers import Filters, listed
from tests.support import CLIENT_KEY, Clock, World


class HordeContext:
    """Answers find_user and status/performance, and counts."""

    def __init__(self, user: Any = None, performance: Any = None) -> None:
        self.user, self.load, self.calls = user, performance or {}, 0

    def find_user(self, api_key: str) -> dict[str, Any]:
        self.calls += 1
        if isinstance(self.user, Exception):
            raise self.user
        return dict(self.user)

    def performance(self) -> dict[str, Any]:
        self.calls += 1
        if isinstance(self.load, Exception):
            raise self.load
        return dict(self.load)


RICH = {"username": "ann#1", "kudos": 5000.0, "concurrency": 30, "trusted": True}


def accounts(horde: HordeContext) -> Accounts:
    return Accounts(horde, timer=Clock())  # type: ignore[arg-type]


def test_an_account_is_asked_for_once_a_minute() -> None:
    clock, horde = Clock(), HordeContext(RICH)
    found = Accounts(horde, timer=clock)  # type: ignore[arg-type]
    assert found.of("key") == found.of("key") == Account("ann#1", 5000.0, 30, True, 0)
    assert horde.calls == 1
    clock.seconds += 61
    found.of("key")
    assert horde.calls == 2


@pytest.mark.parametrize("trouble", [InvalidApiKey("no"), UpstreamFailed("down"), {}])
def test_an_account_that_cannot_be_had_is_a_poor_one(trouble: Any) -> None:
    assert accounts(HordeContext(trouble)).of("key").kudos == 0


def test_kudos_buy_long_jobs_and_their_lack_leaves_the_free_length() -> None:
    load = {"text_thread_count": 10, "queued_text_requests": 100}
    assert accounts(HordeContext(RICH, load)).longest("key", 8.0, 1) == int(4975 * 21 / 8)
    assert accounts(HordeContext({**RICH, "kudos": 100.0}, load)).longest("key", 8.0, 1) == 472
    assert accounts(HordeContext(RICH, load)).longest("0000000000", 8.0, 1) == 472


def test_kudos_that_are_held_for_one_request_are_not_spent_on_another() -> None:
    found = accounts(HordeContext(RICH))
    found.hold("key", 4900.0)
    assert found.longest("key", 8.0, 1) == 512
    found.hold("key", -4900.0)
    assert found.longest("key", 8.0, 1) == int(4975 * 21 / 8)


def test_a_horde_that_does_not_tell_its_load_is_taken_to_be_full() -> None:
    assert accounts(HordeContext(RICH, UpstreamFailed("down"))).free_length() == 256


def test_after_a_refusal_the_least_is_asked_for_a_while() -> None:
    found = accounts(HordeContext(RICH))
    found.note_refusal("key")
    assert found.longest("key", 8.0, 1) == 256


def test_quick_workers_only_are_for_those_who_can_pay() -> None:
    assert accounts(HordeContext(RICH)).may_be_choosy("key", 512, 8.0, 1)
    assert not accounts(HordeContext({**RICH, "kudos": 30.0})).may_be_choosy("key", 512, 8.0, 1)
    assert not accounts(HordeContext(RICH)).may_be_choosy("0000000000", 512, 8.0, 1)


def test_a_real_account_is_read(world: World) -> None:
    found = Accounts(world.client, timer=world.clock).of(CLIENT_KEY)
    assert (found.name, found.kudos, found.concurrency) == ("client#2", 10_000.0, 30)


def worker(id: str, **fields: Any) -> CatalogWorker:
    return CatalogWorker(id, Capacity(512, 8192), threads=1, **{"trusted": False, **fields})


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


def test_who_failed_is_left_out_as_long_as_somebody_else_is_there() -> None:
    assert listed([ONE, TWO], [ONE, TWO], []) == {}
    assert listed([ONE, TWO], [ONE, TWO], ["1"]) == {"workers": ["1"], "worker_blacklist": True}
    assert listed([ONE], [ONE], ["1"]) == {}
    assert listed([ONE, TWO], [ONE], ["1"]) == {"workers": ["2"], "worker_blacklist": True}


def test_the_preferred_worker_is_asked_alone() -> None:
    assert listed([ONE, TWO], [ONE, TWO], [], "2") == {"workers": ["2"], "worker_blacklist": False}
    assert listed([ONE, TWO], [ONE, TWO], [], "gone") == {}


def test_of_many_unwanted_workers_five_wanted_ones_are_asked() -> None:
    many = [worker(str(number), speed=float(number)) for number in range(1, 21)]
    found = listed(many, many[10:], [])
    assert found == {"workers": ["20", "19", "18", "17", "16"], "worker_blacklist": False}


@given(
    serving=st.lists(st.integers(0, 30), unique=True, max_size=20),
    admitted=st.sets(st.integers(0, 30)),
    avoided=st.lists(st.integers(0, 30), max_size=10),
)
def test_no_more_than_five_workers_are_ever_listed(
    serving: list[int], admitted: set[int], avoided: list[int]
) -> None:
    workers = [worker(str(number), speed=float(number)) for number in serving]
    allowed = [each for each in workers if int(each.id) in admitted]
    found = listed(workers, allowed, [str(number) for number in avoided])
    named = found.get("workers", [])
    assert len(named) <= MOST_WORKERS
    asked = [each for each in workers if (each.id in named) != found.get("worker_blacklist", True)]
    if allowed:
        assert asked and set(asked) <= set(allowed)


def test_failures_are_counted_for_an_hour_worst_first() -> None:
    clock = Clock()
    failures = Failures(clock)
    for each in ("a", "b", "b"):
        failures.add(each)
    assert failures.workers() == ["b", "a"]
    clock.seconds += 3601
    assert failures.workers() == []


def test_workers_that_dropped_jobs_meanwhile_are_suspects() -> None:
    before = [worker("a", uncompleted=1), worker("b", uncompleted=5), worker("c")]
    after = [worker("a", uncompleted=2), worker("b", uncompleted=8), worker("c"), worker("d")]
    assert dropped_by(before, after) == ["b", "a"]


def test_expected_seconds_follow_the_queue_once_it_moves() -> None:
    expected = Estimate(queue=30.0, generation=10.0)
    assert expected.left(0, 20) == 40.0
    assert expected.left(10, 10) == 10 * 10 / 10 + 10
    assert expected.left(3, 0, processing=True) == 7.0
    assert expected.left(30, 0, processing=True) == 1.0


def test_a_models_speed_and_length_are_learned() -> None:
    [entry] = build_catalog([{"name": "m", "count": 1, "performance": 50.0}], [], 0, {}).values()
    speeds = Throughput()
    assert speeds.expected(entry, 512).generation == 200 / 50.0
    for _ in range(20):
        speeds.learn("m", 100, 20.0)
    assert speeds.expected(entry, 512).generation == pytest.approx(20.0)
    assert speeds.expected(entry, 512).queue == 1.0


def test_a_queue_takes_as_long_as_what_is_before_us() -> None:
    status = {"name": "m", "count": 1, "performance": 10.0, "queued": 600.0, "jobs": 5.0}
    [entry] = build_catalog([status], [], 0, {}).values()
    assert Throughput().queue_seconds(entry) == 1 + 5 * 200 / 10.0


def test_our_own_requests_count_before_the_horde_tells_of_them() -> None:
    [entry] = build_catalog([{"name": "m", "count": 1, "performance": 10.0}], [], 0, {}).values()
    speeds = Throughput()
    speeds.began("m", 3)
    assert speeds.queue_seconds(entry) == 1 + 3 * 200 / 10.0
    speeds.began("m", -3)
    assert speeds.queue_seconds(entry) == 1
