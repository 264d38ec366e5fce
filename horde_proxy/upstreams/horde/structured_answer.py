"""Answers that must be tool calls or JSON.

    the model answers in text --> it is read --> it fits: sent
             ^                                     |  it does not fit
             '-- the problem, while tries are left '-- guided filling (guided_values.py) of the rest

What is read, and what fits, is decided in prompts.structured_reading; the chunks are written by
choice_writer.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.errors import ToolCallFailed
from horde_proxy.prompts.answer import Answer
from horde_proxy.prompts.constrained import (
    ConstrainedRequest,
    callable_tools,
    with_correction,
    with_prefill,
)
from horde_proxy.prompts.guided import NOTHING, Unfillable
from horde_proxy.prompts.lenient_json import dumps
from horde_proxy.prompts.required_calls import ReadCall, whole_text
from horde_proxy.prompts.structured_reading import StructuredReading, is_complete, read_structured
from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.prompts.tool_calls.instructions import prefill, stops
from horde_proxy.prompts.tool_calls.reading import certain_content
from horde_proxy.protocol.chunks import Head
from horde_proxy.protocol.generation_request import Message
from horde_proxy.upstreams.base import Waiting
from horde_proxy.upstreams.horde.answer_chain import check_time
from horde_proxy.upstreams.horde.chained_answer import ChainedAnswer
from horde_proxy.upstreams.horde.checked_answer import CheckedAnswer
from horde_proxy.upstreams.horde.choice_writer import ChoiceWriter
from horde_proxy.upstreams.horde.guided_values import GuidedValues, Steps


@dataclass(kw_only=True)
class StructuredAnswer(CheckedAnswer[Answer]):
    """The answer to one plan, which was made for `structure`.

    `most_leaves`: those that guided filling may request. `_stop` is the client's stop string at
    which a text ended.
    """

    structure: ConstrainedRequest
    writer: ChoiceWriter
    most_leaves: int
    _stop: str | None = field(init=False, default=None)

    @property
    def head(self) -> Head:
        """What all chunks have in common; the model is known once it has answered."""
        return self.writer.head

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
                yield self.writer.end(index, "content_filter")
            else:
                yield from self._choice(index, answer)
        summary = self.cost.summary(self.head.model)
        if self.cut_off:
            summary["cut_off_by"] = self.cut_off
        if self._stop is not None and request.n == 1:
            summary["stop_sequence"] = self._stop
        yield self.writer.usage(self.plan.fitted.prompt_tokens, summary)

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
            may_grow=streams_text,
        )
        offered = callable_tools(self.structure.request)
        thought = written = ""
        with closing(chain.items()) as items:
            for item in items:
                if not isinstance(item, dict):
                    yield item
                elif streams_text:
                    deltas = [choice["delta"] for choice in item["choices"]]
                    thought += "".join(delta.get("reasoning_content") or "" for delta in deltas)
                    written += "".join(delta.get("content") or "" for delta in deltas)
                    # Before the text: Claude Code shows the last block of an answer as its result.
                    yield from self.writer.reasoning(thought, 0)
                    yield from self.writer.content(certain_content(written, offered), 0)
        self.writer.head, self.cut_off = chain.head, chain.cut_off or self.cut_off
        return chain.answers()

    def _choice(self, index: int, answer: Answer) -> Steps[None]:
        """The chunks of one choice, and its end."""
        request = self.structure.request
        answer, reading = yield from self._read(answer)
        is_required = bool(request.tools) and request.tool_choice != "auto"
        if self._is_cut_off(answer, reading):
            text = whole_text(self.structure, answer.content)
            yield from self.writer.answer(index, answer, text)
            yield self.writer.end(index, "length")
        elif is_required or reading.calls:
            if is_required:
                calls = yield from self._required_calls(reading)
            else:
                calls = [call.call for call in reading.calls]
            # A call that had to be made comes alone, as OpenAI's does: its content is null.
            yield from self.writer.answer(index, answer, "" if is_required else reading.content)
            yield from self.writer.calls(index, calls if request.parallel_tool_calls else calls[:1])
        # With tools and a format, an answer that is no call has to be JSON.
        elif request.json_format:
            yield from self._json(index, answer, reading)
        else:
            yield from self.writer.answer(index, answer, answer.content)
            yield self.writer.end(index, answer.reported_reason)
            # Some stops are ours, at which a model would invent the results of its calls.
            if answer.stop not in stops(self.plan.style, parallel=False):
                self._stop = answer.stop

    def _is_cut_off(self, answer: Answer, reading: StructuredReading) -> bool:
        request = self.structure.request
        is_full = answer.finish_reason == "length"
        if request.tools and request.tool_choice == "auto" and reading.unfinished:
            # Half a call is never repaired: an agent would run it.
            return True
        if request.tools and request.tool_choice != "auto":
            is_without_call = reading.unfinished or not reading.calls
            return request.max_tokens is not None and is_full and is_without_call
        if not request.json_format or reading.json or reading.calls:
            return False
        # Without a limit of the client's, a model that writes without end is helped: small ones
        # tell stories in a text of their JSON, up to our own limit.
        return is_full and (request.max_tokens is not None or self.cut_off is not None)

    def _may_correct(self, answer: Answer, reading: StructuredReading) -> bool:
        # It would write as much once more. Values that are requested one by one have limits.
        is_endless = bool(self.structure.request.json_format) and answer.finish_reason == "length"
        return not is_endless and super()._may_correct(answer, reading)

    # Corrections

    def _generated(self, messages: Sequence[Message]) -> Steps[Answer | None]:
        [answer] = yield from self._answers([*messages], 1)
        return answer

    def _reading(self, answer: Answer) -> StructuredReading:
        cut_off = answer.finish_reason == "length"
        return read_structured(self.structure, answer.written, cut_off=cut_off)

    def _corrected(self, answer: Answer, reading: StructuredReading) -> list[Message]:
        # With the beginning of the answer.
        written = whole_text(self.structure, answer.written)
        again = with_correction(self.structure.request.messages, written, reading.again)
        return with_prefill(again, self.structure.prefill)

    # What the model did not give by itself

    def _required_calls(self, reading: StructuredReading) -> Steps[list[FoundCall]]:
        """The calls, with what does not fit filled in; one call if the model made none.

        Calls that cannot be filled are left out. Raises ToolCallFailed if no call is left.
        """
        calls: list[FoundCall] = []
        failure: Unfillable | None = None
        left, filled_before = self.most_leaves, self.cost.guided
        for begun in reading.calls or (None,):
            if begun is not None and begun.problem is None:
                calls.append(begun.call)
                continue
            try:
                calls.append((yield from self._filled_call(begun, left)))
            except Unfillable as exc:
                failure = exc
            # All calls share one bound: there may be hundreds.
            left = max(0, self.most_leaves - (self.cost.guided - filled_before))
        if not calls:
            raise ToolCallFailed(
                f"The model did not make the function call. {failure} A larger model may make it, "
                "or the model may choose with tool_choice 'auto'."
            )
        return calls

    def _filled_call(self, begun: ReadCall | None, most_leaves: int) -> Steps[FoundCall]:
        """The call of the tool that was begun, or of one that the model chooses."""
        style, offered = self.plan.style, callable_tools(self.structure.request)
        tool, known = (begun.tool, begun.known) if begun else (None, NOTHING)
        values = self._guided(most_leaves)
        if tool is None:
            # The quotation mark, and the brace below, are written by the filling itself.
            opening = prefill(style, "required").removesuffix('"')
            name = yield from values.fill({"enum": [tool.name for tool in offered]}, opening)
            tool = next(tool for tool in offered if tool.name == name)
        opening = prefill(style, tool.name).removesuffix("{")
        arguments = yield from values.fill_arguments(tool.parameters, opening, known)
        return FoundCall(tool.name, dumps(arguments))

    def _guided(self, most_leaves: int) -> GuidedValues:
        request = self.structure.request
        return GuidedValues(self.horde, self.plan, self.ticket, self.cost, request, most_leaves)

    def _json(self, index: int, answer: Answer, reading: StructuredReading) -> Steps[None]:
        """The chunks of a choice that must be JSON: it, or a refusal, but never anything else."""
        json_format = self.structure.request.json_format
        assert json_format is not None
        text, problem = reading.json, reading.problem
        if not text and json_format.schema is not None:
            text, problem = yield from self._filled_json(json_format.schema, reading)
        if text:
            yield from self.writer.answer(index, answer, text, is_filled=not reading.json)
            yield self.writer.end(index, "stop")
        else:
            said = whole_text(self.structure, answer.content).strip()
            reason = f"No valid JSON: {problem}" + (f" The model wrote: {said}" if said else "")
            yield from self.writer.refusal(index, answer, reason)

    def _filled_json(
        self, schema: Mapping[str, Any], reading: StructuredReading
    ) -> Steps[tuple[str, str | None]]:
        """(JSON text that fits, None), or ("", why the schema cannot be filled)."""
        try:
            return dumps(
                (yield from self._guided(self.most_leaves).fill(schema, "", reading.known))
            ), None
        except Unfillable as exc:
            return "", f"{reading.problem} {exc}"
