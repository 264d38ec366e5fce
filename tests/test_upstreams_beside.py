"""Calls beside the thread that needs their results."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from horde_proxy.api.kept_alive import _KeptAliveStream
from horde_proxy.errors import ClientGone, TimedOut
from horde_proxy.upstreams.base import Waiting
from horde_proxy.upstreams.beside import Beside, HelperThreads
from horde_proxy.upstreams.disconnects import CallGuard, DisconnectMonitor, NotYet, current_guard
from horde_proxy.upstreams.openai.sending import release
from horde_proxy.upstreams.proxying import ProxyResponse

LONG = 60
"""Seconds after which a test gives up on another thread."""


class Server:
    """Answers once it may; `closed` says that the response was closed.

    Calls to be made without blocking are made again, as if no connection to it were kept.
    """

    def __init__(self) -> None:
        self.may_answer, self.closed = threading.Event(), threading.Event()
        self.asked: list[int] = []
        self.guard: CallGuard | None = None

    def send(self, guard: CallGuard) -> ProxyResponse:
        self.guard = guard
        if guard.patience is not None:
            raise NotYet
        self.asked.append(threading.get_ident())
        assert self.may_answer.wait(LONG)
        return ProxyResponse(200, [], iter([b"Hi"]), [self.closed.set])


def beside(helpers: HelperThreads | None = None, pause: float = 0.001) -> Beside:
    monitor = DisconnectMonitor()
    return Beside(helpers or HelperThreads(), lambda: monitor.watch(None), pause)


def result(steps: Generator[Waiting, None, ProxyResponse]) -> ProxyResponse:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            response: ProxyResponse = end.value
            return response


def test_waitings_come_until_the_response_is_there() -> None:
    server = Server()
    steps = beside().send(server.send)
    assert [next(steps), next(steps)] == [Waiting("generating")] * 2
    server.may_answer.set()
    assert b"".join(result(steps)) == b"Hi"
    assert server.asked != [threading.get_ident()]
    assert not server.closed.is_set()


def test_what_the_call_raises_is_raised_where_it_was_waited_for() -> None:
    def send(guard: CallGuard) -> ProxyResponse:
        raise TimedOut("it did not answer")

    with pytest.raises(TimedOut, match="it did not answer"):
        result(beside().send(send))


def test_a_call_that_is_left_is_ended_and_its_late_response_closed() -> None:
    server = Server()
    steps = beside().send(server.send)
    next(steps)
    steps.close()
    assert server.guard is not None and isinstance(server.guard.error, ClientGone)
    server.may_answer.set()
    assert server.closed.wait(LONG)


def test_a_call_is_ended_under_the_monitors_lock() -> None:
    """The connection of one that has just ended may serve another call the next moment."""
    monitor = DisconnectMonitor()
    guard, under_lock = monitor.watch(None), list[bool]()

    class Connection:
        answering = None

        @property
        def guard(self) -> CallGuard:
            under_lock.append(monitor._lock.locked())
            return guard

        sock = property(lambda self: None)

    guard._connection = Connection()
    guard.end_call()
    assert under_lock == [True]


def test_a_slot_is_given_back_although_the_connection_cannot_be_closed() -> None:
    ends: list[str] = []

    def close_connection() -> None:
        ends.append("connection")
        raise OSError("it is broken")

    response = ProxyResponse(200, [], iter([b"Hi"]), [close_connection])
    response.on_close += [lambda: ends.append("slot"), lambda: ends.append("note")]
    with pytest.raises(OSError, match="it is broken"):
        response.close()
    response.close()
    assert ends == ["connection", "slot", "note"]


def test_one_helper_makes_one_call_after_another() -> None:
    server, helpers = Server(), HelperThreads()
    server.may_answer.set()
    for _ in range(5):
        result(beside(helpers, pause=LONG).send(server.send))
        # It is idle a moment after its result is there.
        idle = threading.Event()
        while not helpers._idle:
            idle.wait(0.001)
    assert len(set(server.asked)) == 1


def test_calls_at_the_same_time_have_a_helper_each() -> None:
    servers, helpers = [Server(), Server()], HelperThreads()
    calls = [beside(helpers).send(server.send) for server in servers]
    for call in calls:
        next(call)
    for server, call in zip(servers, calls, strict=True):
        server.may_answer.set()
        result(call)
    assert servers[0].asked != servers[1].asked


def test_a_helper_without_calls_ends() -> None:
    server, helpers = Server(), HelperThreads(idle_seconds=0)
    server.may_answer.set()
    for _ in range(3):
        result(beside(helpers, pause=LONG).send(server.send))
    pause = threading.Event()
    while helpers._idle:
        pause.wait(0.001)


def test_without_a_thread_the_call_is_made_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    server = Server()
    server.may_answer.set()
    assert b"".join(result(beside().send(server.send))) == b"Hi"
    assert server.asked == [threading.get_ident()]


def test_two_calls_of_one_client_are_both_ended_when_it_leaves() -> None:
    monitor, (client, ours) = DisconnectMonitor(), socket.socketpair()
    with ours:
        servers, both = (
            [Server(), Server()],
            Beside(HelperThreads(), lambda: monitor.watch(ours), 0),
        )
        calls = [both.send(server.send) for server in servers]
        for call in calls:
            next(call)
        while not all(server.guard for server in servers):
            threading.Event().wait(0.001)
        client.close()
        # One that begins only now notices it as well.
        late = monitor.watch(ours)
        guards = [late, *(server.guard for server in servers)]
        while not all(guard and isinstance(guard.error, ClientGone) for guard in guards):
            threading.Event().wait(0.001)
        for server, call in zip(servers, calls, strict=True):
            call.close()
            server.may_answer.set()
        late.close()
        assert (monitor._all, monitor._by_descriptor) == (set(), {})


def test_a_client_with_the_number_of_one_that_was_closed_is_watched() -> None:
    monitor, (first, ours) = DisconnectMonitor(), socket.socketpair()
    number = ours.fileno()
    forgotten = monitor.watch(ours)
    ours.close()
    first.close()
    client, again = socket.socketpair()
    with again:
        assert number in (client.fileno(), again.fileno())
        watched = again if again.fileno() == number else client
        other = client if watched is again else again
        watch = monitor.watch(watched)
        other.close()
        while watch.error is None:
            threading.Event().wait(0.001)
        watched.close()
    watch.close()
    forgotten.close()
    assert monitor._by_descriptor == {}


def test_a_report_of_a_closed_client_does_not_end_the_call_of_the_next_with_its_number() -> None:
    class Reports:
        """What epoll reported before that client was closed, and another one accepted."""

        def __init__(self, descriptor: int) -> None:
            self.left = [[(descriptor, 0)]]

        def poll(self) -> list[tuple[int, int]]:
            return self.left.pop()

    monitor, (client, ours) = DisconnectMonitor(), socket.socketpair()
    with client, ours, pytest.raises(IndexError):
        watch = monitor.watch(ours)
        monitor._run(Reports(ours.fileno()))
    assert watch.error is None
    watch.close()


def test_a_connection_that_cannot_be_closed_is_given_up_without_an_error() -> None:
    ends: list[str] = []

    class Raw:
        closed = False

        def close(self) -> None:
            raise OSError("it is broken")

        def release_conn(self) -> None:
            ends.append("released")

    broken: Any = SimpleNamespace(raw=Raw())
    release(broken)
    assert ends == ["released"]


def test_a_silent_stream_that_is_closed_with_an_error_ends_its_call_all_the_same() -> None:
    ended: list[str] = []

    def steps() -> Generator[Waiting, None, None]:
        try:
            while True:
                yield Waiting("generating")
        finally:
            ended.append("call")

    def events() -> Generator[bytes, None, None]:
        try:
            yield b": generating\n\n"
        finally:
            raise OSError("it is broken")

    stream: Any = object.__new__(_KeptAliveStream)
    stream._events, stream._answer = events(), SimpleNamespace(steps=steps())
    next(stream._events)
    next(stream._answer.steps)
    with pytest.raises(OSError, match="it is broken"):
        stream.close()
    assert ended == ["call"]


def test_the_late_end_of_a_forgotten_call_leaves_the_next_one_its_guard() -> None:
    monitor = DisconnectMonitor()
    forgotten, guard = monitor.watch(None), monitor.watch(None)
    with forgotten, guard:
        context = forgotten.current()
        context.__enter__()
        with guard.current():
            context.__exit__()
            assert current_guard() is guard
        assert current_guard() is None
