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
from itertools import starmap
from typing import Any

from horde_proxy.errors import ProxyError, ToolCallFailed
from horde_proxy.prompts.fit import is_begun
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
    after the content that the client has, with so many tokens.
    """

    request: GenerationRequest
    writer: ChoiceWriter
    as_text: Callable[[ChatAnswer, str, int | None], TextAnswer]

    @property
    def head(self) -> Head:
        """What all chunks have in common; the model is known once it has answered."""
        return self.writer.head

    def items(self) -> Steps[None]:
        """Waitings, Submitteds, and the chunks after the role's; the last one has the usage."""
        try:
            outcomes = yield from self._outcomes()
        # Nothing was written: workers of texts may do it.
        except (NotPossible, Faulted) as exc:
            if isinstance(exc, Faulted):
                self._note_refusal()
            text = self._text_answer()
            if text is None:
                raise exc
            yield from text.items()
            return
        self.horde.refused_chats.clear(self.plan.models[0])
        begun = self._begun(outcomes)
        text = self._text_answer(begun) if begun or self._is_to_be_text(outcomes) else None
        if text is not None:
            yield from self._continued(begun, text)
            return
        for index, outcome in enumerate(outcomes):
            if outcome is None:
                yield self.writer.end(index, "content_filter")
            else:
                yield from self._choice(*outcome)
        yield self._usage([outcome[0] for outcome in outcomes if outcome])

    def _note_refusal(self) -> None:
        """Remember that servers refused this chat, so that the next ones become texts sooner."""
        if is_begun(self.request.messages[-1]):
            self.horde.uncontinued.update(self.plan.models)
        else:
            self.horde.refused_chats.add(self.plan.models[0])

    def _outcomes(self) -> Steps[list[_Outcome]]:
        """All choices, read, and corrected where they do not fit."""
        choices = yield from self._answers(self.plan, sends_content=not self._has_form())
        outcomes: list[_Outcome] = []
        for choice in choices:
            if choice.reason == "content_filter" and not choice.segments:
                outcomes.append(None)
                continue
            best, reading = yield from self._read(choice)
            if best is not choice:
                # What the client has read of the first answer.
                best = replace(best, index=choice.index, sent=choice.sent, is_correction=True)
            outcomes.append((best, reading))
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
        if isinstance(chain.failure, Faulted) and any(choice.content for choice in chain.choices):
            self.horde.uncontinued.update(plan.models)
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
        # Half a call is never repaired: an agent would run it.
        is_half = bool(reading.calls or (self._has_form() and reading.problem))
        return answer.reason == "length" and is_half

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

    def _begun(self, outcomes: Sequence[_Outcome]) -> ChatChoice | None:
        """The only choice, where just a text can go on with it."""
        [outcome, *others] = outcomes
        choice = outcome[0] if outcome and not others else None
        return choice if choice and self._goes_on_as_text(choice) else None

    def _is_to_be_text(self, outcomes: Sequence[_Outcome]) -> bool:
        """Whether the answer is not what was required, and none of it was sent."""
        read = [outcome for outcome in outcomes if outcome is not None]
        is_sent = any(choice.sent.get("content") for choice, _ in read)
        return not (self.cut_off or is_sent) and any(starmap(self._is_misfit, read))

    def _goes_on_as_text(self, choice: ChatChoice) -> bool:
        """Whether only a text can go on with a choice.

        Texts go on in the middle of a call, which may be longer than any job; and some servers
        cannot continue a message.
        """
        is_broken = self.cut_off == "failure" and not choice.is_astray and not choice.calls
        return (choice.is_form_cut and not self.cut_off) or is_broken

    def _is_misfit(self, choice: ChatChoice, reading: StructuredReading) -> bool:
        """Whether an answer of a required form has another one, which no limit explains."""
        is_cut = self._is_cut_off(choice, reading)
        return self._has_form() and bool(reading.problem) and not is_cut

    def _has_form(self) -> bool:
        """Whether the answer must be calls or JSON."""
        request = self.request
        return bool(request.json_format) or request.tool_choice not in ("none", "auto")

    def _text_answer(self, begun: ChatChoice | None = None) -> TextAnswer | None:
        """The text that goes on after a choice; None where no worker can write it."""
        content, tokens = "", self.request.max_tokens
        # What has a form begins anew: nothing of it was sent.
        if begun and begun.content and not self._has_form():
            content, tokens = begun.content, max(self.plan.max_tokens - begun.tokens, 1)
        try:
            answer = self.as_text(self, content, tokens)
        # No worker for texts either, or one whose context is too small.
        except ProxyError:
            return None
        # Headers and costs are those of the text from now on.
        self.plan, self.cut_off = answer.plan, None
        return answer

    def _continued(self, choice: ChatChoice | None, text: TextAnswer) -> Steps[None]:
        """The chunks of a text, after the rest of what it goes on with."""
        if choice is None or self._has_form():
            yield from text.items()
            return
        self._note_sent(choice)
        if not choice.sent.get("reasoning_content"):
            yield from self.writer.reasoning(choice.reasoning, choice.index)
        yield from self._text(choice, choice.content)
        with closing(text.items()) as items:
            for item in items:
                if isinstance(item, dict) and item.get("usage"):
                    item = _with_more_tokens(item, choice)
                yield item

    # What is sent

    def _choice(self, choice: ChatChoice, reading: StructuredReading) -> Iterator[Chunk]:
        """The rest of a choice, and its end."""
        request, index = self.request, choice.index
        self._note_sent(choice)
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

    def _note_sent(self, choice: ChatChoice) -> None:
        """Tell the writer what the client has."""
        self.writer.sent |= {(name, choice.index): text for name, text in choice.sent.items()}

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


def _with_more_tokens(last: Chunk, choice: ChatChoice) -> Chunk:
    """The last chunk of a text, with the tokens of the choice that it went on with."""
    usage = last["usage"]
    details = usage["completion_tokens_details"]
    details["reasoning_tokens"] += choice.reasoning_tokens
    usage["completion_tokens"] += choice.tokens
    usage["total_tokens"] += choice.tokens
    return last


def _unique_ids(choice: ChatChoice) -> list[str]:
    """The ids of a choice's calls; a new one where a server gave none, or the same one twice."""
    ids: list[str] = []
    for call in choice.calls:
        is_usable = call.id and call.id not in ids and len(call.id) <= _LONGEST_ID
        ids.append(call.id if is_usable else new_call_id())
    return ids
