"""All answers on their way, found by their clients and bodies, and the requests that are proxied.

A request joins the answer that it repeats (shared_answer.py), or starts a new one. Answers that
are complete are kept for a `window`, until a timer sweeps them: no thread runs while none is kept.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from horde_proxy.api.shared_answer import AnswerReader, AnswerState, RequestInfo, SharedAnswer
from horde_proxy.upstreams.base import Sleeper, StreamItem


def _start_timer(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


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
        call_later: Callable[[float, Callable[[], None]], None] = _start_timer,
    ) -> None:
        self._grace, self._window, self._clock = grace, window, clock
        self._call_later = call_later
        # Guards what follows. Answers take their own locks under it, never the other way round.
        self._lock = threading.Lock()
        self._answers: defaultdict[str, list[SharedAnswer]] = defaultdict(list)
        self._kept: list[tuple[str, SharedAnswer]] = []
        self._proxied: dict[str, RequestInfo] = {}

    def configure(self, *, grace: float, window: float) -> None:
        """Change both times; running requests keep the grace that they began with."""
        self._grace, self._window = grace, window

    def join(
        self,
        key: str,
        info: RequestInfo,
        start: Callable[[], Iterator[StreamItem]],
        sleeper: Sleeper | None = None,
    ) -> AnswerReader:
        """A reader of the answer that this request repeats, or else of a new one.

        `key` stands for the client and what it asks. Only a new answer calls `start`, which must
        return at once; its upstreams sleep through `sleeper`.
        """
        with self._lock:
            answer = self._joined(key, info)
            if answer is None:
                answer = SharedAnswer(
                    info, start(), clock=self._clock, grace=self._grace, sleeper=sleeper
                )
                answer.join()
                self._answers[key].append(answer)
        return AnswerReader(answer, lambda: self._reader_left(key, answer))

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

    def track_proxied(self, info: RequestInfo) -> Callable[[], None]:
        """Note a request that is proxied; call the result when it has ended."""
        with self._lock:
            self._proxied[info.id] = info

        def forget() -> None:
            with self._lock:
                self._proxied.pop(info.id, None)

        return forget

    def proxied_summaries(self, owner: str | None) -> Sequence[Mapping[str, Any]]:
        """The summaries of the requests that are being proxied, of which no more is known."""
        with self._lock:
            infos = [*self._proxied.values()]
        return [_proxied_summary(info) for info in infos if owner is None or info.owner == owner]

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
                # One timer at a time serves all kept answers, however many clients leave.
                if len(self._kept) == 1:
                    self._call_later(self._window, self._sweep)

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
            if self._kept:
                oldest = max(answer.left_seconds() for _, answer in self._kept)
                self._call_later(max(self._window - oldest, 1.0), self._sweep)

    def _forget(self, key: str, answer: SharedAnswer) -> None:
        equal = self._answers.get(key, [])
        if answer in equal:
            equal.remove(answer)
        if not equal:
            self._answers.pop(key, None)


def _proxied_summary(info: RequestInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "model": info.model,
        "stream": info.stream,
        "began": int(info.began),
        "state": "relayed",
        "has_text": False,
        "queue_position": None,
        "expected_seconds": None,
        "connected": True,
    }
