"""Threads of the upstreams and the ledger while the machine allows no more of them."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from horde_proxy.errors import Unavailable
from horde_proxy.ledger import UsageRecorder
from horde_proxy.ledger.database import open_ledger
from horde_proxy.upstreams.base import Accepted
from horde_proxy.upstreams.disconnects import DisconnectMonitor
from horde_proxy.upstreams.openai.stream import stream_items
from horde_proxy.upstreams.proxying import ProxyResponse
from tests.support import Clock


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No thread can be started until `undo` is called."""

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    return monkeypatch


def test_a_stream_without_a_thread_is_unavailable_and_its_call_is_stopped(
    no_threads: pytest.MonkeyPatch,
) -> None:
    stopped: list[bool] = []

    def start() -> ProxyResponse:
        raise AssertionError("there is no thread to read a response")

    with pytest.raises(Unavailable, match="cannot start a thread") as refusal:
        next(stream_items(Accepted(), iter, start, lambda: stopped.append(True)))
    assert (stopped, refusal.value.retry_after) == ([True], 5)


def test_clients_are_watched_again_once_a_thread_can_be_started(
    no_threads: pytest.MonkeyPatch,
) -> None:
    monitor = DisconnectMonitor()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(RuntimeError), monitor.watch_client(ours):
            pass
        no_threads.undo()
        with monitor.watch_client(ours) as watch:
            woken = threading.Event()

            class Waiter:
                def wake(self) -> None:
                    woken.set()

                def stop(self, error: Exception) -> None:
                    raise AssertionError("nobody stops the proxy")

            watch.waiter = Waiter()
            theirs.close()
            assert woken.wait(60)


def test_usage_is_written_once_a_thread_can_be_started(
    no_threads: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    recorder = UsageRecorder(database, now=Clock(), interval=0.01)
    recorder.add("ann", "m", "chat")
    assert "usage is not written yet: can't start new thread" in caplog.text
    no_threads.undo()
    recorder.add("ann", "m", "chat")
    recorder.close()
    assert [usage.requests for usage in database.usage("1970-01-01", "1970-01-01", None)] == [2]
    database.close()
