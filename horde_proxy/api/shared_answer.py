"""One answer that is on its way: read by one client, or after a retry by several.

SDKs resend a request after their own timeout. Such a retry gets the answer that is already on
its way, instead of a second one that would be paid for as well. An answer that its client has
left goes on for a `grace` time, and is kept for a `window` once it is complete (both in seconds).

                 the source ends             the last reader has read all
    FOLLOWED ------------------------> ANSWERED -------------------------+
     |    ^                             |    ^                           |
leave|    |join                    leave|    |join                       v
     v    |                             v    |                          OVER
    ABANDONED -----------------------> KEPT -----------------------------^
     |           the source ends             the window is over          |
     +-------------------------------------------------------------------+
                 the grace time is over

`leave` is that of the last reader. A source that fails makes it OVER from any state; readers that
are still there get the error.

There is no thread of its own. A reader that has read all items takes the turn and drives the
source one step; this is where it waits for the upstream. Other readers wait for what that brings.
The last reader that leaves drives the source through the grace time before its thread goes on.
Meanwhile the source goes on with what it has begun, and begins nothing new (`Sleeper.has_client`).
An answer that its client asked to have stored goes on to its end instead, or to its deadline.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from horde_proxy.errors import ClientGone, ProxyError
from horde_proxy.protocol.chunks import Chunk, has_text
from horde_proxy.upstreams.base import (
    LONGEST_SLEEP,
    Accepted,
    Sleeper,
    Spent,
    StreamItem,
    Waiting,
)

if TYPE_CHECKING:
    from horde_proxy.api.front import Recorder

_UNKNOWN = Waiting("queued")


class AnswerState(Enum):
    """Where an answer stands; the module's docstring draws the transitions."""

    FOLLOWED = "the source runs, and at least one client reads"
    ABANDONED = "the source runs, and no client reads"
    ANSWERED = "complete, and at least one client still reads"
    KEPT = "complete, and its client has not read it to the end"
    OVER = "read to its end, failed or cancelled: nobody can join"


_RUNNING = (AnswerState.FOLLOWED, AnswerState.ABANDONED)
_LEFT = (AnswerState.ABANDONED, AnswerState.KEPT)


@dataclass(frozen=True)
class RequestInfo:
    """A request: its client (`owner`), the model that it names. `began` is Unix time (s).

    `account` is the owner who may fetch the answer by the id of its chunks; "" for nobody.
    `is_retry`: the client says that it sends the request again. `idempotency_key` is the value
    of the header of that name.
    """

    id: str
    owner: str
    model: str
    stream: bool
    began: float
    is_retry: bool = False
    idempotency_key: str | None = None
    account: str = ""

    def repeats(self, other: RequestInfo, *, is_left: bool) -> bool:
        """Whether this request repeats an equal one, whose client has left (`is_left`) or not.

        Two equal requests at the same time are meant to be two, unless this one says otherwise.
        """
        if self.idempotency_key and other.idempotency_key:
            return self.idempotency_key == other.idempotency_key
        return is_left or self.is_retry


