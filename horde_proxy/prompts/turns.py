"""Turns messages into the turns that a format renders: calls and results become text. Pure.

Here, tags in what clients and models wrote are neutralised, and our own tags are put around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from horde_proxy.prompts.formats import Format, Turn, neutralise
from horde_proxy.prompts.tool_calls import instructions
from horde_proxy.protocol.generation_request import Message, ToolCall


def to_turns(messages: Sequence[Message], format: Format, style: str = "hermes") -> list[Turn]:
    """One turn for each message, but neighbouring tool results share a user turn.

    `style` is the model's way to write calls: hermes, llama3 or mistral; "none" counts as hermes.
    """
    writer = _TurnWriter(format, "hermes" if style == "none" else style)
    turns: list[Turn] = []
    calls: Sequence[ToolCall] = ()
    for is_tool, group in groupby(messages, key=lambda message: message.role == "tool"):
        if is_tool:
            # In one turn, because most templates raise if a role repeats, and models get confused.
            turns.append(writer.results(tuple(group), calls))
            continue
        for message in group:
            turns.append(writer.turn(message))
            calls = message.tool_calls or calls
    return turns


def continued(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages, and the beginning of an assistant's turn, as the model wrote it."""
    if not text:
        return list(messages)
    # A turn that the client or a prefill began goes on.
    last = messages[-1]
    if last.role == "assistant":
        return [*messages[:-1], replace(last, suffix=last.suffix + text)]
    return [*messages, Message("assistant", "", suffix=text)]


@dataclass(frozen=True)
class _TurnWriter:
    """Writes messages as turns of a format, with calls and results in a style."""

    format: Format
    style: str

    def turn(self, message: Message) -> Turn:
        """A turn of the system, of a user, or of an assistant with its calls."""
        assert message.role != "tool"
        parts = [self._neutral(message.text)] if message.text else []
        parts += [self._call(call, message.tool_calls) for call in message.tool_calls]
        return Turn(message.role, "\n".join(parts) + message.suffix, is_neutral=True)

    def results(self, messages: Sequence[Message], calls: Sequence[ToolCall]) -> Turn:
        """A turn with tool results, in the order of the calls of the last turn that had some.

        Results of other calls, whose turn was left out, come last.
        """
        known = {call.id: call for call in calls}
        positions = {call_id: position for position, call_id in enumerate(known)}
        # Clients may run the calls at the same time, and send each result when it comes.
        ids = [message.tool_call_id or "" for message in messages]
        ordered = sorted(
            zip(ids, messages, strict=True),
            key=lambda pair: positions.get(pair[0], len(positions)),
        )
        is_parallel = len(calls) > 1 or len({*ids} - {""}) > 1
        results = [
            instructions.result_text(
                self.style,
                self._neutral(known[call_id].name if call_id in known else call_id),
                self._neutral(message.text),
                call_id=self._id_of(known.get(call_id), calls),
                is_named=is_parallel and call_id != "",
            )
            for call_id, message in ordered
        ]
        return Turn("user", "\n".join(results), is_neutral=True)

    def _call(self, call: ToolCall, calls: Sequence[ToolCall]) -> str:
        name, arguments = self._neutral(call.name), self._neutral(call.arguments)
        return instructions.call_text(self.style, name, arguments, self._id_of(call, calls))

    def _id_of(self, call: ToolCall | None, calls: Sequence[ToolCall]) -> str | None:
        """The id of a call that shares its name with another one of its turn; else None."""
        if call and any(other.name == call.name and other.id != call.id for other in calls):
            return self._neutral(call.id)
        return None

    def _neutral(self, text: str) -> str:
        return neutralise(text, self.format)
