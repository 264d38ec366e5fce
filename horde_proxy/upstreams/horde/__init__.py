"""The horde as an upstream: a chat becomes a request, its generations become chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from horde_proxy.errors import (
    InsufficientKudos,
    ModelNotFound,
    RateLimited,
    Unavailable,
    UpstreamFailed,
)
from horde_proxy.prompts.answer import Answer, read_answer
from horde_proxy.prompts.fit import Fitted, fit
from horde_proxy.prompts.formats import Format
from horde_proxy.prompts.names import choose_format
from horde_proxy.protocol import completion
from horde_proxy.protocol.chat import ChatRequest
from horde_proxy.protocol.completion import Chunk, FinishReason, Head
from horde_proxy.upstreams import Accepted, Route, StreamItem
from horde_proxy.upstreams.horde import text
from horde_proxy.upstreams.horde.catalog import Catalog, ModelEntry
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.run import Run, Status

SUBMIT_PATIENCE = 20.0
"""How long a submit that the horde's rate limit holds back is tried again (s)."""

__all__ = ["HordeOptions", "HordeUpstream"]


@dataclass(frozen=True)
class HordeOptions:
    """How this proxy uses the horde; the worker filters may be overridden by a request."""

    api_key: str = field(repr=False)
    default_max_tokens: int = 512
    formats: Mapping[str, str] = field(default_factory=dict)
    placeholders: bool = True
    worker_filters: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class _Plan:
    """A chat, ready to be submitted."""

    request: ChatRequest
    model: str
    format: Format
    fitted: Fitted
    filters: Mapping[str, Any]
    warnings: tuple[str, ...]

    def payload(self) -> dict[str, Any]:
        return text.to_payload(self.request, self.model, self.format, self.fitted, self.filters)

    def shortened(self, max_length: int) -> _Plan:
        return replace(
            self,
            fitted=replace(self.fitted, max_length=max_length),
            warnings=(*self.warnings, f"max_tokens: lowered to {max_length} for lack of kudos"),
        )

    def headers(self, request_id: str) -> dict[str, str]:
        headers = {
            "X-Horde-Request-Id": request_id,
            "X-Horde-Model": self.model,
            "X-Horde-Format": self.format.name,
            "X-Horde-Warnings": "; ".join(self.warnings),
        }
        return {name: value.encode("ascii", "replace").decode()
                for name, value in headers.items() if value}


class HordeUpstream:
    """One horde. Clocks and ids come in, so that tests need neither to wait nor to guess."""

    name = "horde"

    def __init__(
        self,
        client: HordeClient,
        catalog: Catalog,
        options: HordeOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: f"chatcmpl-{uuid.uuid4().hex}",
    ) -> None:
        self._client, self._catalog, self._options = client, catalog, options
        self._clock, self._sleep, self._now, self._new_id = clock, sleep, now, new_id
        self._running: set[str] = set()

    def models(self) -> Sequence[dict[str, Any]]:
        """OpenAI's model objects for the models with online workers, by name."""
        return [self._model(entry) for entry in self._catalog.models().values()]

    def stream(self, request: ChatRequest, route: Route) -> Iterator[StreamItem]:
        """See horde_proxy.upstreams. The request is cancelled unless it reached its end."""
        plan = self._plan(request, route.model)
        plan, request_id = self._submit(plan, request.api_key or self._options.api_key)
        run = Run(
            self._client, request_id, request.n, wanted=_wanted(plan),
            clock=self._clock, sleep=self._sleep, load=lambda: len(self._running),
        )
        final = False
        self._running.add(request_id)
        try:
            yield Accepted(plan.headers(request_id))
            head = Head(self._new_id(), int(self._now()), plan.model)
            yield from (completion.role_chunk(head, index) for index in range(request.n))
            status = yield from run.wait()
            final = True
        finally:
            self._running.discard(request_id)
            if not final:
                run.cancel()
        yield from _chunks(plan, head, status, run)

    def _plan(self, request: ChatRequest, model: str) -> _Plan:
        entry = self._catalog.models().get(model)
        if entry is None:
            raise ModelNotFound(model)
        filters = {**self._options.worker_filters, **request.horde}
        capacities = entry.capacities(filters)
        if not capacities:
            raise Unavailable(f"No worker that the request allows serves {model} now.")
        format = self._format(model)
        asked = min(request.max_tokens or self._options.default_max_tokens, text.MOST_TOKENS)
        fitted = fit(request.messages, format, asked, capacities)
        return _Plan(request, model, format, fitted, filters, _warnings(request, fitted))

    def _submit(self, plan: _Plan, api_key: str) -> tuple[_Plan, str]:
        """The plan as the horde took it, and the request's id."""
        until = self._clock() + SUBMIT_PATIENCE
        while True:
            try:
                return plan, str(self._client.submit(plan.payload(), api_key)["id"])
            except KeyError as exc:
                raise UpstreamFailed("The horde accepted the request without an id.") from exc
            except RateLimited as exc:
                if self._clock() + (exc.retry_after or 1) > until:
                    raise
                self._sleep(exc.retry_after or 1)
            except InsufficientKudos:
                if plan.fitted.max_length <= text.FREE_MAX_LENGTH:
                    raise
                plan = plan.shortened(text.FREE_MAX_LENGTH)

    def _format(self, model: str) -> Format:
        return choose_format(
            model, self._options.formats, placeholders=self._options.placeholders
        )

    def _model(self, entry: ModelEntry) -> dict[str, Any]:
        widest = entry.widest()
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
                "format": self._format(entry.name).name,
            },
        }


