"""The choices of a chat, as chains of chat jobs: their transcripts in, deltas out.

    transcript --> content and reasoning, sent as they grow, as far as they may be
               --> calls, kept until they are whole (chat_answer.py checks and sends them)

Nothing that was sent can be taken back. Where a worker began anew, what comes again is skipped as
long as it is the same; where it is not, nothing more of it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.aihorde import transcript
from horde_proxy.aihorde.transcript import BadTranscript, Call, ChatResult
from horde_proxy.errors import ContextLengthExceeded
from horde_proxy.prompts.fit import LEAST_LENGTH
from horde_proxy.prompts.formats import Format
from horde_proxy.prompts.tokens import estimate, truncate
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.upstreams.horde.answer_chain import AnswerChain, ChainedChoice
from horde_proxy.upstreams.horde.chat_segment import (
    ChatGeneration,
    ChatSegment,
    reasoning_tokens,
)
from horde_proxy.upstreams.horde.chat_tags import RestoredText

_SENT = ("reasoning_content", "content")
"""The texts that are sent as they grow, by their names in a delta."""
_MOST_COUNTED = 4
"""A server's count of a prompt may be so many times our estimate: scripts and templates differ."""
_LONG = 100_000
"""Characters of a text beyond which lines that come together are sent together. Answers of 20,000
tokens have as many; a worker may write 4,000,000, in 100,000 lines."""


@dataclass
class ChatChoice(ChainedChoice):
    """One choice. `content` and `reasoning` are those of all segments, `calls` of the last one.

    `sent` are the texts that the client has, by their names in a delta. `tokens` were written,
    `reasoning_tokens` of them as reasoning. `is_form_cut`: its last job was too short for a tool
    call, JSON or a thought, which cannot be continued. `is_correction`: the client may have read a
    part of another answer, which this one corrects.
    """

    content: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: list[Call] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    sent: dict[str, str] = field(default_factory=dict)
    segments: int = 0
    tokens: int = 0
    reasoning_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    is_form_cut: bool = False
    is_correction: bool = False
    # Of the segment that is being written: what has come by now.
    growing: _Growing | None = None

    def unsent(self, name: str, whole: str) -> str:
        """What is new of a text; "" where something else was sent."""
        sent = self.sent.get(name, "")
        return whole[len(sent) :] if whole.startswith(sent) else ""

    @property
    def is_astray(self) -> bool:
        """Whether the client has read content of which this is no continuation."""
        return not self.is_correction and not self.content.startswith(self.sent.get("content", ""))


class _Growing:
    """What has come of a segment."""

    def __init__(self, format: Format) -> None:
        self._format, self._seen = format, ""
        self._begin()

    def _begin(self) -> None:
        self.content, self.reasoning = RestoredText(self._format), RestoredText(self._format)

    def parts(self, text: str) -> Iterator[list[Any]]:
        """Add what is new of a transcript, line by line. The log probabilities of each line.

        Nothing of a broken transcript is added.
        """
        # Another request for the same segment: the first one failed before it had any words.
        if not text.startswith(self._seen):
            self._seen = ""
            self._begin()
        new = transcript.whole_lines(text[len(self._seen) :])
        try:
            entries = transcript.read(new)
        # The result, which the horde has read, will show what it was.
        except BadTranscript:
            return
        self._seen += new
        # Each line is compared with all that was sent, which takes long for a long text.
        is_long = len(self.content) + len(self.reasoning) + len(new) > _LONG
        for lines in [entries] if is_long else [[entry] for entry in entries]:
            if any(entry.again for entry in lines):
                self._begin()
            part = transcript.fold(lines)
            self.content.add(part.content)
            self.reasoning.add(part.reasoning)
            yield part.logprobs


