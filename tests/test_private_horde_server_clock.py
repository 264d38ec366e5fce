"""The time of a database server, as one process of a horde keeps it."""

from __future__ import annotations

import pytest

from horde_proxy.database.errors import DatabaseError
from horde_proxy.private_horde.store.server_clock import ServerClock


class Server:
    """A server whose clock is 1,000 s ahead of our ticks. Its answer takes two of them."""

    def __init__(self) -> None:
        self.ticks, self.asked, self.is_down = 100.0, 0, False

    def ask(self) -> float:
        self.asked += 1
        if self.is_down:
            raise DatabaseError("gone")
        self.ticks += 1
        now = self.ticks + 1000
        self.ticks += 1
        return now


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock(server: Server) -> ServerClock:
    return ServerClock(server.ask, lambda: server.ticks)


def test_time_is_the_servers_and_goes_on_without_it(server: Server, clock: ServerClock) -> None:
    assert clock() == 1102.0
    server.ticks += 20
    assert clock() == 1122.0
    assert server.asked == 1


def test_the_server_is_asked_again_after_half_a_minute(server: Server, clock: ServerClock) -> None:
    clock()
    server.ticks += 31
    assert clock() == 1135.0
    assert server.asked == 2


def test_a_server_that_is_gone_does_not_stop_the_time(server: Server, clock: ServerClock) -> None:
    clock()
    server.is_down = True
    server.ticks += 31
    assert [clock(), clock()] == [1133.0, 1133.0]
    assert server.asked == 2
    server.is_down = False
    server.ticks += 31
    assert clock() == 1166.0


def test_without_an_answer_there_is_no_time(server: Server, clock: ServerClock) -> None:
    server.is_down = True
    with pytest.raises(DatabaseError):
        clock()
    server.is_down = False
    assert clock() == 1102.0
