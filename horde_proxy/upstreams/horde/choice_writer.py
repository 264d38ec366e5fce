"""Writes the chunks of an answer's choices, and counts their tokens.

What was sent stays: text that comes later is only added. What is sent is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.prompts.answer import Answer
from horde_proxy.prompts.constrained import ConstrainedRequest
from horde_proxy.prompts.tokens import estimate
from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Chunk, FinishReason, Head
from horde_proxy.upstreams.call_ids import new_call_id


@dataclass
class ChoiceWriter:
    """The chunks of one answer, with the id, time and model of `head`.

    `tokens` and `reasoning_tokens` are those that were sent, `sent` what was sent of a choice, by
    the name of its delta and by its index.
    """

    head: Head
    structure: ConstrainedRequest
    tokens: int = 0
    reasoning_tokens: int = 0
    sent: dict[tuple[str, int], str] = field(default_factory=dict)

    def answer(
        self, index: int, answer: Answer, content: str, *, is_filled: bool = False
    ) -> Iterator[Chunk]:
        """The chunks of an answer's reasoning and of this content, which are counted."""
        written = content.removeprefix(self.structure.prefill)
        tokens = estimate(written) + answer.reasoning_tokens
        # The answer's own count is clamped by what was requested; a filled text has requests of its
        # own.
        self.tokens += tokens if is_filled else min(tokens, answer.tokens)
        self.reasoning_tokens += answer.reasoning_tokens
        yield from self._new("reasoning_content", answer.reasoning, index)
        yield from self.content(content, index)

    def reasoning(self, text: str, index: int) -> Iterator[Chunk]:
        """The chunks of what is new in the reasoning of a choice."""
        yield from self._new("reasoning_content", text, index)

    def content(self, text: str, index: int) -> Iterator[Chunk]:
        """The chunks of what is new in the content of a choice."""
        yield from self._new("content", text, index)

    def refusal(self, index: int, answer: Answer, reason: str) -> Iterator[Chunk]:
        """The chunks of an answer that is not what was requested, and the end of its choice.

        OpenAI's form, whose SDKs look for it: a refusal, no content, and "stop".
        """
        self.tokens += answer.tokens
        self.reasoning_tokens += answer.reasoning_tokens
        yield from self._new("reasoning_content", answer.reasoning, index)
        yield self._chunk({"refusal": reason}, index)
        yield self.end(index, "stop")

    def calls(
        self, index: int, calls: Sequence[FoundCall], ids: Sequence[str] = ()
    ) -> Iterator[Chunk]:
        """The chunks of the calls, and the end of the choice; the older form has only one.

        `ids` are those of the calls, where they have any.
        """
        is_legacy = self.structure.request.legacy_functions
        for number, call in enumerate(calls[:1] if is_legacy else calls):
            self.tokens += estimate(call.name + call.arguments)
            call_id = ids[number] if number < len(ids) else new_call_id()
            for delta in chunks.call_deltas(number, call_id, call.name, call.arguments):
                yield self._chunk(chunks.as_legacy(delta) if is_legacy else delta, index)
        yield self.end(index, "function_call" if is_legacy else "tool_calls")

    def end(self, index: int, reason: FinishReason) -> Chunk:
        """The last chunk of a choice."""
        return chunks.chunk(self.head, {}, index=index, finish_reason=reason)

    def usage(self, prompt_tokens: int, summary: dict[str, Any]) -> Chunk:
        """The last chunk of the answer."""
        usage = chunks.usage(prompt_tokens, self.tokens, self.reasoning_tokens)
        return chunks.usage_chunk(self.head, usage, summary)

    def _new(self, key: str, text: str, index: int) -> Iterator[Chunk]:
        """The chunks of the new part of a text.

        Where a corrected answer says something else than what was sent, that comes after it.
        """
        sent = self.sent.get((key, index), "")
        begun, text = sent.lstrip(), text.lstrip() if sent else text
        if begun.startswith(text):
            return
        text = text[len(begun) :] if text.startswith(begun) else f"\n\n{text}"
        self.sent[key, index] = sent + text
        for piece in chunks.words(text) if self.structure.request.stream else [text]:
            yield self._chunk({key: piece}, index)

    def _chunk(self, delta: dict[str, Any], index: int) -> Chunk:
        return chunks.chunk(self.head, delta, index=index)
