"""An answer as a chain of requests: each goes on with the text so far, and is given out at once.

The chain ends with a stop, at the asked length, or when the model has nothing more to say.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, TypeVar

from horde_proxy.aihorde import kudos
from horde_proxy.errors import (
    ClientGone,
    ContextLengthExceeded,
    InsufficientKudos,
    ProxyError,
    ShuttingDown,
    TimedOut,
)
from horde_proxy.prompts.answer import Answer
from horde_proxy.prompts.partial_answer import PROBE_LENGTH, End, PartialAnswer
from horde_proxy.prompts.tokens import estimate
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Chunk, FinishReason, Head
from horde_proxy.upstreams.base import DeadlinePassed, Waiting
from horde_proxy.upstreams.horde.plan import Plan
from horde_proxy.upstreams.horde.segment import (
    AnswerCost,
    Generation,
    HordeContext,
    Items,
    Segment,
    SegmentSpec,
    Submitted,
)
from horde_proxy.upstreams.horde.submit_queue import Ticket

CutOff = Literal["time", "context", "kudos", "failure"]
_CUT_OFFS: dict[type[ProxyError], CutOff] = {
    TimedOut: "time",
    ContextLengthExceeded: "context",
    InsufficientKudos: "kudos",
}
_LEAST_BOUGHT = 16
Item = TypeVar("Item")
_PARTS = {"reasoning": "reasoning_content", "content": "content"}
_MARGIN = 2.0
"""How long before the client's time is over the chain gives what it has (s)."""


@dataclass
class _Choice:
    """One choice; `segment`, `end`, `worker` and `max_length` are of its last segment."""

    index: int
    draft: PartialAnswer
    segment: str = ""
    end: End = "full"
    worker: str | None = None
    max_length: int = 0
    reason: FinishReason | None = None
    answer: Answer | None = None


