"""Reads a chat completion request: OpenAI's body in, a checked GenerationRequest out. Pure.

Source: POST /v1/chat/completions in OpenAI's OpenAPI description. Where real clients send more
than that, the comment at the line names the client. Unknown fields are ignored, as all compatible
servers do: opencode sends whatever options its users write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.generation_request import (
    GenerationRequest,
    JsonFormat,
    Message,
    Tool,
    ToolCall,
)
from horde_proxy.protocol.validation import missing_parameter, validated


def _integral(value: Any) -> Any:
    """80.0 becomes 80, since JSON has only one kind of numbers. "80" and true stay invalid."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


MOST_MESSAGES = 20_000
"""A body of 32 MB may contain millions. Each becomes several objects, and templates copy them."""
MOST_ELEMENTS = 1_000
"""The most tools, stops or parts of a message. OpenAI allows 4 stops; Continue sends more."""

Int = Annotated[int, BeforeValidator(_integral)]
Unit = Annotated[float, Field(ge=0, le=1)]

# fail_fast: otherwise pydantic collects every error, and a million errors take gigabytes.
Strings = Annotated[list[str], Field(max_length=MOST_ELEMENTS, fail_fast=True)]
Integers = Annotated[list[Int], Field(max_length=MOST_ELEMENTS, fail_fast=True)]


class _Lenient(BaseModel):
    """Unknown fields are ignored. "80" is not a number, and NaN is refused, as it is not JSON."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Part(_Lenient):
    """A part of a message's content; Open WebUI and the AI SDK send text as parts."""

    type: str
    text: str | None = None
    refusal: str | None = None


class _Function(_Lenient):
    """A call's function. Arguments are an object in Ollama's own API, and JSON text in OpenAI's."""

    name: str
    arguments: str | dict[str, Any] | None = None


class _Call(_Lenient):
    id: str | None = None
    function: _Function


_Parts = Annotated[list[_Part], Field(max_length=MOST_ELEMENTS, fail_fast=True)]
_Calls = Annotated[list[_Call], Field(max_length=MOST_ELEMENTS, fail_fast=True)]


class _Message(_Lenient):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | _Parts | None = None
    name: str | None = None
    tool_calls: _Calls | None = None
    function_call: _Function | None = None
    tool_call_id: str | None = None


class _FunctionTool(_Lenient):
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(_Lenient):
    """A tool; in `allowed_tools`, it has only a name, in `function` or beside the type."""

    type: str | None = "function"
    function: _FunctionTool | None = None
    name: str | None = None


class _Named(_Lenient):
    name: str


class _AllowedTools(_Lenient):
    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[_Tool], Field(max_length=MOST_ELEMENTS, fail_fast=True)]


class _ToolChoice(_Lenient):
    """`tool_choice` as an object: one function by name, or a list of allowed tools."""

    type: str = "function"
    function: _Named | None = None
    name: str | None = None
    allowed_tools: _AllowedTools | None = None


class _JsonSchema(_Lenient):
    name: str | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class _ResponseFormat(_Lenient):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _StreamOptions(_Lenient):
    include_usage: bool | None = None


class HordeParameters(BaseModel):
    """The `horde` object of a request: which workers may answer, how, and for how much."""

    model_config = ConfigDict(extra="forbid", strict=True)

    workers: Annotated[list[str], Field(max_length=5)] | None = None
    worker_blacklist: bool | None = None
    trusted_workers: bool | None = None
    slow_workers: bool | None = None
    validated_backends: bool | None = None
    least_speed: Annotated[float, Field(ge=0)] | None = None
    max_kudos: Annotated[float, Field(gt=0)] | None = None
    segments: bool | None = None
    first_segment: Annotated[Int, Field(ge=0)] | None = None
    progress: Literal["reasoning"] | None = None


