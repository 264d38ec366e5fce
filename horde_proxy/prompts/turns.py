"""Messages to the turns that a format renders: tool calls and their results become text. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby

from horde_proxy.prompts.formats import Turn
from horde_proxy.protocol.chat import Message, ToolCall


def to_turns(messages: Sequence[Message]) -> list[Turn]:
    """One turn for each message; neighbouring tool results share a user turn."""
    turns: list[Turn] = []
    for is_tool, group in groupby(messages, key=lambda message: message.role == "tool"):
        if is_tool:
            turns.append(Turn("user", "\n".join(_result(message) for message in group)))
        else:
            turns.extend(_turn(message) for message in group)
    return turns


def _turn(message: Message) -> Turn:
    parts = [message.text] if message.text else []
    parts += [_call(call) for call in message.tool_calls]
    role = "user" if message.role == "tool" else message.role
    return Turn(role, "\n".join(parts))


def _call(call: ToolCall) -> str:
    """The call as Hermes-trained models write it, which most families can read."""
    body = f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}'
    return f"<tool_call>\n{body}\n</tool_call>"


def _result(message: Message) -> str:
    return f"<tool_response>\n{message.text}\n</tool_response>"
