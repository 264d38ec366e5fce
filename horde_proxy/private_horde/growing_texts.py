"""The texts that workers are writing now, and the threads that wait for more of them.

    progress of a worker --> extend() --.
    commit of the store ---> note() ----+--> wakes those who watch this request
    stream of a client ----> watching(): looks, waits, looks again

It is the memory of one process. What must survive it is saved by `continuation`; what another
process is told is looked for in the store. It knows no job and no route.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.private_horde.records import HordeRequest

_MOST_REQUESTS = 10_000
"""Requests whose texts are remembered: more than a horde's workers write at a time."""
_MOST_OF_REQUEST = 4
"""Watchers of one request: a client and its reconnections. More would take the places of others."""
_SAVE_SECONDS = 1.0
"""The least time between two saves of a text that grows."""
_ALIVE_SECONDS = 5.0
"""The time after which also a text that does not grow is saved: it tells that its worker lives."""
_FAKE_SLEEP = 0.05
"""The longest sleep (s) where time is a test's: it passes only then, and much happens in it."""


class TooManyStreams(Exception):
    """As many threads wait for texts as may, for all or for those of one request."""


@dataclass(eq=False)
class _RequestTexts:
    """The texts of one request by slot. `version` changes whenever there is something to see.

    `commits` counts the changes of what is stored. `saved` has the time and the length of the last
    save of each slot, `writers` the id of the job that writes it.
    """

    changed: threading.Condition
    texts: dict[int, str] = field(default_factory=dict)
    saved: dict[int, tuple[float, int]] = field(default_factory=dict)
    writers: dict[int, str] = field(default_factory=dict)
    version: int = 0
    commits: int = 0
    watchers: int = 0
    is_over: bool = False


class Watch:
    """How one thread looks at the texts of a request, and waits for more."""

    def __init__(self, entry: _RequestTexts, sleep: Callable[[float], object] | None) -> None:
        self._entry, self._sleep = entry, sleep

    @property
    def version(self) -> int:
        """A number that changes with the texts, and when a job or the request changes."""
        return self._entry.version

    @property
    def commits(self) -> int:
        """A number that changes when a job, a result or the request does."""
        return self._entry.commits

    def texts(self) -> Mapping[int, str]:
        """The texts by slot."""
        with self._entry.changed:
            return dict(self._entry.texts)

    def wait(self, version: int, seconds: float) -> None:
        """Wait until the version is another one, for so many seconds at most."""
        entry = self._entry
        if self._sleep is not None:
            if entry.version == version:
                self._sleep(min(seconds, _FAKE_SLEEP))
            return
        with entry.changed:
            entry.changed.wait_for(lambda: entry.version != version, seconds)


