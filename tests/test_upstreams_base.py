"""The sleeper that other threads wake, and the watches of clients."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from horde_proxy.errors import ClientGone, ProxyError, ShuttingDown
from horde_proxy.upstreams.base import Caller, DeadlinePassed, Sleeper, SubmitBudget
from horde_proxy.upstreams.disconnects import DisconnectMonitor, is_open

LONG = 60.0
"""Seconds that no test waits, unless it fails."""


def test_a_sleep_ends_when_it_is_woken() -> None:
    sleeper = Sleeper(longest=LONG)
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(sleeper.wait(LONG)))
    thread.start()
    sleeper.wake()
    thread.join(LONG)
    assert woken == [True]


def test_a_wake_before_the_sleep_is_not_lost_and_counts_once() -> None:
    sleeper = Sleeper()
    sleeper.wake()
    sleeper.wake()
    assert [sleeper.wait(LONG), sleeper.wait(0)] == [True, False]


@pytest.mark.parametrize(
    ("longest", "time_left", "seconds", "slept"),
    [
        (0.9, 100.0, 5.0, 0.9),
        (15.0, 100.0, 5.0, 5.0),
        (15.0, 3.0, 5.0, 3.0),
        (15.0, -1.0, 5.0, 0.9),
    ],
)
def test_a_sleep_is_no_longer_than_somebody_may_wait_for_it(
    longest: float, time_left: float, seconds: float, slept: float
) -> None:
    sleeps: list[float] = []
    sleeper = Sleeper(longest, lambda: time_left, sleep=sleeps.append)
    assert sleeper.wait(seconds) is False
    assert sleeps == [slept]


def test_a_stopped_sleeper_raises_from_then_on() -> None:
    sleeper = Sleeper(sleep=lambda seconds: None)
    sleeper.stop(ShuttingDown())
    for _ in range(2):
        with pytest.raises(ShuttingDown):
            sleeper.wait(1)


def test_a_budget_counts_what_was_submitted() -> None:
    budget = SubmitBudget(most=1)
    budget.take()
    with pytest.raises(ProxyError, match="took 1 requests"):
        budget.take()
    assert budget.used == 1


@pytest.mark.parametrize(
    ("most", "spent", "parts", "left"),
    [(None, 5.0, 2, None), (20.0, 0.0, 1, 20.0), (20.0, 5.0, 3, 5.0), (20.0, 25.0, 1, 0.0)],
)
def test_parts_of_an_answer_share_what_it_may_cost(
    most: float | None, spent: float, parts: int, left: float | None
) -> None:
    assert Caller(spent_kudos=spent, parts=parts).kudos_left(most) == left


def test_a_caller_without_a_deadline_waits_for_ever() -> None:
    Caller().check_deadline(1e9)
    Caller(deadline=5.0).check_deadline(5.0)
    with pytest.raises(DeadlinePassed):
        Caller(deadline=5.0).check_deadline(5.1)


class Waiter:
    """Notes what a watch tells it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.event = threading.Event()

    def wake(self) -> None:
        self.told.append("wake")
        self.event.set()

    def stop(self, error: ProxyError) -> None:
        self.told.append(type(error).__name__)


def test_a_client_that_hangs_up_wakes_its_waiter() -> None:
    monitor, waiter = DisconnectMonitor(), Waiter()
    ours, theirs = socket.socketpair()
    with ours, monitor.watch_client(ours) as watch:
        watch.waiter = waiter
        watch.check()
        theirs.close()
        assert waiter.event.wait(LONG)
        with pytest.raises(ClientGone):
            watch.check()


def test_a_stop_of_the_proxy_stops_every_waiter() -> None:
    monitor, waiter = DisconnectMonitor(), Waiter()
    with monitor.watch_client(None) as watch:
        watch.waiter = waiter
        monitor.hang_up_all()
        with pytest.raises(ShuttingDown):
            watch.check()
    monitor.hang_up_all()
    assert waiter.told == ["ShuttingDown"]


def shut_down(theirs: socket.socket) -> None:
    theirs.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("leave", [socket.socket.close, shut_down])
def test_a_closed_connection_is_seen_without_epoll(leave: Callable[[socket.socket], None]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert is_open(ours)
        theirs.send(b"x")
        assert is_open(ours)
        ours.recv(1)
        leave(theirs)
        assert not is_open(ours)
    assert is_open(None)
