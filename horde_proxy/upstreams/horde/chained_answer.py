"""An answer that is a text, as a chain of segments that each continue the text so far.

The chain ends with a stop, at max_tokens, or when the model has nothing more to say.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from horde_proxy.prompts.answer import Answer, false_start
from horde_proxy.prompts.partial_answer import PROBE_LENGTH, End, PartialAnswer
from horde_proxy.prompts.tokens import estimate, exceeds
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.upstreams.horde.answer_chain import (
    LEAST_BOUGHT,
    AnswerChain,
    AnswerItem,
    ChainedChoice,
)
from horde_proxy.upstreams.horde.text_segment import TextGeneration, TextSegment

_DELTAS = {"reasoning": "reasoning_content", "content": "content"}
"""The parts of a partial answer, and what they are called in a delta."""


@dataclass
class _TextChoice(ChainedChoice):
    """`segment`, `end` and `max_length` are of its last segment.

    `went_on`: its first segments were only a thought, which was ended for the model.
    `tells_length`: whether only max_length can have ended the last segment, if there is more to
    say.
    """

    partial: PartialAnswer = field(kw_only=True)
    segment: str = ""
    end: End = "full"
    max_length: int = 0
    answer: Answer | None = None
    went_on: bool = False
    tells_length: bool = True


@dataclass
class ChainedAnswer(AnswerChain[_TextChoice, TextGeneration]):
    """A text for each choice of one plan.

    `is_complete`: whether nothing should follow a text. An answer that has to have a certain form
    brings it; a loop in it is the model's own fault, and not tried again.
    """

    is_complete: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        request = self.plan.request
        self._choices = [
            _TextChoice(
                index,
                partial=PartialAnswer(
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
        yield from self.run()
        yield self._usage()

    def _words(self, choice: _TextChoice) -> str:
        return choice.partial.text

    def _keep(self, choice: _TextChoice) -> None:
        # Nobody knows how long it would have become: the next segment shows what follows.
        choice.max_length = max(2 * estimate(choice.grown), LEAST_BOUGHT)
        fill = self.horde.throughput.of(self.plan.models[0]).fill
        choice.partial.add(choice.grown, choice.max_length, fill)
        choice.segment, choice.end, choice.tells_length = choice.grown, "full", False

    def _segment(self, choices: Sequence[_TextChoice]) -> TextSegment:
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

    def _may_grow(self, choices: Sequence[_TextChoice]) -> bool:
        """Whether the next segment may be given out as it grows: not a short probe.

        That one may turn out to say nothing.
        """
        return self._is_read_growing(choices) and choices[0].end != "doubtful"

    def _grow(self, choice: _TextChoice, text: str) -> Iterator[Chunk]:
        # An answer that begins so is made again.
        if not choice.partial.segments and false_start(text, self.plan.format):
            return
        choice.grown = text
        yield from self._deltas(choice, choice.partial.growing_parts(text))

    def _add(self, choice: _TextChoice, generation: TextGeneration) -> Iterator[Chunk]:
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

    def _learn_length(self, choice: _TextChoice, *, is_full: bool) -> None:
        """Learn from the segment before this one, of which it is now known whether it was cut off.

        That there was more to say shows that max_length cut it off: so this is how our estimate of
        tokens measures a full one of this model. A worker that wrote more than it should would
        spoil the measure.
        """
        if not exceeds(choice.segment, choice.max_length):
            share = estimate(choice.segment) / choice.max_length
            self.horde.throughput.learn_length(self.plan.models[0], share, is_full=is_full)

    def _is_over(self, choice: _TextChoice) -> bool:
        """Whether no segment follows."""
        return (
            choice.end == "ended"
            or not self.plan.is_chained
            or choice.partial.left() <= 0
            or self._was_one_job(choice)
        )

    def _is_whole(self, choice: _TextChoice) -> bool:
        """Whether a text that must have a certain form has it."""
        return self.is_complete is not None and self.is_complete(choice.partial.text)

    def _goes_on(self, choice: _TextChoice) -> bool:
        """Whether the model stopped after a thought, and is to answer now. That is tried once."""
        if choice.went_on or choice.end == "full" or choice.partial.left() <= 0:
            return False
        choice.went_on = choice.partial.close_thought()
        # The model ended its thought by itself.
        choice.tells_length = not choice.went_on
        choice.end = "full" if choice.went_on else choice.end
        return choice.went_on

    def _was_one_job(self, choice: _TextChoice) -> bool:
        """Whether the first job might already have brought the whole answer."""
        return choice.partial.segments == 1 and choice.max_length >= self.plan.max_tokens

    def _is_full(self, choice: _TextChoice) -> bool | None:
        """Whether a limit ended a choice; None where only its text can tell."""
        # The horde does not say why a generation ended. Of a chain, the next segment has shown it,
        # or the model's usual lengths have; a single job is judged by how it looks.
        is_alone = choice.partial.segments == 1
        if is_alone and (not self.plan.is_chained or self._was_one_job(choice)):
            return None
        return choice.end != "ended"

    def _adds_nothing(self, choice: _TextChoice, generation: TextGeneration) -> bool:
        """Whether the answer had ended already before this continuation."""
        if generation.is_censored or not generation.text.strip():
            return True
        return choice.end == "doubtful" and choice.partial.adds_nothing(generation.text)

    def _finish(self, choice: _TextChoice, is_full: bool | None) -> Iterator[Chunk]:
        deltas, answer = choice.partial.finish(choice.max_length, is_full)
        choice.answer, choice.reason = answer, answer.reported_reason
        yield from self._deltas(choice, deltas)
        yield self._chunk(choice, {}, choice.reason)

    def _deltas(self, choice: _TextChoice, parts: Sequence[tuple[str, str]]) -> Iterator[Chunk]:
        """The chunks of parts of an answer, word by word in a stream that the client reads."""
        by_words = self.plan.request.stream and self.is_complete is None
        for part, text in parts:
            for piece in chunks.words(text) if by_words else [text]:
                yield self._chunk(choice, {_DELTAS[part]: piece})

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
        # Anthropic's API tells which stop ended an answer. Of several choices, none can be meant.
        if len(answers) == 1 and answers[0].stop is not None:
            summary["stop_sequence"] = answers[0].stop
        return chunks.usage_chunk(self.head, usage, summary)

    def answers(self) -> list[Answer | None]:
        """The whole answers, once all items are out; None for a choice that was censored."""
        return [choice.answer for choice in self._choices]


def _continuing(grown: str, generation: TextGeneration) -> TextGeneration:
    """The generation, whose beginning is what was given out: another worker may have begun anew."""
    if generation.text.startswith(grown):
        return generation
    return replace(generation, text=grown + generation.text[len(grown) :])
