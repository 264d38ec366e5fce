"""Writing a request for a server of OpenAI's API: the mirror of `chat` and `completions`. Pure.

A body that came in OpenAI's shape is not written anew: see GenerationRequest.source. In either
case it has nothing that is meant for a horde.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from horde_proxy.protocol.generation_request import GenerationRequest, JsonFormat, Message, Tool

OURS = "horde"
"""The field with our own parameters. OpenAI refuses unknown ones, and no other server knows it."""
# Samplers by the names that only KoboldAI's API and the horde have.
_HORDE_SAMPLERS = frozenset(
    {
        "rep_pen",
        "rep_pen_range",
        "rep_pen_slope",
        "top_a",
        "tfs",
        "typical",
        "smoothing_factor",
        "dynatemp_range",
        "dynatemp_exponent",
        "sampler_order",
    }
)
# Samplers that OpenAI does not have, by the names that vLLM, llama.cpp, Ollama, TGI, LM Studio and
# OpenRouter read. OpenAI, Azure, Mistral and Groq refuse a request that has one.
_OPEN_SAMPLERS = frozenset(
    {"top_k", "min_p", "typical_p", "repetition_penalty", "repeat_penalty"},
)
_SAMPLERS_OF_SERVERS = {
    "rep_pen": ("repeat_penalty", "repetition_penalty"),  # llama.cpp; vLLM and TabbyAPI
    "typical": ("typical_p",),
}
"""The names of our samplers in servers with OpenAI's API, where they are not the same."""
# What turns thinking off: Ollama reads the first, llama.cpp, vLLM and SGLang the second. Fronts
# write both where a client of another API says so, and OpenAI refuses them.
_SWITCHES = frozenset({"reasoning", "chat_template_kwargs"})
_PASSED_ON: Mapping[str, type] = {
    "seed": int,
    "logit_bias": dict,
    "logprobs": bool,
    "top_logprobs": int,
    "reasoning_effort": str,
    "chat_template_kwargs": dict,
}
"""Fields with their types that only a server with the model's own template understands.

The last one is that of llama.cpp, vLLM and SGLang: {"enable_thinking": false}."""
# best_of: OpenAI streams no completion with it. echo: this proxy puts the prompt before the text.
_NOT_STREAMED = frozenset({"best_of", "echo"})


def openai_body(request: GenerationRequest, *, is_strict: bool = False) -> Mapping[str, Any]:
    """The body of a chat, or with `raw` of a completion, for a stream.

    `is_strict`: the server refuses what OpenAI itself does not know.
    """
    left_out = {OURS, *fields_left_out(request, is_strict=is_strict), *_NOT_STREAMED}
    body = {name: value for name, value in _written(request).items() if name not in left_out}
    if not (request.source or request.raw or is_strict):
        body["messages"] = _with_loops_reasoning(request.messages)
    return body


def chat_fields(request: GenerationRequest) -> dict[str, Any]:
    """The fields of a chat for a server that knows the model's own template.

    That is the body of a chat without model, length and number of choices. Messages are as they
    were read, so that any template knows their roles and parts. A named tool is offered alone and
    required: not every server understands its name.
    """
    fields: dict[str, Any] = {"messages": [_with_reasoning(msg) for msg in request.messages]}
    fields |= passed_on(request) | _server_sampling(request.sampling)
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.tools:
        is_free = request.tool_choice in ("auto", "required")
        tools = [tool for tool in request.tools if is_free or tool.name == request.tool_choice]
        choice = request.tool_choice if is_free else "required"
        fields |= _tools(replace(request, tools=tuple(tools), tool_choice=choice))
    if request.json_format is not None:
        fields["response_format"] = _response_format(request.json_format)
    return fields


def passed_on(request: GenerationRequest) -> dict[str, Any]:
    """Fields of the client's own body that the horde's texts do not have, but chat_fields has."""
    return {
        name: value
        for name, kind in _PASSED_ON.items()
        if type(value := request.source.get(name)) is kind
    }


