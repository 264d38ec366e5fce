"""Reading a chat completion request: OpenAI's body in, a checked GenerationRequest out. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.validation import missing, parsed


@dataclass(frozen=True)
class ToolCall:
    """A call that an assistant turn made; `arguments` is JSON text, as OpenAI has it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Tool:
    """A function on offer; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True)
class JsonFormat:
    """The answer has to be JSON: any object, or what fits `schema`."""

    schema: Mapping[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True)
class Message:
    """One turn: role, its text, and for tools the calls made or the call answered."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """What a client asks for, checked and with nulls gone. Who asks is upstreams.base.Caller.

    `max_tokens` None: the upstream's default. `sampling` and `horde` hold only what the client
    set. `ignored` names parameters that were accepted but cannot be honoured. `tool_choice` is
    "none", "auto", "required" or the name of a tool. `legacy_functions`: the client expects
    `function_call` instead of `tool_calls`. `raw`: the only message is a prompt that the model
    continues, without a chat format. `source` is the client's body, for upstreams that speak
    OpenAI's API themselves.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)
    horde: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "none"
    parallel_tool_calls: bool = True
    legacy_functions: bool = False
    json_format: JsonFormat | None = None
    raw: bool = False
    source: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def _integral(value: Any) -> Any:
    """80.0 is 80 in JSON; "80" and true are not."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


MOST_MESSAGES = 20_000
MOST_ELEMENTS = 1_000

Int = Annotated[int, BeforeValidator(_integral)]
Unit = Annotated[float, Field(ge=0, le=1)]

# The first fault ends the reading of a list: a million faults would take gigabytes to remember.
Strings = Annotated[list[str], Field(max_length=MOST_ELEMENTS, fail_fast=True)]
Integers = Annotated[list[Int], Field(max_length=MOST_ELEMENTS, fail_fast=True)]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Part(_Lenient):
    type: str
    text: str | None = None
    refusal: str | None = None


class _Function(_Lenient):
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
    type: str | None = "function"
    function: _FunctionTool | None = None
    name: str | None = None


class _Named(_Lenient):
    name: str


class _AllowedTools(_Lenient):
    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[_Tool], Field(max_length=MOST_ELEMENTS, fail_fast=True)]


class _Choice(_Lenient):
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


class Sampled(_Lenient):
    """What chats and plain completions have in common."""

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


class _Body(Sampled):
    messages: Annotated[
        list[_Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    ]
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    modalities: Strings | None = None
    audio: Any = None
    top_logprobs: Any = None
    web_search_options: Any = None
    tools: Annotated[list[_Tool], Field(max_length=MOST_ELEMENTS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Choice | None = None
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
_DEEPEST_SCHEMA = 64
_SPEAKERS = ("system", "developer", "user")
_OTHER_NAMES = {
    "typical": ("typical_p",),
    "rep_pen": ("repetition_penalty", "repeat_penalty"),
}
_IGNORED = ("seed", "logit_bias", "logprobs", "top_logprobs", "web_search_options")


def read_chat(body: Any, *, max_n: int = 4, strict: bool = False) -> GenerationRequest:
    """The GenerationRequest in a decoded JSON body. Raises InvalidRequest with param and code.

    `max_n`: most choices allowed. `strict`: what cannot be honoured is refused, not ignored.
    Source: POST /v1/chat/completions of the OpenAI API.
    """
    asked = parsed(_Body, body)
    _refuse(asked)
    tools, choice = _tools(asked)
    return replace(
        common(asked, _ignored(asked, _IGNORED), max_n=max_n, strict=strict),
        messages=tuple(_message(i, each) for i, each in enumerate(asked.messages)),
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        legacy_functions=bool(asked.functions and not asked.tools),
        json_format=_json_format(asked.response_format),
        source=body,
    )


def common(
    body: Sampled, ignored: tuple[str, ...], *, max_n: int, strict: bool
) -> GenerationRequest:
    """The request that a body makes but for its messages. Raises InvalidRequest."""
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


def _refuse(body: _Body) -> None:
    if body.audio is not None or "audio" in (body.modalities or ()):
        param = "audio" if body.audio is not None else "modalities"
        raise InvalidRequest(
            "Only text can be generated here, not audio.", param=param, code="unsupported_value"
        )


def _ignored(body: Sampled, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if getattr(body, name))


def _tools(body: _Body) -> tuple[tuple[Tool, ...], str]:
    """(the tools on offer, which must be called). Raises InvalidRequest."""
    offered = [_tool(index, each) for index, each in enumerate(body.tools or ())]
    asked: Any = body.tool_choice
    if not offered:
        offered = [_as_tool(each) for each in body.functions or ()]
        asked = asked or body.function_call
    choice, allowed = _choice(asked, "auto" if offered else "none")
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
        raise missing(f"tools.[{index}].function")
    return _as_tool(tool.function)


def _as_tool(function: _FunctionTool) -> Tool:
    parameters = without_nulls(function.parameters or {"type": "object", "properties": {}})
    if parameters.get("type", "object") != "object":
        raise InvalidRequest(
            f"Invalid schema for function '{function.name}': its type must be 'object'.",
            param="tools",
            code="invalid_value",
        )
    return Tool(function.name, function.description or "", parameters, strict=bool(function.strict))


def _choice(asked: Any, default: str) -> tuple[str, set[str] | None]:
    """(choice, names of the tools that are allowed; None: all)."""
    if asked is None or isinstance(asked, str):
        return asked or default, None
    if isinstance(asked, _Named):
        return asked.name, None
    if asked.allowed_tools is not None:
        listed = asked.allowed_tools.tools
        named = [tool.function.name if tool.function else tool.name for tool in listed]
        return asked.allowed_tools.mode, {name for name in named if name}
    named = asked.function.name if asked.function else asked.name
    if named is None:
        raise missing("tool_choice.function.name")
    return named, None


def _json_format(asked: _ResponseFormat | None) -> JsonFormat | None:
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return JsonFormat()
    if asked.json_schema is None or asked.json_schema.json_schema is None:
        raise missing("response_format.json_schema.schema")
    schema = without_nulls(asked.json_schema.json_schema)
    return JsonFormat(schema, strict=bool(asked.json_schema.strict))


def without_nulls(schema: Any, depth: int = 0) -> Any:
    """A JSON schema without keywords that are null: null means absent."""
    if depth > _DEEPEST_SCHEMA:
        return schema
    if isinstance(schema, list):
        return [without_nulls(each, depth + 1) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value if name in _LITERAL else without_nulls(value, depth + 1)
        for name, value in schema.items()
        if value is not None or name in ("const", "default")
    }


def _sampling(body: Sampled) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _SAMPLING:
        given = [getattr(body, each) for each in (name, *_OTHER_NAMES.get(name, ()))]
        value = next((each for each in given if each is not None), None)
        if value is not None:
            values[name] = value
    return values


def _stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    strings = [stop] if isinstance(stop, str) else stop or []
    return tuple(dict.fromkeys(each for each in strings if each))


def _message(index: int, message: _Message) -> Message:
    if message.role in _SPEAKERS and "content" not in message.model_fields_set:
        raise missing(f"messages.[{index}].content")
    text = _text(index, message.content)
    if message.name and message.role in ("user", "assistant"):
        text = f"{message.name}: {text}"
    if message.role in ("tool", "function"):
        return Message("tool", text, tool_call_id=message.tool_call_id or message.name)
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
        ToolCall(call.id or each.name, each.name, _json_text(each.arguments))
        for call in calls
        for each in [call.function]
    )


def _json_text(arguments: str | Mapping[str, Any] | None) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {})