@dataclass
class ChainedAnswer:
    """The answer to one plan. Ids and times of its chunks are in `head`.

    `is_complete` tells of a text whether nothing should follow it; in such answers a loop is the
    model's own fault, and not asked for again.
    """

    horde: HordeContext
    plan: Plan
    place: Ticket
    head: Head
    deadline: float | None
    bill: AnswerCost = field(default_factory=AnswerCost)
    is_complete: Callable[[str], bool] | None = None
    cut_off: CutOff | None = None

    def __post_init__(self) -> None:
        request = self.plan.request
        self._choices = [
            _Choice(
                index,
                PartialAnswer(
                    self.plan.format,
                    stops=request.stop,
                    limit=self.plan.asked,
                    prefilled=request.messages[-1].role == "assistant",
                ),
            )
            for index in range(request.n)
        ]

    def items(self) -> Generator[Waiting | Submitted | Chunk, None, None]:
        """Waitings, Submitteds, and the chunks after the role's; the last one has the usage.

        Raises a ProxyError where there is nothing to give: what has been generated is not lost.
        """
        while open_choices := [choice for choice in self._choices if choice.reason is None]:
            rounds = _together([self._segment(group) for group in _groups(open_choices)])
            try:
                yield from in_time(rounds, self.horde.clock, self.deadline)
            except ProxyError as exc:
                self.cut_off = self._reason_to_end(exc)
                for choice in self._choices:
                    if choice.reason is None:
                        yield from self._finish(choice, is_full=True)
        yield self._usage()

    def _reason_to_end(self, exc: ProxyError) -> CutOff:
        """Why a chain ends with what it has. Raises the error when it has nothing."""
        found = [word for kind, word in _CUT_OFFS.items() if isinstance(exc, kind)]
        has_text = all(choice.draft.text or choice.reason for choice in self._choices)
        if not has_text or isinstance(exc, ShuttingDown | ClientGone):
            raise exc
        return found[0] if found else "failure"

    def _segment(
        self, choices: Sequence[_Choice]
    ) -> Generator[Waiting | Submitted | Chunk, None, None]:
        """The next segment of choices that have the same text so far."""
        first = choices[0]
        length = self.plan.next_length(first.draft.left(), first.draft.segments)
        if first.end == "doubtful":
            length = min(PROBE_LENGTH, length)
        order = SegmentSpec(
            self.plan,
            self.place,
            len(choices),
            first.draft.text,
            self._affordable(length, len(choices)),
            first.worker,
            self.is_complete is None,
        )
        generations = yield from self._generated(order)
        for choice, generated in zip(choices, generations, strict=True):
            yield from self._add(choice, generated)

    def _generated(self, order: SegmentSpec) -> Items:
        return (yield from Segment(self.horde, order, self.bill).generate())

    def _affordable(self, length: int, n: int) -> int:
        """The length, or less where the client would pay too much. Raises InsufficientKudos."""
        most = self.plan.max_kudos
        if most is None:
            return length
        context = self.plan.fitted.max_context_length
        while kudos.price(length, context, self.plan.size, n) > most - self.bill.kudos:
            if length <= _LEAST_BOUGHT:
                raise InsufficientKudos(
                    "Even a short answer would cost more kudos than max_kudos allows.",
                    param="horde.max_kudos",
                )
            length = max(length // 2, _LEAST_BOUGHT)
        return length

    def _add(self, choice: _Choice, generated: Generation) -> Iterator[Chunk]:
        """The chunks of what a generation made certain."""
        draft, plan = choice.draft, self.plan
        if generated.is_censored and not draft.segments:
            choice.reason = "content_filter"
            yield self._chunk(choice, {}, choice.reason)
            return
        self._name(generated)
        if draft.segments and self._adds_nothing(choice, generated):
            yield from self._finish(choice, is_full=False)
            return
        if draft.segments:
            share = estimate(choice.segment) / choice.max_length
            self.horde.speeds.learn_fill(plan.models[0], share)
        choice.worker, choice.max_length = generated.worker, generated.max_length
        choice.segment = generated.text
        fill = self.horde.speeds.of(plan.models[0]).fill
        choice.end = draft.add(generated.text, generated.max_length, fill)
        if self._has_all(choice):
            choice.end = "ended"
            yield from self._finish(choice, is_full=False)
        elif self._is_over(choice):
            yield from self._finish(choice, self._is_full(choice))
        elif plan.request.stream:
            yield from self._news(choice, draft.settled())

    def _is_over(self, choice: _Choice) -> bool:
        return (
            choice.end == "ended"
            or not self.plan.is_chained
            or choice.draft.left() <= 0
            or self._was_asked_whole(choice)
        )

    def _has_all(self, choice: _Choice) -> bool:
        return self.is_complete is not None and self.is_complete(choice.draft.text)

    def _was_asked_whole(self, choice: _Choice) -> bool:
        return choice.draft.segments == 1 and choice.max_length >= self.plan.asked

    def _is_full(self, choice: _Choice) -> bool | None:
        """Whether it was the limit that ended a choice; None: to be judged by the text."""
        if choice.draft.segments == 1:
            return None
        return choice.end != "ended"

    def _adds_nothing(self, choice: _Choice, generated: Generation) -> bool:
        if generated.is_censored or not generated.text.strip():
            return True
        return choice.end == "doubtful" and choice.draft.rambles(generated.text)

    def _finish(self, choice: _Choice, is_full: bool | None) -> Iterator[Chunk]:
        news, answer = choice.draft.finish(choice.max_length, is_full)
        choice.answer, choice.reason = answer, answer.finish_reason
        yield from self._news(choice, news)
        yield self._chunk(choice, {}, choice.reason)

    def _news(self, choice: _Choice, news: Sequence[tuple[str, str]]) -> Iterator[Chunk]:
        for part, text in news:
            for piece in chunks.words(text) if self.plan.request.stream else [text]:
                yield self._chunk(choice, {_PARTS[part]: piece})

    def _chunk(
        self, choice: _Choice, delta: dict[str, Any], reason: FinishReason | None = None
    ) -> Chunk:
        return chunks.chunk(self.head, delta, index=choice.index, finish_reason=reason)

    def _name(self, generated: Generation) -> None:
        """From now on chunks name the model that serves."""
        if self.head.model != generated.model and len(self.plan.models) > 1:
            self.head = Head(self.head.id, self.head.created, generated.model)

    def _usage(self) -> Chunk:
        answers = [choice.answer for choice in self._choices if choice.answer]
        usage = chunks.usage(
            self.plan.fitted.prompt_tokens,
            sum(answer.tokens for answer in answers),
            sum(answer.reasoning_tokens for answer in answers),
        )
        found = self.bill.told(self.head.model)
        found["segments"] = max(choice.draft.segments for choice in self._choices)
        if self.cut_off:
            found["cut_off_by"] = self.cut_off
        return chunks.usage_chunk(self.head, usage, found)

    def answers(self) -> list[Answer | None]:
        """The whole answers, once all items are out; None for a choice that was censored."""
        return [choice.answer for choice in self._choices]


def in_time(
    items: Generator[Item, None, None], clock: Callable[[], float], deadline: float | None
) -> Generator[Item, None, None]:
    """The items until the client's time is over. Raises TimedOut."""
    try:
        for item in items:
            yield item
            is_late = deadline is not None and clock() > deadline - _MARGIN
            if is_late and isinstance(item, Waiting):
                raise DeadlinePassed()
    finally:
        items.close()


def _groups(choices: Sequence[_Choice]) -> list[list[_Choice]]:
    """Choices with the same text so far, which one request can go on with."""
    ordered = sorted(choices, key=lambda choice: choice.draft.text)
    return [list(group) for _, group in groupby(ordered, key=lambda each: each.draft.text)]


def _together(
    segments: Sequence[Generator[Waiting | Submitted | Chunk, None, None]],
) -> Generator[Waiting | Submitted | Chunk, None, None]:
    """The items of several segments that run at the same time."""
    running = list(segments)
    try:
        while running:
            for segment in list(running):
                for item in segment:
                    yield item
                    if isinstance(item, Waiting):
                        break
                else:
                    running.remove(segment)
    finally:
        for segment in running:
            segment.close()
