"""Reads a chat completion request: OpenAI's body in, a checked GenerationRequest out. Pure.

Source: POST /v1/chat/completions in OpenAI's OpenAPI description. Where real clients send more
than that, the comment at the line names the client.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.chat_messages import ChatMessage, read_message
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.json_format import ResponseFormat, read_format
from horde_proxy.protocol.sampled_body import (
    MOST_ELEMENTS,
    Int,
    SampledBody,
    Strings,
    common_request,
    ignored_fields,
)
from horde_proxy.protocol.tools import (
    Function,
    NamedChoice,
    ToolChoice,
    ToolDefinition,
    read_tools,
)
from horde_proxy.protocol.validation import validated

MOST_MESSAGES = 20_000
"""A body of 32 MB may contain millions. Each becomes several objects, and templates copy them."""
# The horde's workers cannot do these. X-Horde-Warnings tells the client.
_IGNORED = ("seed", "logit_bias", "logprobs", "top_logprobs", "web_search_options")


class _ChatBody(SampledBody):
    messages: Annotated[
        list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    ]
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    modalities: Strings | None = None
    audio: Any = None
    top_logprobs: Any = None
    web_search_options: Any = None
    tools: (
        Annotated[list[ToolDefinition], Field(max_length=MOST_ELEMENTS, fail_fast=True)] | None
    ) = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Function], Field(max_length=MOST_ELEMENTS, fail_fast=True)] | None = (
        None
    )
    function_call: Literal["none", "auto"] | NamedChoice | None = None
    response_format: ResponseFormat | None = None


def read_chat(body: Any, *, max_n: int = 4, strict: bool = False) -> GenerationRequest:
    """The GenerationRequest in a decoded JSON body. Raises InvalidRequest with param and code.

    `max_n`: the most choices allowed. `strict`: parameters that cannot be honoured are refused
    instead of ignored.
    """
    chat = validated(_ChatBody, body)
    _refuse_audio(chat)
    tools, choice = read_tools(chat.tools or (), chat.functions or (), _given_choice(chat))
    return replace(
        common_request(chat, ignored_fields(chat, _IGNORED), max_n=max_n, strict=strict),
        messages=tuple(read_message(index, message) for index, message in enumerate(chat.messages)),
        # The newer name wins: clients that send both send the older one for older servers.
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=chat.parallel_tool_calls is not False,
        legacy_functions=bool(chat.functions and not chat.tools),
        json_format=read_format(chat.response_format),
        source=body,
    )


def _refuse_audio(body: _ChatBody) -> None:
    if body.audio is not None or "audio" in (body.modalities or ()):
        param = "audio" if body.audio is not None else "modalities"
        raise InvalidRequest(
            "Only text can be generated here, not audio.", param=param, code="unsupported_value"
        )


def _given_choice(body: _ChatBody) -> Any:
    # `function_call` is the choice between `functions`, the older form of `tools`.
    return body.tool_choice or (None if body.tools else body.function_call)
