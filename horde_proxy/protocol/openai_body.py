"""Writing a request for a server of OpenAI's API: the mirror of `chat` and `completions`. Pure.

A body that came in OpenAI's shape is not written anew: see GenerationRequest.source. In either
case it has nothing that is meant for a horde.
"""

from __future__ import annotations

from collections.abc import Mapping
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
# best_of: OpenAI streams no completion with it. echo: this proxy puts the prompt before the text.
_NOT_STREAMED = frozenset({"best_of", "echo"})


def openai_body(request: GenerationRequest, *, is_strict: bool = False) -> Mapping[str, Any]:
    """The body of a chat, or with `raw` of a completion, for a stream.

    `is_strict`: the server refuses what OpenAI itself does not know.
    """
    left_out = {OURS, *fields_left_out(request, is_strict=is_strict), *_NOT_STREAMED}
    body = _written(request)
    return {name: value for name, value in body.items() if name not in left_out}


def fields_left_out(request: GenerationRequest, *, is_strict: bool = False) -> tuple[str, ...]:
    """The parameters of a request that openai_body leaves out, in order: for a warning."""
    unknown = _HORDE_SAMPLERS | _OPEN_SAMPLERS if is_strict else _HORDE_SAMPLERS
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


def _message(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": message.text}
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
