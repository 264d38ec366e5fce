"""What is decided before the first submit: which workers may answer, and how long a job may be.

Pure: a plan is made from the request, the catalog and the options alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import NamedTuple

from horde_proxy.aihorde import kudos, limits
from horde_proxy.errors import ModelNotFound, NoEligibleWorker, Unavailable
from horde_proxy.prompts.constrained import instruction
from horde_proxy.prompts.diet import Diet, diet_warning
from horde_proxy.prompts.fit import LEAST_LENGTH, Fitted, common_length, fit, fit_chat, is_begun
from horde_proxy.prompts.formats import RAW, Format
from horde_proxy.prompts.turns import continued
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.protocol.leniency import warnings_header
from horde_proxy.protocol.openai_body import chat_fields_left_out, passed_on
from horde_proxy.upstreams.base import Caller
from horde_proxy.upstreams.horde import text
from horde_proxy.upstreams.horde.catalog import CHAT, CatalogWorker, ModelEntry
from horde_proxy.upstreams.horde.options import HordeOptions
from horde_proxy.upstreams.horde.throughput import UNMEASURED
from horde_proxy.upstreams.horde.workers import Filters, WorkerPool

_IN_TIME_SECONDS = 100.0
"""Seconds that a job may take: the horde takes it from its worker after limits.JOB_SECONDS."""
FIRST_SECONDS = 8.0
"""Seconds that a first segment may take on the slowest worker: quicker ones go on after it."""
_SLOWEST_LENGTH = 128
"""Tokens of a job, however slow its workers are: shorter jobs would be mostly queue."""
_SHORTEST_FIRST = 48
"""Tokens of a first segment, however slow its workers are."""
_SLACK = 8
"""Tokens that the last segment may have in excess: our estimate of a text may be too high."""


@dataclass(frozen=True)
class PromptWriter:
    """How messages become a prompt that some worker has room for.

    `format` is None for workers that take chats: they get the messages. `style` is that of tool
    calls, `diet` how prompts that are too long are shortened.
    """

    format: Format | None
    style: str
    diet: Diet

    def fitted(self, messages: Sequence[Message], max_length: int, pool: WorkerPool) -> Fitted:
        """The prompt for a job of so many tokens. Raises ContextLengthExceeded."""
        if self.format is None:
            return fit_chat(messages, max_length, pool.capacities, self.diet)
        return fit(messages, self.format, max_length, pool.capacities, self.style, self.diet)


@dataclass(frozen=True)
class Plan:
    """What is known before the first submit.

    `entry` is one catalog entry for all of the models. `max_tokens` are those of the whole answer,
    `longest_job` and `first_length` those of one job and of the first segment (0: no shorter).
    """

    request: GenerationRequest
    caller: Caller
    models: tuple[str, ...]
    entry: ModelEntry
    pool: WorkerPool
    format: Format
    api_key: str = field(repr=False)
    max_tokens: int
    longest_job: int
    first_length: int
    is_chained: bool
    max_kudos: float | None
    fitted: Fitted
    warnings: tuple[str, ...]
    writer: PromptWriter

    @property
    def style(self) -> str:
        """The style of tool calls."""
        return self.writer.style

    @property
    def is_chat(self) -> bool:
        """Whether workers get the messages, because their servers know the model's template."""
        return self.writer.format is None

    @property
    def size(self) -> float:
        """Billions of parameters of the largest model."""
        return max(map(kudos.assumed_size, self.models))

    def next_length(self, left: int, segments: int) -> int:
        """The max_length of the next segment, when so many tokens are left of the answer."""
        if not segments:
            return _first_length(left, self.longest_job, self.first_length)
        return max(min(left + _SLACK, self.longest_job), LEAST_LENGTH)

    def fitted_to(self, so_far: str, max_length: int) -> Fitted:
        """The prompt that makes a model go on after `so_far`. Raises ContextLengthExceeded."""
        is_fitted = not so_far and max_length == self.fitted.max_length
        if is_fitted and self.pool.able(self.fitted):
            return self.fitted
        return self._fit(continued(self.request.messages, so_far), max_length)

    def chat_fitted_to(self, content: str, reasoning: str, max_length: int) -> Fitted:
        """The messages that make a model go on with an answer. Raises ContextLengthExceeded."""
        return self._fit(begun_messages(self.request.messages, content, reasoning), max_length)

    def with_messages(self, messages: Sequence[Message], n: int) -> Plan:
        """The same plan for n answers to other messages. Raises ContextLengthExceeded."""
        first = _first_length(self.max_tokens, self.longest_job, self.first_length)
        fitted = self._fit(messages, first)
        request = replace(self.request, messages=tuple(messages), n=n)
        return replace(self, request=request, fitted=fitted)

    def _fit(self, messages: Sequence[Message], max_length: int) -> Fitted:
        return self.writer.fitted(messages, max_length, self.pool)

    def updated(self, catalog: Mapping[str, ModelEntry]) -> Plan:
        """The same plan with the workers that are online now, as long as one of them is eligible.

        A chain takes minutes, in which workers come and go.
        """
        if not any(name in catalog for name in self.models):
            return self
        entry = merged_entry(self.models, catalog)
        pool = replace(self.pool, serving=entry.workers)
        return replace(self, entry=entry, pool=pool) if pool.eligible else self

    def headers(self, request_id: str | None) -> dict[str, str]:
        """The headers of the client's response, as text: see upstreams.proxying.header_text."""
        headers = {
            "X-Horde-Request-Id": request_id or "",
            "X-Horde-Model": ", ".join(self.models),
            "X-Horde-Format": CHAT if self.is_chat else self.format.name,
            "X-Horde-Warnings": warnings_header(self.warnings),
        }
        return {name: value for name, value in headers.items() if value}

    def description(self, fitted: Fitted) -> str:
        """What a worker must offer, in words."""
        filters = self.pool.filters.description()
        return (
            f"{', '.join(self.models)} with a context of {fitted.max_context_length} "
            f"and a length of {fitted.max_length} tokens{f' ({filters})' if filters else ''}"
        )