def _wanted(plan: _Plan) -> str:
    return (
        f"{plan.model} with a context of {plan.fitted.max_context_length} "
        f"and a length of {plan.fitted.max_length} tokens"
    )


def _warnings(request: ChatRequest, fitted: Fitted) -> tuple[str, ...]:
    found = [f"{name}: not supported" for name in request.ignored]
    found += [f"{name}: approximated" for name in text.to_sampling(request.sampling)[1]]
    if fitted.dropped:
        found.append(f"messages: the {fitted.dropped} oldest were left out to fit the context")
    if request.max_tokens and fitted.max_length < request.max_tokens:
        found.append(f"max_tokens: lowered to {fitted.max_length}")
    return tuple(found)


def _chunks(plan: _Plan, head: Head, status: Status, run: Run) -> Iterator[Chunk]:
    """The chunks of all generations, then the usage. Raises when some never came."""
    request, generations = plan.request, status["generations"][: plan.request.n]
    tokens = reasoning = 0
    for index, generation in enumerate(generations):
        answer, reason = _read(plan, generation)
        tokens, reasoning = tokens + answer.tokens, reasoning + answer.reasoning_tokens
        for key, part in (("reasoning_content", answer.reasoning), ("content", answer.content)):
            for piece in completion.words(part) if request.stream else [part] if part else []:
                yield completion.chunk(head, {key: piece}, index=index)
        yield completion.chunk(head, {}, index=index, finish_reason=reason)
    if len(generations) < request.n:
        raise UpstreamFailed("The horde's workers failed on some of the choices.")
    usage = completion.usage(plan.fitted.prompt_tokens, tokens, reasoning)
    yield completion.usage_chunk(head, usage, _horde_object(plan, status, run))


def _read(plan: _Plan, generation: Mapping[str, Any]) -> tuple[Answer, FinishReason]:
    if text.is_censored(generation):
        return Answer("", "", "stop", 0, 0), "content_filter"
    request = plan.request
    answer = read_answer(
        str(generation.get("text") or ""), plan.format,
        stops=request.stop, max_length=plan.fitted.max_length, max_tokens=request.max_tokens,
        prefilled=request.messages[-1].role == "assistant",
    )
    return answer, answer.finish_reason


def _horde_object(plan: _Plan, status: Status, run: Run) -> dict[str, Any]:
    queue_seconds, generation_seconds = run.seconds()
    return {
        "request_ids": [run.id],
        "model": plan.model,
        "workers": [
            {"id": each.get("worker_id"), "name": each.get("worker_name")}
            for each in status["generations"]
        ],
        "kudos": status.get("kudos"),
        "queue_seconds": queue_seconds,
        "generation_seconds": generation_seconds,
    }