class SharedAnswer:
    """The answer to one request: its items so far, the source of more, and how many read it.

    `recorder` is what keeps it, `deadline` its time on the clock when nobody waits any longer.
    """

    def __init__(
        self,
        info: RequestInfo,
        source: Iterator[StreamItem],
        *,
        clock: Callable[[], float],
        grace: float,
        sleeper: Sleeper | None = None,
        recorder: Recorder | None = None,
        deadline: float = math.inf,
    ) -> None:
        self.info, self.sleeper, self.recorder = info, sleeper or Sleeper(), recorder
        self.items: list[Accepted | Chunk] = []
        self.error: BaseException | None = None
        self.state, self.readers = AnswerState.FOLLOWED, 0
        self._waiting: Waiting | None = None
        self._has_text = self._is_paid = False
        self._left_at = 0.0
        self._source, self._clock, self._grace = source, clock, grace
        self._deadline = deadline
        # Guards state, readers, error, _is_paid and _left_at. No I/O happens under it.
        self._changed = threading.Condition()
        # Held by the reader that drives the source, and while that is cancelled. Under this one
        # the upstream is waited for, which is its purpose; so take it before _changed, never after.
        self._turn = threading.Lock()

    @property
    def is_running(self) -> bool:
        return self.state in _RUNNING

    @property
    def is_left(self) -> bool:
        """Whether its client has gone and a retry may still come for it."""
        return self.state in _LEFT

    def left_seconds(self) -> float:
        """How long nobody has read it (s)."""
        return self._clock() - self._left_at if self.is_left else 0.0

    def join(self) -> bool:
        """Count one more reader; False when it is too late for that."""
        with self._changed:
            if self.state is AnswerState.OVER:
                return False
            self.readers += 1
            if not self.is_left:
                return True
            self.state = AnswerState.FOLLOWED if self.is_running else AnswerState.ANSWERED
            self.sleeper.has_client = True
        self.sleeper.wake()
        return True

    @property
    def chunk_id(self) -> str | None:
        """The id of its chunks, once there is one."""
        return next((str(item["id"]) for item in self.items if isinstance(item, dict)), None)

    @property
    def is_delivered(self) -> bool:
        """Whether a client has read it to its end."""
        return self.state is AnswerState.OVER and self.error is None

    @property
    def _outlives_client(self) -> bool:
        return self.recorder is not None and self.recorder.outlives_client

    def step(self) -> Waiting | None:
        """Drive the source one step, or wait for the reader that does. None: look at `items`."""
        if not self._turn.acquire(blocking=False):
            with self._changed:
                self._changed.wait(LONGEST_SLEEP)
            return self._waiting or _UNKNOWN
        try:
            if not self.is_running:
                return None
            item = next(self._source, None)
            if isinstance(item, Waiting):
                self._waiting = item
                return item
            self._take(item)
        # Every reader has to meet the error, whatever it is, not only the one whose turn it was.
        except BaseException as exc:  # noqa: BLE001
            self._fail(exc)
        finally:
            self._turn.release()
        with self._changed:
            self._changed.notify_all()
        return None

    def leave(self, *, has_read_all: bool) -> None:
        """One reader less. The last one cancels what nobody joins within the grace time."""
        with self._changed:
            self.readers -= 1
            self._is_paid = self._is_paid or (has_read_all and self.error is None)
            if self.readers or self.state is AnswerState.OVER:
                return
            if self.state is AnswerState.FOLLOWED:
                self.state, self.sleeper.has_client = AnswerState.ABANDONED, self._outlives_client
            else:
                self.state = AnswerState.OVER if has_read_all else AnswerState.KEPT
            self._left_at = self._clock()
        self.sleeper.longest = min(self.sleeper.longest, LONGEST_SLEEP)
        while self.state is AnswerState.ABANDONED:
            self.step()
            self._cancel_when_due()

    def wake(self) -> None:
        """Have all readers look at their clients now."""
        self.sleeper.wake()
        with self._changed:
            self._changed.notify_all()

    def summary(self) -> Mapping[str, Any]:
        """What a client may know of it, as JSON."""
        accepted = next((item for item in self.items if isinstance(item, Accepted)), None)
        headers = accepted.headers if accepted else {}
        model = headers.get("X-Horde-Model") or (accepted and accepted.model) or self.info.model
        waiting = self._waiting
        return {
            "id": self.info.id,
            "model": model,
            "stream": self.info.stream,
            "began": int(self.info.began),
            "state": waiting.state if waiting else "arrived",
            "has_text": self._has_text,
            "queue_position": waiting.queue_position if waiting else None,
            "expected_seconds": waiting.seconds if waiting else None,
            "connected": not self.is_left,
        }

    def wait_state(self) -> str:
        """The state of the last Waiting; before one "arrived", or "generating" once text came."""
        if self._waiting:
            return self._waiting.state
        return "generating" if self._has_text else "arrived"

    def _take(self, item: Accepted | Chunk | None) -> None:
        """Add what the source gave; None is its end."""
        if item is None:
            with self._changed:
                is_followed = self.state is AnswerState.FOLLOWED
                self.state = AnswerState.ANSWERED if is_followed else AnswerState.KEPT
        elif isinstance(item, Accepted):
            spent = item.spent
            accepted = replace(item, spent=lambda: self._cost_for_leaver(spent))
            # A later reader's response shall name the upstream that has taken over.
            self.items = [accepted if isinstance(old, Accepted) else old for old in self.items]
            self.items.append(accepted)
        else:
            self._has_text = self._has_text or has_text(item)
            self.items.append(item)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self.error, self.state = error, AnswerState.OVER

    def _cost_for_leaver(self, spent: Callable[[], Spent]) -> Spent:
        """What a client that left pays: nothing where others go on reading, or have paid."""
        with self._changed:
            if self.readers or self._is_paid:
                return Spent()
            cost = spent()
            self._is_paid = cost.completion_tokens > 0 or cost.kudos > 0
            if self._is_paid:
                # A client that comes back for the answer must not pay again.
                self.items = [
                    replace(item, is_paid=True) if isinstance(item, Accepted) else item
                    for item in self.items
                ]
            return cost

    def _cancel_when_due(self) -> None:
        with self._turn:
            with self._changed:
                is_abandoned = self.state is AnswerState.ABANDONED
                if not is_abandoned or self._clock() - self._left_at < self._grace:
                    return
                if self._outlives_client and self._clock() < self._deadline:
                    return
                self.error, self.state = ClientGone(), AnswerState.OVER
            close = getattr(self._source, "close", None)
            if close:
                close()


class AnswerReader:
    """One client's reading of a shared answer, from its first item on.

    Use it as a context manager: leaving it leaves the answer.
    """

    def __init__(self, answer: SharedAnswer, on_close: Callable[[], None]) -> None:
        self._answer, self._on_close = answer, on_close
        self._position, self._has_read_all = 0, False

    @property
    def recorder(self) -> Recorder | None:
        """What keeps the answer: that of the request which began it."""
        return self._answer.recorder

    def __enter__(self) -> AnswerReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.leave(has_read_all=self._has_read_all)
        self._on_close()

    def next(self) -> StreamItem | None:
        """The next item, or None after the last. Raises the error that ended the answer.

        It returns a Waiting after each sleep, so that the reader can look at its client.
        """
        answer = self._answer
        while True:
            if self._position < len(answer.items):
                self._position += 1
                return answer.items[self._position - 1]
            if not answer.is_running and self._position == len(answer.items):
                self._has_read_all = True
                if answer.error is not None:
                    raise answer.error
                return None
            waiting = answer.step()
            if waiting is not None:
                return waiting

    def wake(self) -> None:
        """See disconnects.Wakeable: the client of this reader may have gone."""
        self._answer.wake()

    def stop(self, error: ProxyError) -> None:
        """See disconnects.Wakeable: the proxy stops, and the answer with it."""
        self._answer.sleeper.stop(error)
        self._answer.wake()