@dataclass
class ChatChain(AnswerChain[ChatChoice, ChatGeneration]):
    """The choices of one plan for a chat. `sends_content`: content is sent before it is whole."""

    sends_content: bool = True

    def __post_init__(self) -> None:
        self._choices = [ChatChoice(index) for index in range(self.plan.request.n)]

    @property
    def choices(self) -> list[ChatChoice]:
        """All choices, once all items are out."""
        return self._choices

    def _words(self, choice: ChatChoice) -> tuple[str, str] | None:
        is_begun = choice.content or choice.reasoning
        return (choice.content, choice.reasoning) if is_begun else None

    def _segment(self, choices: Sequence[ChatChoice]) -> ChatSegment:
        first = choices[0]
        self.plan = self.plan.updated(self.horde.catalog.models())
        length = max(min(self._left(first), self.plan.longest_job), LEAST_LENGTH)
        first.growing = None
        return ChatSegment(
            self.horde,
            self.plan,
            n=len(choices),
            content=first.content,
            reasoning=first.reasoning,
            max_length=self._affordable(length, len(choices)),
            worker=first.worker,
            # A loop within a form is the model's own fault, and not tried again.
            may_loop=self._has_grammar(),
            # A shorter answer than the horde allows is cut here, as a whole.
            is_streamed=self._is_read_growing(choices) and not self._is_short(),
        )

    def _left(self, choice: ChatChoice) -> int:
        """The tokens that the answer may still have."""
        return self.plan.max_tokens - choice.tokens

    def _has_grammar(self) -> bool:
        """Whether the server keeps the model to a form, which cannot be continued."""
        request = self.plan.request
        return bool(request.json_format) or request.tool_choice not in ("none", "auto")

    def _is_short(self) -> bool:
        return self.plan.max_tokens < LEAST_LENGTH

    def _grow(self, choice: ChatChoice, text: str) -> Iterator[Chunk]:
        choice.grown = text
        choice.growing = growing = choice.growing or _Growing(self.plan.format)
        for logprobs in growing.parts(text):
            yield from self._send(
                choice,
                choice.content + growing.content.restored,
                choice.reasoning + growing.reasoning.restored,
                logprobs,
            )

    def _send(
        self, choice: ChatChoice, content: str, reasoning: str, logprobs: Sequence[Any] = ()
    ) -> Iterator[Chunk]:
        """The chunks of what is new of both texts, and may be sent now."""
        texts = {"reasoning_content": reasoning, "content": content if self.sends_content else ""}
        for name in _SENT:
            new = choice.unsent(name, texts[name])
            if not new:
                continue
            choice.sent[name] = choice.sent.get(name, "") + new
            is_content = name == "content"
            for piece in chunks.pieces(new):
                yield chunks.chunk(
                    self.head,
                    {name: piece},
                    index=choice.index,
                    logprobs=logprobs if is_content else (),
                )
                is_content = False

    def _keep(self, choice: ChatChoice) -> None:
        growing = choice.growing or _Growing(self.plan.format)
        content, reasoning = growing.content.restored, growing.reasoning.restored
        # In the middle of its text, a grammar would begin anew.
        if self._has_grammar():
            return
        choice.content += content
        choice.reasoning += reasoning
        choice.tokens += estimate(reasoning + content)
        choice.segments += bool(content or reasoning)

    def _add(self, choice: ChatChoice, generation: ChatGeneration) -> Iterator[Chunk]:
        choice.grown, result = "", generation.result
        if generation.is_too_long:
            limit = self.plan.pool.largest_context
            needed = self.plan.fitted.prompt_tokens + generation.max_length
            raise ContextLengthExceeded(limit, max(needed, limit + 1))
        if generation.is_censored:
            # Later in a chain, it ends the answer with what was there before.
            choice.reason = "stop" if choice.segments else "content_filter"
            return
        self._adopt_model(generation)
        is_first = not choice.segments
        self._count(choice, generation)
        choice.content += result.content
        choice.reasoning += result.reasoning
        choice.refusal += result.refusal
        choice.calls = [call for _, call in sorted(result.calls.items())]
        choice.logprobs += result.logprobs
        if self._is_short():
            self._cut(choice)
        if result.finish_reason == "length" and (is_first or result.written):
            self._go_on(choice)
        else:
            choice.reason = choice.reason or _reason(result)
        if self.plan.request.stream and self.may_grow:
            yield from self._send(choice, choice.content, choice.reasoning)

    def _count(self, choice: ChatChoice, generation: ChatGeneration) -> None:
        """Add the tokens of a segment, and who wrote it."""
        usage, most = generation.result.usage or {}, _MOST_COUNTED * self.plan.fitted.prompt_tokens
        if not choice.segments and usage.get("prompt_tokens", 0) <= most:
            choice.prompt_tokens = usage.get("prompt_tokens", 0)
            choice.cached_tokens = min(usage.get("cached_tokens", 0), choice.prompt_tokens)
        choice.tokens += generation.tokens
        choice.reasoning_tokens += reasoning_tokens(generation.result, generation.tokens)
        choice.worker = generation.worker
        choice.segments += 1

    def _go_on(self, choice: ChatChoice) -> None:
        """Decide what follows a job that ended at its length: another one, or nothing."""
        # A rest that is shorter than any job is not written.
        if not self.plan.is_chained or self._left(choice) < LEAST_LENGTH:
            choice.reason = "length"
        elif choice.calls or self._has_grammar() or not self._is_continued(choice):
            choice.reason, choice.is_form_cut = "length", True

    def _is_continued(self, choice: ChatChoice) -> bool:
        """Whether servers go on with what was written: content, and not with a thought alone."""
        return bool(choice.content) and self.horde.uncontinued.isdisjoint(self.plan.models)

    def _cut(self, choice: ChatChoice) -> None:
        """Cut an answer that is to be shorter than the shortest job."""
        shorter = truncate(choice.content, self.plan.max_tokens)
        if shorter != choice.content or choice.tokens > self.plan.max_tokens:
            choice.content, choice.reason, choice.calls = shorter, "length", []
            choice.tokens = min(choice.tokens, self.plan.max_tokens)

    def _finish(self, choice: ChatChoice, is_full: bool | None) -> Iterator[Chunk]:
        choice.reason = "length"
        yield from ()


def _reason(result: ChatResult) -> Any:
    """OpenAI's reason. With calls it is never "stop", and without them never "tool_calls"."""
    if result.finish_reason in ("length", "content_filter"):
        return result.finish_reason
    return "tool_calls" if result.calls else "stop"
