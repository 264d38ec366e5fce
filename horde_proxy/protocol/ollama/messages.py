"""Writes Ollama's messages as OpenAI's. Pure.

    images       base64 beside the text         parts of the content, as data URLs
    thinking     beside the text                reasoning_content
    tool_calls   arguments are an object        arguments are JSON text, each call with an id
    tool_name    names the tool of a result     tool_call_id names the call

Calls and results find each other by their ids, where a client keeps them (ollama's for Python drops
them), by the tool's name, or by their order alone, which is all that Home Assistant leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from horde_proxy.protocol.picture_parts import picture_url
from horde_proxy.protocol.sampled_body import MOST_ELEMENTS
from horde_proxy.protocol.tool_call_shapes import read_call
from horde_proxy.protocol.validation import invalid_type


class _OpenCalls:
    """The calls whose results are still to come, by id: their tools' names, in their order."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._count = 0

    def begin(self, calls: Any, param: str) -> list[Any]:
        """OpenAI's calls of an assistant's turn. Raises InvalidRequest."""
        if not isinstance(calls, list):
            raise invalid_type(param, "an array", calls)
        self._names.clear()
        return [self._written(call, f"{param}.[{index}]") for index, call in enumerate(calls)]

    def answered(self, message: Mapping[str, Any]) -> str | None:
        """The id of the call that a tool's message answers; None if there is none."""
        given, name = message.get("tool_call_id"), message.get("tool_name") or message.get("name")
        if isinstance(given, str) and given:
            self._names.pop(given, None)
            return given
        by_name = (call_id for call_id, called in self._names.items() if called == name)
        call_id = next(by_name, None) or next(iter(self._names), None)
        if call_id is not None:
            del self._names[call_id]
        return call_id

    def _written(self, call: Any, param: str) -> Any:
        # The reader of OpenAI's body refuses what is no call, and names its place.
        read = read_call(call, param) if isinstance(call, dict) else None
        if read is None:
            return call
        self._count += 1
        # A call without an id has its name as id, and one tool may be called twice.
        call_id = read.id if read.id != read.name else f"call_{self._count}"
        self._names[call_id] = read.name
        function = {"name": read.name, "arguments": read.arguments}
        return {"id": call_id, "type": "function", "function": function}


def openai_messages(messages: Sequence[Any]) -> list[Any]:
    """OpenAI's messages. What is no message stays, so that its reader can refuse it."""
    calls = _OpenCalls()
    return [
        _message(message, f"messages.[{index}]", calls) if isinstance(message, dict) else message
        for index, message in enumerate(messages)
    ]


def _message(message: Mapping[str, Any], param: str, calls: _OpenCalls) -> dict[str, Any]:
    role = message.get("role")
    # Ollama takes any case, and no other server does.
    role = role.strip().lower() if isinstance(role, str) else role
    written: dict[str, Any] = {"role": role, "content": _content(message, param)}
    if role == "assistant":
        if message.get("tool_calls"):
            written["tool_calls"] = calls.begin(message["tool_calls"], f"{param}.tool_calls")
        if isinstance(message.get("thinking"), str) and message["thinking"]:
            written["reasoning_content"] = message["thinking"]
    elif role == "tool":
        name = message.get("tool_name")
        # OpenAI's servers want an id also where a chat lost the call.
        orphan = name if isinstance(name, str) and name else "call"
        written["tool_call_id"] = calls.answered(message) or orphan
    return written


def _content(message: Mapping[str, Any], param: str) -> Any:
    content, images = message.get("content"), message.get("images")
    # Ollama's content is a text without which a message has only calls or pictures. Clients of
    # OpenAI's API send parts, too.
    content = "" if content is None else content
    if not images:
        return content
    if not isinstance(images, list) or len(images) > MOST_ELEMENTS:
        raise invalid_type(f"{param}.images", f"an array of up to {MOST_ELEMENTS} images", images)
    before = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return [*(before if content else ()), *map(_picture, images)]


def _picture(image: Any) -> dict[str, Any]:
    """The part of a picture; what is none keeps its text, for the reader to refuse."""
    url = picture_url({"image": image})
    if url is None:
        return {"type": "image", "image": image}
    return {"type": "image_url", "image_url": {"url": url}}
