"""All answers on their way, found by their clients and bodies, and the requests that are proxied.

A request joins the answer that it repeats (shared_answer.py), or starts a new one. Answers that
are complete are kept for a `window`, until a timer sweeps them: no thread runs while none is kept.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from horde_proxy.api.shared_answer import AnswerReader, AnswerState, RequestInfo, SharedAnswer
from horde_proxy.caching.background import later_in_background
from horde_proxy.upstreams.base import Sleeper, StreamItem, Waiting

if TYPE_CHECKING:
    from horde_proxy.api.front import Recorder

_MOST_DELIVERED = 20_000
"""Chunks of all answers that can be fetched again though they were read to the end: about 20 MB."""


@dataclass(eq=False)
class ProxiedRequest:
    """A request that is being proxied. `waiting` is what is known of its wait for an endpoint."""

    info: RequestInfo
    waiting: Waiting | None = None

    def summary(self) -> Mapping[str, Any]:
        """What a client may know of it, as JSON; see SharedAnswer.summary."""
        info, waiting = self.info, self.waiting
        return {
            "id": info.id,
            "model": info.model,
            "stream": info.stream,
            "began": int(info.began),
            "state": waiting.state if waiting else "relayed",
            "has_text": False,
            "queue_position": waiting.queue_position if waiting else None,
            "expected_seconds": waiting.seconds if waiting else None,
            "connected": True,
        }


class InFlight:
    """All answers on their way, by client and body, and the requests that are being proxied.

    `grace`: how long an answer goes on that its client has left (s). `window`: how long a complete
    one waits for its client (s). `call_later` runs a call after so many seconds.
    """

    def __init__(
        self,
        *,
        grace: float,
        window: float,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], None] = later_in_background,
    ) -> None:
        self._grace, self._window, self._clock = grace, window, clock
        self._call_later = call_later
        # Guards what follows. Answers take their own locks under it, never the other way round.
        self._lock = threading.Lock()
        self._answers: defaultdict[str, list[SharedAnswer]] = defaultdict(list)
        self._kept: list[tuple[str, SharedAnswer]] = []
        # What clients have read to the end, and when: a repeated request gets a new answer, but
        # by its id it can still be fetched.
        self._delivered: deque[tuple[float, SharedAnswer]] = deque()
        self._is_timed = False
        self._proxied: dict[str, ProxiedRequest] = {}

    def configure(self, *, grace: float, window: float) -> None:
        """Change both times; running requests keep the grace that they began with."""
        self._grace, self._window = grace, window

    def join(
        self,
        key: str,
        info: RequestInfo,
        start: Callable[[], Iterator[StreamItem]],
        sleeper: Sleeper | None = None,
        recorder: Recorder | None = None,
        deadline: float = math.inf,
    ) -> AnswerReader:
        """A reader of the answer that this request repeats, or else of a new one.

        `key` stands for the client and what it asks. Only a new answer calls `start`, which must
        return at once; its upstreams sleep through `sleeper`. `recorder` keeps it.
        """
        with self._lock:
            answer = self._joined(key, info)
            if answer is None:
                answer = SharedAnswer(
                    info,
                    start(),
                    clock=self._clock,
                    grace=self._grace,
                    sleeper=sleeper,
                    recorder=recorder,
                    deadline=deadline,
                )
                answer.join()
                self._answers[key].append(answer)
        return AnswerReader(answer, lambda: self._reader_left(key, answer))

    def find(self, fits: Callable[[SharedAnswer], bool]) -> SharedAnswer | None:
        """The first that fits of the answers on their way and of those that are kept.

        Also one that its client has read to the end, but within the window.
        """
        with self._lock:
            found = self._found(fits)
            return found[1] if found else None

    def rejoin(self, fits: Callable[[SharedAnswer], bool]) -> AnswerReader | None:
        """A reader of the first answer that fits; None where there is none to join."""
        with self._lock:
            found = self._found(fits)
            if found is None or not found[1].join():
                return None
        key, answer = found
        return AnswerReader(answer, lambda: self._reader_left(key, answer))

    def _found(self, fits: Callable[[SharedAnswer], bool]) -> tuple[str, SharedAnswer] | None:
        answers = [(key, answer) for key, equal in self._answers.items() for answer in equal]
        kept = [pair for pair in answers if not self._is_outdated(pair[1])]
        since = self._clock() - self._window
        delivered = [("", answer) for moment, answer in self._delivered if moment > since]
        return next((pair for pair in (*kept, *delivered) if fits(pair[1])), None)

    def summaries(self, owner: str | None) -> list[Mapping[str, Any]]:
        """The summaries of an owner's running requests, or with None of all; oldest first."""
        answers = self._running()
        return [
            answer.summary() for answer in answers if owner is None or answer.info.owner == owner
        ]

    def wait_states(self) -> Iterator[str]:
        """The state of the wait, once for each waiting client."""
        for answer in self._running():
            yield from [answer.wait_state()] * answer.readers
        with self._lock:
            waits = [request.waiting for request in self._proxied.values()]
        yield from (waiting.state for waiting in waits if waiting is not None)

    def track_proxied(self, info: RequestInfo) -> ProxiedRequest:
        """Note a request that is proxied, until `forget_proxied`."""
        request = ProxiedRequest(info)
        with self._lock:
            self._proxied[info.id] = request
        return request

    def forget_proxied(self, request: ProxiedRequest) -> None:
        """A request has ended."""
        with self._lock:
            self._proxied.pop(request.info.id, None)

    def proxied_summaries(self, owner: str | None) -> Sequence[Mapping[str, Any]]:
        """The summaries of the requests that are being proxied."""
        with self._lock:
            requests = [*self._proxied.values()]
        return [
            request.summary()
            for request in requests
            if owner is None or request.info.owner == owner
        ]

    def _joined(self, key: str, info: RequestInfo) -> SharedAnswer | None:
        """The answer that this request shares, and has joined; preferably one that was left."""
        equal = sorted(self._answers.get(key, ()), key=lambda answer: not answer.is_left)
        for answer in equal:
            if self._is_outdated(answer) or not info.repeats(answer.info, is_left=answer.is_left):
                continue
            if answer.join():
                return answer
        return None

    def _is_outdated(self, answer: SharedAnswer) -> bool:
        return answer.state is AnswerState.KEPT and answer.left_seconds() >= self._window

    def _running(self) -> list[SharedAnswer]:
        with self._lock:
            answers = [answer for equal in self._answers.values() for answer in equal]
        return [answer for answer in answers if answer.is_running]

    def _reader_left(self, key: str, answer: SharedAnswer) -> None:
        """Forget an answer that is over; have one that is kept forgotten in time."""
        with self._lock:
            if answer.state is AnswerState.OVER:
                self._forget(key, answer)
            elif answer.state is AnswerState.KEPT:
                self._kept.append((key, answer))
            if answer.is_delivered and answer.info.account and self._window:
                self._deliver(answer)
            # One timer at a time serves all kept answers, however many clients leave.
            if (self._kept or self._delivered) and not self._is_timed:
                self._is_timed = True
                self._call_later(self._window, self._sweep)

    def _deliver(self, answer: SharedAnswer) -> None:
        """Keep an answer that its client has read, and forget the oldest ones beyond the bound."""
        self._delivered.append((self._clock(), answer))
        size = sum(len(other.items) for _, other in self._delivered)
        while size > _MOST_DELIVERED:
            size -= len(self._delivered.popleft()[1].items)

    def _sweep(self) -> None:
        """Forget the answers that were kept for the window. The timer's thread calls it."""
        with self._lock:
            for key, answer in self._kept:
                if self._is_outdated(answer):
                    self._forget(key, answer)
            self._kept = [
                pair
                for pair in self._kept
                if pair[1].state is AnswerState.KEPT and not self._is_outdated(pair[1])
            ]
            now = self._clock()
            while self._delivered and now - self._delivered[0][0] >= self._window:
                self._delivered.popleft()
            ages = [answer.left_seconds() for _, answer in self._kept]
            ages += [now - moment for moment, _ in self._delivered]
            self._is_timed = bool(ages)
            if ages:
                self._call_later(max(self._window - max(ages), 1.0), self._sweep)

    def _forget(self, key: str, answer: SharedAnswer) -> None:
        equal = self._answers.get(key, [])
        if answer in equal:
            equal.remove(answer)
        if not equal:
            self._answers.pop(key, None)
