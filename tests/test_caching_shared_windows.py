"""Windows of calls that several processes share, and what happens while their storage fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from limits.errors import StorageError

from horde_proxy.app.windows import shared_windows
from horde_proxy.caching.shared_windows import SharedWindows
from horde_proxy.config import load
from horde_proxy.private_horde import AccessRules, PrivateHorde, blueprint
from horde_proxy.private_horde.rate_limits import ApiCall, RateLimits
from horde_proxy.windows import MemoryWindows
from horde_proxy.wrong_keys import WrongKeys
from tests.support import World

CALL = ApiCall("203.0.113.9", "GET", "/api/v2/status/modes")


class SharedStorage(MemoryWindows):
    """A storage of several processes, which may be down."""

    is_down = False
    calls = 0

    def _answer(self, name: str, *arguments: Any) -> Any:
        self.calls += 1
        if self.is_down:
            raise StorageError(ConnectionError("refused"))
        return getattr(MemoryWindows, name)(self, *arguments)

    def incr(self, *arguments: Any) -> int:
        return int(self._answer("incr", *arguments))

    def get(self, *arguments: Any) -> int:
        return int(self._answer("get", *arguments))

    def get_expiry(self, *arguments: Any) -> float:
        return float(self._answer("get_expiry", *arguments))

    def acquire_entry(self, *arguments: Any) -> bool:
        return bool(self._answer("acquire_entry", *arguments))

    def check(self) -> bool:
        return bool(self._answer("check"))


class Processes:
    """Several processes on one storage, with the test's time and background threads."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.storage = SharedStorage(lambda: self.now)
        self.background: list[Callable[[], None]] = []

    def windows(self) -> SharedWindows:
        return SharedWindows(
            lambda: self.storage,
            "calls are counted",
            now=lambda: self.now,
            clock=lambda: self.now,
            run=self.background.append,
        )

    def limits(self) -> RateLimits:
        return RateLimits(lambda: self.now, self.windows())


@pytest.fixture
def processes() -> Processes:
    return Processes()


def exceeded(limits: RateLimits, times: int = 1) -> list[bool]:
    states = [limits.hit("modes", CALL) for _ in range(times)]
    return [state is not None and state.exceeded for state in states]


def test_two_processes_count_the_calls_of_an_address_together(processes: Processes) -> None:
    one, two = processes.limits(), processes.limits()
    assert exceeded(one, 15) + exceeded(two, 15) == [False] * 30
    assert exceeded(one) + exceeded(two) == [True, True]
    processes.now += 60
    assert exceeded(one) + exceeded(two) == [False, False]


def test_the_state_of_a_limit_is_that_of_all_processes(processes: Processes) -> None:
    one, two = processes.limits(), processes.limits()
    exceeded(one, 10)
    processes.now += 20
    state = two.hit("modes", CALL)
    assert state is not None
    assert (state.remaining, state.retry_after) == (19, 40)


def test_a_failing_storage_leaves_each_process_its_own_counts_and_one_warning(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = processes.limits(), processes.limits()
    exceeded(one, 30)
    processes.storage.is_down = True
    assert exceeded(one, 30) == [False] * 30
    assert exceeded(one, 2) == [True, True]
    assert caplog.messages == [
        "Redis fails, so calls are counted in this process only: refused",
    ]
    assert exceeded(two, 31)[-1] is True


def test_a_storage_that_is_down_is_looked_at_every_five_seconds_in_the_background(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    limits = processes.limits()
    processes.storage.is_down = True
    exceeded(limits)
    asked = processes.storage.calls
    for _ in range(4):
        processes.now += 2
        exceeded(limits)
    assert (processes.storage.calls, len(processes.background)) == (asked, 1)
    processes.background.pop()()
    processes.storage.is_down = False
    processes.now += 5
    exceeded(limits)
    processes.background.pop()()
    exceeded(limits)
    assert processes.storage.get("LIMITER/203.0.113.9/GET//api/v2/status/modes/30/1/minute") == 1
    assert caplog.messages[1:] == ["Redis works again, so calls are counted for all processes"]


def test_wrong_keys_of_an_address_are_counted_together(processes: Processes) -> None:
    def guesses(first: int) -> list[int]:
        wrong = WrongKeys(lambda: processes.now, lambda seconds: None, processes.windows())
        return [wrong.count("203.0.113.9", f"key {first + number}") for number in range(6)]

    assert guesses(0) == [0] * 6
    assert guesses(6) == [0, 0, 0, 0, 60, 60]


def test_tries_to_join_are_counted_together(processes: Processes) -> None:
    def tries() -> list[int]:
        app = Flask("a-process")
        horde = PrivateHorde(
            clock=lambda: processes.now,
            rate_limits=False,
            access=AccessRules(registration="closed"),
            windows=processes.windows(),
        )
        app.register_blueprint(blueprint(horde))
        http = app.test_client()
        body = {"username": "x"}
        return [http.post("/api/v2/register", json=body).status_code for _ in range(6)]

    assert tries() == [403] * 6
    assert tries() == [403, 403, 403, 403, 429, 429]


def test_without_a_redis_each_process_counts_alone() -> None:
    assert shared_windows(load(environ={}).cache, World().runtime) is None


def test_the_redis_of_the_settings_is_used_and_nothing_is_sent_at_the_start() -> None:
    pytest.importorskip("redis")
    cache = load(environ={}, flags={"cache": {"redis_url": "redis://redis.invalid:1/0"}}).cache
    assert isinstance(shared_windows(cache, World().runtime), SharedWindows)


def test_two_apps_on_one_redis_refuse_a_guesser_together(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "horde_proxy.app.factory.shared_windows", lambda cache, runtime: processes.windows()
    )

    def guesses(first: int) -> list[int]:
        world = World(private_horde={"enabled": True})
        http = world.http()
        processes.now = world.clock()
        return [
            http.get("/api/v2/find_user", headers={"apikey": f"k{first + number}"}).status_code
            for number in range(6)
        ]

    assert guesses(0) == [404] * 6
    assert guesses(6) == [404] * 4 + [429] * 2
