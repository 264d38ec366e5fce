"""What is particular to one kind of worker; `bridge` is the loop that all kinds share.

AI-Horde has scribes for texts, dreamers for images and alchemists; each is a module here. A kind
knows its backend, and of the horde only what comes with a job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import requests

from horde_proxy.worker.horde import HordeConnection, Job, Offer, Outcome


@dataclass(frozen=True)
class PoppedJob:
    """A job with the horde that it came from, and the session to submit it with."""

    horde: HordeConnection
    session: requests.Session
    job: Job

    @property
    def id(self) -> str:
        return str(self.job["id"])


@dataclass(frozen=True)
class JobSummary:
    """What the status shows of a job. `kind` is "text", "chat", "image" or a form of alchemy.

    `max_length` is in tokens, 0 for what is no text.
    """

    kind: str
    model: str
    max_length: int = 0


class WorkerKind(Protocol):
    """Does the jobs of one kind. `name` is its backend's in the status.

    `path` is that of the horde's API for its jobs, as in "generate/text". `server` is the backend
    that may report its state.
    """

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def server(self) -> object: ...

    def offer(self, threads: int) -> Offer:
        """What a pop offers now."""

    def summary(self, job: Job) -> JobSummary:
        """What the status shows of a job."""

    def check(self, job: Job) -> None:
        """Raises JobRefused for a job that the backend need not see."""

    def work(self, popped: PoppedJob, cancelled: Callable[[], bool]) -> Outcome:
        """What becomes of a job that was checked. Raises BackendError where the backend failed.

        An outcome with a reason says nothing of the backend's health. Once `cancelled` returns
        True, it ends within a second, and what it returns or raises does not matter.
        """

    def body(self, job_id: str, outcome: Outcome) -> dict[str, object]:
        """The body of a submit."""
