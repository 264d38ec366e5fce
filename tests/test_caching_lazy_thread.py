"""caching.lazy_thread: a loop that the first request starts."""

from __future__ import annotations

from collections.abc import Callable

from horde_proxy.caching.lazy_thread import LazyThread


class Threads:
    """Collects the calls of threads; refuses the first `refused`."""

    def __init__(self, refused: int = 0) -> None:
        self.calls: list[Callable[[], None]] = []
        self._refused = refused

    def __call__(self, call: Callable[[], None]) -> None:
        if self._refused:
            self._refused -= 1
            raise RuntimeError("can't start new thread")
        self.calls.append(call)


def test_a_thread_is_started_once() -> None:
    threads = Threads()
    thread = LazyThread(lambda: None, threads)
    assert (thread.ensure_started(), thread.ensure_started()) == (True, True)
    assert len(threads.calls) == 1


def test_a_machine_without_threads_is_tried_again() -> None:
    threads = Threads(refused=1)
    thread = LazyThread(lambda: None, threads)
    assert (thread.ensure_started(), thread.ensure_started()) == (False, True)
    assert len(threads.calls) == 1
