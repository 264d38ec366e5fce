"""A chat, looked at before anything is submitted: who may answer, and how long a job may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from horde_proxy.aihorde import kudos, limits
from horde_proxy.aihorde.names import matches_glob
from horde_proxy.errors import ModelNotFound, Unavailable
from horde_proxy.prompts.fit import LEAST_LENGTH, Capacity, Fitted, common_length, fit
from horde_proxy.prompts.format_rules import choose_format
from horde_proxy.prompts.formats import RAW, Format
from horde_proxy.prompts.tool_calls.instructions import style_of
from horde_proxy.protocol.chat import GenerationRequest, Message
from horde_proxy.upstreams.base import Caller
from horde_proxy.upstreams.horde import text
from horde_proxy.upstreams.horde.catalog import CatalogWorker, ModelEntry
from horde_proxy.upstreams.horde.throughput import UNMEASURED
from horde_proxy.upstreams.horde.workers import Filters

JOB_SECONDS = 100.0
"""What a job may take: the horde takes it away after limits.JOB_SECONDS, 150."""
FIRST_SECONDS = 8.0
"""What a first segment may take whoever writes it: quicker workers go on after it."""
_SLOWEST_LENGTH = 128
_SHORTEST_FIRST = 48
_SLACK = 8
"""Tokens that the last segment is asked for in excess: the estimate may be a little high."""


@dataclass(frozen=True)
class HordeOptions:
    """How this proxy uses the horde; some of it may be overridden by a request.

    `first_segment` is in tokens, 0 for one as long as the others; `retries` count those of one
    segment; `max_kudos` is for a whole answer.
    """

    api_key: str = field(repr=False)
    default_max_tokens: int = 4096
    formats: Mapping[str, str] = field(default_factory=dict)
    placeholders: bool = True
    filters: Filters = field(default_factory=Filters)
    segments: bool = True
    first_segment: int = 128
    retries: int = 2
    max_kudos: float | None = None
    tool_styles: Mapping[str, str] = field(default_factory=dict)
    tool_retries: int = 1
    most_leaves: int = 12

    def format(self, model: str) -> Format:
        """The chat format that is used for a model."""
        return choose_format(model, self.formats, placeholders=self.placeholders)

    def tool_style(self, model: str) -> str:
        """How tool calls are written for a model: hermes, llama3, mistral or none."""
        for glob, style in self.tool_styles.items():
            if matches_glob(model, glob):
                return style
        return style_of(self.format(model).name, model)


@dataclass(frozen=True)
class Plan:
    """What is known before the first submit. `entry` stands for all of the models together.

    `asked`: tokens of the whole answer. `longest`: tokens of one job.
    """

    request: GenerationRequest
    caller: Caller
    models: tuple[str, ...]
    entry: ModelEntry
    admitted: tuple[CatalogWorker, ...]
    format: Format
    filters: Filters
    api_key: str = field(repr=False)
    asked: int
    longest: int
    first: int
    is_chained: bool
    max_kudos: float | None
    fitted: Fitted
    warnings: tuple[str, ...]
    style: str = "hermes"

    @property
    def size(self) -> float:
        """Billions of parameters of the largest model."""
        return max(map(kudos.assumed_size, self.models))

    def next_length(self, left: int, segments: int) -> int:
        """The tokens to ask for next, when so many are left of the answer."""
        if not segments:
            return _first_length(left, self.longest, self.first)
        return max(min(left + _SLACK, self.longest), LEAST_LENGTH)

    def fitted_to(self, so_far: str, max_length: int) -> Fitted:
        """The prompt that makes a model go on after `so_far`. Raises ContextLengthExceeded."""
        if not so_far and max_length == self.fitted.max_length:
            return self.fitted
        messages = _continued(self.request.messages, so_far)
        return fit(messages, self.format, max_length, capacities(self.admitted), self.style)

    def asking(self, messages: Sequence[Message], n: int) -> Plan:
        """The same plan for n answers to other messages. Raises ContextLengthExceeded."""
        first = _first_length(self.asked, self.longest, self.first)
        fitted = fit(messages, self.format, first, capacities(self.admitted), self.style)
        request = replace(self.request, messages=tuple(messages), n=n)
        return replace(self, request=request, fitted=fitted)

    def headers(self, request_id: str | None) -> dict[str, str]:
        """What the client's response says of it."""
        headers = {
            "X-Horde-Request-Id": request_id or "",
            "X-Horde-Model": ", ".join(self.models),
            "X-Horde-Format": self.format.name,
            "X-Horde-Warnings": "; ".join(self.warnings),
        }
        return {
            name: value.encode("ascii", "replace").decode()
            for name, value in headers.items()
            if value
        }

    def wanted(self, fitted: Fitted) -> str:
        """What is asked of workers, in words."""
        return (
            f"{', '.join(self.models)} with a context of {fitted.max_context_length} "
            f"and a length of {fitted.max_length} tokens"
        )


