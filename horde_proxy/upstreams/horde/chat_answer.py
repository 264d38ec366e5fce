"""Answers to chats by workers whose server knows the model's own template.

    chat jobs (chat_chain.py) --> checked, and corrected once --> calls, JSON, the end
        |                             |  it does not fit
        '-- no worker, or failed -----'--> a text answer instead, before the first content

Format, tool calls, grammar, finish_reason and token counts are the server's. What comes is checked
at this border all the same, and calls are sent when they are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from horde_proxy.errors import ProxyError, ToolCallFailed
from horde_proxy.prompts.structured_reading import StructuredReading, read_server_answer
from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Chunk, Head
from horde_proxy.protocol.generation_request import GenerationRequest, Message, ToolCall
from horde_proxy.upstreams.call_ids import new_call_id
from horde_proxy.upstreams.horde.chained_answer import ChainedAnswer
from horde_proxy.upstreams.horde.chat_chain import ChatChain, ChatChoice
from horde_proxy.upstreams.horde.checked_answer import CheckedAnswer
from horde_proxy.upstreams.horde.choice_writer import ChoiceWriter
from horde_proxy.upstreams.horde.guided_values import Steps
from horde_proxy.upstreams.horde.plan import Plan
from horde_proxy.upstreams.horde.running_request import Faulted, NotPossible
from horde_proxy.upstreams.horde.structured_answer import StructuredAnswer

TextAnswer = ChainedAnswer | StructuredAnswer
_LONGEST_ID = 64
"""Characters of a call's id, which clients send back; OpenAI's have 29."""
_Outcome = tuple[ChatChoice, StructuredReading] | None
"""A choice with its reading; None where it was censored."""


@dataclass(kw_only=True)
class ChatAnswer(CheckedAnswer[ChatChoice]):
    """The answer to one plan for a chat.

    `as_text` makes the answer that is given instead where workers cannot give this one: it goes on
    after the content that the client has.
    """

    request: GenerationRequest
    writer: ChoiceWriter
    as_text: Callable[[ChatAnswer, str], TextAnswer]

    @property
    def head(self) -> Head:
        """What all chunks have in common; the model is known once it has answered."""
        return self.writer.head

    def items(self) -> Steps[None]:
        """Waitings, Submitteds, and the chunks after the role's; the last one has the usage."""
        try:
            outcomes = yield from self._outcomes()
        # Before anything was written: workers of texts may do it.
        except (NotPossible, Faulted) as exc:
            text = self._text_answer("")
            if text is None:
                raise exc
        else:
            text = self._text_instead(outcomes)
        if text is not None:
            yield from text.items()
            return
        for index, outcome in enumerate(outcomes):
            if outcome is None:
                yield self.writer.end(index, "content_filter")
            else:
                yield from self._choice(*outcome)
        yield self._usage([outcome[0] for outcome in outcomes if outcome])

    def _outcomes(self) -> Steps[list[_Outcome]]:
        """All choices, read, and corrected where they do not fit."""
        request = self.request
        is_free = request.tool_choice in ("none", "auto") and request.json_format is None
        choices = yield from self._answers(self.plan, sends_content=is_free)
        outcomes: list[_Outcome] = []
        for choice in choices:
            if choice.reason == "content_filter" and not choice.segments:
                outcomes.append(None)
                continue
            best, reading = yield from self._read(choice)
            # What the client has read of the first answer.
            outcomes.append((replace(best, index=choice.index, sent=choice.sent), reading))
        return outcomes

    def _answers(self, plan: Plan, *, sends_content: bool) -> Steps[list[ChatChoice]]:
        chain = ChatChain(
            self.horde,
            plan,
            self.ticket,
            self.head,
            deadline=plan.caller.deadline,
            cost=self.cost,
            sends_content=sends_content,
            may_grow=plan is self.plan,
        )
        with closing(chain.run()) as items:
            yield from items
        self.writer.head, self.cut_off = chain.head, chain.cut_off or self.cut_off
        return chain.choices

    def _generated(self, messages: Sequence[Message]) -> Steps[ChatChoice | None]:
        [choice] = yield from self._answers(
            self.plan.with_messages(messages, 1), sends_content=False
        )
        return choice if choice.segments else None

    def _reading(self, answer: ChatChoice) -> StructuredReading:
        calls = [FoundCall(call.name, call.arguments) for call in answer.calls]
        is_cut = answer.reason == "length"
        return read_server_answer(self.request, answer.content, calls, cut_off=is_cut)

    def _is_cut_off(self, answer: ChatChoice, reading: StructuredReading) -> bool:
        request = self.request
        is_form = bool(request.json_format) or request.tool_choice not in ("none", "auto")
        # Half a call is never repaired: an agent would run it.
        return answer.reason == "length" and bool(reading.calls or (is_form and reading.problem))

    def _corrected(self, answer: ChatChoice, reading: StructuredReading) -> list[Message]:
        calls = [
            ToolCall(call_id, call.name, call.arguments)
            for call_id, call in zip(_unique_ids(answer), answer.calls, strict=True)
        ]
        written = Message("assistant", answer.content, tuple(calls))
        # Templates expect a result after each call. It says what is wrong with the call.
        results = [Message("tool", reading.again, tool_call_id=call.id) for call in calls]
        return [
            *self.plan.request.messages,
            written,
            *(results or [Message("user", reading.again)]),
        ]

    # A text instead

    def _text_instead(self, outcomes: Sequence[_Outcome]) -> TextAnswer | None:
        """The answer as a text, where the chat's is none; None where it is to be sent."""
        if self.cut_off:
            return None
        read = [outcome for outcome in outcomes if outcome is not None]
        sent = [choice.sent.get("content", "") for choice, _ in read]
        if len(outcomes) == 1 and read and read[0][0].is_form_cut:
            # Texts go on in the middle of a call, which may be longer than any job.
            return self._text_answer(sent[0])
        is_form = bool(self.request.json_format) or self.request.tool_choice not in ("none", "auto")
        is_misfit = is_form and any(
            reading.problem and not self._is_cut_off(choice, reading) for choice, reading in read
        )
        return self._text_answer("") if is_misfit and not any(sent) else None

    def _text_answer(self, so_far: str) -> TextAnswer | None:
        try:
            answer = self.as_text(self, so_far)
        # No worker for texts either, or one whose context is too small.
        except ProxyError:
            return None
        # Headers and costs are those of the text from now on.
        self.plan = answer.plan
        return answer

    # What is sent

    def _choice(self, choice: ChatChoice, reading: StructuredReading) -> Iterator[Chunk]:
        """The rest of a choice, and its end."""
        request, index = self.request, choice.index
        self.writer.sent |= {(name, index): text for name, text in choice.sent.items()}
        if not choice.sent.get("reasoning_content"):
            yield from self.writer.reasoning(choice.reasoning, index)
        is_required = bool(request.tools) and request.tool_choice != "auto"
        if self._is_cut_off(choice, reading):
            yield from self._text(choice, choice.content)
            yield self.writer.end(index, "length")
        elif reading.calls:
            # A call that had to be made comes alone, as OpenAI's does: its content is null.
            yield from self._text(choice, "" if is_required else choice.content)
            yield from self._calls(choice, reading)
        elif is_required:
            raise ToolCallFailed(
                "The model did not make the function call. A larger model may make it, or the "
                "model may choose with tool_choice 'auto'."
            )
        elif request.json_format and not choice.refusal:
            yield from self._json(choice, reading)
        else:
            yield from self._plain(choice)

    def _text(self, choice: ChatChoice, content: str) -> Iterator[Chunk]:
        """The rest of the content; nothing where the client has read another beginning."""
        if choice.logprobs and not choice.sent.get("content"):
            yield chunks.chunk(
                self.head, {"content": ""}, index=choice.index, logprobs=choice.logprobs
            )
        if not choice.is_astray:
            yield from self.writer.content(content, choice.index)

    def _calls(self, choice: ChatChoice, reading: StructuredReading) -> Iterator[Chunk]:
        calls = [call.call for call in reading.calls]
        calls = calls if self.request.parallel_tool_calls else calls[:1]
        yield from self.writer.calls(choice.index, calls, _unique_ids(choice))

    def _json(self, choice: ChatChoice, reading: StructuredReading) -> Iterator[Chunk]:
        if reading.json:
            yield from self._text(choice, reading.json)
            yield self.writer.end(choice.index, "stop")
        else:
            reason = f"No valid JSON: {reading.problem} The model wrote: {choice.content}"
            yield chunks.chunk(self.head, {"refusal": reason}, index=choice.index)
            yield self.writer.end(choice.index, "stop")

    def _plain(self, choice: ChatChoice) -> Iterator[Chunk]:
        yield from self._text(choice, choice.content)
        if choice.refusal:
            yield chunks.chunk(self.head, {"refusal": choice.refusal}, index=choice.index)
        is_call = choice.reason == "tool_calls"  # of a tool that was not offered
        reason = "stop" if is_call else choice.reason or "stop"
        if choice.is_astray:
            # Another worker began anew, with other words: the rest is not this answer's.
            self.cut_off, reason = "failure", "length"
        yield self.writer.end(choice.index, reason)

    def _usage(self, choices: Sequence[ChatChoice]) -> Chunk:
        """The last chunk: the server's counts, or estimates."""
        counted = max((choice.prompt_tokens for choice in choices), default=0)
        usage = chunks.usage(
            counted or self.plan.fitted.prompt_tokens,
            sum(choice.tokens for choice in choices),
            sum(choice.reasoning_tokens for choice in choices),
        )
        cached = max((choice.cached_tokens for choice in choices), default=0)
        usage["prompt_tokens_details"]["cached_tokens"] = cached
        summary: dict[str, Any] = self.cost.summary(self.head.model)
        summary["segments"] = max((choice.segments for choice in choices), default=0)
        if self.cut_off:
            summary["cut_off_by"] = self.cut_off
        return chunks.usage_chunk(self.head, usage, summary)


def _unique_ids(choice: ChatChoice) -> list[str]:
    """The ids of a choice's calls; a new one where a server gave none, or the same one twice."""
    ids: list[str] = []
    for call in choice.calls:
        is_usable = call.id and call.id not in ids and len(call.id) <= _LONGEST_ID
        ids.append(call.id if is_usable else new_call_id())
    return ids