def begun_messages(
    messages: Sequence[Message], content: str, reasoning: str = ""
) -> tuple[Message, ...]:
    """The messages with the beginning of an answer, if there is one."""
    if not (content or reasoning):
        return tuple(messages)
    last = messages[-1]
    # What the client began itself goes on.
    if is_begun(last):
        reasoning = last.reasoning + reasoning
        return (*messages[:-1], replace(last, text=last.text + content, reasoning=reasoning))
    return (*messages, Message("assistant", content, reasoning=reasoning))


def same_format(models: Sequence[str], options: HordeOptions) -> tuple[str, ...]:
    """The first of the models, and those of the others whose chat format is the same."""
    first = options.format(models[0])
    return tuple(name for name in models if options.format(name) is first)


def merged_entry(models: Sequence[str], catalog: Mapping[str, ModelEntry]) -> ModelEntry:
    """One entry for several models, with all of their workers. Raises ModelNotFound."""
    entries = [catalog[name] for name in models if name in catalog]
    if not entries:
        raise ModelNotFound(models[0])
    workers = {worker.id: worker for entry in entries for worker in entry.workers}
    return replace(
        entries[0],
        workers=tuple(workers.values()),
        queued=sum(entry.queued for entry in entries),
        jobs=sum(entry.jobs for entry in entries),
    )


def make_plan(
    request: GenerationRequest,
    caller: Caller,
    models: Sequence[str],
    catalog: Mapping[str, ModelEntry],
    options: HordeOptions,
    affordable_length: int,
    fast_only_affordable: bool,
    *,
    is_chat: bool = False,
) -> Plan:
    """The plan for an answer; with `is_chat`, by workers that take chats.

    `affordable_length`: tokens of one job that the key's kudos permit. `fast_only_affordable`:
    whether they suffice to leave slow workers out. Raises ModelNotFound, Unavailable or
    ContextLengthExceeded.
    """
    # The prompt has one format: only models that read it may share the request.
    served = tuple(name for name in same_format(models, options) if name in catalog)
    entry = merged_entry(served or models, catalog)
    filters, warnings = _filters(request, options, fast_only_affordable, is_chat)
    pool = _pool(served[0], entry, filters)
    format = RAW if request.raw else options.format(served[0])
    # A server with the model's own template knows how the model writes calls.
    style = "hermes" if is_chat else options.tool_style(served[0])
    lengths = _lengths(request, options, pool.eligible, affordable_length, is_chat)
    diet = _diet(request, options, served[0], style, lengths.max_tokens)
    writer = PromptWriter(None if is_chat else format, style, diet)
    fitted = writer.fitted(request.messages, lengths.first_job, pool)
    return Plan(
        request=request,
        caller=caller,
        models=served,
        entry=entry,
        pool=pool,
        format=format,
        api_key=options.key_for(caller.api_key),
        max_tokens=lengths.max_tokens,
        longest_job=lengths.longest_job,
        first_length=lengths.first,
        is_chained=lengths.is_chained,
        max_kudos=caller.kudos_left(request.horde.get("max_kudos", options.max_kudos)),
        fitted=fitted,
        warnings=(*_warnings(request, fitted, lengths.max_tokens, writer), *warnings),
        writer=writer,
    )


def _pool(model: str, entry: ModelEntry, filters: Filters) -> WorkerPool:
    """The workers that may answer. Raises Unavailable if there are none."""
    pool = WorkerPool(entry.workers, filters)
    if not pool.eligible:
        # Maintenance may end soon; what a filter excludes stays excluded.
        kind = NoEligibleWorker if pool.active else Unavailable
        raise kind(f"`{model}` cannot be used now: {pool.exclusion()}.")
    return pool


def _diet(
    request: GenerationRequest, options: HordeOptions, model: str, style: str, answer: int
) -> Diet:
    """The diet of a model's prompts, with room for an answer of so many tokens."""
    text = cache(partial(instruction, request, style))
    return Diet(
        answer,
        instruction=text,
        is_on=request.horde.get("context_diet", options.diets(model)),
        drops_messages=request.drops_messages,
    )


