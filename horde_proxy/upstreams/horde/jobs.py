"""What is particular to a kind of job on the horde. The lifecycle knows nothing else of it.

A `JobKind` says where requests go, when they are final and how a status is read. A `JobSpec` is one
thing to be made: what is submitted for it, what that costs, and whether a generation will do. The
lifecycle (submit queue, submit, poll, webhook, retry, cancel) works with these two alone.

Adding a kind is one module with both, as text.py and text_segment.py are for text:

    kind     submit                  polled                      results, and DELETE to cancel
    text     generate/text/async     generate/text/status/{id}   generate/text/status/{id}
    image    generate/async          generate/check/{id}         generate/status/{id}, 10 a minute
    alchemy  interrogate/async       interrogate/status/{id}     interrogate/status/{id}

No I/O here, and no lifecycle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from horde_proxy.aihorde.image_limits import UpfrontLimit
from horde_proxy.aihorde.limits import JOB_SECONDS
from horde_proxy.upstreams.base import Caller
from horde_proxy.upstreams.throughput import UNUSUAL

_IMPOSSIBLE_PATIENCE = 65.0
"""Seconds; AI-Horde caches is_possible for 60."""
_TELLING_MOVES = 2
"""Places that a request must have moved up in the queue before its speed says anything."""

Status = Mapping[str, Any]
"""What the horde answers to a poll."""


@dataclass(frozen=True)
class Progress:
    """How far a request is. `waiting`: its jobs that no worker has popped yet.

    `queue_position` is 1 for the next, 0 where the horde does not say. `is_possible`: whether some
    online worker could take it. `finished`: its jobs whose result is there; `restarted`: how often
    a worker failed on one of them, or did not hand it in in time.
    """

    waiting: int
    is_processing: bool
    queue_position: int
    is_possible: bool
    finished: int = 0
    restarted: int = 0


@dataclass(frozen=True)
class JobKind:
    """One kind of job. Paths come after /api/v2/; an id is appended to all but the first.

    `stream_path` is "" for a kind that is only polled. `check_path` is polled. Where results are at
    another path, `status_path` is called once, when the request is final. `is_final` gets a status
    and the number of jobs of the request. `impossible_patience`: the seconds that no worker may be
    there for a request. `has_words`: whether a client reads anything in a growing text.
    `retries_faults`: a request on which workers failed is submitted again.
    """

    name: str
    submit_path: str
    check_path: str
    status_path: str
    is_final: Callable[[Status, int], bool]
    progress: Callable[[Status], Progress]
    results: Callable[[Status], Sequence[Mapping[str, Any]]]
    stream_path: str = ""
    impossible_patience: float = _IMPOSSIBLE_PATIENCE
    has_words: Callable[[str], bool] = bool
    retries_faults: bool = True


@dataclass(frozen=True)
class Generation:
    """One result, and who made it. A kind adds what was made. `source` is as the horde gave it."""

    model: str
    worker: str
    worker_name: str
    is_censored: bool
    source: Mapping[str, Any] = field(kw_only=True, default_factory=dict, repr=False, compare=False)


G = TypeVar("G", bound=Generation)


class Estimate:
    """How long a request should take, in seconds: in the queue, and in generation.

    `is_measured`: the generation was estimated by what other requests for the model took here.
    `longest`: the seconds that it takes at most, but for one in twenty.
    """

    def __init__(
        self,
        queue: float,
        generation: float,
        *,
        is_measured: bool = False,
        longest: float | None = None,
    ) -> None:
        self.queue, self.generation, self.is_measured = queue, generation, is_measured
        self.longest = generation * UNUSUAL if longest is None else longest
        self._first_position: tuple[float, int] | None = None

    def left(self, elapsed: float, position: int, *, processing: bool = False) -> float:
        """Seconds until the end.

        `elapsed`: seconds since the submit, or since the pop when `processing`. `position` in the
        queue, 0 unknown: once it moves, its speed counts for more than the estimate.
        """
        if processing:
            return max(self.generation - elapsed, self._left_overdue(elapsed), 1.0)
        # An overdue request has "a second left", never less than nothing.
        queue = max(self.queue - elapsed, 1.0)
        if position:
            self._first_position = self._first_position or (elapsed, position)
            since, first = self._first_position
            if first - position >= _TELLING_MOVES:
                queue = position * (elapsed - since) / (first - position)
        return queue + self.generation

    def _left_overdue(self, elapsed: float) -> float:
        """Seconds until the end of a job that takes longer than expected.

        What is late so long is likely to be late as long again: its worker may have vanished. Then
        the horde takes the job back after JOB_SECONDS, and another worker begins it.
        """
        return min(elapsed - self.generation, JOB_SECONDS + self.generation - elapsed)


class JobSpec(Protocol[G]):
    """What requests are submitted for: `n` generations of one kind.

    `max_kudos`: what the client lets the whole answer cost. `description` says in words what a
    worker must offer.
    """

    @property
    def kind(self) -> JobKind: ...
    @property
    def n(self) -> int: ...
    @property
    def models(self) -> Sequence[str]: ...
    @property
    def api_key(self) -> str: ...
    @property
    def caller(self) -> Caller: ...
    @property
    def max_kudos(self) -> float | None: ...
    @property
    def description(self) -> str: ...
    @property
    def journal_key(self) -> str:
        """What stands for this job after a restart; "" for one that is made again then."""

    def resume(self, max_length: int) -> None:
        """Read the results of a request that was submitted for so many tokens before a restart."""

    def payload(self, n: int, worker: str | None) -> dict[str, Any]:
        """The body of a submit for n generations, from this worker only where one is given."""

    def second_payload(self, n: int, *, is_queued: bool = False) -> dict[str, Any] | None:
        """The body of a second submit for n generations, while the first one's worker hangs.

        It names or excludes workers so that the one that hangs does not get it; with `is_queued`,
        so that none of those gets it that have not taken the first one. None where no other worker
        can take the same job.
        """

    def note_hung(self, answered_by: str) -> None:
        """The second request was answered by this worker: remember which one hangs."""

    def price(self, n: int) -> float:
        """About the kudos that n generations cost."""

    def upfront(self, n: int) -> float:
        """The kudos that the horde holds back while the request runs."""

    def estimate(self) -> Estimate:
        """How long a request that is submitted now should take."""

    def preferred_worker(self) -> str | None:
        """The id of a worker that is worth a short wait."""

    def read(self, result: Mapping[str, Any]) -> G:
        """A generation from one of the kind's results."""

    def is_good(self, generation: G) -> bool:
        """Whether a generation will do; others are made again while there are tries left."""

    def tokens(self, generation: G) -> int:
        """The tokens of a generation, 0 for a kind that has none."""

    def shrink_to_free(self, limit: UpfrontLimit | None = None) -> bool:
        """Ask for so little that it needs no kudos; False where it is that little already.

        `limit`: what the horde's refusal named, for pictures.
        """

    def note_fault(self) -> None:
        """The workers failed on it: remember which, and ask for less next time."""

    def adapt_to_workers(self) -> bool:
        """Ask for what the workers that are online now can take, those that did not fail first.

        Whether the next submit differs from the last one.
        """


