"""Reads the messages of a chat: OpenAI's objects in, neutral messages out. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.generation_request import Message, ToolCall
from horde_proxy.protocol.sampled_body import MOST_ELEMENTS, LenientModel
from horde_proxy.protocol.validation import missing_parameter

_SPEAKERS = ("system", "developer", "user")
"""Roles that need content. An assistant that only calls tools has none: the AI SDK sends null."""


class _Part(LenientModel):
    """A part of a message's content; Open WebUI and the AI SDK send text as parts."""

    type: str
    text: str | None = None
    refusal: str | None = None


class _Function(LenientModel):
    """A call's function. Arguments are an object in Ollama's own API, and JSON text in OpenAI's."""

    name: str
    arguments: str | dict[str, Any] | None = None


class _Call(LenientModel):
    id: str | None = None
    function: _Function


_Parts = Annotated[list[_Part], Field(max_length=MOST_ELEMENTS, fail_fast=True)]
_Calls = Annotated[list[_Call], Field(max_length=MOST_ELEMENTS, fail_fast=True)]


class ChatMessage(LenientModel):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | _Parts | None = None
    name: str | None = None
    tool_calls: _Calls | None = None
    function_call: _Function | None = None
    tool_call_id: str | None = None


def read_message(index: int, message: ChatMessage) -> Message:
    """The message at an index of `messages`. Raises InvalidRequest."""
    if message.role in _SPEAKERS and "content" not in message.model_fields_set:
        raise missing_parameter(f"messages.[{index}].content")
    text = _text(index, message.content)
    # SillyTavern sends the speakers of a group chat as names, but templates have no names.
    if message.name and message.role in ("user", "assistant"):
        text = f"{message.name}: {text}"
    if message.role in ("tool", "function"):
        return Message("tool", text, tool_call_id=message.tool_call_id or message.name)
    # "developer" is OpenAI's newer name of the system role. No open model knows it.
    role = "system" if message.role == "developer" else message.role
    return Message(role, text, tool_calls=_calls(message))  # type: ignore[arg-type]


def _text(index: int, content: str | Sequence[_Part] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in ("text", "refusal"):
            raise InvalidRequest(
                f"Only text can be read here: content of type '{part.type}' is not supported.",
                param=f"messages.[{index}].content",
                code="unsupported_content",
            )
    return "\n".join(part.text or part.refusal or "" for part in content)


def _calls(message: ChatMessage) -> tuple[ToolCall, ...]:
    calls = list(message.tool_calls or ())
    if message.function_call:
        calls.append(_Call(function=message.function_call))
    return tuple(
        ToolCall(
            call.id or call.function.name, call.function.name, _json_text(call.function.arguments)
        )
        for call in calls
    )


def _json_text(arguments: str | Mapping[str, Any] | None) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {})
