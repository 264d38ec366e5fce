"""When what is too old is removed, and what happens where that fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import Unavailable
from horde_proxy.store.expiry import Expiry
from tests.support import Clock


def test_everything_is_removed_once_an_hour() -> None:
    clock, calls = Clock(), []
    expiry = Expiry([lambda: calls.append("a"), lambda: calls.append("b")], now=clock)
    for _ in range(2):
        expiry.look()
    assert calls == ["a", "b"]
    clock.seconds += 3600
    expiry.look()
    # A clock that was set back.
    clock.seconds -= 5000
    expiry.look()
    assert calls == ["a", "b"] * 3


@pytest.mark.parametrize("failure", [DatabaseError("locked"), Unavailable("locked")])
def test_a_removal_that_fails_stops_no_other(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def fail() -> None:
        raise failure

    Expiry([fail, lambda: calls.append("b")]).look()
    assert calls == ["b"]
    assert "what is too old could not be removed: locked" in caplog.text


def test_a_machine_without_threads_tries_later() -> None:
    clock, calls = Clock(), []
    threads: list[Callable[[], None]] = []

    def run(call: Callable[[], None]) -> None:
        if not threads:
            threads.append(call)
            raise RuntimeError("can't start new thread")
        call()

    expiry = Expiry([lambda: calls.append("a")], now=clock, run=run)
    expiry.look()
    assert calls == []
    clock.seconds += 3600
    expiry.look()
    assert calls == ["a"]