def capacities(workers: Sequence[CatalogWorker]) -> list[Capacity]:
    return [worker.capacity for worker in workers]


def same_format(models: Sequence[str], options: HordeOptions) -> tuple[str, ...]:
    """The first of the models, and those after it that read the same format."""
    first = options.format(models[0])
    return tuple(name for name in models if options.format(name) is first)


def together(models: Sequence[str], catalog: Mapping[str, ModelEntry]) -> ModelEntry:
    """One entry for several models: all of their workers. Raises ModelNotFound for none."""
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
    allowed: int,
    choosy: bool,
) -> Plan:
    """The plan for a chat.

    `allowed`: tokens of one job that the key's kudos permit; `choosy`: whether they suffice to ask
    for quick workers only. Raises ModelNotFound, Unavailable, ContextLengthExceeded.
    """
    served = tuple(name for name in same_format(models, options) if name in catalog)
    entry = together(served or models, catalog)
    filters, warnings = _filters(request, options, choosy)
    admitted = tuple(worker for worker in entry.workers if filters.admits(worker))
    if not admitted:
        raise Unavailable(f"No worker that the request allows serves {served[0]} now.")
    format = RAW if request.raw else options.format(served[0])
    style = options.tool_style(served[0])
    chained = bool(request.horde.get("segments", options.segments))
    longest = _longest(admitted, allowed, chained)
    asked = request.max_tokens or options.default_max_tokens
    if not chained:
        asked = min(asked, longest)
    first = _first_segment(request, options, admitted) if chained else 0
    begun = _first_length(asked, longest, first)
    fitted = fit(request.messages, format, begun, capacities(admitted), style)
    return Plan(
        request,
        caller,
        served,
        entry,
        admitted,
        format,
        filters,
        caller.api_key or options.api_key,
        asked,
        longest,
        first,
        chained,
        request.horde.get("max_kudos", options.max_kudos),
        fitted,
        (*_warnings(request, fitted, asked, style), *warnings),
        style,
    )


def _longest(admitted: Sequence[CatalogWorker], allowed: int, chained: bool) -> int:
    """Tokens of one job: what kudos, workers and their speed permit."""
    lengths = [worker.capacity.max_length for worker in admitted]
    if not chained:
        return max(LEAST_LENGTH, min(limits.MOST_TOKENS, allowed, max(lengths)))
    speeds = [worker.speed for worker in admitted if worker.speed]
    in_time = max(int(min(speeds) * JOB_SECONDS), _SLOWEST_LENGTH) if speeds else limits.MOST_TOKENS
    common = common_length(capacities(admitted))
    return max(LEAST_LENGTH, min(limits.MOST_TOKENS, allowed, common, in_time))


def _first_segment(
    request: GenerationRequest, options: HordeOptions, admitted: Sequence[CatalogWorker]
) -> int:
    """The tokens of a first segment, 0 for one as long as the others."""
    first: int = request.horde.get("first_segment", options.first_segment if request.stream else 0)
    return _soon(first, admitted)


def _soon(first: int, admitted: Sequence[CatalogWorker]) -> int:
    """The tokens of a first segment that even the slowest of several workers writes soon."""
    if len(admitted) < 2:
        return first
    slowest = min(worker.speed or UNMEASURED for worker in admitted)
    return min(first, max(int(slowest * FIRST_SECONDS), _SHORTEST_FIRST))


def _first_length(asked: int, longest: int, first: int) -> int:
    """A short first segment makes the first text come early, where there is enough to follow."""
    if asked <= longest and (not first or asked <= 2 * first):
        return max(asked, LEAST_LENGTH)
    return max(min(first or longest, longest), LEAST_LENGTH)


def _continued(messages: Sequence[Message], so_far: str) -> Sequence[Message]:
    if not so_far:
        return messages
    last = messages[-1]
    if last.role == "assistant":
        return [*messages[:-1], replace(last, text=last.text + so_far)]
    return [*messages, Message("assistant", so_far)]


def _filters(
    request: GenerationRequest, options: HordeOptions, choosy: bool
) -> tuple[Filters, list[str]]:
    filters = options.filters.overridden(request.horde)
    if filters.slow or choosy:
        return filters, []
    return replace(filters, slow=True), ["slow_workers: leaving them out needs more kudos"]


def _warnings(
    request: GenerationRequest, fitted: Fitted, asked: int, style: str
) -> tuple[str, ...]:
    found = [f"{name}: not supported" for name in request.ignored]
    found += [f"{name}: approximated" for name in text.to_sampling(request.sampling)[1]]
    if fitted.dropped:
        found.append(f"messages: the {fitted.dropped} oldest were left out to fit the context")
    if request.tools and style == "none":
        found.append("tools: not supported for this model")
    if fitted.emptied:
        found.append(f"messages: {fitted.emptied} old tool results were left out")
    if request.max_tokens and asked < request.max_tokens:
        found.append(f"max_tokens: lowered to {asked}")
    return tuple(found)
