"""Answers that must be tool calls or JSON.

The model answers in text, which is read. What does not fit is sent back with the problem, so that
the model corrects it. The last resort is guided filling: the structure is written here, and the
model writes one value of it at a time.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from horde_proxy.errors import ContextLengthExceeded, ToolCallFailed, UpstreamFailed
from horde_proxy.prompts.answer import Answer, cut, end_marker
from horde_proxy.prompts.constrained import (
    ConstrainedRequest,
    callable_tools,
    is_complete,
    quoted_from,
    read_call,
    read_json,
    undeclared_argument,
    with_correction,
    with_prefill,
)
from horde_proxy.prompts.fit import LEAST_LENGTH
from horde_proxy.prompts.guided import TEXT_STOPS, LeafPrompt, Unfillable, guided_fill
from horde_proxy.prompts.json_schema.validation import fits
from horde_proxy.prompts.lenient_json import dumps
from horde_proxy.prompts.tokens import estimate
from horde_proxy.prompts.tool_calls.arguments import call_problem
from horde_proxy.prompts.tool_calls.calls import CallReading, FoundCall
from horde_proxy.prompts.tool_calls.instructions import prefill
from horde_proxy.prompts.tool_calls.reading import certain_content
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chat import Message, Tool
from horde_proxy.protocol.chunks import Chunk, FinishReason, Head
from horde_proxy.upstreams.horde.chained_answer import (
    AnswerItem,
    ChainedAnswer,
    CutOff,
    check_time,
)
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.lifecycle import Finished, Lifecycle
from horde_proxy.upstreams.horde.plan import Plan
from horde_proxy.upstreams.horde.segment import Segment
from horde_proxy.upstreams.horde.submit_queue import Ticket

_LEAF_SAMPLING = {"temperature": 0.0, "rep_pen": 1.0}
_FILL_IN = "You fill in values from what the user says."
_LABEL = re.compile(r'"([^"\\]{1,60})": "\Z')
_SENTENCE = re.compile(r"[,.]")
_CALL_AGAIN = "Your function call was invalid: {problem} Reply only with a valid function call."
_JSON_AGAIN = "Your answer was invalid: {problem} Reply only with the valid JSON."
_NO_CALL = "You made no function call."

log = logging.getLogger(__name__)

T = TypeVar("T")
Steps = Generator[AnswerItem, None, T]
"""Items for the client, and a result when they are out."""


@dataclass
class StructuredAnswer:
    """The answer to one plan, which was made for `structure`."""

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
                if not isinstance(item, dict):
                    check_time(self.horde.clock, self.plan.caller.deadline)

    def _items(self) -> Steps[None]:
        request = self.structure.request
        messages = with_prefill(request.messages, self.structure.prefill)
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
        """n answers as text (list[Answer | None]); `shows` what is no call as it comes."""
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
        answer, read, problem = yield from self._read(answer)
        text, must = self._text(answer), self.structure.request.tool_choice != "auto"
        if self._is_cut_off(answer, read):
            yield from self._emit(index, answer, text)
            yield self._end(index, "length")
            return
        calls = list(read.calls)
        if must and problem:
            calls = [(yield from self._filled_call())]
        if not calls and self.structure.request.json_format:
            yield from self._json(index, answer)
            return
        if not calls:
            yield from self._emit(index, answer, text)
            yield self._end(index, answer.finish_reason)
            return
        if not self.structure.request.parallel_tool_calls:
            calls = calls[:1]
        yield from self._emit(index, answer, "" if must else read.content)
        yield from self._call_chunks(index, calls)

    def _is_cut_off(self, answer: Answer, read: CallReading) -> bool:
        """Whether the client's own limit ended the answer before its call did."""
        request = self.structure.request
        if request.tool_choice == "auto":
            return read.unfinished
        return (
            request.max_tokens is not None
            and answer.finish_reason == "length"
            and (read.unfinished or not read.calls)
        )

    def _read(self, answer: Answer) -> Steps[tuple[Answer, CallReading, str | None]]:
        """(answer, its reading, what is wrong with it), after the corrections that are allowed."""
        for tries_left in reversed(range(self.retries + 1)):
            cut_off = answer.finish_reason == "length"
            read = read_call(self.structure, answer.content, cut_off=cut_off)
            problem = self._problem(read)
            if not problem or self._is_cut_off(answer, read) or not tries_left:
                return answer, read, problem
            again = self._corrected(answer, _CALL_AGAIN.format(problem=problem))
            if not self._has_room(again):
                return answer, read, problem
            answer = (yield from self._ask_again(again)) or answer
        raise AssertionError("the last try returns")

    def _problem(self, read: CallReading) -> str | None:
        """Why what was read cannot be given; agents mend small misfits of free calls themselves."""
        must = self.structure.request.tool_choice != "auto"
        if read.problem or (not must and not read.calls):
            return read.problem
        if not read.calls:
            return _NO_CALL
        known = {tool.name: tool for tool in self._offered()}
        checked = (
            call_problem(call, known[call.name])
            or undeclared_argument(call.arguments, known[call.name])
            for call in read.calls
            if call.name in known and (must or known[call.name].strict)
        )
        return next((found for found in checked if found), None)

    def _offered(self) -> list[Tool]:
        return callable_tools(self.structure.request)

    def _filled_call(self) -> Steps[FoundCall]:
        """The call that the model did not make by itself. Raises ToolCallFailed."""
        style, offered = self.plan.style, self._offered()
        try:
            opening = prefill(style, "required").removesuffix('"')
            names = {"enum": [tool.name for tool in offered]}
            name = yield from self._filled(names, opening)
            tool = next(tool for tool in offered if tool.name == name)
            begun = prefill(style, name).removesuffix("{")
            arguments = yield from self._filled(tool.parameters, begun, self._said())
        except Unfillable as exc:
            raise ToolCallFailed("The model did not make the function call.") from exc
        return FoundCall(name, dumps(arguments))

    def _call_chunks(self, index: int, calls: list[FoundCall]) -> Iterator[Chunk]:
        legacy = self.structure.request.legacy_functions
        for number, call in enumerate(calls[:1] if legacy else calls):
            self.tokens += estimate(call.name + call.arguments)
            for delta in chunks.call_deltas(number, _call_id(), call.name, call.arguments):
                yield chunks.chunk(
                    self.head, chunks.as_legacy(delta) if legacy else delta, index=index
                )
        yield self._end(index, "function_call" if legacy else "tool_calls")

    # JSON

    def _json(self, index: int, answer: Answer) -> Steps[None]:
        wanted = self.structure.request.json_format
        assert wanted is not None
        if answer.finish_reason == "length":
            yield from self._emit(index, answer, self._text(answer))
            yield self._end(index, "length")
            return
        answer, text, problem = yield from self._read_json(answer, wanted.schema)
        if problem and wanted.schema is not None:
            text = yield from self._filled_json(wanted.schema)
        if not text and wanted.strict:
            yield chunks.chunk(self.head, {"refusal": f"No valid JSON: {problem}"}, index=index)
            yield self._end(index, "stop")
            return
        yield from self._emit(index, answer, text or self._text(answer))
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
            return dumps((yield from self._filled(schema, "")))
        except Unfillable:
            return ""

    # Corrections

    def _corrected(self, answer: Answer, problem: str) -> list[Message]:
        """The chat that asks to mend an answer, ready for another."""
        begun = with_prefill(self.structure.request.messages, self.structure.prefill)
        again = with_correction(begun, answer.content, problem)
        return with_prefill(again, self.structure.prefill)

    def _has_room(self, messages: list[Message]) -> bool:
        """Whether a correction fits without leaving out the question itself."""
        try:
            dropped = self.plan.with_messages(messages, 1).fitted.dropped
        except ContextLengthExceeded:
            return False
        asked = [each for each in self.structure.request.messages if each.role != "system"]
        return not asked or dropped < len(asked)

    def _ask_again(self, messages: list[Message]) -> Steps[Answer | None]:
        """The answer to a correction; None when that failed, or was censored."""
        self.cost.retries += 1
        self.horde.observer.retried("misfit")
        try:
            [mended] = yield from self._answers(messages, 1)
        except UpstreamFailed as exc:
            log.info("a correction failed, and the answer stays as it was: %s", exc)
            return None
        return mended

    # Guided filling

    def _filled(self, schema: Mapping[str, Any], begun: str, said: str = "") -> Steps[Any]:
        """A value of the schema, leaf by leaf. Raises Unfillable.

        `begun`: how the answer begins before the value. Strings are taken from `said`, the words
        of the user, where they are found there.
        """
        if fits({}, schema) and not schema.get("properties"):
            return {}
        filling = guided_fill(schema, begun=begun, most_leaves=self.most_leaves)
        try:
            ask = next(filling)
            while True:
                text = yield from self._leaf(ask)
                if said and ask.stops == TEXT_STOPS:
                    text = yield from self._as_said(ask, text, said)
                ask = filling.send(text)
        except StopIteration as done:
            return done.value

    def _as_said(self, ask: LeafPrompt, text: str, said: str) -> Steps[str]:
        """The inside of a JSON string, as the user wrote it.

        Where what the model wrote is not in the user's words, the model is asked for it once more,
        as plain text: a small model copies a word better after a space than after a quotation mark.
        """
        value = cut(text.lstrip(' "'), ask.stops)[0]
        found, label = quoted_from(value, said), _LABEL.search(ask.prefill)
        if found or label is None:
            return _escaped(found) if found else text
        spoken = yield from self._leaf(
            LeafPrompt(f"{label[1]}:", ("\n",), ask.max_length),
            (Message("system", _FILL_IN), Message("user", said)),
        )
        for candidate in (spoken, *_SENTENCE.split(spoken)[:1]):
            found = quoted_from(candidate.strip(' ".'), said)
            if found:
                return _escaped(found)
        return text

    def _said(self) -> str:
        """The user's words."""
        messages = self.structure.request.messages
        return "\n".join(each.text for each in messages if each.role in ("user", "tool"))

    def _leaf(self, ask: LeafPrompt, messages: tuple[Message, ...] | None = None) -> Steps[str]:
        """What the model writes after the prefill of a leaf."""
        self.cost.guided += 1
        request = replace(
            self.structure.request,
            stop=ask.stops,
            n=1,
            messages=messages or self.structure.request.messages,
            sampling={**self.structure.request.sampling, **_LEAF_SAMPLING},
        )
        segment = Segment(
            self.horde,
            replace(self.plan, request=request),
            n=1,
            so_far=ask.prefill,
            max_length=max(ask.max_length, LEAST_LENGTH),
        )
        text = yield from self._generate(segment)
        text, _ = cut(text, self.plan.format.stops)
        marker = end_marker(text)
        return text.rstrip().removesuffix(marker) if marker else text

    def _generate(self, segment: Segment) -> Steps[str]:
        """The text of a segment."""
        text = ""
        with closing(Lifecycle(self.horde, segment, self.ticket, self.cost).items()) as items:
            for item in items:
                if isinstance(item, Finished):
                    text = item.generations[0].text
                else:
                    yield item
        return text

    # What the client gets

    def _text(self, answer: Answer) -> str:
        return self.structure.prefill + answer.content

    def _emit(self, index: int, answer: Answer, content: str) -> Iterator[Chunk]:
        written = content.removeprefix(self.structure.prefill)
        self.tokens += estimate(written) + answer.reasoning_tokens
        self.reasoning_tokens += answer.reasoning_tokens
        yield from self._emit_new("reasoning_content", answer.reasoning, index)
        yield from self._emit_new("content", content, index)

    def _emit_new(self, key: str, text: str, index: int) -> Iterator[Chunk]:
        """The chunks of what is new in a part of the message.

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


def _escaped(text: str) -> str:
    """The text as it stands within a JSON string: backslashes of a path begin no escape."""
    return dumps(text)[1:-1]


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"
