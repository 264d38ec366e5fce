"""A segment of an answer as a job: who may write it, how long it may be, and what it costs.

What is submitted, and how a result is read, is the matter of its kinds: text_segment.py.
"""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypedDict

from horde_proxy.aihorde import kudos
from horde_proxy.aihorde.image_limits import UpfrontLimit
from horde_proxy.aihorde.names import is_name
from horde_proxy.errors import ContextLengthExceeded
from horde_proxy.prompts.fit import Fitted
from horde_proxy.upstreams.base import Caller
from horde_proxy.upstreams.horde import text
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.failures import dropped_by
from horde_proxy.upstreams.horde.jobs import Estimate, G, JobKind
from horde_proxy.upstreams.horde.plan import Plan
from horde_proxy.upstreams.horde.throughput import UNMEASURED
from horde_proxy.upstreams.horde.workers import LEAST_SHORTENED


class Maker(TypedDict):
    """The fields of every Generation."""

    model: str
    worker: str
    worker_name: str
    is_censored: bool
    source: Mapping[str, Any]


@dataclass(eq=False)
class Segment(ABC, Generic[G]):
    """n continuations of what was written so far, each of at most `max_length` tokens.

    `worker`: the id of the worker that wrote what there is so far, None if the client did.
    `is_streamed`: it is read as it grows where the horde can.
    """

    horde: HordeContext
    plan: Plan
    n: int
    max_length: int
    worker: str | None = None
    is_streamed: bool = False
    fitted: Fitted = field(init=False)
    # The workers that could take the request when it was submitted: one of them has its job, or one
    # that came later. `_others`: the ids of those that could not, None where one worker is named.
    _asked: frozenset[str] = field(default=frozenset(), init=False)
    _others: frozenset[str] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.fitted = self._fitted(self.max_length)
        # A first segment is tried by those who can take all of it, though they failed of late. In
        # the midst of an answer, whoever did not fail goes on.
        if self.worker is not None:
            self._shrink_for_others()

    @property
    @abstractmethod
    def kind(self) -> JobKind:
        """Where its requests go, and how they are read."""

    @abstractmethod
    def read(self, result: Mapping[str, Any]) -> G:
        """A generation from one of the results."""

    @abstractmethod
    def is_good(self, generation: G) -> bool:
        """Whether a generation will do."""

    @abstractmethod
    def tokens(self, generation: G) -> int:
        """The tokens of a generation."""

    @property
    @abstractmethod
    def so_far_key(self) -> str:
        """The words that it goes on from."""

    @abstractmethod
    def _fitted(self, max_length: int) -> Fitted:
        """The prompt for a job of so many tokens. Raises ContextLengthExceeded."""

    @abstractmethod
    def _payload(self, n: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a submit. `options` are its fields about workers."""

    @property
    def models(self) -> Sequence[str]:
        return self.plan.models

    @property
    def api_key(self) -> str:
        return self.plan.api_key

    @property
    def caller(self) -> Caller:
        return self.plan.caller

    @property
    def max_kudos(self) -> float | None:
        return self.plan.max_kudos

    @property
    def description(self) -> str:
        return self.plan.description(self.fitted)

    @property
    def journal_key(self) -> str:
        # Not the prompt: that depends on the workers of now, who decide how much of it fits.
        plan = self.plan
        question = (self.kind.name, self.n, plan.models, plan.request.messages, self.so_far_key)
        return hashlib.sha256(repr(question).encode()).hexdigest()

    def resume(self, max_length: int) -> None:
        if max_length != self.fitted.max_length:
            with contextlib.suppress(ContextLengthExceeded):
                self._shorten(max_length)

    def payload(self, n: int, worker: str | None) -> dict[str, Any]:
        plan = self.plan
        failed = self.horde.failures.workers()
        wanted = plan.pool.wanted(self.fitted, failed)
        self._asked = frozenset([worker] if worker else [able.id for able in wanted])
        able = frozenset(able.id for able in plan.pool.able(self.fitted))
        self._others = None if worker else able - self._asked
        return self._payload(n, plan.pool.fields(self.fitted, failed, worker))

    def second_payload(self, n: int, *, is_queued: bool = False) -> dict[str, Any] | None:
        self.plan = self.plan.updated(self.horde.catalog.models())
        able = {worker.id for worker in self.plan.pool.able(self.fitted)}
        if able <= self._asked and (is_queued or len(self._asked) == 1):
            return None
        if is_queued:
            return self._payload(n, self.plan.pool.fields(self.fitted, [*self._asked]))
        # The horde does not say which worker has a job. It is known where only one could take it.
        hung = () if self._has_newcomers(able) or len(self._asked) != 1 else self._asked
        failed = [*hung, *self.horde.failures.workers()]
        return self._payload(n, self.plan.pool.fields(self.fitted, failed))

    def note_hung(self, answered_by: str) -> None:
        able = {worker.id for worker in self.plan.pool.able(self.fitted)}
        hung = self._asked - {answered_by}
        if len(hung) == 1 and not self._has_newcomers(able):
            self.horde.failures.add(*hung)

    def _has_newcomers(self, able: AbstractSet[str]) -> bool:
        """Whether a worker that came after the submit may have its job."""
        return self._others is not None and not able <= self._asked | self._others

    def price(self, n: int) -> float:
        fitted = self.fitted
        return kudos.price(fitted.max_length, fitted.max_context_length, self.plan.size, n)

    def upfront(self, n: int) -> float:
        length = self.fitted.max_length
        is_free = length <= kudos.MOST_FREE and self.plan.pool.filters.slow
        return 0.0 if is_free else kudos.upfront(length, self.plan.size, n)

    def estimate(self) -> Estimate:
        able = self.plan.pool.able(self.fitted) or self.plan.entry.workers
        entry = replace(self.plan.entry, workers=tuple(able))
        return self.horde.throughput.expected(entry, self.fitted.max_length)

    def preferred_worker(self) -> str | None:
        """The worker that wrote so far, whose cache is warm, unless others are far faster."""
        throughput = self.horde.throughput
        wanted = self.plan.pool.wanted(self.fitted, self.horde.failures.workers())
        others = [
            throughput.of(worker.id).per_second or worker.speed or UNMEASURED
            for worker in wanted
            if worker.id != self.worker
        ]
        if not others or all(worker.id != self.worker for worker in wanted):
            return None
        assert self.worker is not None
        speed = throughput.of(self.worker).per_second
        return self.worker if speed is None or speed >= max(others) / 2 else None

    def maker(self, result: Mapping[str, Any]) -> Maker:
        """Who made a result, tidied."""
        model, worker, worker_name = map(result.get, ("model", "worker_id", "worker_name"))
        return {
            "model": model if is_name(model) else self.plan.models[0],
            "worker": worker if is_name(worker) else "",
            "worker_name": worker_name if is_name(worker_name) else "",
            "is_censored": text.is_censored(result),
            "source": result,
        }

    def shrink_to_free(self, limit: UpfrontLimit | None = None) -> bool:
        if self.fitted.max_length <= kudos.LEAST_FREE:
            return False
        self._shorten(kudos.LEAST_FREE)
        return True

    def note_fault(self) -> None:
        plan, horde = self.plan, self.horde
        # The horde does not name who failed, but counts the jobs that each worker dropped.
        horde.catalog.refresh(0)
        self.plan = plan.updated(horde.catalog.models())
        for worker_id in dropped_by(plan.pool.serving, self.plan.pool.serving):
            horde.failures.add(worker_id)
        if plan.is_chained and self.fitted.max_length > LEAST_SHORTENED:
            self._shorten(max(self.fitted.max_length // 2, LEAST_SHORTENED))

    def adapt_to_workers(self) -> bool:
        before = self._demands()
        self.horde.catalog.refresh()
        self.plan = self.plan.updated(self.horde.catalog.models())
        self._shrink_for_others()
        return self._demands() != before

    def _demands(self) -> tuple[Fitted, Mapping[str, Any]]:
        """What decides which workers can take the job."""
        return self.fitted, self.plan.pool.fields(self.fitted, self.horde.failures.workers())

    def _shrink_for_others(self) -> None:
        if self.plan.is_chained:
            failed = self.horde.failures.workers()
            length = self.plan.pool.shorter_length(self.fitted, failed)
            if length is not None:
                self._shorten(length)

    def _shorten(self, max_length: int) -> None:
        self.fitted = self._fitted(max_length)
