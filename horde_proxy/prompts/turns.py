"""Turns messages into the turns that a format renders: calls and results become text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from horde_proxy.prompts.formats import Turn
from horde_proxy.prompts.tool_calls import instructions
from horde_proxy.protocol.generation_request import Message, ToolCall


def to_turns(messages: Sequence[Message], style: str = "hermes") -> list[Turn]:
    """One turn for each message, but neighbouring tool results share a user turn.

    `style` is the model's way to write calls: hermes, llama3 or mistral; "none" counts as hermes.
    If the call of a result was dropped, the result gets the call's id as its name.
    """
    style = "hermes" if style == "none" else style
    # Mistral's results carry the name of the function, OpenAI's only the id of the call.
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    turns: list[Turn] = []
    for is_tool, group in groupby(messages, key=lambda message: message.role == "tool"):
        if is_tool:
            # In one turn, because most templates raise if a role repeats, and models get confused.
            results = [_result(message, style, names) for message in group]
            turns.append(Turn("user", "\n".join(results)))
        else:
            turns.extend(_turn(message, style) for message in group)
    return turns


def _turn(message: Message, style: str) -> Turn:
    parts = [message.text] if message.text else []
    parts += [_call(call, style) for call in message.tool_calls]
    role = "user" if message.role == "tool" else message.role
    return Turn(role, "\n".join(parts))


def _call(call: ToolCall, style: str) -> str:
    return instructions.call_text(style, call.name, call.arguments)


def _result(message: Message, style: str, names: Mapping[str, str]) -> str:
    call_id = message.tool_call_id or ""
    return instructions.result_text(style, names.get(call_id, call_id), message.text)