class _Lengths(NamedTuple):
    """Tokens of the answer, of one job, and of a shorter first one (0: none)."""

    max_tokens: int
    longest_job: int
    first: int
    is_chained: bool

    @property
    def first_job(self) -> int:
        """The max_length of the first segment."""
        return _first_length(self.max_tokens, self.longest_job, self.first)


def _lengths(
    request: GenerationRequest,
    options: HordeOptions,
    workers: Sequence[CatalogWorker],
    affordable_length: int,
    is_chat: bool,
) -> _Lengths:
    max_tokens = request.max_tokens or options.default_max_tokens
    # Without a chain, what one job may not write is not written at all.
    if not request.horde.get("segments", options.segments):
        longest = _longest_single(workers, affordable_length)
        return _Lengths(min(max_tokens, longest), longest, 0, is_chained=False)
    grows = is_chat and request.stream and request.n == 1
    longest = _longest_segment(workers, affordable_length, grows=grows)
    # A chat is read as it grows, however long its job is, and a tool call cannot be continued.
    if is_chat:
        return _Lengths(max_tokens, longest, 0, is_chained=True)
    # Only a stream gains from a first text that comes early.
    first = request.horde.get("first_segment", options.first_segment if request.stream else 0)
    return _Lengths(max_tokens, longest, _quick_first_length(first, workers), is_chained=True)


def _longest_single(workers: Sequence[CatalogWorker], affordable_length: int) -> int:
    """Tokens of an answer that is one job: the worker that takes most may do it."""
    longest = max(worker.capacity.max_length for worker in workers)
    return max(LEAST_LENGTH, min(limits.MOST_TOKENS, affordable_length, longest))


def _longest_segment(
    workers: Sequence[CatalogWorker], affordable_length: int, *, grows: bool
) -> int:
    """Tokens of one job of a chain: any of the workers may do it, and in time.

    `grows`: it is read as it grows, and so has all the time that it needs. Nobody sees whether the
    worker of another one hangs.
    """
    speeds = [] if grows else [worker.speed for worker in workers if worker.speed]
    in_time = limits.MOST_TOKENS
    if speeds:
        in_time = max(int(min(speeds) * _IN_TIME_SECONDS), _SLOWEST_LENGTH)
    common = common_length([worker.capacity for worker in workers])
    return max(LEAST_LENGTH, min(limits.MOST_TOKENS, affordable_length, common, in_time))


def _quick_first_length(first: int, workers: Sequence[CatalogWorker]) -> int:
    """The tokens of a first segment that even the slowest of several workers writes soon."""
    # With one worker the next segment is no faster, and the short one only costs a queue more.
    if len(workers) < 2:
        return first
    slowest = min(worker.speed or UNMEASURED for worker in workers)
    return min(first, max(int(slowest * FIRST_SECONDS), _SHORTEST_FIRST))


def _first_length(max_tokens: int, longest: int, first: int) -> int:
    """The max_length of the first segment.

    A short one makes the first text come early, which is worth it where enough is to follow.
    """
    if max_tokens <= longest and (not first or max_tokens <= 2 * first):
        return max(max_tokens, LEAST_LENGTH)
    return max(min(first or longest, longest), LEAST_LENGTH)


def _filters(
    request: GenerationRequest, options: HordeOptions, fast_only_affordable: bool, is_chat: bool
) -> tuple[Filters, list[str]]:
    """The filters of settings and request, and warnings of what of them could not be kept."""
    filters = replace(options.filters.overridden(request.horde), chats=is_chat)
    # To leave slow workers out always needs kudos upfront; a refusal would be worse than they are.
    if filters.slow or fast_only_affordable:
        return filters, []
    return replace(filters, slow=True), ["slow_workers: leaving them out needs more kudos"]


def _text_warnings(request: GenerationRequest) -> list[str]:
    """What of a request could not be read, and which parameters a horde has no word for."""
    approximated = text.to_sampling(request.sampling)[1]
    return [*request.warnings, *(f"{name}: approximated" for name in approximated)]


def _chat_warnings(request: GenerationRequest) -> list[str]:
    """What of a request a server with the model's own template cannot do."""
    supported = {f"{name}: not supported" for name in passed_on(request)}
    warnings = [warning for warning in request.warnings if warning not in supported]
    return [*warnings, *(f"{name}: not sent" for name in chat_fields_left_out(request))]


def _warnings(
    request: GenerationRequest, fitted: Fitted, max_tokens: int, writer: PromptWriter
) -> tuple[str, ...]:
    is_chat = writer.format is None
    warnings = _chat_warnings(request) if is_chat else _text_warnings(request)
    if fitted.steps:
        warnings.append(diet_warning(fitted.steps, fitted.saved))
    if fitted.dropped:
        warnings.append(f"messages: the {fitted.dropped} oldest were left out to fit the context")
    if request.tools and writer.style == "none":
        warnings.append("tools: not supported for this model")
    if fitted.blanked:
        warnings.append(f"messages: {fitted.blanked} old tool results were left out")
    if request.max_tokens and max_tokens < request.max_tokens:
        warnings.append(f"max_tokens: lowered to {max_tokens}")
    return tuple(warnings)
