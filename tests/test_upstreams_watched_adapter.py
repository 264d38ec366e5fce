"""Connections to servers that close them after streams."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from horde_proxy.upstreams import watched_adapter
from horde_proxy.upstreams.watched_adapter import _GuardedPool


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> _GuardedPool:
    # No connection is idle for too long, however slow the machine is.
    monkeypatch.setattr(watched_adapter, "monotonic", lambda: 1000.0)
    return _GuardedPool("server.invalid")


def ended_stream(pool: _GuardedPool) -> tuple[Any, socket.socket]:
    """(a connection over which a stream has come, the server's end of it)."""
    ours, theirs = socket.socketpair()
    connection: Any = pool._get_conn()
    connection.sock, connection.has_streamed = ours, True
    return connection, theirs


def test_a_server_that_closes_after_a_stream_gets_no_other_request_there(
    pool: _GuardedPool,
) -> None:
    connection, theirs = ended_stream(pool)
    theirs.close()
    pool._put_conn(connection)
    assert connection.sock is None
    # It is known now, however late the next close comes.
    connection, theirs = ended_stream(pool)
    pool._put_conn(connection)
    assert connection.sock is None
    theirs.close()


def test_a_server_that_keeps_a_connection_gets_the_next_request_there(pool: _GuardedPool) -> None:
    connection, theirs = ended_stream(pool)
    pool._put_conn(connection)
    assert connection.is_connected
    connection.close()
    theirs.close()


def test_a_close_that_comes_later_is_learned(pool: _GuardedPool) -> None:
    connection, theirs = ended_stream(pool)
    pool._put_conn(connection)
    theirs.close()
    assert not connection.is_connected
    connection.close()
    connection, theirs = ended_stream(pool)
    pool._put_conn(connection)
    assert connection.sock is None
    theirs.close()


def test_answers_that_are_no_streams_change_nothing(pool: _GuardedPool) -> None:
    connection, theirs = ended_stream(pool)
    connection.has_streamed = False
    pool._put_conn(connection)
    theirs.close()
    assert not connection.is_connected
    connection.close()
    connection, theirs = ended_stream(pool)
    pool._put_conn(connection)
    assert connection.is_connected
    connection.close()
    theirs.close()
