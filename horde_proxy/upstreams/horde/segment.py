"""One segment of an answer: a request that is submitted at its turn, waited for, and tried again.

Whoever submits, cancels: leaving a segment early cancels what still runs of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.aihorde import kudos
from horde_proxy.errors import InsufficientKudos, RateLimited, UpstreamFailed
from horde_proxy.prompts.faults import fault_of
from horde_proxy.prompts.tokens import estimate
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import Waiting
from horde_proxy.upstreams.horde import text
from horde_proxy.upstreams.horde.accounts import Accounts
from horde_proxy.upstreams.horde.catalog import Catalog
from horde_proxy.upstreams.horde.client import HordeClient, RequestLost
from horde_proxy.upstreams.horde.failures import Failures, suspects
from horde_proxy.upstreams.horde.plan import Plan
from horde_proxy.upstreams.horde.running_request import Faulted, RunningRequest, Status
from horde_proxy.upstreams.horde.submit_queue import SubmitQueue, Ticket
from horde_proxy.upstreams.horde.throughput import UNMEASURED, Throughput
from horde_proxy.upstreams.horde.webhook import Mailbox, Webhook
from horde_proxy.upstreams.horde.workers import listed

PREFERENCE_PATIENCE = 5.0
"""How long the worker of the segment before is waited for (s); then any may take the next."""
BUSY_PAUSE = 5.0
_LEAST_AFTER_FAULT = 64
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submitted:
    """A request was accepted by the horde."""

    request_id: str


@dataclass
class AnswerCost:
    """What one answer took: request ids, workers, kudos, tokens generated, seconds.

    `guided`: requests for leaves.
    """

    request_ids: list[str] = field(default_factory=list)
    workers: dict[str, str] = field(default_factory=dict)
    kudos: float = 0.0
    tokens: int = 0
    price: float = 0.0
    retries: int = 0
    guided: int = 0
    queue_seconds: float = 0.0
    generation_seconds: float = 0.0

    def told(self, model: str) -> dict[str, Any]:
        """The `horde` object of an answer."""
        return {
            "request_ids": self.request_ids,
            "model": model,
            "workers": [{"id": each, "name": name} for each, name in self.workers.items()],
            "kudos": round(self.kudos, 2),
            "price": round(self.price, 2),
            "retries": self.retries,
            **({"guided_requests": self.guided} if self.guided else {}),
            "queue_seconds": round(self.queue_seconds, 3),
            "generation_seconds": round(self.generation_seconds, 3),
        }


@dataclass(frozen=True)
class SegmentSpec:
    """What a segment is for: n continuations of `so_far`. `worker`: who wrote that.

    `no_loops`: a text that loops is asked for again.
    """

    plan: Plan
    place: Ticket
    n: int
    so_far: str
    max_length: int
    worker: str | None = None
    no_loops: bool = True


@dataclass(frozen=True)
class Generation:
    """One generation, and the max_length that it was asked for with."""

    text: str
    max_length: int
    model: str
    worker: str
    is_censored: bool


Items = Generator[Waiting | Submitted, None, list[Generation]]


@dataclass(frozen=True)
class HordeContext:
    """One horde, and all that this proxy knows of it."""

    client: HordeClient
    catalog: Catalog
    accounts: Accounts
    gate: SubmitQueue
    speeds: Throughput
    failures: Failures
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    retries: int
    running: set[str] = field(default_factory=set)
    webhook: Webhook | None = None
    observer: Telemetry = NO_TELEMETRY


class Segment:
    """Makes one order; `bill` is added to."""

    def __init__(self, horde: HordeContext, order: SegmentSpec, bill: AnswerCost) -> None:
        self._horde, self._order, self._bill = horde, order, bill
        self._fitted = order.plan.fitted_to(order.so_far, order.max_length)

    def generate(self) -> Items:
        """Waitings and Submitteds; returns n generations.

        What fails is asked for again, away from the worker that failed. Raises UpstreamFailed when
        there is less than n after the last try, and whatever the horde refuses.
        """
        good: list[Generation] = []
        for tries_left in reversed(range(self._horde.retries + 1)):
            missing = self._order.n - len(good)
            try:
                status = yield from self._request(missing)
            except (Faulted, RequestLost) as exc:
                if not tries_left:
                    raise
                self._note_failure(exc)
                continue
            good += self._sorted(status, is_last=not tries_left)
            if len(good) >= self._order.n:
                return good[: self._order.n]
            self._bill.retries += 1
            if tries_left:
                self._horde.observer.retried("bad_text")
        raise UpstreamFailed("The horde's workers failed on some of the choices.")

    def _request(self, n: int) -> Generator[Waiting | Submitted, None, Status]:
        """One request to its end; first with the worker of before, for a while."""
        preferred = self._order.worker
        if preferred and self._is_worth_waiting_for(preferred):
            status = yield from self._run(n, preferred)
            if status is not None:
                return status
        status = yield from self._run(n, None)
        assert status is not None
        return status

    def _is_worth_waiting_for(self, worker_id: str) -> bool:
        """Whether the worker with the warm cache is not much slower than others are."""
        speeds = self._horde.speeds
        others = [
            speeds.of(each.id).per_second or each.speed or UNMEASURED
            for each in self._order.plan.admitted
            if each.id != worker_id
        ]
        own = speeds.of(worker_id).per_second
        return bool(others) and (own is None or own >= max(others) / 2)

    def _run(
        self, n: int, preferred: str | None
    ) -> Generator[Waiting | Submitted, None, Status | None]:
        """The final status; None when the preferred worker did not take it soon."""
        mailbox = self._horde.webhook.mailbox() if self._horde.webhook else None
        try:
            request_id = yield from self._accepted(n, preferred, mailbox)
            run = self._begun(request_id, n, mailbox)
            try:
                yield Submitted(request_id)
                return (yield from self._follow(run, preferred))
            finally:
                self._ended(run, n)
        finally:
            if mailbox is not None:
                mailbox.close()

    def _accepted(
        self, n: int, preferred: str | None, mailbox: Mailbox | None
    ) -> Generator[Waiting, None, str]:
        """The id of the request, submitted when it is its turn, and smaller if need be."""
        horde, place, api_key = self._horde, self._order.place, self._order.plan.api_key
        while True:
            self._check_price(n)
            yield from horde.gate.wait_turn(place, api_key, n)
            try:
                self._order.plan.caller.submits.take()
                with horde.gate.sending(place):
                    payload = self._payload(n, preferred, mailbox)
                    return str(horde.client.submit(payload, api_key)["id"])
            except KeyError as exc:
                raise UpstreamFailed("The horde accepted the request without an id.") from exc
            except RateLimited as exc:
                horde.gate.hold_key(place, exc.retry_after or BUSY_PAUSE)
            except InsufficientKudos:
                if self._fitted.max_length <= kudos.LEAST_FREE:
                    raise
                horde.accounts.note_refusal(api_key)
                self._shorten(kudos.LEAST_FREE)

    def _check_price(self, n: int) -> None:
        """Raises InsufficientKudos when one more request may exceed what the client allows."""
        plan, fitted = self._order.plan, self._fitted
        price = kudos.price(fitted.max_length, fitted.max_context_length, plan.size, n)
        if plan.max_kudos is not None and self._bill.kudos + price > plan.max_kudos:
            raise InsufficientKudos(
                "Even a short answer would cost more kudos than max_kudos allows.",
                param="horde.max_kudos",
            )

    def _begun(self, request_id: str, n: int, mailbox: Mailbox | None) -> RunningRequest:
        horde, plan = self._horde, self._order.plan
        expected = horde.speeds.expected(plan.entry, self._fitted.max_length)
        if mailbox is not None:
            mailbox.expect(request_id)
        horde.running.add(request_id)
        horde.speeds.began(plan.models[0])
        horde.gate.count_waiting(self._order.place, n)
        horde.accounts.hold(plan.api_key, self._held(n))
        self._bill.request_ids.append(request_id)
        self._bill.price += kudos.price(
            self._fitted.max_length, self._fitted.max_context_length, plan.size, n
        )
        return RunningRequest(
            horde.client,
            request_id,
            n,
            wanted=plan.wanted(self._fitted),
            clock=horde.clock,
            sleep=horde.sleep,
            load=lambda: len(horde.running),
            expected=expected,
            on_popped=lambda count: horde.gate.count_waiting(self._order.place, -count),
            delivery=mailbox,
        )

    def _follow(
        self, run: RunningRequest, preferred: str | None
    ) -> Generator[Waiting, None, Status | None]:
        until, waiting = self._horde.clock() + PREFERENCE_PATIENCE, run.wait()
        while True:
            try:
                item = next(waiting)
            except StopIteration as end:
                self._learn(end.value, run)
                return dict(end.value)
            yield item
            if preferred and not run.is_processing and self._horde.clock() > until:
                return None

    def _ended(self, run: RunningRequest, n: int) -> None:
        self._horde.accounts.hold(self._order.plan.api_key, -self._held(n))
        self._horde.running.discard(run.id)
        self._horde.speeds.began(self._order.plan.models[0], -1)
        if not run.is_final:
            self._horde.observer.cancelled()
            run.cancel()

    def _held(self, n: int) -> float:
        """The kudos that the horde holds while this request runs."""
        plan, length = self._order.plan, self._fitted.max_length
        is_free = length <= kudos.MOST_FREE and plan.filters.slow
        return 0.0 if is_free else kudos.upfront(length, plan.size, n)

    def _payload(self, n: int, preferred: str | None, mailbox: Mailbox | None) -> dict[str, Any]:
        plan = self._order.plan
        pushed = {} if mailbox is None else {"webhook": mailbox.url}
        options: Mapping[str, Any] = {
            **pushed,
            **plan.filters.options(),
            **listed(plan.entry.workers, plan.admitted, self._horde.failures.workers(), preferred),
        }
        return text.to_payload(plan.request, plan.models, plan.format, self._fitted, options, n)

    def _shorten(self, max_length: int) -> None:
        self._fitted = self._order.plan.fitted_to(self._order.so_far, max_length)

    def _note_failure(self, exc: UpstreamFailed) -> None:
        """Remember who may have failed; a job that was too long for its workers gets shorter."""
        log.info("a request failed and is sent again: %s", exc)
        self._bill.retries += 1
        is_lost = isinstance(exc, RequestLost)
        self._horde.observer.retried("lost" if is_lost else "faulted")
        if is_lost:
            return
        plan = self._order.plan
        self._horde.catalog.refresh(0)
        now = self._horde.catalog.models().get(plan.models[0])
        for worker_id in suspects(plan.entry.workers, now.workers if now else ()):
            self._horde.failures.add(worker_id)
        if self._order.plan.is_chained and self._fitted.max_length > _LEAST_AFTER_FAULT:
            self._shorten(max(self._fitted.max_length // 2, _LEAST_AFTER_FAULT))

    def _sorted(self, status: Status, *, is_last: bool) -> list[Generation]:
        """The generations that will do; at the last try all of them."""
        kept = []
        for each in status["generations"]:
            generated = self._generated(each)
            self._bill.workers.setdefault(generated.worker, str(each.get("worker_name") or ""))
            if is_last or not self._is_bad(generated):
                kept.append(generated)
            else:
                self._horde.failures.add(generated.worker)
        return kept

    def _is_bad(self, generated: Generation) -> bool:
        is_first = not self._order.so_far
        fault = fault_of(generated.text, self._order.plan.format, is_first=is_first)
        return (
            generated.is_censored
            or fault in ("empty", "tags")
            or (fault == "loop" and self._order.no_loops)
        )

    def _generated(self, each: Mapping[str, Any]) -> Generation:
        return Generation(
            str(each.get("text") or ""),
            self._fitted.max_length,
            str(each.get("model") or self._order.plan.models[0]),
            str(each.get("worker_id") or ""),
            text.is_censored(each),
        )

    def _learn(self, status: Status, run: RunningRequest) -> None:
        queued, generating = run.seconds()
        self._bill.queue_seconds += queued
        self._bill.generation_seconds += generating
        self._horde.observer.late(run.lateness())
        self._bill.kudos += float(status.get("kudos") or 0)
        for each in status["generations"]:
            model = str(each.get("model") or self._order.plan.models[0])
            tokens = min(estimate(str(each.get("text") or "")), self._fitted.max_length)
            self._bill.tokens += tokens
            for name in (model, str(each.get("worker_id") or "")):
                self._horde.speeds.learn(name, tokens, generating)
