"""Turns messages into the turns that a format renders: calls and results become text. Pure.

Here, tags in what clients and models wrote are neutralised, and our own tags are put around it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
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
    calls: dict[str, _PastCall] = {}
    for is_tool, group in groupby(messages, key=lambda message: message.role == "tool"):
        if is_tool:
            # In one turn, because most templates raise if a role repeats, and models get confused.
            turns.append(writer.results(tuple(group), calls))
            continue
        for message in group:
            # Some clients count the calls of each turn from 0: the last one with an id has it.
            made = _past_calls(message.tool_calls, len(turns))
            calls |= {past.call.id: past for past in made}
            turns.append(writer.turn(message, made))
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
class _PastCall:
    """A call of an earlier turn.

    `order`: the number of the turn, and of the call in it. `is_alone`: the turn has no other call.
    `is_repeated`: another one has the same name, so that only the ids tell them apart.
    """

    call: ToolCall
    order: tuple[float, int]
    is_alone: bool
    is_repeated: bool


def _past_calls(calls: Sequence[ToolCall], turn: int) -> list[_PastCall]:
    """The calls of one turn, which has this number."""
    names = Counter(name for name, _ in {(call.name, call.id) for call in calls})
    return [
        _PastCall(call, (turn, number), len(calls) == 1, names[call.name] > 1)
        for number, call in enumerate(calls)
    ]


@dataclass(frozen=True)
class _TurnWriter:
    """Writes messages as turns of a format, with calls and results in a style."""

    format: Format
    style: str

    def turn(self, message: Message, calls: Sequence[_PastCall]) -> Turn:
        """A turn of the system, of a user, or of an assistant with its calls."""
        assert message.role != "tool"
        parts = [self._neutral(message.text)] if message.text else []
        parts += map(self._call, calls)
        return Turn(message.role, "\n".join(parts) + message.suffix, is_neutral=True)

    def results(self, messages: Sequence[Message], calls: Mapping[str, _PastCall]) -> Turn:
        """A turn with tool results, in the order of their calls, which are given by their ids.

        Results of calls that were left out come last. They have the call's id as their name.
        """
        # Clients may run calls at the same time, and send each result when it comes.
        pairs = [(calls.get(message.tool_call_id or ""), message) for message in messages]
        pairs.sort(key=lambda pair: pair[0].order if pair[0] else (math.inf, 0))
        ids = {message.tool_call_id for message in messages if message.tool_call_id}
        is_parallel = len(ids) > 1 or any(past and not past.is_alone for past, _ in pairs)
        results = [
            instructions.result_text(
                self.style,
                self._neutral(past.call.name if past else message.tool_call_id or ""),
                self._neutral(message.text),
                call_id=self._neutral(past.call.id) if past and past.is_repeated else None,
                is_named=is_parallel and bool(message.tool_call_id),
            )
            for past, message in pairs
        ]
        return Turn("user", "\n".join(results), is_neutral=True)

    def _call(self, past: _PastCall) -> str:
        return instructions.call_text(
            self.style,
            self._neutral(past.call.name),
            self._neutral(past.call.arguments),
            self._neutral(past.call.id) if past.is_repeated else None,
        )

    def _neutral(self, text: str) -> str:
        return neutralise(text, self.format)
