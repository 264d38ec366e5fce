"""What a worker has done and is doing, for its metrics, its page and its status line.

Threads of all bridges write, the page and the line read. Nothing is shown here.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from horde_proxy.aihorde.image_limits import ALCHEMY_FORMS
from horde_proxy.worker.kinds import JobSummary

_SPEED_SECONDS = 60.0
"""The time over which tokens a second are counted."""


# Compared by identity: two hordes may have jobs with the same id.
@dataclass(frozen=True, eq=False)
class RunningJob:
    """A job that a backend works on. `since` is a time of the status's clock (s)."""

    id: str
    horde: str
    summary: JobSummary
    since: float


@dataclass(frozen=True)
class StatusSnapshot:
    """A worker at one moment. `jobs` counts by (horde, state), `kudos` by horde.

    `done` counts the jobs that ended "ok" by kind, as in {"chat": 2}. `tokens` is estimated where
    the server does not count, `speed` in tokens/s over the last minute, `uptime` in seconds.
    `holds` are the reasons why bridges pop nothing, by their names; `failing` are hordes that fail.
    """

    jobs: Mapping[tuple[str, str], int]
    kudos: Mapping[str, float]
    tokens: int
    speed: float
    uptime: float
    running: Sequence[tuple[RunningJob, float]]
    holds: Mapping[str, str]
    failing: Sequence[str]
    done: Mapping[str, int] = field(default_factory=dict)

    @property
    def forms(self) -> int:
        """How many forms of alchemy were done: each form is a kind of its own."""
        return sum(count for kind, count in self.done.items() if kind in ALCHEMY_FORMS)


class WorkerStatus:
    """Counts jobs, tokens and kudos of all bridges of a worker."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begin = clock, clock()
        # Guards all that follows. No I/O happens under it.
        self._lock = threading.Lock()
        self._jobs: Counter[tuple[str, str]] = Counter()
        self._kudos: defaultdict[str, float] = defaultdict(float)
        # Jobs that were done and taken, by kind.
        self._done: Counter[str] = Counter()
        self._tokens = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._running: set[RunningJob] = set()
        self._holds: dict[str, str] = {}
        self._failing: set[str] = set()

    def begin(self, job_id: str, horde: str, summary: JobSummary) -> RunningJob:
        """Note a job that was popped."""
        job = RunningJob(job_id, horde, summary, self._clock())
        with self._lock:
            self._running.add(job)
        return job

    def end(self, job: RunningJob, state: str, tokens: int, kudos: float | None) -> None:
        """Note that a job's outcome was submitted. `kudos` None: the horde did not take it."""
        with self._lock:
            self._running.discard(job)
            self._jobs[job.horde, state if kudos is not None else "lost"] += 1
            if state == "ok" and kudos is not None:
                self._done[job.summary.kind] += 1
            self._kudos[job.horde] += kudos or 0.0
            self._tokens += tokens
            self._recent.append((self._clock(), tokens))
            self._forget_old()

    def hold(self, bridge: str, reason: str | None) -> None:
        """Note why a bridge pops nothing; None once it pops again."""
        with self._lock:
            if reason:
                self._holds[bridge] = reason
            else:
                self._holds.pop(bridge, None)

    def failing(self, horde: str, is_failing: bool) -> None:
        """Note whether a horde fails."""
        with self._lock:
            (self._failing.add if is_failing else self._failing.discard)(horde)

    def snapshot(self) -> StatusSnapshot:
        """All that is known now."""
        now = self._clock()
        with self._lock:
            self._forget_old()
            seconds = min(max(now - self._begin, 1.0), _SPEED_SECONDS)
            return StatusSnapshot(
                jobs=dict(self._jobs),
                kudos=dict(self._kudos),
                tokens=self._tokens,
                speed=sum(tokens for _, tokens in self._recent) / seconds,
                uptime=now - self._begin,
                running=[(job, now - job.since) for job in self._running],
                holds=dict(self._holds),
                failing=sorted(self._failing),
                done=dict(self._done),
            )

    def _forget_old(self) -> None:
        while self._recent and self._recent[0][0] < self._clock() - _SPEED_SECONDS:
            self._recent.popleft()