class GrowingTexts:
    """The growing texts of all requests. Thread-safe. `sleep` replaces the waiting, for tests.

    At most `most_watchers` watch at a time, four of them the same request: each of them keeps a
    thread of the server.
    """

    def __init__(
        self, sleep: Callable[[float], object] | None = None, *, most_watchers: int = 1000
    ) -> None:
        self._sleep, self._most_watchers, self._watchers = sleep, most_watchers, 0
        # Guards all entries; it is also the lock of their conditions, so that a thread which waits
        # for one request is not woken by another. No I/O happens under it.
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _RequestTexts] = OrderedDict()

    def extend(self, request_id: str, slot: int, position: int, text: str) -> int:
        """Add what a worker wrote at a position of a slot's text. How long that text is now.

        What is known already is left as it was: readers have it. Nothing is added after a gap.
        """
        with self._lock:
            entry = self._entry(request_id)
            known = entry.texts.get(slot, "")
            new = text[len(known) - position :] if position <= len(known) else ""
            if new:
                entry.texts[slot] = known + new
                self._wake(entry)
            return len(known) + len(new)

    def texts(self, request_id: str) -> Mapping[int, str]:
        """The texts of a request by slot, as far as this process knows them."""
        with self._lock:
            entry = self._entries.get(request_id)
            return dict(entry.texts) if entry else {}

    def is_watched(self, request_id: str) -> bool:
        """Whether a thread of this process watches a request."""
        with self._lock:
            entry = self._entries.get(request_id)
            return entry is not None and entry.watchers > 0

    def touch(self, request_id: str) -> None:
        """Wake those who watch a request, which another process has changed."""
        with self._lock:
            entry = self._entries.get(request_id)
            if entry is not None and entry.watchers:
                entry.commits += 1
                self._wake(entry)

    def writer(self, request_id: str, slot: int) -> str | None:
        """The job that writes a slot's text, as far as this process knows."""
        with self._lock:
            entry = self._entries.get(request_id)
            return entry.writers.get(slot) if entry else None

    def take_over(self, request_id: str, slot: int, job_id: str, text: str) -> None:
        """Let another job write a slot's text, from what it goes on with.

        What the one before wrote beyond that is dropped: another process ended its job, and knew
        only what was saved.
        """
        with self._lock:
            entry = self._entry(request_id)
            entry.writers[slot] = job_id
            if entry.texts.get(slot, "") != text:
                entry.texts[slot] = text
                self._wake(entry)

    def text(self, request_id: str, slot: int) -> str:
        """The text of a slot as far as this process knows it."""
        with self._lock:
            entry = self._entries.get(request_id)
            return entry.texts.get(slot, "") if entry else ""

    def take_unsaved(self, request_id: str, slot: int, now: float) -> str | None:
        """The text of a slot if it is to be saved now; the next time is a second later or more."""
        with self._lock:
            entry = self._entry(request_id)
            text = entry.texts.get(slot, "")
            # The first call sets the time only: most answers come within a second.
            when, length = entry.saved.setdefault(slot, (now, 0))
            is_due = now - when >= (_SAVE_SECONDS if len(text) > length else _ALIVE_SECONDS)
            if not is_due:
                return None
            entry.saved[slot] = now, len(text)
            return text

    def note(self, records: Sequence[Any]) -> None:
        """Wake those who watch the requests of these records, which a commit has changed."""
        with self._lock:
            for record in records:
                request_id = _request_of(record)
                entry = self._entries.get(request_id) if request_id else None
                if entry is None:
                    continue
                if isinstance(record, HordeRequest) and not record.open:
                    entry.is_over = True
                entry.commits += 1
                self._wake(entry)
                self._drop_if_over(str(request_id), entry)

    @contextmanager
    def watching(self, request_id: str) -> Iterator[Watch]:
        """A watch of a request. Its texts stay in memory within this context.

        Raises TooManyStreams.
        """
        with self._lock:
            known = self._entries.get(request_id)
            is_crowded = known is not None and known.watchers >= _MOST_OF_REQUEST
            if is_crowded or self._watchers >= self._most_watchers:
                raise TooManyStreams()
            self._watchers += 1
            entry = self._entry(request_id)
            entry.watchers += 1
        try:
            yield Watch(entry, self._sleep)
        finally:
            with self._lock:
                self._watchers -= 1
                entry.watchers -= 1
                entry.is_over = entry.is_over or not entry.texts
                self._drop_if_over(request_id, entry)

    def _entry(self, request_id: str) -> _RequestTexts:
        entry = self._entries.get(request_id)
        if entry is None:
            entry = _RequestTexts(threading.Condition(self._lock))
            self._entries[request_id] = entry
            if len(self._entries) > _MOST_REQUESTS:
                # A reader of the oldest one keeps its own reference to it.
                self._entries.popitem(last=False)
        return entry

    def _wake(self, entry: _RequestTexts) -> None:
        entry.version += 1
        entry.changed.notify_all()

    def _drop_if_over(self, request_id: str, entry: _RequestTexts) -> None:
        is_kept = self._entries.get(request_id) is entry
        if entry.is_over and not entry.watchers and is_kept:
            del self._entries[request_id]


def _request_of(record: Any) -> str | None:
    """The id of the request that a record is, or belongs to."""
    if isinstance(record, HordeRequest):
        return record.id
    request_id = getattr(record, "request_id", None)
    return request_id if isinstance(request_id, str) else None
