"""What a key may do now, and when it may go on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from horde_proxy.errors import RateLimited
from horde_proxy.ledger.keys import ClientKey
from horde_proxy.ledger.limits import KeyLimits
from horde_proxy.ledger.usage import UsageRecorder
from tests.support import Clock

NOON = 1_769_860_800.0


class Door:
    """Allowances under one clock, and what a refused request is told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.seconds = NOON
        self.book = UsageRecorder(None, now=self.clock)
        self.allowances = KeyLimits(self.book, clock=self.clock, now=self.clock)
        self.admit = self.allowances.admit

    def refusal(self, key: ClientKey) -> tuple[str, str | None, int | None]:
        with pytest.raises(RateLimited) as caught:
            self.admit(key)
        error = caught.value
        return error.message, error.code, error.retry_after


@pytest.fixture
def door() -> Door:
    return Door()


def test_so_many_requests_a_minute_and_not_one_more(door: Door) -> None:
    key = ClientKey("ann", requests_per_minute=3)
    for _ in range(3):
        door.admit(key)
        door.clock.seconds += 10
    assert door.refusal(key) == (
        "This key may make 3 requests a minute; the next one in 30 s.",
        "rate_limit_exceeded",
        30,
    )
    door.clock.seconds += 30
    door.admit(key)
    assert door.refusal(key)[2] == 10


def test_the_wait_is_rounded_up_to_whole_seconds(door: Door) -> None:
    key = ClientKey("ann", requests_per_minute=1)
    door.admit(key)
    door.clock.seconds += 59.9
    assert door.refusal(key) == (
        "This key may make 1 request a minute; the next one in 1 s.",
        "rate_limit_exceeded",
        1,
    )


def test_a_refused_request_counts_for_nothing(door: Door) -> None:
    key = ClientKey("ann", requests_per_minute=1, concurrent=1)
    release = door.admit(key)
    for _ in range(5):
        door.refusal(key)
    release()
    assert door.refusal(key)[2] == 60
    door.clock.seconds += 60
    door.admit(key)()


def test_a_limit_that_was_lowered_holds_for_what_was_before(door: Door) -> None:
    for _ in range(4):
        door.admit(ClientKey("ann", requests_per_minute=10))
        door.clock.seconds += 1
    assert door.refusal(ClientKey("ann", requests_per_minute=2))[2] == 58


def test_a_limit_of_none_a_minute_lets_none_in(door: Door) -> None:
    assert door.refusal(ClientKey("ann", requests_per_minute=0))[2] == 60


def test_so_many_requests_at_once_and_not_one_more(door: Door) -> None:
    key = ClientKey("ann", concurrent=2)
    release, _ = door.admit(key), door.admit(key)
    assert door.refusal(key) == (
        "This key may have 2 requests at once; the next one is allowed when one of them has ended.",
        "rate_limit_exceeded",
        5,
    )
    release()
    door.admit(key)


def test_a_request_gives_its_place_back_once(door: Door) -> None:
    key = ClientKey("ann", concurrent=2)
    release, _ = door.admit(key), door.admit(key)
    release()
    release()
    door.admit(key)
    door.refusal(key)


def test_one_keys_requests_do_not_count_for_another(door: Door) -> None:
    door.admit(ClientKey("ann", requests_per_minute=1, concurrent=1))
    door.admit(ClientKey("bob", requests_per_minute=1, concurrent=1))


def test_tokens_a_day_last_until_midnight(door: Door) -> None:
    key = ClientKey("ann", tokens_per_day=100)
    door.book.add("ann", "m", "chat", prompt_tokens=90, completion_tokens=9)
    door.admit(key)
    door.book.add("ann", "m", "chat", completion_tokens=2)
    assert door.refusal(key) == (
        "This key may use 100 tokens a day and has used 101; the next request is allowed at "
        "midnight UTC, in 43200 s.",
        "daily_limit_reached",
        43200,
    )
    door.clock.seconds += 43199.5
    assert door.refusal(key)[2] == 1
    door.clock.seconds += 0.5
    door.admit(key)


def test_kudos_a_day_last_until_midnight(door: Door) -> None:
    key = ClientKey("ann", kudos_per_day=12.5)
    door.book.add("ann", "m", "chat", kudos=12.5)
    assert door.refusal(key) == (
        "This key may use 12.5 kudos a day and has used 12.5; the next request is allowed at "
        "midnight UTC, in 43200 s.",
        "daily_limit_reached",
        43200,
    )
    door.admit(ClientKey("bob", kudos_per_day=12.5))


def test_a_key_without_limits_leaves_no_trace(door: Door) -> None:
    door.admit(ClientKey("ann"))()
    assert door.allowances._running == {}
    assert door.allowances._started.wait("ann", 1) == 0


def test_a_request_that_has_ended_leaves_no_place(door: Door) -> None:
    door.admit(ClientKey("ann", concurrent=1))()
    assert door.allowances._running == {}


def test_many_threads_get_no_more_than_there_is(door: Door) -> None:
    key = ClientKey("ann", requests_per_minute=50, concurrent=20)

    def enter(number: int) -> bool:
        try:
            door.admit(key)
        except RateLimited:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(enter, range(200))) == 20