def chat_fields_left_out(request: GenerationRequest) -> tuple[str, ...]:
    """The samplers of a request that chat_fields leaves out, in order: for a warning."""
    return tuple(sorted(request.sampling.keys() & _HORDE_SAMPLERS - _SAMPLERS_OF_SERVERS.keys()))


def _server_sampling(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The samplers by the names of servers with OpenAI's API."""
    known = {
        name: value
        for name, value in sampling.items()
        if name not in _HORDE_SAMPLERS or name in _SAMPLERS_OF_SERVERS
    }
    return {
        theirs: value
        for name, value in known.items()
        for theirs in _SAMPLERS_OF_SERVERS.get(name, (name,))
    }


def fields_left_out(request: GenerationRequest, *, is_strict: bool = False) -> tuple[str, ...]:
    """The parameters of a request that openai_body leaves out, in order: for a warning."""
    for_strict = _OPEN_SAMPLERS | _SWITCHES if is_strict else frozenset()
    unknown = _HORDE_SAMPLERS | for_strict
    body = _written(request)
    names = [name for name in unknown if body.get(name) is not None]
    return tuple(sorted([*names, "best_of"] if (body.get("best_of") or 1) != 1 else names))


def _written(request: GenerationRequest) -> Mapping[str, Any]:
    """`source` where there is one; else the body that says the same."""
    if request.source:
        return request.source
    body: dict[str, Any] = {"model": request.model, **request.sampling}
    if request.raw:
        body["prompt"] = request.messages[0].text
    else:
        body["messages"] = [_message(message) for message in request.messages]
    if request.max_tokens is not None:
        # The older name: Ollama does not know max_completion_tokens.
        body["max_tokens"] = request.max_tokens
    if request.n > 1:
        body["n"] = request.n
    if request.stop:
        body["stop"] = list(request.stop)
    if request.tools:
        body |= _tools(request)
    if request.json_format is not None:
        body["response_format"] = _response_format(request.json_format)
    return body


def _with_loops_reasoning(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages; the calls since the user's last turn have the thoughts that led to them.

    Models that think between their calls go on from these. DeepSeek demands them there, and its
    older API refuses them in any other message; OpenAI, Azure, Mistral and Groq know none.
    """
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    last = users[-1] if users else -1
    return [
        _with_reasoning(msg) if index > last and msg.tool_calls else _message(msg)
        for index, msg in enumerate(messages)
    ]


def _with_reasoning(message: Message) -> dict[str, Any]:
    written = _message(message)
    return {**written, "reasoning_content": message.reasoning} if message.reasoning else written


def _message(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        written["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    return written


def _content(message: Message) -> str | list[dict[str, Any]]:
    """The text; or parts, in which each picture is at its place."""
    if not message.pictures:
        return message.text
    parts: list[dict[str, Any]] = []
    position = 0
    for picture in message.pictures:
        # The line ends before and after a picture's note are those between parts.
        parts += _text_part(message.text[position : picture.start].removesuffix("\n"))
        parts.append({"type": "image_url", "image_url": {"url": picture.url}})
        position = picture.end + 1
    return [*parts, *_text_part(message.text[position:])]


def _text_part(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []


def _tools(request: GenerationRequest) -> dict[str, Any]:
    choice: str | dict[str, Any] = request.tool_choice
    if choice not in ("none", "auto", "required"):
        choice = {"type": "function", "function": {"name": choice}}
    body = {"tools": [_tool(tool) for tool in request.tools], "tool_choice": choice}
    # Sent only where it differs from the default: some models of OpenAI refuse the parameter.
    return body if request.parallel_tool_calls else {**body, "parallel_tool_calls": False}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    return {
        "type": "function",
        "function": {**function, "strict": True} if tool.strict else function,
    }


def _response_format(wanted: JsonFormat) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    # OpenAI requires a name, and shows it to nobody but the model.
    schema = {"name": "answer", "schema": dict(wanted.schema), "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": schema}
