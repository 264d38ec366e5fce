"""One segment of an answer: the text job that continues what was written so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any

from horde_proxy.aihorde import kudos
from horde_proxy.aihorde.names import is_name
from horde_proxy.prompts.answer import defect_in
from horde_proxy.prompts.fit import Fitted
from horde_proxy.prompts.tokens import estimate
from horde_proxy.upstreams.base import Caller
from horde_proxy.upstreams.horde import text
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.failures import dropped_by
from horde_proxy.upstreams.horde.jobs import Estimate, Generation, JobKind
from horde_proxy.upstreams.horde.plan import Plan
from horde_proxy.upstreams.horde.throughput import UNMEASURED
from horde_proxy.upstreams.horde.workers import LEAST_SHORTENED

_LONGEST_TOKEN = 256
"""Characters: the longest tokens of today's models are runs of 128 spaces or signs."""


@dataclass(frozen=True)
class TextGeneration(Generation):
    """A text, and the max_length of the request that it came from."""

    text: str
    max_length: int


@dataclass(eq=False)
class Segment:
    """n continuations of `so_far`, each of at most `max_length` tokens.

    `worker`: the id of the worker that wrote `so_far`, None if the client did. `may_loop`: a text
    that repeats itself will do as well. `is_streamed`: it is read as it grows where the horde can.
    """

    horde: HordeContext
    plan: Plan
    n: int
    so_far: str
    max_length: int
    worker: str | None = None
    may_loop: bool = False
    is_streamed: bool = False
    fitted: Fitted = field(init=False)
    # The workers that could take the request when it was submitted: one of them has its job, or one
    # that came later. `_others`: the ids of those that could not, None where one worker is named.
    _asked: frozenset[str] = frozenset()
    _others: frozenset[str] | None = None

    def __post_init__(self) -> None:
        self.fitted = self.plan.fitted_to(self.so_far, self.max_length)
        # A first segment is tried by those who can take all of it, though they failed of late. In
        # the midst of an answer, whoever did not fail goes on.
        if self.worker is not None:
            self._shrink_for_others()

    @property
    def kind(self) -> JobKind:
        return text.STREAMED_TEXT if self.is_streamed else text.TEXT

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

    def payload(self, n: int, worker: str | None) -> dict[str, Any]:
        plan = self.plan
        failed = self.horde.failures.workers()
        wanted = plan.pool.wanted(self.fitted, failed)
        self._asked = frozenset([worker] if worker else [able.id for able in wanted])
        able = frozenset(able.id for able in plan.pool.able(self.fitted))
        self._others = None if worker else able - self._asked
        return self._payload(n, plan.pool.fields(self.fitted, failed, worker))

    def second_payload(self, n: int) -> dict[str, Any] | None:
        self.plan = self.plan.updated(self.horde.catalog.models())
        able = {worker.id for worker in self.plan.pool.able(self.fitted)}
        if able <= self._asked and len(self._asked) == 1:
            return None
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

    def _payload(self, n: int, options: Mapping[str, Any]) -> dict[str, Any]:
        plan = self.plan
        return text.to_payload(plan.request, plan.models, plan.format, self.fitted, options, n)

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
        """The worker that wrote `so_far`, whose cache is warm, unless others are far faster."""
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

    def read(self, result: Mapping[str, Any]) -> TextGeneration:
        model, worker, worker_name = map(result.get, ("model", "worker_id", "worker_name"))
        most = self.fitted.max_length * _LONGEST_TOKEN
        return TextGeneration(
            model=model if is_name(model) else self.plan.models[0],
            worker=worker if is_name(worker) else "",
            worker_name=worker_name if is_name(worker_name) else "",
            is_censored=text.is_censored(result),
            text=str(result.get("text") or "")[:most],
            max_length=self.fitted.max_length,
        )

    def is_good(self, generation: TextGeneration) -> bool:
        defect = defect_in(generation.text, self.plan.format, is_first=not self.so_far)
        is_loop = defect == "loop" and not self.may_loop
        return not (generation.is_censored or defect in ("empty", "tags") or is_loop)

    def tokens(self, generation: TextGeneration) -> int:
        return min(estimate(generation.text), generation.max_length)

    def shrink_to_free(self) -> bool:
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
        self.fitted = self.plan.fitted_to(self.so_far, max_length)
