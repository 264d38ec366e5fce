"""The requests that are being answered, each followed by one client or, after a retry, by more.

SDKs send a request again when they lose their patience. The same request of the same client is
then given the answer that is on its way, instead of being paid for twice; and what a client left
goes on for a moment, in case that it comes back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from horde_proxy.errors import ClientGone
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.upstreams.base import Accepted, Spent, StreamItem, Waiting

_SLICE = 0.9
_UNKNOWN = Waiting("queued")


@dataclass(frozen=True)
class RequestInfo:
    """Whose request it is, and what for. `began` is unix seconds."""

    id: str
    owner: str
    model: str
    stream: bool
    began: float


@dataclass(eq=False)
class SharedAnswer:
    """One request: its items so far, and whoever reads them. The readers take turns to go on."""

    about: RequestInfo
    source: Iterator[StreamItem]
    clock: Callable[[], float]
    grace: float
    items: list[Accepted | Chunk] = field(default_factory=list)
    waiting: Waiting | None = None
    error: BaseException | None = None
    is_over: bool = False
    is_paid: bool = False
    followers: int = 0
    left: float | None = None

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._turn = threading.Lock()

    def follow(self) -> Generator[StreamItem, None, None]:
        """All items from the first one on, Waitings in between. `followers` counts already."""
        position, is_read = 0, False
        try:
            while True:
                while position < len(self.items):
                    position += 1
                    yield self.items[position - 1]
                if self.is_over and position == len(self.items):
                    break
                waiting = self._advance()
                if waiting is not None and position:
                    yield waiting
            is_read = True
            if self.error is not None:
                raise self.error
        finally:
            self._leave(is_read)

    def state(self) -> Mapping[str, Any]:
        """What a client may know of it, as JSON."""
        accepted = next((item for item in self.items if isinstance(item, Accepted)), None)
        waiting = self.waiting
        return {
            "id": self.about.id,
            "model": accepted.headers.get("X-Horde-Model", self.about.model)
            if accepted
            else self.about.model,
            "stream": self.about.stream,
            "began": int(self.about.began),
            "state": waiting.state if waiting else "arrived",
            "has_text": self._is_begun(),
            "queue_position": waiting.queue_position if waiting else None,
            "expected_seconds": waiting.seconds if waiting else None,
            "connected": self.left is None,
        }

    def phase(self) -> str:
        """The state of the last Waiting; before one, "arrived", or "generating" once text came."""
        if self.waiting:
            return self.waiting.state
        return "generating" if self._is_begun() else "arrived"

    def _is_begun(self) -> bool:
        return any(isinstance(item, dict) and has_text(item) for item in self.items)

    def _advance(self) -> Waiting | None:
        """One step of the source, by whoever is first; the others wait for what it brings."""
        if not self._turn.acquire(blocking=False):
            with self._changed:
                self._changed.wait(_SLICE)
            return self.waiting or _UNKNOWN
        try:
            if self.is_over:
                return None
            item = next(self.source, None)
            if isinstance(item, Waiting):
                self.waiting = item
                return item
            if item is None:
                self.is_over = True
            else:
                self.items.append(self._shared(item))
        # Every reader has to meet the error, whatever it is, not only the one whose turn it was.
        except BaseException as exc:  # noqa: BLE001
            self.error, self.is_over = exc, True
        finally:
            self._turn.release()
        with self._changed:
            self._changed.notify_all()
        return None

    def _shared(self, item: Accepted | Chunk) -> Accepted | Chunk:
        if not isinstance(item, Accepted):
            return item
        spent = item.spent
        return replace(item, spent=lambda: self._charged(spent))

    def _charged(self, spent: Callable[[], Spent]) -> Spent:
        """What who left has to pay: nothing where others go on with it, or have paid; they do."""
        with self._changed:
            if self.followers or self.is_paid:
                return Spent()
            cost = spent()
            self.is_paid = cost.completion_tokens > 0
            if self.is_paid:
                # For who comes back for the answer.
                self.items = [
                    replace(each, is_paid=True) if isinstance(each, Accepted) else each
                    for each in self.items
                ]
            return cost

    def _leave(self, is_read: bool) -> None:
        with self._changed:
            self.followers -= 1
            self.is_paid = self.is_paid or (is_read and self.error is None)
            if self.followers:
                return
            self.left = None if self.is_over and is_read else self.clock()
        while self.left is not None and not self.is_over:
            self._advance()
            self._cancel()

    def join(self) -> bool:
        """Count one more follower; False when it is too late to follow."""
        with self._changed:
            if self.error is not None:
                return False
            self.followers += 1
            self.left = None
            return True

    def _cancel(self) -> None:
        """Cancel what nobody has come back for within the grace."""
        with self._turn:
            with self._changed:
                is_due = self.left is not None and self.clock() - self.left >= self.grace
                if self.is_over or not is_due:
                    return
                self.error, self.is_over = ClientGone(), True
            close = getattr(self.source, "close", None)
            if close:
                close()


class InFlight:
    """All running requests, by client and body.

    `grace`: how long one goes on that its client has left (s). `window`: how long the answer to it
    is kept (s). Both 0: nobody comes back.
    """

    def __init__(self, *, grace: float, window: float, clock: Callable[[], float]) -> None:
        self._grace, self._window, self._clock = grace, window, clock
        self._lock = threading.Lock()
        self._running: dict[str, SharedAnswer] = {}
        self._passing: dict[str, RequestInfo] = {}

    def follow(
        self, key: str, about: RequestInfo, start: Callable[[], Iterator[StreamItem]]
    ) -> Iterator[StreamItem]:
        """The items of the same request that is running, or of a new one."""
        running = self._joined(key, about, start)
        try:
            yield from running.follow()
        finally:
            self._forget(key, running)

    def list(self, owner: str | None) -> list[Mapping[str, Any]]:
        """The states of an owner's requests, or of all; oldest first."""
        with self._lock:
            found = [each for each in self._running.values() if not each.is_over]
        return [each.state() for each in found if owner in (None, each.about.owner)]

    def waiting(self) -> Iterator[str]:
        """The state of the wait for each client; "arrived" where nothing is known yet."""
        with self._lock:
            found = [each for each in self._running.values() if not each.is_over]
        for each in found:
            yield from [each.phase()] * each.followers

    def passing(self, about: RequestInfo) -> Callable[[], None]:
        """Note a request that is relayed as it is; call what comes back when it has ended."""
        with self._lock:
            self._passing[about.id] = about

        def forget() -> None:
            with self._lock:
                self._passing.pop(about.id, None)

        return forget

    def relayed(self, owner: str | None) -> Sequence[Mapping[str, Any]]:
        """The states of those that are relayed as they are; of them no more is known."""
        with self._lock:
            found = [*self._passing.values()]
        return [_relayed(each) for each in found if owner in (None, each.owner)]

    def _joined(
        self, key: str, about: RequestInfo, start: Callable[[], Iterator[StreamItem]]
    ) -> SharedAnswer:
        with self._lock:
            self._sweep()
            running = self._running.get(key)
            if running is None or not running.join():
                running = SharedAnswer(about, start(), self._clock, self._grace)
                self._running[key] = running
                running.join()
            return running

    def _forget(self, key: str, running: SharedAnswer) -> None:
        """A request that ended with its client there is done with; a lost answer is kept."""
        with self._lock:
            is_lost = running.left is not None and running.error is None
            if running.is_over and not running.followers and not is_lost:
                if self._running.get(key) is running:
                    del self._running[key]

    def _sweep(self) -> None:
        now = self._clock()
        for key, running in list(self._running.items()):
            if running.is_over and running.left and now - running.left >= self._window:
                del self._running[key]


def _relayed(about: RequestInfo) -> dict[str, Any]:
    return {
        "id": about.id,
        "model": about.model,
        "stream": about.stream,
        "began": int(about.began),
        "state": "relayed",
        "has_text": False,
        "queue_position": None,
        "expected_seconds": None,
        "connected": True,
    }


def has_text(chunk: Chunk) -> bool:
    """Whether a chunk brings something of the answer, and not only a role or a reason to end."""
    return any(
        choice["delta"].get("content") or choice["delta"].get("tool_calls")
        for choice in chunk["choices"]
    )