class SampledBody(_Lenient):
    """The fields that chats and text completions have in common.

    The samplers after presence_penalty are not OpenAI's: KoboldAI's, llama.cpp's and SillyTavern's
    names of what the horde's workers understand.
    """

    model: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[Int, Field(ge=1)] | None = None
    n: Annotated[Int, Field(ge=1)] | None = None
    stop: str | Strings | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    horde: HordeParameters | None = None

    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Unit | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    top_k: Int | None = None
    min_p: float | None = None
    top_a: float | None = None
    tfs: float | None = None
    typical: float | None = None
    typical_p: float | None = None
    rep_pen: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None
    rep_pen_range: Int | None = None
    rep_pen_slope: float | None = None
    smoothing_factor: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    sampler_order: Integers | None = None

    seed: Any = None
    logit_bias: Any = None
    logprobs: Any = None


class _ChatBody(SampledBody):
    messages: Annotated[
        list[_Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    ]
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    modalities: Strings | None = None
    audio: Any = None
    top_logprobs: Any = None
    web_search_options: Any = None
    tools: Annotated[list[_Tool], Field(max_length=MOST_ELEMENTS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: (
        Annotated[list[_FunctionTool], Field(max_length=MOST_ELEMENTS, fail_fast=True)] | None
    ) = None
    function_call: Literal["none", "auto"] | _Named | None = None
    response_format: _ResponseFormat | None = None


_SAMPLING = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "top_k",
    "min_p",
    "top_a",
    "tfs",
    "typical",
    "rep_pen",
    "rep_pen_range",
    "rep_pen_slope",
    "smoothing_factor",
    "dynatemp_range",
    "dynatemp_exponent",
    "sampler_order",
)
_LITERAL = ("const", "default", "enum", "examples")
"""Keywords of a JSON schema whose values are data, in which null is a value."""
_DEEPEST_SCHEMA = 64
"""Levels of a schema in which nulls are removed. Python's stack ends at a thousand calls."""
_SPEAKERS = ("system", "developer", "user")
"""Roles that need content. An assistant that only calls tools has none: the AI SDK sends null."""
# The names of the same samplers in vLLM and Hugging Face, and in llama.cpp.
_OTHER_NAMES = {
    "typical": ("typical_p",),
    "rep_pen": ("repetition_penalty", "repeat_penalty"),
}
# The horde's workers cannot do these. X-Horde-Warnings tells the client.
_IGNORED = ("seed", "logit_bias", "logprobs", "top_logprobs", "web_search_options")


def read_chat(body: Any, *, max_n: int = 4, strict: bool = False) -> GenerationRequest:
    """The GenerationRequest in a decoded JSON body. Raises InvalidRequest with param and code.

    `max_n`: the most choices allowed. `strict`: parameters that cannot be honoured are refused
    instead of ignored.
    """
    chat = validated(_ChatBody, body)
    _refuse_audio(chat)
    tools, choice = _tools(chat)
    return replace(
        common_request(chat, _ignored(chat, _IGNORED), max_n=max_n, strict=strict),
        messages=tuple(_message(index, message) for index, message in enumerate(chat.messages)),
        # The newer name wins: clients that send both send the older one for older servers.
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=chat.parallel_tool_calls is not False,
        legacy_functions=bool(chat.functions and not chat.tools),
        json_format=_json_format(chat.response_format),
        source=body,
    )


def common_request(
    body: SampledBody, ignored: tuple[str, ...], *, max_n: int, strict: bool
) -> GenerationRequest:
    """The request of a body, without its messages. Raises InvalidRequest."""
    if (body.n or 1) > max_n:
        raise InvalidRequest(
            f"Invalid value for 'n': must be at most {max_n}.",
            param="n",
            code="integer_above_max_value",
        )
    if strict and ignored:
        raise InvalidRequest(
            f"Unsupported parameter: '{ignored[0]}'.",
            param=ignored[0],
            code="unsupported_parameter",
        )
    return GenerationRequest(
        model=body.model,
        messages=(),
        max_tokens=body.max_tokens,
        n=body.n or 1,
        stop=_stop(body.stop),
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        sampling=_sampling(body),
        horde=body.horde.model_dump(exclude_none=True) if body.horde else {},
        ignored=ignored,
    )


def _refuse_audio(body: _ChatBody) -> None:
    if body.audio is not None or "audio" in (body.modalities or ()):
        param = "audio" if body.audio is not None else "modalities"
        raise InvalidRequest(
            "Only text can be generated here, not audio.", param=param, code="unsupported_value"
        )


def _ignored(body: SampledBody, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if getattr(body, name))


def _tools(body: _ChatBody) -> tuple[tuple[Tool, ...], str]:
    """(the tools that may be called, GenerationRequest.tool_choice). Raises InvalidRequest."""
    offered = [_tool(index, tool) for index, tool in enumerate(body.tools or ())]
    given: Any = body.tool_choice
    if not offered:
        offered = [_function_tool(function) for function in body.functions or ()]
        given = given or body.function_call
    choice, allowed = _choice(given, "auto" if offered else "none")
    known = {tool.name for tool in offered}
    tools = tuple(tool for tool in offered if allowed is None or tool.name in allowed)
    if allowed is not None and not allowed <= known:
        choice = sorted(allowed - known)[0]
    if choice not in ("none", "auto", "required") and choice not in {tool.name for tool in tools}:
        raise InvalidRequest(
            f"Invalid value for 'tool_choice': no tool named '{choice}' is in 'tools'.",
            param="tool_choice",
            code="invalid_value",
        )
    if choice == "required" and not tools:
        raise InvalidRequest(
            "'tool_choice' is only allowed when 'tools' are specified.",
            param="tool_choice",
            code="invalid_value",
        )
    return (tools, choice) if tools and choice != "none" else ((), "none")


def _tool(index: int, tool: _Tool) -> Tool:
    if tool.type not in ("function", None):
        raise InvalidRequest(
            f"Only tools of type 'function' are supported, not '{tool.type}'.",
            param=f"tools.[{index}].type",
            code="unsupported_value",
        )
    if tool.function is None:
        raise missing_parameter(f"tools.[{index}].function")
    return _function_tool(tool.function)


def _function_tool(function: _FunctionTool) -> Tool:
    parameters = without_nulls(function.parameters or {"type": "object", "properties": {}})
    if parameters.get("type", "object") != "object":
        raise InvalidRequest(
            f"Invalid schema for function '{function.name}': its type must be 'object'.",
            param="tools",
            code="invalid_value",
        )
    return Tool(function.name, function.description or "", parameters, strict=bool(function.strict))


def _choice(given: Any, default: str) -> tuple[str, set[str] | None]:
    """(the choice, the names of the allowed tools or None for all)."""
    if given is None or isinstance(given, str):
        return given or default, None
    if isinstance(given, _Named):
        return given.name, None
    if given.allowed_tools is not None:
        listed = given.allowed_tools.tools
        named = [tool.function.name if tool.function else tool.name for tool in listed]
        return given.allowed_tools.mode, {name for name in named if name}
    named = given.function.name if given.function else given.name
    if named is None:
        raise missing_parameter("tool_choice.function.name")
    return named, None


def _json_format(given: _ResponseFormat | None) -> JsonFormat | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return JsonFormat()
    if given.json_schema is None or given.json_schema.json_schema is None:
        raise missing_parameter("response_format.json_schema.schema")
    schema = without_nulls(given.json_schema.json_schema)
    return JsonFormat(schema, strict=bool(given.json_schema.strict))


def without_nulls(schema: Any, depth: int = 0) -> Any:
    """A JSON schema without keywords that are null, which means that they are absent."""
    if depth > _DEEPEST_SCHEMA:
        return schema
    if isinstance(schema, list):
        return [without_nulls(element, depth + 1) for element in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value if name in _LITERAL else without_nulls(value, depth + 1)
        for name, value in schema.items()
        if value is not None or name in ("const", "default")
    }


def _sampling(body: SampledBody) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _SAMPLING:
        values_given = [getattr(body, alias) for alias in (name, *_OTHER_NAMES.get(name, ()))]
        value = next((given for given in values_given if given is not None), None)
        if value is not None:
            values[name] = value
    return values


def _stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    strings = [stop] if isinstance(stop, str) else stop or []
    return tuple(dict.fromkeys(string for string in strings if string))


def _message(index: int, message: _Message) -> Message:
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


def _calls(message: _Message) -> tuple[ToolCall, ...]:
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
