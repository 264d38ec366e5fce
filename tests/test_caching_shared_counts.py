"""Places and uses that several processes share through Redis, and what happens while it fails."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

import pytest

from horde_proxy.caching.shared_places import RedisPlaces
from horde_proxy.caching.shared_use import RedisUse
from tests.support import Clock

redis = pytest.importorskip("redis")


class FakeRedis:
    """Redis as far as sorted sets and claims need it; `is_down` makes each call fail."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.is_down = clock, False
        self.sets: dict[str, dict[str, float]] = defaultdict(dict)
        self.claims: dict[str, float] = {}

    def _check(self) -> None:
        if self.is_down:
            raise redis.ConnectionError("refused")

    def eval(self, script: str, keys: int, key: str, holder: str, most: str, lease: str) -> int:
        """What the script of RedisPlaces does."""
        self._check()
        self.zremrangebyscore(key, "-inf", self.clock())
        if len(self.sets[key]) >= int(most):
            return 0
        self.sets[key][holder] = self.clock() + int(lease)
        return 1

    def time(self) -> tuple[int, int]:
        self._check()
        return int(self.clock()), 0

    def pipeline(self, transaction: bool = True) -> FakeRedis:
        return self

    def execute(self) -> None:
        self._check()

    def zadd(self, key: str, entries: dict[str, float]) -> None:
        self._check()
        self.sets[key].update(entries)

    def expire(self, key: str, seconds: int) -> None:
        """Entries end by their own scores."""

    def zrem(self, key: str, member: str) -> None:
        self._check()
        self.sets[key].pop(member, None)

    def zremrangebyscore(self, key: str, least: str, most: float) -> None:
        self._check()
        ended = [member for member, score in self.sets[key].items() if score <= most]
        for member in ended:
            del self.sets[key][member]

    def zrange(self, key: str, first: int, last: int) -> list[bytes]:
        return [member.encode() for member in self.sets[key]]

    def set(self, key: str, value: str, *, nx: bool, ex: int) -> bool | None:
        self._check()
        if self.claims.get(key, 0.0) > self.clock():
            return None
        self.claims[key] = self.clock() + ex
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> FakeRedis:
    return FakeRedis(clock)


def places(server: FakeRedis, *, is_alive: bool = True) -> RedisPlaces:
    """The places of a process, which renews them unless it was killed."""
    connect: Any = lambda: server  # noqa: E731
    later = server.clock.run_later if is_alive else lambda seconds, call: None
    return RedisPlaces(connect, "p", run_later=later, clock=server.clock)


def test_two_processes_take_no_more_places_than_there_are(server: FakeRedis) -> None:
    one, two = places(server), places(server)
    release = one.take("ann", 2)
    assert two.take("ann", 2) is not None
    assert (one.take("ann", 2), two.take("ann", 2)) == (None, None)
    assert one.take("bob", 2) is not None
    assert release is not None
    release()
    release()
    assert two.take("ann", 2) is not None
    assert one.take("ann", 2) is None


def test_a_place_is_renewed_as_long_as_it_is_held(server: FakeRedis, clock: Clock) -> None:
    one = places(server)
    release = one.take("ann", 1)
    for _ in range(30):
        clock.sleep(10)
    assert one.take("ann", 1) is None
    assert release is not None
    release()
    for _ in range(10):
        clock.sleep(10)
    assert one.take("ann", 1) is not None
    clock.sleep(10)
    assert server.sets["p:ann"] != {}


def test_what_a_killed_process_held_is_free_after_a_minute(server: FakeRedis, clock: Clock) -> None:
    assert places(server, is_alive=False).take("ann", 1) is not None
    two = places(server)
    clock.sleep(59)
    assert two.take("ann", 1) is None
    clock.sleep(2)
    assert two.take("ann", 1) is not None


def test_what_is_taken_while_redis_fails_counts_once_it_works_again(
    server: FakeRedis, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = places(server), places(server)
    server.is_down = True
    assert one.take("ann", 1) is not None
    assert one.take("ann", 1) is not None
    assert len(caplog.records) == 1
    assert "requests at a time are counted in this process only" in caplog.text
    server.is_down = False
    clock.sleep(20)
    assert two.take("ann", 2) is None


def test_a_use_is_seen_by_others_until_its_time_has_passed(server: FakeRedis, clock: Clock) -> None:
    connect: Any = lambda: server  # noqa: E731
    one, two = (RedisUse(connect, "p", name, now=clock, clock=clock) for name in ("one", "two"))
    one.note("desktop", 600)
    assert (one.is_used_elsewhere("desktop"), two.is_used_elsewhere("desktop")) == (False, True)
    assert two.is_used_elsewhere("laptop") is False
    clock.sleep(599)
    assert two.is_used_elsewhere("desktop") is True
    clock.sleep(2)
    assert two.is_used_elsewhere("desktop") is False
    assert [use.claim("desktop", 300) for use in (one, two, one)] == [True, False, False]
    clock.sleep(301)
    assert two.claim("desktop", 300) is True
    server.is_down = True
    assert (two.is_used_elsewhere("desktop"), one.claim("desktop", 300)) == (False, True)
    two.note("desktop", 600)
