"""What a model is told when its answer must be calls or JSON, and how that answer begins. Pure.

The horde has no grammar: an instruction, a begun answer and stops are all that there is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from horde_proxy.prompts import tools as calling
from horde_proxy.prompts.calls import read_calls
from horde_proxy.prompts.faults import loops
from horde_proxy.prompts.loose_json import dumps, loads, span
from horde_proxy.prompts.schemas import Unfillable, problem, resolved
from horde_proxy.protocol.chat import ChatRequest, Message

_JSON = "Answer with one JSON object only, no prose, no code fence."
_JSON_OF_SCHEMA = (
    "Answer with one JSON value only, no prose, no code fence. It must be an instance of this JSON "
    "schema, not the schema itself:\n"
)
_FENCE = "\n```"
_CALLED = re.compile(r'"name": *"([^"]{1,128})", *"(?:arguments|parameters)": *(?=\{)')
_BEGUN = re.compile(r'\{\s*"([^"\\]{1,200})"\s*:\s*(\S)')
_HIGHEST_TEMPERATURE = 0.7
_HIGHEST_PENALTY = 1.05


@dataclass(frozen=True)
class Structure:
    """How to ask: the chat, and the beginning that the answer is given ("" for none)."""

    request: ChatRequest
    prefill: str


def structure_of(request: ChatRequest, style: str) -> Structure | None:
    """How to ask for what a request wants; None for plain text.

    `style` is how tool calls are written for the model, "none" for a model that is told of none.
    """
    if request.tools and style != "none":
        return _for_tools(request, style)
    if request.json_format is not None:
        return _for_json(request)
    return None


def corrected(messages: Sequence[Message], answer: str, problem: str) -> list[Message]:
    """The chat that asks a model to mend its last answer."""
    begun = messages[-1].text if messages[-1].role == "assistant" else ""
    kept = messages[:-1] if begun else messages
    return [*kept, Message("assistant", begun + answer), Message("user", problem)]


def begun_with(messages: Sequence[Message], prefill: str) -> list[Message]:
    """The chat whose answer begins with a text of ours."""
    return [*messages, Message("assistant", prefill)] if prefill else list(messages)


def read_json(text: str, schema: Mapping[str, Any] | None, *, cut_off: bool) -> tuple[str, str]:
    """(JSON text, "") or ("", what is wrong). An answer that was cut off is not mended."""
    try:
        value = loads(_unfenced(text), repair=not cut_off)
    except ValueError:
        return "", "The answer is not valid JSON."
    if schema is None:
        return (dumps(value), "") if isinstance(value, dict) else ("", "It is not a JSON object.")
    wrong = problem(value, schema)
    return (dumps(value), "") if wrong is None else ("", wrong)


def is_complete(structure: Structure, text: str) -> bool:
    """Whether nothing should follow: what must come is there, or the text went astray."""
    request, whole = structure.request, structure.prefill + text
    if request.tools:
        if request.tool_choice == "auto":
            return False
        read = read_calls(whole, request.tools, cut_off=True)
        is_there = bool(read.calls) and not read.unfinished
        return is_there or _is_astray(whole, request) or loops(text)
    is_there = span(whole.lstrip()).state == "closed"
    return is_there or _is_astray(whole, request) or loops(text)


def _is_astray(text: str, request: ChatRequest) -> bool:
    """Whether a begun object has a first property that its schema has not, or of another type.

    That is how small models repeat the schema instead of filling it in.
    """
    called = _CALLED.search(text)
    if request.tools:
        tool = next((each for each in request.tools if called and each.name == called[1]), None)
        schema: Mapping[str, Any] | None = tool.parameters if tool else None
    else:
        schema = request.json_format.schema if request.json_format else None
    begun = _BEGUN.search(text, called.end() if called else 0)
    known = (schema or {}).get("properties")
    if not begun or not isinstance(known, Mapping) or not known:
        return False
    wanted = known.get(begun[1])
    if wanted is None:
        return True
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    return begun[2] in "{[" and kind in ("string", "integer", "number", "boolean")


def grounded(value: str, said: str) -> str | None:
    """The value as it was said, whatever its case; None when it was not."""
    at = said.casefold().find(value.casefold())
    if not value or at < 0 or len(said.casefold()) != len(said):
        return None
    return said[at:at + len(value)]


def _for_tools(request: ChatRequest, style: str) -> Structure:
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    is_free = choice in ("auto", "required")
    offered = [tool for tool in request.tools if choice in ("auto", "required", tool.name)]
    told = calling.instructions(offered, style, choice=choice, parallel=parallel)
    return Structure(
        replace(
            request,
            messages=tuple(_told(request.messages, told)),
            stop=(*request.stop, *calling.stops(style, parallel=parallel and is_free)),
            sampling=_steady(request.sampling),
        ),
        calling.prefill(style, choice),
    )


def _for_json(request: ChatRequest) -> Structure:
    assert request.json_format is not None
    schema = request.json_format.schema
    told = _JSON if schema is None else _JSON_OF_SCHEMA + _slim(schema)
    return Structure(
        replace(
            request,
            messages=tuple(_told(request.messages, told)),
            stop=(*request.stop, _FENCE),
            sampling=_steady(request.sampling),
        ),
        _opening(schema),
    )


def _opening(schema: Mapping[str, Any] | None) -> str:
    """How JSON of a schema begins, as far as that is certain."""
    if schema is None:
        return "{"
    try:
        kind = resolved(schema).get("type")
    except Unfillable:
        return ""
    return {"object": "{", "array": "["}.get(kind, "") if isinstance(kind, str) else ""


def _slim(schema: Mapping[str, Any]) -> str:
    return json.dumps(calling.slimmed(schema), ensure_ascii=False, separators=(",", ":"))


def _told(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages with a text at the end of the first system message, or in one of its own."""
    first = messages[0] if messages else None
    if first is not None and first.role == "system":
        return [replace(first, text=f"{first.text}\n\n{text}".strip()), *messages[1:]]
    return [Message("system", text), *messages]


def _steady(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Repetition penalties and high temperatures break JSON."""
    temperature = min(sampling.get("temperature", _HIGHEST_TEMPERATURE), _HIGHEST_TEMPERATURE)
    penalty = min(sampling.get("rep_pen", 1.0), _HIGHEST_PENALTY)
    kept = {name: value for name, value in sampling.items()
            if name not in ("frequency_penalty", "presence_penalty")}
    return {**kept, "temperature": temperature, "rep_pen": penalty}


def _unfenced(text: str) -> str:
    """The JSON within a code fence, or the text as it is."""
    text = text.strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].rpartition("```")[0] or text
    return text
