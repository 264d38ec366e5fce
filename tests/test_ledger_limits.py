"""Which requests of a key are refused, and when the next one is allowed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from horde_proxy.errors import RateLimited
from horde_proxy.ledger.keys import ClientKey
from horde_proxy.ledger.limits import KeyLimits
from horde_proxy.ledger.usage import UsageRecorder
from tests.support import Clock

NOON = 1_769_860_800.0


class Limiter:
    """A key's limits under one clock, and the error of a refused request."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.seconds = NOON
        self.recorder = UsageRecorder(None, now=self.clock)
        self.limits = KeyLimits(self.recorder, clock=self.clock, now=self.clock)
        self.admit = self.limits.admit

    def refusal(self, key: ClientKey) -> tuple[str, str | None, int | None]:
        with pytest.raises(RateLimited) as caught:
            self.admit(key)
        error = caught.value
        return error.message, error.code, error.retry_after


@pytest.fixture
def limiter() -> Limiter:
    return Limiter()


def test_requests_above_the_limit_of_a_minute_are_refused(limiter: Limiter) -> None:
    key = ClientKey("ann", requests_per_minute=3)
    for _ in range(3):
        limiter.admit(key)
        limiter.clock.seconds += 10
    assert limiter.refusal(key) == (
        "This key may make 3 requests a minute; the next one in 30 s.",
        "rate_limit_exceeded",
        30,
    )
    limiter.clock.seconds += 30
    limiter.admit(key)
    assert limiter.refusal(key)[2] == 10


def test_the_wait_is_rounded_up_to_whole_seconds(limiter: Limiter) -> None:
    key = ClientKey("ann", requests_per_minute=1)
    limiter.admit(key)
    limiter.clock.seconds += 59.9
    assert limiter.refusal(key) == (
        "This key may make 1 request a minute; the next one in 1 s.",
        "rate_limit_exceeded",
        1,
    )


def test_a_refused_request_counts_for_nothing(limiter: Limiter) -> None:
    key = ClientKey("ann", requests_per_minute=1, concurrent=1)
    release = limiter.admit(key)
    for _ in range(5):
        limiter.refusal(key)
    release()
    assert limiter.refusal(key)[2] == 60
    limiter.clock.seconds += 60
    limiter.admit(key)()


def test_a_lowered_limit_holds_for_earlier_requests(limiter: Limiter) -> None:
    for _ in range(4):
        limiter.admit(ClientKey("ann", requests_per_minute=10))
        limiter.clock.seconds += 1
    assert limiter.refusal(ClientKey("ann", requests_per_minute=2))[2] == 58


def test_a_limit_of_zero_a_minute_admits_nothing(limiter: Limiter) -> None:
    assert limiter.refusal(ClientKey("ann", requests_per_minute=0))[2] == 60


def test_concurrent_requests_above_the_limit_are_refused(limiter: Limiter) -> None:
    key = ClientKey("ann", concurrent=2)
    release, _ = limiter.admit(key), limiter.admit(key)
    assert limiter.refusal(key) == (
        "This key may have 2 requests at once; the next one is allowed when one of them has ended.",
        "rate_limit_exceeded",
        5,
    )
    release()
    limiter.admit(key)


def test_a_request_releases_its_place_once(limiter: Limiter) -> None:
    key = ClientKey("ann", concurrent=2)
    release, _ = limiter.admit(key), limiter.admit(key)
    release()
    release()
    limiter.admit(key)
    limiter.refusal(key)


def test_keys_are_counted_apart(limiter: Limiter) -> None:
    limiter.admit(ClientKey("ann", requests_per_minute=1, concurrent=1))
    limiter.admit(ClientKey("bob", requests_per_minute=1, concurrent=1))


def test_tokens_a_day_last_until_midnight(limiter: Limiter) -> None:
    key = ClientKey("ann", tokens_per_day=100)
    limiter.recorder.add("ann", "m", "chat", prompt_tokens=90, completion_tokens=9)
    limiter.admit(key)
    limiter.recorder.add("ann", "m", "chat", completion_tokens=2)
    assert limiter.refusal(key) == (
        "This key may use 100 tokens a day and has used 101; the next request is allowed at "
        "midnight UTC, in 43200 s.",
        "daily_limit_reached",
        43200,
    )
    limiter.clock.seconds += 43199.5
    assert limiter.refusal(key)[2] == 1
    limiter.clock.seconds += 0.5
    limiter.admit(key)


def test_kudos_a_day_last_until_midnight(limiter: Limiter) -> None:
    key = ClientKey("ann", kudos_per_day=12.5)
    limiter.recorder.add("ann", "m", "chat", kudos=12.5)
    assert limiter.refusal(key) == (
        "This key may use 12.5 kudos a day and has used 12.5; the next request is allowed at "
        "midnight UTC, in 43200 s.",
        "daily_limit_reached",
        43200,
    )
    limiter.admit(ClientKey("bob", kudos_per_day=12.5))


def test_images_a_day_are_refused_until_midnight_and_texts_are_not(limiter: Limiter) -> None:
    key = ClientKey("ann", images_per_day=4)
    limiter.recorder.add("ann", "m", "horde", images=3)
    limiter.admit(key, makes_images=True)
    limiter.recorder.add("ann", "m", "horde", images=2)
    with pytest.raises(RateLimited) as caught:
        limiter.admit(key, makes_images=True)
    assert caught.value.message == (
        "This key may use 4 images a day and has used 5; the next request is allowed at "
        "midnight UTC, in 43200 s."
    )
    limiter.admit(key)


def test_a_key_without_limits_is_not_counted(limiter: Limiter) -> None:
    limiter.admit(ClientKey("ann"))()
    assert limiter.limits._running == {}
    assert limiter.limits._started.wait("ann", 1) == 0


def test_an_ended_request_holds_no_place(limiter: Limiter) -> None:
    limiter.admit(ClientKey("ann", concurrent=1))()
    assert limiter.limits._running == {}


def test_many_threads_together_keep_to_the_limit(limiter: Limiter) -> None:
    key = ClientKey("ann", requests_per_minute=50, concurrent=20)

    def enter(number: int) -> bool:
        try:
            limiter.admit(key)
        except RateLimited:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(enter, range(200))) == 20


def test_a_budget_is_what_the_day_leaves_without_what_running_requests_reserve(
    limiter: Limiter,
) -> None:
    key = ClientKey("anna", kudos_per_day=100.0)
    assert limiter.limits.budget(ClientKey("bob", tokens_per_day=1)) is None
    first, second = limiter.limits.budget(key), limiter.limits.budget(key)
    assert first is not None and second is not None
    first.hold(30.0)
    second.hold(20.0)
    assert (first.left(), second.left()) == (50.0, 50.0)
    first.close()
    first.close()
    assert second.left() == 80.0


def test_what_other_processes_run_counts_for_the_requests_at_once() -> None:
    class Elsewhere:
        """Places of which others have taken some."""

        def __init__(self) -> None:
            self.taken = 1
            self.released = 0

        def take(self, name: str, most: int) -> Callable[[], None] | None:
            if self.taken >= most:
                return None
            self.taken += 1
            return self.release

        def release(self) -> None:
            self.released += 1
            self.taken -= 1

    places = Elsewhere()
    limits = KeyLimits(UsageRecorder(None), places=places)
    key = ClientKey("anna", concurrent=2)
    release = limits.admit(key)
    for _ in range(3):
        # A refused request holds no place here either.
        with pytest.raises(RateLimited, match="2 requests at once"):
            limits.admit(key)
    release()
    assert places.released == 1
    limits.admit(key)
