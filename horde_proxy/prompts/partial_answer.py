"""An answer that grows in segments: which part of it is final, and whether it is complete.

Each segment is a request to the horde. The horde tells neither why a generation ended nor how many
tokens it has, so both are inferred. A part that was returned as final never changes. Pure.

add(segment) -> "ended"     a stop, an end marker, or far from max_length: complete
                "full"      cut off by max_length within a sentence: the next segment continues it
                "doubtful"  as long as max_length, but the sentence is complete: a short
                            continuation is requested, and `adds_nothing` judges it
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from horde_proxy.prompts.answer import (
    Answer,
    end_of_answer,
    ends_a_sentence,
    read_answer,
    with_reasoning_closed,
)
from horde_proxy.prompts.end_tokens import TextEnd, cut
from horde_proxy.prompts.formats import Format
from horde_proxy.prompts.tokens import count_within, estimate, truncate

End = Literal["ended", "full", "doubtful"]
PROBE_LENGTH = 48
"""Tokens of the continuation that shows whether a doubtful answer was complete."""
_REPLACEMENT = "\ufffd"
"""Replaces a character that the end of a segment has cut: an emoji is several tokens."""
_LEAST_FILL = 0.5
"""A segment below this share of max_length was not cut off, however rough the estimate is."""
_STEP = 0.2
"""The least weight of the newest segment in the mean and the spread, an exponential moving average.
The first three weigh more, so that the mean is that of the samples and the assumed value."""
_LEAST_SPREAD = 0.02
_REPEATED, _LEAST_REPEATED = 400, 16
"""Characters: a continuation of at least 16 that is found in the last 400 is a repetition."""
# A turn that a model writes for somebody else after its own: "User:", "**Human**:",
# [INST] (Mistral), "### Instruction" (Alpaca), <|im_start (ChatML), <start_of_turn> (Gemma).
_NEW_TURN = re.compile(
    r"\s*(?:(?:\*\*)?(?:user|human|assistant|system)(?:\*\*)?\s*:|\[INST\]"
    r"|#{2,3} ?(?:user|human|assistant|instruction|input|response)\b"
    r"|<\|?(?:user|human|assistant|system|im_start|start))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LengthEstimate:
    """The mean estimated share of max_length that a model's full segments have, and its spread.

    Each model has its own tokenizer, so the share is above 1 for some models and below for others.
    `samples` counts the full segments. `complete` are the two largest shares, in ascending order,
    of texts that were complete although they were almost as long as full ones.
    """

    mean: float = 1.0
    spread: float = 0.15
    samples: int = 0
    complete: tuple[float, ...] = ()

    def with_full(self, share: float) -> LengthEstimate:
        """The estimate after another segment that was surely cut off by its max_length."""
        step = max(_STEP, 1 / (self.samples + 2))
        deviation = abs(share - self.mean)
        spread = max(self.spread + step * (deviation - self.spread), _LEAST_SPREAD)
        complete = tuple(min(other, share - spread) for other in self.complete)
        mean = self.mean + step * (share - self.mean)
        return LengthEstimate(mean, spread, self.samples + 1, complete)

    def with_complete(self, share: float) -> LengthEstimate:
        """The estimate after another segment that was surely complete, by a stop of its own."""
        # Not up to the mean, whatever was seen: our estimate of one text may be far off.
        shares = (*self.complete, min(share, self.mean - self.spread))
        return replace(self, complete=tuple(sorted(shares)[-2:]))

    def judge(self, text: str, max_length: int) -> End:
        """How a segment without a stop ended."""
        share = estimate(text) / max_length
        if not text.strip() or share < max(self.mean - 2.5 * self.spread, _LEAST_FILL):
            return "ended"
        is_open = not ends_a_sentence(text)
        # A single one may have been as long as max_length by chance, but not two.
        if not is_open and len(self.complete) == 2 and share <= self.complete[0]:
            return "ended"
        # A full segment may end with a full stop by chance, so the length alone is no proof.
        return "full" if is_open and share >= self.mean - self.spread else "doubtful"


class PartialAnswer:
    """The answer of one choice. `stops` are the client's own, `limit` is its max_tokens.

    `prefilled`: the answer continues the client's beginning, so its leading whitespace stays.
    `may_call`: tools are on offer, and a call ends a thought. `text` is everything
    generated so far, for the prompt of the next segment.
    """

    def __init__(
        self,
        format: Format,
        *,
        stops: Sequence[str],
        limit: int,
        prefilled: bool,
        may_call: bool = False,
    ) -> None:
        self.text = ""
        self.segments = 0
        self._format, self._stops, self._limit = format, tuple(stops), limit
        self._prefilled, self._may_call = prefilled, may_call
        # Estimated tokens that the text cannot have, since its segments were not to be that long.
        self._excess = 0
        self._given = {"reasoning": "", "content": ""}
        self._was_unopened = False

    def left(self) -> int:
        """Tokens until the limit, estimated; 0 or less when it is reached."""
        return self._limit - self._tokens()

    def _tokens(self) -> int:
        """The tokens of the text so far: our estimate, clamped by what was requested."""
        return max(estimate(self.text) - self._excess, 0)

    def _cut_at(self) -> int | None:
        """The estimated tokens at which the text is cut; None where it is as long as it may be."""
        if not self._excess:
            return self._limit
        # Our estimate is too high for this model's tokens, so the text is cut as much later.
        tokens = self._tokens()
        is_over = tokens > self._limit
        return round(self._limit * estimate(self.text) / tokens) if is_over else None

    def add(self, segment: str, max_length: int, fill: LengthEstimate) -> End:
        """Append a segment that was requested with `max_length`. How it ended, see the module."""
        if self.segments:
            segment = self._without_residue(segment)
        self.segments += 1
        self._excess += estimate(segment) - count_within(segment, max_length)
        before = len(self.text)
        self.text += segment
        if self._end(is_open=False).stop is not None:
            return "ended"
        end = fill.judge(segment, max_length)
        if end != "ended":
            # The next segment will contain the whole character.
            self.text = self.text.rstrip(_REPLACEMENT)
        return end if len(self.text) > before else "ended"

    def adds_nothing(self, continuation: str) -> bool:
        """Whether a continuation is empty, a new turn or a repetition: the answer was complete."""
        words = self._without_residue(continuation).strip()
        if not words or cut(words, self._all_stops())[0] == "" or _NEW_TURN.match(words):
            return True
        recent = self.text[-_REPEATED:]
        return len(words) >= _LEAST_REPEATED and (words in recent or words[:_REPEATED] in recent)

    def final_parts(self) -> list[tuple[Literal["reasoning", "content"], str]]:
        """The texts that have become final since the last call, as (part, text).

        In formats whose prompts may open a thought, a text is content once it does not begin like a
        thought: a `</think>` that comes later no longer makes reasoning of it.
        """
        return self._new(self._read(self.text, is_open=True))

    def growing_parts(self, segment: str) -> list[tuple[Literal["reasoning", "content"], str]]:
        """As `final_parts`, for a segment that is still being written; it is added later."""
        before = self.text
        segment = self._without_residue(segment) if self.segments else segment
        self.text = before + segment.rstrip(_REPLACEMENT)
        try:
            # Beyond the limit, the end of the answer decides where it is cut.
            return [] if self.left() <= 0 else self.final_parts()
        finally:
            self.text = before

    def close_thought(self) -> bool:
        """End a thought, if the text is nothing else, so that the model goes on with its answer.

        Whether it was: the next segment should follow.
        """
        if self._prefilled or not self._read(self.text).is_only_thought:
            return False
        self.text = with_reasoning_closed(self.text[: self._end(is_open=False).position])
        return True

    def finish(
        self, max_length: int, is_full: bool | None
    ) -> tuple[list[tuple[Literal["reasoning", "content"], str]], Answer]:
        """(the parts that were not returned yet, the whole answer).

        `is_full`: whether the last segment was cut off; if None, this is inferred from the text.
        """
        tokens, limit = self._tokens(), self._cut_at()
        is_over = limit is not None and truncate(self.text, limit) != self.text
        # Several segments together are longer than a max_length: only the limit may cut them off.
        total = max(max_length, tokens) if self.segments == 1 else max(tokens, 1)
        answer = self._read(self.text, length=total, limit=limit)
        if is_over:
            answer = replace(
                answer,
                tokens=min(answer.tokens, self._limit),
                reasoning_tokens=min(answer.reasoning_tokens, self._limit),
            )
        if is_full is not None and self._end(is_open=False).stop is None:
            answer = replace(answer, finish_reason="length" if is_full or is_over else "stop")
        return self._new(answer), answer

    def _read(
        self, text: str, *, length: int = 10**9, limit: int | None = None, is_open: bool = False
    ) -> Answer:
        return read_answer(
            text,
            self._format,
            stops=self._stops,
            max_length=length,
            max_tokens=limit,
            prefilled=self._prefilled,
            may_be_thought=not self._given["content"] or self._was_unopened,
            may_call=self._may_call,
            is_open=is_open,
        )

    def _new(self, answer: Answer) -> list[tuple[Literal["reasoning", "content"], str]]:
        """What an answer has more than was returned before, as (part, text)."""
        # After content was returned, a later </think> must not turn it into reasoning.
        if answer.content and not self._given["content"]:
            self._was_unopened = answer.was_unopened
        return [
            *self._new_end("reasoning", answer.reasoning),
            *self._new_end("content", answer.content),
        ]

    def _new_end(
        self, part: Literal["reasoning", "content"], text: str
    ) -> list[tuple[Literal["reasoning", "content"], str]]:
        """The new end of a part; nothing if a limit has cut off some of what was returned."""
        given = self._given[part]
        if not text.startswith(given) or text == given:
            return []
        self._given[part] = text
        return [(part, text[len(given) :])]

    def _all_stops(self) -> tuple[str, ...]:
        return (*self._stops, *self._format.stops)

    def _end(self, *, is_open: bool) -> TextEnd:
        return end_of_answer(
            self.text,
            self._format,
            stops=self._stops,
            prefilled=self._prefilled,
            is_open=is_open,
        )

    def _without_residue(self, segment: str) -> str:
        """A continuation without a repetition of the turn's opening tag."""
        bare = segment.lstrip()
        opening = self._format.opening.lstrip()
        for tag in (opening, opening.rstrip()):
            if tag and bare.startswith(tag):
                return bare[len(tag) :]
        return segment
