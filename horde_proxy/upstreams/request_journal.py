"""What one answer has submitted and got so far, so that it goes on after a restart.

    before   open(key) --> an entry --> submitted(id) ... text grows ... finished(results)
    after    open(key) --> the same entry: its results, or its request that may still run

An answer that is generated again from its beginning opens the same entries, since keys stand for
what is asked: so nothing is submitted twice. Only the thread that drives the answer uses a
journal, but for `is_left_running`. No I/O: whoever made it keeps what `as_json` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class JournalEntry:
    """One job of an answer: `n` generations of at most `max_length` tokens.

    `request_id` is "" before the submit. `text` is what had come of a result that grows. `results`
    are None while the request runs.
    """

    key: str
    n: int = 0
    max_length: int = 0
    request_id: str = ""
    text: str = ""
    results: list[Mapping[str, Any]] | None = None


class RequestJournal:
    """The requests of one answer. `on_submit` is called after each submit, to keep its id at once.

    `endpoint` and `models` tell where they were submitted. `is_left_running` returns whether a
    request that still runs is left alone when the answer ends here, because it goes on elsewhere.
    """

    def __init__(
        self,
        *,
        on_submit: Callable[[], None] = lambda: None,
        is_left_running: Callable[[], bool] = lambda: False,
    ) -> None:
        self.endpoint, self.models = "", tuple[str, ...]()
        self.is_left_running = is_left_running
        self._on_submit = on_submit
        self._stored: list[JournalEntry] = []
        self._entries: list[JournalEntry] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing was submitted yet."""
        return not (self._stored or self._entries)

    def open(self, key: str) -> JournalEntry:
        """The next entry of this key: one from before a restart, or a new one."""
        entry = next((entry for entry in self._stored if entry.key == key), None)
        if entry is None:
            entry = JournalEntry(key)
        else:
            self._stored.remove(entry)
        self._entries.append(entry)
        return entry

    def submitted(self, entry: JournalEntry, request_id: str, n: int, max_length: int) -> None:
        """Note the request that now runs for an entry."""
        entry.request_id, entry.n, entry.max_length = request_id, n, max_length
        entry.text = ""
        self._on_submit()

    def started_at(self, endpoint: str, models: Sequence[str]) -> None:
        """Note the endpoint that answers. The requests at another one are of no use there."""
        if self.endpoint and self.endpoint != endpoint:
            self.forget()
        self.endpoint, self.models = endpoint, tuple(models)

    def forget(self) -> None:
        """Begin anew: nothing from before can be continued."""
        self.endpoint, self.models = "", ()
        self._stored, self._entries = [], []

    def as_json(self) -> dict[str, Any]:
        """All of it, for `read`."""
        # What was not opened again yet may still be.
        entries = [*self._entries, *self._stored]
        return {
            "endpoint": self.endpoint,
            "models": list(self.models),
            "entries": [asdict(entry) for entry in entries],
        }

    def read(self, stored: Mapping[str, Any]) -> None:
        """Take over what `as_json` returned before a restart."""
        self.endpoint, self.models = stored["endpoint"], tuple(stored["models"])
        self._stored = [JournalEntry(**entry) for entry in stored["entries"]]
        self._entries = []
