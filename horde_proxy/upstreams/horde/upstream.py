"""The horde as an upstream: a chat becomes a chain of requests, its generations become chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from horde_proxy.aihorde import kudos
from horde_proxy.caching.derived import Derived
from horde_proxy.errors import InMaintenance, ProxyError, Unreachable
from horde_proxy.prompts.constrained import ConstrainedRequest, constrained_request, with_prefill
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chat import GenerationRequest
from horde_proxy.protocol.chunks import Head
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import Accepted, Caller, Route, Spent, StreamItem, Waiting
from horde_proxy.upstreams.horde.accounts import Account, Accounts
from horde_proxy.upstreams.horde.catalog import Catalog, ModelEntry
from horde_proxy.upstreams.horde.chained_answer import ChainedAnswer
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.failures import Failures
from horde_proxy.upstreams.horde.lifecycle import Submitted
from horde_proxy.upstreams.horde.plan import HordeOptions, Plan, make_plan, same_format
from horde_proxy.upstreams.horde.structured_answer import StructuredAnswer
from horde_proxy.upstreams.horde.submit_queue import SubmitQueue, Ticket
from horde_proxy.upstreams.horde.throughput import Throughput
from horde_proxy.upstreams.horde.webhook import Webhook
from horde_proxy.upstreams.horde.workers import Filters

QUIET_SECONDS = 2.0
"""How long the client hears nothing of a submit that is held back; then its answer begins."""

LOOK_AFTER = 200
MODELS_SECONDS = 1.0
"""How long the same model objects are given again: making them costs more than a chat."""
__all__ = ["Filters", "HordeOptions", "HordeUpstream"]


def _first(structure: ConstrainedRequest) -> int:
    """Tokens after which one looks whether a text that must have a certain form goes astray."""
    is_free = structure.request.tools and structure.request.tool_choice == "auto"
    return 0 if is_free else LOOK_AFTER


def _spent(plan: Plan, cost: AnswerCost) -> Spent:
    prompt_tokens = plan.fitted.prompt_tokens if cost.tokens else 0
    return Spent(prompt_tokens, cost.tokens, cost.kudos)


class HordeUpstream:
    """One horde. Clocks and ids come in, so that tests need neither to wait nor to guess."""

    kind = "horde"
    offers_any = False
    proxy = None
    cooldown_errors: tuple[type[ProxyError], ...] = (Unreachable, InMaintenance)

    def __init__(
        self,
        client: HordeClient,
        catalog: Catalog,
        options: HordeOptions,
        accounts: Accounts,
        gate: SubmitQueue,
        *,
        name: str = "horde",
        webhook: Webhook | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: f"chatcmpl-{uuid.uuid4().hex}",
        observer: Telemetry = NO_TELEMETRY,
    ) -> None:
        self.name, self.url = name, client.base
        self._options, self._now, self._new_id = options, now, new_id
        self.webhook, self.documents = webhook, catalog.documents
        self._models: Derived[tuple[Mapping[str, ModelEntry]], list[dict[str, Any]]]
        self._models = Derived(
            lambda: (catalog.models(),),
            lambda source: [self._model(entry) for entry in source[0].values()],
            max_age=MODELS_SECONDS,
            clock=clock,
        )
        self._horde = HordeContext(
            client,
            catalog,
            accounts,
            gate,
            Throughput(),
            Failures(clock),
            clock,
            sleep,
            options.retries,
            webhook=webhook,
            observer=observer,
        )

    def models(self) -> Sequence[dict[str, Any]]:
        """OpenAI's model objects for the models with online workers, by name."""
        return self._models.get()

    def refresh(self) -> None:
        """Have the models loaded anew, for whoever asks next."""
        self._horde.catalog.refresh()

    def account(self, api_key: str | None) -> Account:
        """The account that pays for a client's chats."""
        return self._horde.accounts.of(api_key or self._options.api_key)

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        """Those of the models that may share one request with the first: of the same format."""
        return same_format(models, self._options)

    def stream(
        self, request: GenerationRequest, route: Route, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        """See horde_proxy.upstreams. What is submitted is cancelled unless it reached its end."""
        horde, began = self._horde, self._horde.clock()
        plan, answer = self._answer(request, route.models, caller)
        head, is_accepted = answer.head, False
        with closing(answer.items()) as items:
            for item in items:
                is_early = isinstance(item, Waiting) and horde.clock() - began < QUIET_SECONDS
                if not is_accepted and not is_early:
                    is_accepted = True
                    known = item.request_id if isinstance(item, Submitted) else None
                    headers = {**plan.headers(known), "X-Endpoint": self.name}
                    yield Accepted(headers, self.name, lambda: _spent(plan, answer.cost))
                    yield from (chunks.role_chunk(head, index) for index in range(request.n))
                if is_accepted and not isinstance(item, Submitted):
                    yield item

    def _answer(
        self, request: GenerationRequest, models: Sequence[str], caller: Caller
    ) -> tuple[Plan, ChainedAnswer | StructuredAnswer]:
        style = self._options.tool_style(models[0])
        structure = constrained_request(request, style)
        if structure is None:
            plan = self._plan(request, models, caller)
            return plan, ChainedAnswer(self._horde, plan, *self._frame(plan))
        begun = with_prefill(structure.request.messages, structure.prefill)
        plan = self._plan(replace(structure.request, messages=tuple(begun)), models, caller)
        return plan, StructuredAnswer(
            self._horde,
            replace(plan, request=structure.request, first_length=_first(structure)),
            structure,
            *self._frame(plan),
            self._options.tool_retries,
            self._options.most_leaves,
        )

    def _frame(self, plan: Plan) -> tuple[Ticket, Head, float | None]:
        """The answer's place at the gate, the head of its chunks, and when its time is over."""
        return (
            self._horde.submit_queue.new_ticket(plan.api_key, plan.caller.client),
            Head(self._new_id(), int(self._now()), plan.models[0]),
            plan.caller.deadline,
        )

    def _plan(self, request: GenerationRequest, models: Sequence[str], caller: Caller) -> Plan:
        api_key = caller.api_key or self._options.api_key
        size = max(map(kudos.assumed_size, models))
        longest = self._horde.accounts.max_length(api_key, size, request.n)
        fast_only_affordable = self._horde.accounts.fast_only_affordable(
            api_key, longest, size, request.n
        )
        return make_plan(
            request,
            caller,
            models,
            self._horde.catalog.models(),
            self._options,
            longest,
            fast_only_affordable,
        )

    def _model(self, entry: ModelEntry) -> dict[str, Any]:
        widest, throughput = entry.largest_context_worker().capacity, self._horde.throughput
        expected = throughput.expected(entry, widest.max_length)
        return {
            "id": entry.name,
            "object": "model",
            "created": entry.first_seen,
            "owned_by": "ai-horde",
            "context_length": widest.max_context_length,
            "horde": {
                "workers": len(entry.workers),
                "threads": sum(worker.threads for worker in entry.workers),
                "max_length": widest.max_length,
                "queued_tokens": entry.queued,
                "eta": entry.eta,
                "tokens_per_second": entry.performance,
                "expected_seconds": round(expected.queue + expected.generation, 1),
                "format": self._options.format(entry.name).name,
                "tools": self._options.tool_style(entry.name),
            },
        }
