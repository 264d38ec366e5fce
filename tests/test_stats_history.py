"""Hourly facts: what is counted, how hours are added up, and what is written when."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.api.access_log import RequestLog
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import ClientGone
from horde_proxy.stats.history.database import HistoryDatabase, open_history
from horde_proxy.stats.history.hourly_facts import HourlyFacts
from horde_proxy.stats.history.records import (
    DAY,
    HOUR,
    ONE_STEP,
    EndpointFacts,
    EndpointKey,
    HordeFacts,
    HordeKey,
    Period,
    duration_step,
    percentile,
)
from horde_proxy.stats.history.sampling import facts_of
from tests.support import Clock, Scripted, World

NOON = 1_769_860_800
"""2026-01-31, 12:00 UTC."""
ONE_DAY = Period(NOON, NOON + DAY, HOUR)
BIG = HordeKey(NOON, "horde", "text", "big-8b")


def request(**fields: Any) -> RequestLog:
    """A chat that the endpoint "box" has answered."""
    values = {
        "status": 200,
        "seconds": 4.0,
        "first_text": 0.5,
        "model": "m",
        "upstream": "box",
        "account": "anybody",
        "prompt_tokens": 100,
        "completion_tokens": 20,
        **fields,
    }
    return RequestLog("id", "POST", "/v1/chat/completions", "127.0.0.1", **values)


class HistoryBehaviour:
    """What the history does on any database."""

    @pytest.fixture
    def clock(self) -> Clock:
        clock = Clock()
        clock.seconds = NOON + 600.0
        return clock

    @pytest.fixture
    def database(self, url: str) -> Iterator[HistoryDatabase]:
        database = open_history(url)
        yield database
        database.close()

    @pytest.fixture
    def facts(self, database: HistoryDatabase, clock: Clock) -> HourlyFacts:
        facts = HourlyFacts(now=clock)
        facts.configure(database, 90)
        return facts

    def test_two_writers_of_one_hour_add_up(self, database: HistoryDatabase) -> None:
        sums = HordeFacts("Big-8B", 12, 24, 36, 1000.0, 6.5, 120.0, 11)
        key = EndpointKey(NOON, "box", "m", "ann")
        counts = EndpointFacts(3, 1, 300, 60, 200, 150, Counter({-8: 2}), Counter({16: 1, 24: 1}))
        for _ in range(2):
            database.add({BIG: sums}, {key: counts})
        assert database.horde("horde", "text", ONE_DAY) == {
            BIG: HordeFacts("Big-8B", 24, 48, 72, 2000.0, 13.0, 240.0, 22)
        }
        assert database.endpoints(ONE_DAY, "ann") == {
            key: EndpointFacts(6, 2, 600, 120, 400, 300, Counter({-8: 4}), Counter({16: 2, 24: 2}))
        }

    def test_hours_become_days_and_keys_are_summed(self, database: HistoryDatabase) -> None:
        for hour in (0, 1, 24):
            at = NOON - 12 * HOUR + hour * HOUR
            key = EndpointKey(at, "box", "m", f"key-{hour}")
            database.add(
                {BIG._replace(hour=at): HordeFacts("Big-8B", 1, 2)},
                {key: EndpointFacts(1, whole=Counter({8: 1}))},
            )
        period = Period(NOON - DAY, NOON + 2 * DAY, DAY)
        midnight = NOON - 12 * HOUR
        assert database.horde("horde", "text", period) == {
            BIG._replace(hour=midnight): HordeFacts("Big-8B", 2, 4),
            BIG._replace(hour=midnight + DAY): HordeFacts("Big-8B", 1, 2),
        }
        assert database.endpoints(period) == {
            EndpointKey(midnight, "box", "m", ""): EndpointFacts(2, whole=Counter({8: 2})),
            EndpointKey(midnight + DAY, "box", "m", ""): EndpointFacts(1, whole=Counter({8: 1})),
        }

    def test_only_what_is_asked_for_is_read(self, database: HistoryDatabase) -> None:
        other = BIG._replace(model="small-1b")
        later = BIG._replace(hour=NOON + DAY)
        elsewhere = BIG._replace(horde="private")
        images = BIG._replace(kind="image")
        database.add(
            {key: HordeFacts("x", 1) for key in (BIG, other, later, elsewhere, images)}, {}
        )
        assert set(database.horde("horde", "text", ONE_DAY)) == {BIG, other}
        assert set(database.horde("horde", "text", ONE_DAY, ["big-8b"])) == {BIG}
        assert database.horde("horde", "text", ONE_DAY, []) == {}

    def test_the_first_and_last_hour_with_a_worker_are_told(
        self, database: HistoryDatabase
    ) -> None:
        database.add(
            {
                BIG: HordeFacts("Big-8B", 1, 1),
                BIG._replace(hour=NOON + HOUR): HordeFacts("Big-8B", 1, 3),
                # A queue without a worker.
                BIG._replace(hour=NOON + 2 * HOUR): HordeFacts("Big-8B", 1, 0, 0, 512.0),
            },
            {},
        )
        [sums] = database.horde("horde", "text", ONE_DAY._replace(step=ONE_STEP)).values()
        assert (sums.first_seen, sums.last_seen, sums.samples) == (NOON, NOON + HOUR, 3)
        last = BIG._replace(hour=NOON + 2 * HOUR)
        assert database.horde("horde", "text", ONE_DAY)[last].last_seen is None

    def test_old_hours_are_deleted_with_the_next_write(
        self, database: HistoryDatabase, facts: HourlyFacts, clock: Clock
    ) -> None:
        facts.configure(database, 2)
        facts.add(request())
        facts.write(everything=True)
        clock.seconds += 2 * DAY + HOUR
        facts.add(request())
        facts.write(everything=True)
        assert [key.hour for key in facts.endpoints(Period(NOON, NOON + 9 * DAY, HOUR))] == [
            NOON + 2 * DAY + HOUR
        ]

    def test_names_that_no_database_stores_are_made_storable(
        self, database: HistoryDatabase, facts: HourlyFacts
    ) -> None:
        facts.add(request(model="\ud800\0" + "x" * 300))
        facts.write(everything=True)
        [key] = database.endpoints(ONE_DAY)
        assert key.model == "??" + "x" * 198


class TestSqlite(HistoryBehaviour):
    """The same in a file."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/data/history.db"

    def test_an_hour_is_written_when_it_has_ended(
        self, database: HistoryDatabase, facts: HourlyFacts, clock: Clock
    ) -> None:
        facts.add(request())
        facts.look()
        assert not database.exists
        clock.seconds = NOON + HOUR
        facts.add(request())
        facts.look()
        assert [key.hour for key in database.endpoints(ONE_DAY)] == [NOON]

    def test_what_is_not_written_yet_is_read_as_well(
        self, facts: HourlyFacts, clock: Clock
    ) -> None:
        facts.add(request())
        assert facts.endpoints(ONE_DAY)[EndpointKey(NOON, "box", "m", "")].requests == 1
        facts.write(everything=True)
        facts.add(request())
        for _ in range(2):
            assert facts.endpoints(ONE_DAY)[EndpointKey(NOON, "box", "m", "")].requests == 2

    def test_the_end_of_a_process_writes_its_unfinished_hour(
        self, database: HistoryDatabase, facts: HourlyFacts
    ) -> None:
        facts.add(request(key="ann", cached_tokens=75))
        facts.close()
        assert database.endpoints(ONE_DAY, "ann") == {
            EndpointKey(NOON, "box", "m", "ann"): EndpointFacts(
                1, 0, 100, 20, 100, 75, Counter({-8: 1}), Counter({16: 1})
            )
        }

    def test_nothing_is_lost_while_the_database_fails(
        self,
        database: HistoryDatabase,
        facts: HourlyFacts,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail(*arguments: Any) -> None:
            raise DatabaseError("gone")

        caplog.set_level(logging.WARNING)
        facts.add(request())
        with monkeypatch.context() as patch:
            patch.setattr(database, "add", fail)
            facts.write(everything=True)
            facts.add(request())
            facts.write(everything=True)
        assert [record.message for record in caplog.records] == [
            "the history is kept in memory until its database works: gone"
        ]
        facts.write(everything=True)
        assert database.endpoints(ONE_DAY)[EndpointKey(NOON, "box", "m", "")].requests == 2

    def test_facts_of_more_than_two_days_are_not_kept_for_a_database_that_fails(
        self,
        database: HistoryDatabase,
        facts: HourlyFacts,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail(*arguments: Any) -> None:
            raise DatabaseError("gone")

        monkeypatch.setattr(database, "add", fail)
        facts.add(request())
        clock.seconds += 3 * DAY
        facts.write()
        assert facts.endpoints(Period(NOON, NOON + 9 * DAY, HOUR)) == {}
        assert "facts of the history that are older than 48 hours are lost" in caplog.text

    def test_another_database_gets_what_comes_from_now_on(
        self, database: HistoryDatabase, facts: HourlyFacts, tmp_path: Path
    ) -> None:
        facts.add(request())
        other = open_history(f"sqlite:///{tmp_path}/other.db")
        facts.configure(other, 90)
        facts.add(request(model="n"))
        facts.write(everything=True)
        assert [key.model for key in database.endpoints(ONE_DAY)] == ["m"]
        assert [key.model for key in other.endpoints(ONE_DAY)] == ["n"]
        other.close()


def counted(*requests: RequestLog) -> dict[tuple[str, str], tuple[int, int]]:
    """(requests, failures) by endpoint and model, of requests that end in one hour."""
    facts = HourlyFacts(now=lambda: NOON)
    facts.configure(NoDatabase(), 90)  # type: ignore[arg-type]
    for one in requests:
        facts.add(one)
    return {
        (key.endpoint, key.model): (counts.requests, counts.failures)
        for key, counts in facts.endpoints(ONE_DAY).items()
    }


class NoDatabase:
    """One that was never written."""

    exists = False


def test_without_a_database_nothing_is_counted() -> None:
    facts = HourlyFacts(now=lambda: NOON)
    facts.add(request())
    facts.look()
    facts.close()
    assert facts.endpoints(ONE_DAY) == {}


def test_each_endpoint_that_failed_a_request_has_a_failure() -> None:
    answered = request(failed_at=[("down", "m"), ("slow", "m")])
    assert counted(answered) == {("down", "m"): (1, 1), ("slow", "m"): (1, 1), ("box", "m"): (1, 0)}


def test_a_failed_answer_that_is_passed_on_counts_once() -> None:
    passed_on = request(status=503, error="status_503", failed_at=[("box", "m")])
    assert counted(passed_on) == {("box", "m"): (1, 1)}


def test_a_request_that_no_endpoint_answered_counts_at_those_that_failed() -> None:
    lost = request(upstream=None, status=502, error="upstream_error", failed_at=[("box", "m")])
    assert counted(lost) == {("box", "m"): (1, 1)}


def test_refusals_and_clients_that_leave_are_no_failures() -> None:
    refused = request(status=400, error="status_400")
    left = request(error=ClientGone.code)
    assert counted(refused, left) == {("box", "m"): (2, 0)}


def test_a_stream_that_breaks_off_is_a_failure() -> None:
    assert counted(request(error="upstream_error")) == {("box", "m"): (1, 1)}


def test_requests_of_no_account_or_no_endpoint_are_not_counted() -> None:
    assert counted(request(account=None), request(upstream=None)) == {}


def test_models_beyond_the_bound_count_as_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horde_proxy.stats.history.hourly_facts._MOST_ROWS", 2)
    names = ("a", "b", "c", "d", "a")
    assert counted(*(request(model=name) for name in names)) == {
        ("box", "a"): (2, 0),
        ("box", "b"): (1, 0),
        ("box", "other"): (2, 0),
    }


@pytest.mark.parametrize(
    ("seconds", "step"),
    [(1.0, 0), (2.0, 8), (0.5, -8), (0.0, -80), (0.001, -80), (1e9, 131), (60.0, 47)],
)
def test_durations_are_counted_in_eighths_of_an_octave(seconds: float, step: int) -> None:
    assert duration_step(seconds) == step


def test_percentiles_are_at_most_five_percent_off() -> None:
    durations = [0.1 * number for number in range(1, 101)]
    counts = Counter(duration_step(seconds) for seconds in durations)
    assert percentile(counts, 0.5) == pytest.approx(5.1, rel=0.05)
    assert percentile(counts, 0.95) == pytest.approx(9.6, rel=0.05)
    assert percentile({}, 0.5) is None
    assert percentile({0: 1}, 0.95) == 1.0


STATUS = [
    {"name": "koboldcpp/Big-8B", "count": 2, "performance": 10.0, "queued": 600.0, "jobs": 3.0},
    {"name": "a/Big-8B-Q4_K_M", "count": 1, "performance": 40.0, "queued": 100.0, "jobs": 1.0},
    {"name": "Small-1B", "count": 1, "performance": 0, "queued": 0.0, "jobs": 0.0},
    "no object",
]
WORKERS = [
    {"id": "1", "models": ["koboldcpp/Big-8B", "Small-1B"], "threads": 2},
    {"id": "2", "models": ["a/Big-8B-Q4_K_M"], "threads": 1},
    {"id": "3", "models": ["Small-1B"], "threads": 4, "maintenance_mode": True},
]


def test_a_sample_has_a_row_for_each_model_and_one_for_the_whole_horde() -> None:
    assert facts_of(STATUS, WORKERS) == {
        "": HordeFacts("", 1, 2, 3, 700.0, 4.0),
        "big-8b": HordeFacts("Big-8B", 1, 2, 3, 700.0, 4.0, 20.0, 1),
        "small-1b": HordeFacts("Small-1B", 1, 1, 1, 0.0, 0.0, 0.0, 0),
    }


def facts_of_app(world: World) -> HourlyFacts:
    facts: HourlyFacts = world.app().extensions["horde_proxy"].live.hourly
    return facts


def test_the_hordes_of_an_app_are_sampled_every_five_minutes(world: World) -> None:
    world.bridge(Scripted("x", "a/Big-8B"), "worker-0").step(world.session)
    world.clock.seconds = NOON
    world.bridge(Scripted("x", "a/Big-8B"), "worker-0").step(world.session)
    facts = facts_of_app(world)
    for _ in range(11):
        facts.look()
        world.clock.seconds += 60
    sums = facts.horde("horde", "text", ONE_DAY)
    # The worker was last seen at noon, and counts as offline five minutes later.
    assert {key.model: (row.samples, row.workers) for key, row in sums.items()} == {
        "": (3, 1),
        "big-8b": (1, 1),
    }
    assert sums[HordeKey(NOON, "horde", "text", "big-8b")].first_seen == NOON
    assert set(facts.horde("horde", "image", ONE_DAY)) == {HordeKey(NOON, "horde", "image", "")}


def test_a_horde_that_is_down_has_no_samples(world: World) -> None:
    facts = facts_of_app(world)
    cable = world.cable()
    facts.look()
    world.clock.seconds += 300
    cable.is_cut = True
    facts.look()
    world.clock.seconds += 301
    facts.look()
    period = Period(0, NOON, HOUR)
    assert sum(row.samples for row in facts.horde("horde", "text", period).values()) == 1


def test_chats_over_http_are_counted_by_endpoint_and_model(world: World) -> None:
    world.employ(Scripted("Hello."))
    app = world.app()
    body = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}]}
    with app.test_client().post("/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
    facts: HourlyFacts = app.extensions["horde_proxy"].live.hourly
    [(key, counts)] = facts.endpoints(Period(0, NOON, HOUR)).items()
    assert (key.endpoint, key.model, counts.requests, counts.failures) == (
        "horde",
        "test/model",
        1,
        0,
    )
    assert counts.whole.total() == counts.first.total() == 1


def test_an_endpoint_that_cannot_be_reached_has_a_failure(world: World) -> None:
    world.employ(Scripted("Hello."))
    app = world.app()
    client = app.test_client()
    body = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}]}
    client.get("/v1/models")
    world.cable().is_cut = True
    with client.post("/v1/chat/completions", json=body) as response:
        assert response.status_code >= 500
    facts: HourlyFacts = app.extensions["horde_proxy"].live.hourly
    [(key, counts)] = facts.endpoints(Period(0, NOON, HOUR)).items()
    assert (key.endpoint, counts.requests, counts.failures) == ("horde", 1, 1)
