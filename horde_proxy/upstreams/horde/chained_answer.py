"""An answer as a chain of segments: each goes on with the text so far, and is given out at once.

The chain ends with a stop, at max_tokens, or when the model has nothing more to say. Where it
fails later, it ends with what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

from horde_proxy.aihorde import kudos
from horde_proxy.errors import (
    ClientGone,
    ContextLengthExceeded,
    InsufficientKudos,
    ProxyError,
    ShuttingDown,
    TimedOut,
    UpstreamFailed,
)
from horde_proxy.prompts.answer import Answer, false_start
from horde_proxy.prompts.partial_answer import PROBE_LENGTH, End, PartialAnswer
from horde_proxy.prompts.tokens import estimate, exceeds
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Chunk, FinishReason, Head
from horde_proxy.upstreams.base import ANSWER_MARGIN, DeadlinePassed, Waiting
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.lifecycle import (
    Answered,
    Finished,
    Grown,
    Lifecycle,
    LifecycleItem,
    Submitted,
    too_expensive,
)
from horde_proxy.upstreams.horde.plan import Plan
from horde_proxy.upstreams.horde.submit_queue import Ticket
from horde_proxy.upstreams.horde.text_segment import TextGeneration, TextSegment
from horde_proxy.upstreams.interleave import take_turns

CutOff = Literal["time", "context", "kudos", "failure"]
_CUT_OFFS: dict[type[ProxyError], CutOff] = {
    TimedOut: "time",
    ContextLengthExceeded: "context",
    InsufficientKudos: "kudos",
}
_LEAST_BOUGHT = 16
"""Tokens, below which the horde takes no max_length."""
_DELTAS = {"reasoning": "reasoning_content", "content": "content"}
"""The parts of a partial answer, and what they are called in a delta."""
AnswerItem = Waiting | Submitted | Answered | Chunk


@dataclass
class _Choice:
    """One choice; `segment`, `end`, `worker` and `max_length` are of its last segment.

    `went_on`: its first segments were only a thought, which was ended for the model. `grown` is
    what has come of a segment that is still being written; `rescued`: how many of its segments were
    lost while they were written. `tells_length`: whether only max_length can have ended the last
    segment, if there is more to say.
    """

    index: int
    partial: PartialAnswer
    segment: str = ""
    end: End = "full"
    worker: str | None = None
    max_length: int = 0
    reason: FinishReason | None = None
    answer: Answer | None = None
    went_on: bool = False
    grown: str = ""
    rescued: int = 0
    tells_length: bool = True


@dataclass
class ChainedAnswer:
    """The answer to one plan. Its chunks have the id and time of `head`.

    Shortly before `deadline` it ends with what it has. None: whoever drives it looks at the clock.
    `is_complete`: whether nothing should follow a text. An answer that has to have a certain form
    brings it; a loop in it is the model's own fault, and not tried again. `may_grow`: the text may
    be given out while a worker writes it.
    """

    horde: HordeContext
    plan: Plan
    ticket: Ticket
    head: Head
    deadline: float | None = None
    cost: AnswerCost = field(default_factory=AnswerCost)
    is_complete: Callable[[str], bool] | None = None
    cut_off: CutOff | None = None
    may_grow: bool = True

    def __post_init__(self) -> None:
        request = self.plan.request
        self._choices = [
            _Choice(
                index,
                PartialAnswer(
                    self.plan.format,
                    stops=request.stop,
                    limit=self.plan.max_tokens,
                    prefilled=request.messages[-1].role == "assistant",
                    may_call=bool(request.tools),
                ),
            )
            for index in range(request.n)
        ]

    def items(self) -> Generator[AnswerItem, None, None]:
        """Waitings, what was submitted, and the chunks after the role's; the last has the usage.

        Raises a ProxyError where there is nothing to give: what was generated is never lost.
        """
        while groups := _groups([choice for choice in self._choices if choice.reason is None]):
            with self._cut_off_by_errors(), closing(self._segments(groups)) as turns:
                for position, item in turns:
                    yield from self._answered(groups[position], item)
            if self.cut_off:
                yield from self._finish_all()
        yield self._usage()

    def _finish_all(self) -> Iterator[Chunk]:
        """The chunks that end all choices with what they have."""
        for choice in self._choices:
            if choice.reason is None:
                yield from self._finish(choice, is_full=True)

    @contextmanager
    def _cut_off_by_errors(self) -> Iterator[None]:
        """An error ends the chain with what it has. Raises it when that is nothing."""
        try:
            yield
        except ProxyError as exc:
            if self._rescue() and isinstance(exc, UpstreamFailed):
                return
            # What was sent already is the answer; only a first segment's error is the client's.
            has_text = all(choice.partial.text or choice.reason for choice in self._choices)
            if not has_text or isinstance(exc, ShuttingDown | ClientGone):
                raise
            reasons = (word for kind, word in _CUT_OFFS.items() if isinstance(exc, kind))
            self.cut_off = next(reasons, "failure")

    def _rescue(self) -> bool:
        """Keep the texts of segments that were lost. Whether the chain goes on from them."""
        lost = [choice for choice in self._choices if choice.grown]
        for choice in lost:
            # Nobody knows how long it would have become: the next segment shows what follows.
            choice.max_length = max(2 * estimate(choice.grown), _LEAST_BOUGHT)
            fill = self.horde.throughput.of(self.plan.models[0]).fill
            choice.partial.add(choice.grown, choice.max_length, fill)
            choice.segment, choice.grown, choice.end, choice.worker = choice.grown, "", "full", None
            choice.rescued += 1
            choice.tells_length = False
        is_chained = self.plan.is_chained
        return is_chained and any(0 < c.rescued <= self.horde.retries for c in lost)

    def _segments(
        self, groups: Sequence[Sequence[_Choice]]
    ) -> Generator[tuple[int, LifecycleItem[TextGeneration]], None, None]:
        """The items of each group's next segment, with the position of the group."""
        running = [
            Lifecycle(self.horde, self._segment(group), self.ticket, self.cost).items()
            for group in groups
        ]
        return take_turns(running, len(running))

    def _segment(self, choices: Sequence[_Choice]) -> TextSegment:
        """The next segment of choices that have the same text so far, by who is online now."""
        first = choices[0]
        self.plan = self.plan.updated(self.horde.catalog.models())
        length = self.plan.next_length(first.partial.left(), first.partial.segments)
        # A short probe: most answers that look complete are.
        if first.end == "doubtful":
            length = min(PROBE_LENGTH, length)
        return TextSegment(
            self.horde,
            self.plan,
            n=len(choices),
            so_far=first.partial.text,
            max_length=self._affordable(length, len(choices)),
            worker=first.worker,
            may_loop=self.is_complete is not None,
            is_streamed=self._may_grow(choices),
        )

    def _may_grow(self, choices: Sequence[_Choice]) -> bool:
        """Whether the next segment may be given out as it grows.

        Not a short probe, which may turn out to say nothing; nor where one of several models
        answers, since the first chunk names it.
        """
        is_alone = len(choices) == 1 and len(self.plan.models) == 1
        is_read = self.may_grow and self.plan.request.stream
        return is_alone and is_read and choices[0].end != "doubtful"

    def _answered(
        self, choices: Sequence[_Choice], item: LifecycleItem[TextGeneration]
    ) -> Iterator[AnswerItem]:
        """What an item of the segment of these choices means for the client. Raises TimedOut."""
        if isinstance(item, Finished):
            for choice, generation in zip(choices, item.generations, strict=True):
                yield from self._add(choice, generation)
            return
        if isinstance(item, Grown):
            yield from self._grow(choices[0], item.text)
            return
        yield item
        # Not after Answered: the generations are there, and come next.
        if isinstance(item, Waiting):
            check_time(self.horde.clock, self.deadline)

    def _grow(self, choice: _Choice, text: str) -> Iterator[Chunk]:
        """The chunks of what is certain of a segment that is still being written."""
        # An answer that begins so is made again.
        if not choice.partial.segments and false_start(text, self.plan.format):
            return
        choice.grown = text
        yield from self._deltas(choice, choice.partial.growing_parts(text))

    def _affordable(self, length: int, n: int) -> int:
        """The length, or less where the client would pay too much. Raises InsufficientKudos."""
        most = self.plan.max_kudos
        if most is None:
            return length
        context = self.plan.fitted.max_context_length
        while kudos.price(length, context, self.plan.size, n) > most - self.cost.committed:
            if length <= _LEAST_BOUGHT:
                raise too_expensive()
            # The price has no inverse that is worth its formula: context and tax are in it.
            length = max(length // 2, _LEAST_BOUGHT)
        return length

    def _add(self, choice: _Choice, generation: TextGeneration) -> Iterator[Chunk]:
        """The chunks of what a generation made certain."""
        partial, plan = choice.partial, self.plan
        generation = _continuing(choice.grown, generation)
        choice.grown = ""
        # Later in a chain, a censored segment ends the answer with what was there before.
        if generation.is_censored and not partial.segments:
            choice.reason = "content_filter"
            yield self._chunk(choice, {}, choice.reason)
            return
        self._adopt_model(generation)
        # An answer that seems to have ended is continued once, briefly, to see whether it had.
        adds_nothing = partial.segments > 0 and self._adds_nothing(choice, generation)
        if partial.segments and choice.tells_length and not generation.is_censored:
            self._learn_length(choice, is_full=not adds_nothing)
        if adds_nothing:
            yield from self._finish(choice, is_full=False)
            return
        choice.worker, choice.max_length = generation.worker, generation.max_length
        choice.segment, choice.tells_length = generation.text, True
        fill = self.horde.throughput.of(plan.models[0]).fill
        choice.end = partial.add(generation.text, generation.max_length, fill)
        if self._is_whole(choice):
            choice.end = "ended"
            yield from self._finish(choice, is_full=False)
        elif self._is_over(choice):
            if self._goes_on(choice):
                return
            yield from self._finish(choice, self._is_full(choice))
        elif plan.request.stream:
            yield from self._deltas(choice, partial.final_parts())

    def _learn_length(self, choice: _Choice, *, is_full: bool) -> None:
        """Learn from the segment before this one, of which it is now known whether it was cut off.

        That there was more to say shows that max_length cut it off: so this is how our estimate of
        tokens measures a full one of this model. A worker that wrote more than it should would
        spoil the measure.
        """
        if not exceeds(choice.segment, choice.max_length):
            share = estimate(choice.segment) / choice.max_length
            self.horde.throughput.learn_length(self.plan.models[0], share, is_full=is_full)

    def _is_over(self, choice: _Choice) -> bool:
        """Whether no segment follows."""
        return (
            choice.end == "ended"
            or not self.plan.is_chained
            or choice.partial.left() <= 0
            or self._was_one_job(choice)
        )

    def _is_whole(self, choice: _Choice) -> bool:
        """Whether a text that must have a certain form has it."""
        return self.is_complete is not None and self.is_complete(choice.partial.text)

    def _goes_on(self, choice: _Choice) -> bool:
        """Whether the model stopped after a thought, and is to answer now. That is tried once."""
        if choice.went_on or choice.end == "full" or choice.partial.left() <= 0:
            return False
        choice.went_on = choice.partial.close_thought()
        # The model ended its thought by itself.
        choice.tells_length = not choice.went_on
        choice.end = "full" if choice.went_on else choice.end
        return choice.went_on

    def _was_one_job(self, choice: _Choice) -> bool:
        """Whether the first job might already have brought the whole answer."""
        return choice.partial.segments == 1 and choice.max_length >= self.plan.max_tokens

    def _is_full(self, choice: _Choice) -> bool | None:
        """Whether a limit ended a choice; None where only its text can tell."""
        # The horde does not say why a generation ended: a single one is judged by how it looks.
        if choice.partial.segments == 1:
            return None
        return choice.end != "ended"

    def _adds_nothing(self, choice: _Choice, generation: TextGeneration) -> bool:
        """Whether the answer had ended already before this continuation."""
        if generation.is_censored or not generation.text.strip():
            return True
        return choice.end == "doubtful" and choice.partial.adds_nothing(generation.text)

    def _finish(self, choice: _Choice, is_full: bool | None) -> Iterator[Chunk]:
        """The rest of a choice, and its finish_reason."""
        deltas, answer = choice.partial.finish(choice.max_length, is_full)
        choice.answer, choice.reason = answer, answer.reported_reason
        yield from self._deltas(choice, deltas)
        yield self._chunk(choice, {}, choice.reason)

    def _deltas(self, choice: _Choice, parts: Sequence[tuple[str, str]]) -> Iterator[Chunk]:
        """The chunks of parts of an answer, word by word in a stream that the client reads."""
        by_words = self.plan.request.stream and self.is_complete is None
        for part, text in parts:
            for piece in chunks.words(text) if by_words else [text]:
                yield self._chunk(choice, {_DELTAS[part]: piece})

    def _chunk(
        self, choice: _Choice, delta: dict[str, Any], reason: FinishReason | None = None
    ) -> Chunk:
        return chunks.chunk(self.head, delta, index=choice.index, finish_reason=reason)

    def _adopt_model(self, generation: TextGeneration) -> None:
        """Name the model that answered in all further chunks, where several might have."""
        if self.head.model != generation.model and len(self.plan.models) > 1:
            self.head = Head(self.head.id, self.head.created, generation.model)

    def _usage(self) -> Chunk:
        """The last chunk: tokens of all choices, and what they took."""
        answers = [choice.answer for choice in self._choices if choice.answer]
        usage = chunks.usage(
            self.plan.fitted.prompt_tokens,
            sum(answer.tokens for answer in answers),
            sum(answer.reasoning_tokens for answer in answers),
        )
        summary = self.cost.summary(self.head.model)
        summary["segments"] = max(choice.partial.segments for choice in self._choices)
        if self.cut_off:
            summary["cut_off_by"] = self.cut_off
        return chunks.usage_chunk(self.head, usage, summary)

    def answers(self) -> list[Answer | None]:
        """The whole answers, once all items are out; None for a choice that was censored."""
        return [choice.answer for choice in self._choices]


def _continuing(grown: str, generation: TextGeneration) -> TextGeneration:
    """The generation, whose beginning is what was given out: another worker may have begun anew."""
    if generation.text.startswith(grown):
        return generation
    return replace(generation, text=grown + generation.text[len(grown) :])


def check_time(clock: Callable[[], float], deadline: float | None) -> None:
    """Raises TimedOut when the client's time is over but for the seconds to send what there is."""
    if deadline is not None and clock() > deadline - ANSWER_MARGIN:
        raise DeadlinePassed()


def _groups(choices: Sequence[_Choice]) -> list[list[_Choice]]:
    """Choices with the same text so far, which one request can go on with.

    All choices of an answer begin as one group; after the first segment they mostly differ.
    """
    ordered = sorted(choices, key=lambda choice: choice.partial.text)
    return [list(group) for _, group in groupby(ordered, key=lambda choice: choice.partial.text)]
