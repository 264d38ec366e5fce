"""Answers that must be tool calls or JSON.

    the model answers in text --> it is read --> it fits: sent
             ^                                     |  it does not fit
             '-- the problem, while tries are left '-- guided filling (guided_values.py)

What is read, and what fits, is decided in the room prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.errors import ContextLengthExceeded, ToolCallFailed, UpstreamFailed
from horde_proxy.prompts.answer import Answer
from horde_proxy.prompts.constrained import (
    ConstrainedRequest,
    callable_tools,
    is_complete,
    read_call,
    read_json,
    undeclared_argument,
    with_correction,
    with_prefill,
)
from horde_proxy.prompts.guided import Unfillable
from horde_proxy.prompts.json_schema.work import limited_work
from horde_proxy.prompts.lenient_json import dumps
from horde_proxy.prompts.tokens import estimate
from horde_proxy.prompts.tool_calls.arguments import call_problem
from horde_proxy.prompts.tool_calls.calls import CallReading, FoundCall
from horde_proxy.prompts.tool_calls.instructions import prefill
from horde_proxy.prompts.tool_calls.reading import certain_content
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Chunk, FinishReason, Head
from horde_proxy.protocol.generation_request import Message, Tool
from horde_proxy.upstreams.base import Waiting
from horde_proxy.upstreams.call_ids import new_call_id
from horde_proxy.upstreams.horde.chained_answer import ChainedAnswer, CutOff, check_time
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.guided_values import GuidedValues, Steps
from horde_proxy.upstreams.horde.plan import Plan
from horde_proxy.upstreams.horde.submit_queue import Ticket

# Short, for small models: what is wrong, and what to do.
_CALL_AGAIN = "Your function call was invalid: {problem} Reply only with a valid function call."
_JSON_AGAIN = "Your answer was invalid: {problem} Reply only with the valid JSON."
_NO_CALL = "You made no function call."

log = logging.getLogger(__name__)


@dataclass
class StructuredAnswer:
    """The answer to one plan, which was made for `structure`.

    `retries`: corrections of one choice. `tokens` and `reasoning_tokens` are those that were sent,
    `sent` what was sent of a choice by the name of its delta and by its index.
    """

    horde: HordeContext
    plan: Plan
    ticket: Ticket
    head: Head
    structure: ConstrainedRequest
    retries: int
    most_leaves: int
    cost: AnswerCost = field(default_factory=AnswerCost)
    tokens: int = 0
    reasoning_tokens: int = 0
    cut_off: CutOff | None = None
    sent: dict[tuple[str, int], str] = field(default_factory=dict)

    def items(self) -> Steps[None]:
        """Waitings, Submitteds, and the chunks after the role's; the last one has the usage."""
        with closing(self._items()) as items:
            for item in items:
                yield item
                if isinstance(item, Waiting):
                    check_time(self.horde.clock, self.plan.caller.deadline)

    def _items(self) -> Steps[None]:
        """As items, without a look at the clock."""
        request = self.structure.request
        messages = with_prefill(request.messages, self.structure.prefill)
        # Only what may be plain text can be sent early: calls and JSON are checked as a whole, and
        # the parts of several choices would mix.
        may_stream = (
            request.stream
            and request.n == 1
            and request.tool_choice == "auto"
            and request.json_format is None
        )
        answers = yield from self._answers(messages, request.n, streams_text=may_stream)
        for index, answer in enumerate(answers):
            if answer is None:
                yield self._end(index, "content_filter")
            elif request.tools:
                yield from self._calls(index, answer)
            else:
                yield from self._json(index, answer)
        usage = chunks.usage(self.plan.fitted.prompt_tokens, self.tokens, self.reasoning_tokens)
        summary = self.cost.summary(self.head.model)
        if self.cut_off:
            summary["cut_off_by"] = self.cut_off
        yield chunks.usage_chunk(self.head, usage, summary)

    def _answers(
        self, messages: list[Message], n: int, *, streams_text: bool = False
    ) -> Steps[list[Answer | None]]:
        """n answers as text, None for a censored one.

        `streams_text`: what cannot become a call any more is sent as it comes.
        """
        chain = ChainedAnswer(
            self.horde,
            self.plan.with_messages(messages, n),
            self.ticket,
            self.head,
            cost=self.cost,
            is_complete=lambda text: is_complete(self.structure, text),
        )
        written = ""
        with closing(chain.items()) as items:
            for item in items:
                if not isinstance(item, dict):
                    yield item
                elif streams_text:
                    written += "".join(
                        choice["delta"].get("content") or "" for choice in item["choices"]
                    )
                    yield from self._emit_new(
                        "content", certain_content(written, self._offered()), 0
                    )
        self.head, self.cut_off = chain.head, chain.cut_off or self.cut_off
        return chain.answers()

    # Tool calls

    def _calls(self, index: int, answer: Answer) -> Steps[None]:
        """The chunks of a choice that may, or must, be calls."""
        answer, reading, problem = yield from self._read(answer)
        text, must = self._text(answer), self.structure.request.tool_choice != "auto"
        if self._is_cut_off(answer, reading):
            yield from self._emit(index, answer, text)
            yield self._end(index, "length")
            return
        calls = list(reading.calls)
        if must and problem:
            calls = [(yield from self._filled_call())]
        # With tools and a format, an answer that is no call has to be JSON.
        if not calls and self.structure.request.json_format:
            yield from self._json(index, answer)
            return
        if not calls:
            yield from self._emit(index, answer, text)
            yield self._end(index, answer.finish_reason)
            return
        if not self.structure.request.parallel_tool_calls:
            calls = calls[:1]
        # A call that had to be made comes alone, as OpenAI's does: its content is null.
        yield from self._emit(index, answer, "" if must else reading.content)
        yield from self._call_chunks(index, calls)

    def _is_cut_off(self, answer: Answer, reading: CallReading) -> bool:
        """Whether the client's own limit ended the answer before its call did."""
        request = self.structure.request
        # Half a call is never repaired: an agent would run it.
        if request.tool_choice == "auto":
            return reading.unfinished
        return (
            request.max_tokens is not None
            and answer.finish_reason == "length"
            and (reading.unfinished or not reading.calls)
        )

    def _read(self, answer: Answer) -> Steps[tuple[Answer, CallReading, str | None]]:
        """(answer, its reading, what is wrong with it), after the corrections that are allowed."""
        for tries_left in reversed(range(self.retries + 1)):
            cut_off = answer.finish_reason == "length"
            reading = read_call(self.structure, answer.written, cut_off=cut_off)
            problem = self._problem(reading)
            if not problem or self._is_cut_off(answer, reading) or not tries_left:
                return answer, reading, problem
            again = self._corrected(answer, _CALL_AGAIN.format(problem=problem))
            if not self._has_room(again):
                return answer, reading, problem
            answer = (yield from self._ask_again(again)) or answer
        raise AssertionError("the last try returns")

    def _problem(self, reading: CallReading) -> str | None:
        """What is wrong with a reading, for the model to correct; None when it may be sent.

        A call that the model was free to make is checked only where the tool is strict: agents
        handle a small misfit themselves, better than a small model does.
        """
        must = self.structure.request.tool_choice != "auto"
        if reading.problem or (not must and not reading.calls):
            return reading.problem
        if not reading.calls:
            return _NO_CALL
        known = {tool.name: tool for tool in self._offered()}
        problems = (
            call_problem(call, known[call.name])
            or undeclared_argument(call.arguments, known[call.name])
            for call in reading.calls
            if call.name in known and (must or known[call.name].strict)
        )
        # One budget for all calls of an answer, which may be hundreds.
        with limited_work():
            return next((problem for problem in problems if problem), None)

    def _offered(self) -> list[Tool]:
        """The tools that may be called."""
        return callable_tools(self.structure.request)

    def _filled_call(self) -> Steps[FoundCall]:
        """The call that the model did not make by itself. Raises ToolCallFailed."""
        style, offered = self.plan.style, self._offered()
        try:
            # The quotation mark, and the brace below, are written by the filling itself.
            opening = prefill(style, "required").removesuffix('"')
            names = {"enum": [tool.name for tool in offered]}
            name = yield from self._guided().fill(names, opening)
            tool = next(tool for tool in offered if tool.name == name)
            begun = prefill(style, name).removesuffix("{")
            arguments = yield from self._guided().fill_arguments(tool.parameters, begun)
        except Unfillable as exc:
            raise ToolCallFailed(f"The model did not make the function call. {exc}") from exc
        return FoundCall(name, dumps(arguments))

    def _guided(self) -> GuidedValues:
        request = self.structure.request
        return GuidedValues(
            self.horde, self.plan, self.ticket, self.cost, request, self.most_leaves
        )

    def _call_chunks(self, index: int, calls: list[FoundCall]) -> Iterator[Chunk]:
        """The chunks of the calls, and the end of the choice; the older form has only one."""
        legacy = self.structure.request.legacy_functions
        for number, call in enumerate(calls[:1] if legacy else calls):
            self.tokens += estimate(call.name + call.arguments)
            for delta in chunks.call_deltas(number, new_call_id(), call.name, call.arguments):
                yield chunks.chunk(
                    self.head, chunks.as_legacy(delta) if legacy else delta, index=index
                )
        yield self._end(index, "function_call" if legacy else "tool_calls")

    # JSON

    def _json(self, index: int, answer: Answer) -> Steps[None]:
        """The chunks of a choice that must be JSON. Strict formats never get anything else."""
        json_format = self.structure.request.json_format
        assert json_format is not None
        if answer.finish_reason == "length":
            yield from self._emit(index, answer, self._text(answer))
            yield self._end(index, "length")
            return
        answer, text, problem = yield from self._read_json(answer, json_format.schema)
        is_filled = False
        if problem and json_format.schema is not None:
            is_filled = True
            text = yield from self._filled_json(json_format.schema)
        # OpenAI's form for a strict schema that was not met; clients look for it.
        if not text and json_format.strict:
            yield chunks.chunk(self.head, {"refusal": f"No valid JSON: {problem}"}, index=index)
            yield self._end(index, "stop")
            return
        yield from self._emit(index, answer, text or self._text(answer), is_filled=is_filled)
        yield self._end(index, "stop")

    def _read_json(
        self, answer: Answer, schema: Mapping[str, Any] | None
    ) -> Steps[tuple[Answer, str | None, str | None]]:
        """(answer, JSON text, what is wrong), after the corrections that are allowed."""
        for tries_left in reversed(range(self.retries + 1)):
            text, problem = read_json(self.structure.prefill, answer.content, schema)
            if not problem or not tries_left:
                return answer, text, problem
            again = self._corrected(answer, _JSON_AGAIN.format(problem=problem))
            if not self._has_room(again):
                return answer, text, problem
            answer = (yield from self._ask_again(again)) or answer
        raise AssertionError("the last try returns")

    def _filled_json(self, schema: Mapping[str, Any]) -> Steps[str]:
        """JSON text that fits, or "" where the schema cannot be filled."""
        try:
            return dumps((yield from self._guided().fill(schema, "")))
        except Unfillable:
            return ""

    # Corrections

    def _corrected(self, answer: Answer, problem: str) -> list[Message]:
        """The chat that asks for a corrected answer, with the beginning of it."""
        begun = with_prefill(self.structure.request.messages, self.structure.prefill)
        again = with_correction(begun, answer.written, problem)
        return with_prefill(again, self.structure.prefill)

    def _has_room(self, messages: list[Message]) -> bool:
        """Whether a correction fits without leaving out the question itself."""
        try:
            dropped = self.plan.with_messages(messages, 1).fitted.dropped
        except ContextLengthExceeded:
            return False
        turns = [msg for msg in self.structure.request.messages if msg.role != "system"]
        return not turns or dropped < len(turns)

    def _ask_again(self, messages: list[Message]) -> Steps[Answer | None]:
        """The answer to a correction; None when that failed, or was censored."""
        self.cost.retries += 1
        self.horde.telemetry.retried("misfit")
        try:
            [corrected] = yield from self._answers(messages, 1)
        except UpstreamFailed as exc:
            # A faulty answer is better than none: agents can handle it.
            log.info("a correction failed, and the answer stays as it was: %s", exc)
            return None
        return corrected

    # What the client gets

    def _text(self, answer: Answer) -> str:
        """The text of an answer, with the beginning that was given to the model."""
        return self.structure.prefill + answer.content

    def _emit(
        self, index: int, answer: Answer, content: str, *, is_filled: bool = False
    ) -> Iterator[Chunk]:
        """The chunks of an answer's reasoning and of this content, which are counted."""
        written = content.removeprefix(self.structure.prefill)
        tokens = estimate(written) + answer.reasoning_tokens
        # The answer's own count is clamped by what was requested; a filled text has requests of its
        # own.
        self.tokens += tokens if is_filled else min(tokens, answer.tokens)
        self.reasoning_tokens += answer.reasoning_tokens
        yield from self._emit_new("reasoning_content", answer.reasoning, index)
        yield from self._emit_new("content", content, index)

    def _emit_new(self, key: str, text: str, index: int) -> Iterator[Chunk]:
        """The chunks of the new part of a text.

        What was sent stays. Where a corrected answer says something else, that comes after it.
        """
        sent = self.sent.get((key, index), "")
        begun, text = sent.lstrip(), text.lstrip() if sent else text
        if begun.startswith(text):
            return
        text = text[len(begun) :] if text.startswith(begun) else f"\n\n{text}"
        self.sent[key, index] = sent + text
        for piece in chunks.words(text) if self.structure.request.stream else [text]:
            yield chunks.chunk(self.head, {key: piece}, index=index)

    def _end(self, index: int, reason: FinishReason) -> Chunk:
        return chunks.chunk(self.head, {}, index=index, finish_reason=reason)
