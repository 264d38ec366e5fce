"""The four kinds of records of a horde: accounts, workers, text requests and jobs.

Plain records, with properties that need nothing but the record. The rules that change records are
in queue, workers and delivery. Times are seconds of the horde's clock. No repr shows a prompt, a
generation or a key.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.aihorde.agents import is_validated
from horde_proxy.aihorde.limits import CONCURRENCY

# A worker's speed is the mean of this many jobs, so that one short answer changes it only a little.
_SPEEDS_KEPT = 50


# eq=False for all records: two jobs with equal fields are still two jobs, and a comparison of their
# fields would walk through all records that they refer to.


@dataclass(eq=False)
class HordeAccount:
    """An account. Its kudos never fall below `floor`; `held` kudos are reserved, but not yet paid.

    `open` holds its unfinished requests by id.
    """

    id: int
    alias: str
    created: float
    kudos: float = 0.0
    floor: float = 0.0
    trusted: bool = False
    service: bool = False
    concurrency: int = CONCURRENCY
    accumulated: float = 0.0
    held: float = 0.0
    requests_sent: int = 0
    tokens_requested: int = 0
    jobs_done: int = 0
    tokens_made: int = 0
    open: dict[str, TextRequest] = field(default_factory=dict, repr=False)

    @property
    def username(self) -> str:
        """The unique name, "alias#id"."""
        return f"{self.alias}#{self.id}"

    @property
    def anonymous(self) -> bool:
        """Whether this is the account that everybody without a key shares."""
        return self.id == 0

    @property
    def spendable(self) -> float:
        """The kudos that a new request may reserve."""
        return self.kudos - self.floor - self.held

    def pay(self, amount: float) -> None:
        """Take kudos, but not below the floor."""
        # At the floor, requests are free and have the lowest priority.
        self.kudos = max(self.floor, self.kudos - amount)
        self.accumulated -= amount

    def earn(self, amount: float) -> None:
        """Add kudos."""
        self.kudos += amount
        self.accumulated += amount


@dataclass(frozen=True)
class WorkerOffer:
    """What a worker declares at a pop; lengths are in tokens."""

    models: tuple[str, ...]
    max_length: int
    max_context_length: int
    threads: int
    nsfw: bool
    bridge_agent: str

    @property
    def validated(self) -> bool:
        """Whether the horde trusts the worker's software."""
        return is_validated(self.bridge_agent)


@dataclass(eq=False)
class Worker:
    """A scribe: its owner, what it offers, and how it has done so far. Speeds are in tokens/s."""

    id: str
    name: str
    owner: HordeAccount
    offer: WorkerOffer
    created: float
    last_seen: float
    maintenance: bool = False
    uptime: float = 0.0
    fulfilled: int = 0
    uncompleted: int = 0
    kudos: float = 0.0
    # (model, tokens/s) of its last jobs.
    speeds: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=_SPEEDS_KEPT))

    @property
    def speed(self) -> float | None:
        """Mean tokens per second of its last jobs; None before the first."""
        if not self.speeds:
            return None
        return sum(speed for _, speed in self.speeds) / len(self.speeds)

    def model_for(self, request: TextRequest) -> str | None:
        """The model for a request: the first of the request's models that this worker serves.

        For a request without models, it is the worker's first model. None if no model matches.
        """
        # The real horde draws one at random. Here, the client's order decides.
        served = self.offer.models
        if not request.models:
            return served[0]
        return next((model for model in request.models if model in served), None)


@dataclass(eq=False)
class Job:
    """One result that a worker has popped. `state` starts as "processing" and changes once.

    Afterwards it is ok, censored, csam, faulted (the worker gave up) or aborted (time ran out).
    """

    id: str
    request: TextRequest = field(repr=False)
    worker: Worker = field(repr=False)
    model: str
    popped: float
    state: str = "processing"
    text: str = field(default="", repr=False)
    # Most workers send 0.
    seed: int = 0
    # Entries such as {"type": "censorship", "value": "csam"}.
    gen_metadata: list[dict[str, Any]] = field(default_factory=list)


@dataclass(eq=False)
class TextRequest:
    """A client's request. Always n == len(delivered) + len(processing) + waiting.

    `order` sorts the queue and never changes (see `queue`). `jobs` are all jobs that were ever
    popped, `held` the reserved kudos and `kudos` the consumed ones. `possible` caches
    `is_possible`, with the version of the workers for which it was computed.
    """

    id: str
    account: HordeAccount
    prompt: str = field(repr=False)
    params: dict[str, Any]
    models: tuple[str, ...]
    workers: frozenset[str]
    worker_blacklist: bool
    trusted_workers: bool
    validated_backends: bool
    slow_workers: bool
    priority: float
    created: float
    expires: float = 0.0
    order: tuple[float, float, int] = (0.0, 0.0, 0)
    waiting: int = 0
    restarted: int = 0
    faulted: bool = False
    forgotten: bool = False
    kudos: float = 0.0
    held: float = 0.0
    delivered: list[Job] = field(default_factory=list)
    processing: dict[str, Job] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list, repr=False)
    possible: tuple[int, bool] = (-1, False)

    @property
    def n(self) -> int:
        """The number of results."""
        return int(self.params["n"])

    @property
    def max_length(self) -> int:
        """The longest allowed result, in tokens."""
        return int(self.params["max_length"])

    @property
    def max_context_length(self) -> int:
        """The context that the client declared, in tokens; the prompt itself is not measured."""
        return int(self.params["max_context_length"])

    @property
    def settled(self) -> bool:
        """Whether no more results will come: all were delivered, or the request faulted."""
        return self.faulted or len(self.delivered) >= self.n

    @property
    def done(self) -> bool:
        """The `done` of the status, by the real horde's formula (waiting_prompt.py:466-473).

        It counts restarts as results, so after two restarts it is true although the third attempt
        is still running (capture text_status_done_empty_while_processing).
        """
        if self.faulted:
            return True
        results = len(self.delivered) + self.restarted - len(self.processing)
        return self.waiting == 0 and results >= self.n