class OneRequestJob:
    """What jobs of pictures need not decide: one request is made for all, and any worker may do it.

    A second one beside it would cost as much again. The horde does not say which worker failed, and
    there are no tokens to continue from.
    """

    def resume(self, max_length: int) -> None:
        """Nothing: results are read without what was submitted."""

    def second_payload(self, n: int, *, is_queued: bool = False) -> dict[str, Any] | None:
        """None; see JobSpec."""
        return None

    def note_hung(self, answered_by: str) -> None:
        """Nothing; see JobSpec."""

    def preferred_worker(self) -> str | None:
        """None; see JobSpec."""
        return None

    def tokens(self, generation: object) -> int:
        """None are counted."""
        return 0

    def adapt_to_workers(self) -> bool:
        """Nothing changes; see JobSpec."""
        return False


def generations(status: Status) -> Sequence[Mapping[str, Any]]:
    """The results of a text or image request."""
    results = status.get("generations")
    if not isinstance(results, list):
        return []
    return [entry for entry in results if isinstance(entry, dict)]


def generation_progress(status: Status) -> Progress:
    """The progress of a text or image request."""
    return Progress(
        waiting=count(status.get("waiting")),
        is_processing=count(status.get("processing")) > 0,
        queue_position=count(status.get("queue_position")),
        is_possible=bool(status.get("is_possible", True)),
        finished=count(status.get("finished")),
        restarted=count(status.get("restarted")),
    )


def count(value: Any) -> int:
    """A count in a status; 0 for anything that is not a positive integer."""
    return value if isinstance(value, int) and value > 0 else 0
