"""Values that are loaded in the background."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from horde_proxy.caching.background import BackgroundValue, inline
from horde_proxy.errors import Unavailable, UpstreamFailed
from tests.support import Clock


class Loading:
    """Counts loads; gives the count, or raises the error."""

    def __init__(self) -> None:
        self.count = 0
        self.error: UpstreamFailed | None = None

    def __call__(self) -> int:
        self.count += 1
        if self.error:
            raise self.error
        return self.count


class Later:
    """Keeps what is to run until it is told to."""

    def __init__(self) -> None:
        self.kept: list[Callable[[], None]] = []

    def __call__(self, load: Callable[[], None]) -> None:
        self.kept.append(load)

    def run(self) -> None:
        for load in self.kept:
            load()
        self.kept.clear()


def test_it_is_loaded_once_within_its_time_and_then_anew() -> None:
    clock, load = Clock(), Loading()
    value = BackgroundValue(load, ttl=60, clock=clock, run=inline)
    assert (value.get(), value.get()) == (1, 1)
    clock.seconds += 60
    assert value.get() == 2


def test_a_load_that_no_thread_could_be_had_for_is_begun_again() -> None:
    def refuse(load: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    load = Loading()
    value = BackgroundValue(load, ttl=60, clock=Clock(), run=refuse)
    with pytest.raises(Unavailable):
        value.get()
    value._run = inline
    assert value.get() == 1


def test_what_is_known_is_given_at_once_while_the_next_is_loaded() -> None:
    clock, load, later = Clock(), Loading(), Later()
    value = BackgroundValue(load, ttl=60, clock=clock, run=inline)
    value.get()
    value._run = later
    clock.seconds += 3600
    assert [value.get() for _ in range(10)] == [1] * 10
    assert len(later.kept) == 1
    later.run()
    assert value.get() == 2


def test_what_is_old_is_waited_for_only_as_long_as_no_load_has_failed() -> None:
    clock, load, later = Clock(), Loading(), Later()
    value = BackgroundValue(load, ttl=60, stale=120, patience=0, clock=clock, run=inline)
    value.get()
    value._run = later
    clock.seconds += 121
    assert value.get() == 1
    assert value._is_worth_waiting()
    load.error = UpstreamFailed("down")
    later.run()
    clock.seconds += 5
    assert value.get() == 1
    assert not value._is_worth_waiting()


def test_a_failure_leaves_the_last_good_value_and_is_tried_again_in_five_seconds() -> None:
    clock, load = Clock(), Loading()
    value = BackgroundValue(load, ttl=60, clock=clock, run=inline)
    value.get()
    load.error = UpstreamFailed("down")
    clock.seconds += 60
    assert (value.get(), value.get(), str(value.error), load.count) == (1, 1, "down", 2)
    clock.seconds += 5
    load.error = None
    assert (value.get(), value.error) == (3, None)


def test_without_any_value_the_failure_is_told_at_once() -> None:
    clock, load = Clock(), Loading()
    load.error = UpstreamFailed("down")
    value = BackgroundValue(load, ttl=60, clock=clock, run=inline)
    for _ in range(3):
        with pytest.raises(UpstreamFailed, match="down"):
            value.get()
    assert load.count == 1


def test_a_first_value_that_does_not_come_is_not_waited_for_without_end() -> None:
    later = Later()
    value = BackgroundValue(Loading(), ttl=60, patience=0, run=later)
    for _ in range(3):
        with pytest.raises(Unavailable, match="has not answered yet"):
            value.get()
    assert len(later.kept) == 1


def test_a_wish_for_a_new_one_is_granted_every_two_seconds() -> None:
    clock, load = Clock(), Loading()
    value = BackgroundValue(load, ttl=60, clock=clock, run=inline)
    value.get()
    value.refresh()
    assert value.get() == 1
    clock.seconds += 2
    value.refresh()
    assert value.get() == 2
