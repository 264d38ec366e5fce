"""Lets threads wait until something happens in the horde, in this process or in another.

    commit here ------> observer --> wake the listeners of its topics
          `-----------> the store tells other processes (PostgreSQL: NOTIFY)
    commit elsewhere -> watcher, one thread while anybody listens --> wake listeners
                        (PostgreSQL: LISTEN; SQLite: looks at the file's version every 0.1 s)

A listener may be woken for nothing: it looks at the store again and goes on waiting. It may also
miss a signal from another process, so nobody waits for longer than some seconds without a look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from horde_proxy.private_horde.records import HordeRequest
from horde_proxy.private_horde.store.base import Store

QUEUE = "queue"
"""The topic of requests that can be popped."""
_REQUEST = "request "


def request_topic(request_id: str) -> str:
    """The topic of one request: its jobs, its results, its end."""
    return f"{_REQUEST}{request_id}"


def request_id_of(topic: str) -> str | None:
    """The request of its topic; None for other topics."""
    return topic.removeprefix(_REQUEST) if topic.startswith(_REQUEST) else None


class Listener:
    """Waits for one topic. What happens between two waits is not lost."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Wait until something happens, so many seconds at most. Whether it did."""
        happened = self._event.wait(seconds)
        self._event.clear()
        return happened

    def wake(self) -> None:
        """End its wait, or the next one."""
        self._event.set()


class Signals:
    """The listeners of one process. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Guards the listeners and the watcher. No I/O happens under it.
        self._lock = threading.Lock()
        self._listeners: dict[str, set[Listener]] = {}
        self._watcher: threading.Thread | None = None
        self._stays = False
        self._receivers: list[Callable[[str], None]] = []
        store.observe(self._observe)

    @contextmanager
    def listen(self, topic: str) -> Iterator[Listener]:
        """A listener of a topic. Look at the store after this, and before each wait."""
        listener = Listener()
        with self._lock:
            self._listeners.setdefault(topic, set()).add(listener)
            self._start_watcher()
        try:
            yield listener
        finally:
            with self._lock:
                listeners = self._listeners[topic]
                listeners.discard(listener)
                if not listeners:
                    del self._listeners[topic]

    def receive(self, receiver: Callable[[str], None]) -> None:
        """Call it with each topic of another process, while this one listens. It must not wait."""
        self._receivers.append(receiver)

    def stay(self) -> None:
        """Listen to other processes from now on, also while nobody waits."""
        if not self._stays:
            with self._lock:
                self._stays = True
                self._start_watcher()

    def _start_watcher(self) -> None:
        if self._store.is_shared and self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()

    def announce(self, topic: str) -> None:
        """Send a topic to the receivers of other processes, if the store can; it may get lost."""
        self._store.announce([topic])

    def notify(self, *topics: str) -> None:
        """Wake the listeners of these topics, in all processes."""
        self._wake(topics)
        self._store.announce(topics)

    def _observe(self, records: Sequence[Any]) -> None:
        topics = {request_topic(r.id) for r in records if isinstance(r, HordeRequest)}
        if any(isinstance(record, HordeRequest) and record.queued for record in records):
            topics.add(QUEUE)
        if topics:
            self.notify(*topics)

    def _wake(self, topics: Iterable[str] | None) -> None:
        """Wake the listeners of some topics; None: all."""
        with self._lock:
            for topic in list(self._listeners) if topics is None else topics:
                for listener in self._listeners.get(topic, ()):
                    listener.wake()

    def _watch(self) -> None:
        self._store.watch(self._take, self._end_watch)

    def _take(self, topics: Sequence[str] | None) -> None:
        for topic in topics or ():
            for receiver in self._receivers:
                receiver(topic)
        self._wake(topics)

    def _end_watch(self) -> bool:
        """Whether nobody listens any more; then the watcher ends."""
        with self._lock:
            if self._listeners or self._stays:
                return False
            self._watcher = None
            return True
