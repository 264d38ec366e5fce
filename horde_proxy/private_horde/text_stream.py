"""One client's stream of a request: its texts as they grow, its status, its results.

    look (texts of this process; the store when something has changed) --> events --> wait --> look

A stream can be resumed: the id of an event is what was sent up to it, as "0:120,1:35" for 120
characters of the first result and 35 of the second. It is read by its client's thread alone. The
wire format of events is made in `views`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.private_horde.errors import HordeError
from horde_proxy.private_horde.growing_texts import Watch

_LOOK_SECONDS = 2.0
"""How often the status of a request that has not changed is read: its place in the queue has."""
_SHARED_LOOK_SECONDS = 0.5
"""The same where another process may have changed it, or has its text."""
_COMPARED = 64
"""Characters of what was sent that must still be there: as many are hardly equal by chance."""
_CHANGED = "The text is another one now. Poll the request's status instead."
# "120" for the only result, or "0:120,1:35".
_PART = re.compile(r"(?:(\d{1,2}):)?(\d{1,8})", re.ASCII)

Body = dict[str, Any]


@dataclass(frozen=True)
class StreamEvent:
    """An event: "status", "text", "generation", "done" or "error". `id` is "" for none."""

    name: str
    data: Body
    id: str = ""


@dataclass(frozen=True)
class RequestState:
    """What the store says of a request.

    `progress` is its status without generations, `generations` are its results by slot, `results`
    the texts of these (of a chat, the transcript), and `texts` what was saved of those that grow.
    `is_settled`: nothing more will come.
    """

    progress: Body
    generations: Mapping[int, Body]
    results: Mapping[int, str]
    texts: Mapping[int, str]
    is_settled: bool


def read_position(value: str) -> dict[int, int]:
    """The characters that were sent, by slot, of an event's id. {} for anything else."""
    parts = [_PART.fullmatch(part.strip()) for part in value.split(",")]
    return {int(part[1] or 0): int(part[2]) for part in parts if part}


@dataclass
class TextStream:
    """The events of one request. `read` looks into the store, and raises HordeError.

    `is_shared`: other processes use the store as well. `keep_alive`: seconds after which None comes
    where there is no event. `sent` are characters by slot.
    """

    read: Callable[[], RequestState]
    watch: Watch
    clock: Callable[[], float]
    keep_alive: float
    is_shared: bool
    sent: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._commits, self._looked = -1, float("-inf")
        self._progress: Body = {}
        self._done: set[int] = set()
        # The end of what was sent, by slot.
        self._last: dict[int, str] = {}

    def events(self) -> Iterator[StreamEvent | None]:
        """The events up to "done" or "error", and None where nothing came for a while."""
        quiet_since = self.clock()
        while True:
            # Before the look: what changes meanwhile is not missed.
            version = self.watch.version
            for event in self._look():
                yield event
                if event.name in ("done", "error"):
                    return
                quiet_since = self.clock()
            left = quiet_since + self.keep_alive - self.clock()
            if left <= 0:
                yield None
                quiet_since, left = self.clock(), self.keep_alive
            self.watch.wait(version, max(min(left, self._next_look()), 0.0))

    def _look(self) -> Iterator[StreamEvent]:
        yield from self._grown(self.watch.texts())
        commits = self.watch.commits
        if commits == self._commits and self._next_look() > 0:
            return
        self._commits, self._looked = commits, self.clock()
        try:
            state = self.read()
        except HordeError as exc:
            yield StreamEvent("error", exc.body())
            return
        yield from self._state(state)

    def _next_look(self) -> float:
        """Seconds until the store is looked at without need; at once the first time."""
        pause = _SHARED_LOOK_SECONDS if self.is_shared else _LOOK_SECONDS
        return self._looked + pause - self.clock()

    def _state(self, state: RequestState) -> Iterator[StreamEvent]:
        yield from self._grown(state.texts)
        for slot, generation in sorted(state.generations.items()):
            if slot not in self._done:
                self._done.add(slot)
                yield from self._grown({slot: state.results[slot]})
                yield StreamEvent("generation", {"index": slot, **generation}, self._id())
        if state.is_settled:
            yield StreamEvent("done", state.progress, self._id())
        elif state.progress != self._progress:
            self._progress = state.progress
            yield StreamEvent("status", state.progress)

    def _grown(self, texts: Mapping[int, str]) -> Iterator[StreamEvent]:
        """What of these texts was not sent yet, or an error for one that does not go on from there.

        That is so after a worker was lost whose last second only another process knew.
        """
        for slot, text in sorted(texts.items()):
            offset, last = self.sent.get(slot, 0), self._last.get(slot, "")
            if len(text) > offset:
                if not text.startswith(last, offset - len(last)):
                    yield StreamEvent("error", {"message": _CHANGED})
                    return
                self.sent[slot] = len(text)
                self._last[slot] = text[max(offset - len(last), len(text) - _COMPARED) :]
                data = {"index": slot, "offset": offset, "text": text[offset:]}
                yield StreamEvent("text", data, self._id())

    def _id(self) -> str:
        return ",".join(f"{slot}:{length}" for slot, length in sorted(self.sent.items()))
