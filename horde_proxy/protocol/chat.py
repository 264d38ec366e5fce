"""Reads a chat completion request: OpenAI's body in, a checked GenerationRequest out. Pure.

Source: POST /v1/chat/completions in OpenAI's OpenAPI description. Where real clients send more
than that, the comment at the line names the client.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.chat_messages import ChatMessage, read_messages
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.json_format import read_format
from horde_proxy.protocol.leniency import Leniency
from horde_proxy.protocol.sampled_body import (
    Int,
    Objects,
    SampledBody,
    Strings,
    common_request,
    positive,
    warn_of_unsupported,
)
from horde_proxy.protocol.tools import OfferedTools, read_tools
from horde_proxy.protocol.validation import validated

MOST_MESSAGES = 20_000
"""A body of 32 MB may contain millions. Each becomes several objects, and templates copy them."""
# The horde's workers cannot do these. X-Horde-Warnings tells the client.
_UNSUPPORTED = ("seed", "logit_bias", "logprobs", "top_logprobs", "web_search_options")


class ChatBody(SampledBody):
    messages: Annotated[
        list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    ]
    max_completion_tokens: Int | None = None
    modalities: Strings | None = None
    audio: Any = None
    top_logprobs: Any = None
    web_search_options: Any = None
    tools: Objects | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Objects | None = None
    function_call: Any = None
    response_format: Any = None


def read_chat(
    body: Any, *, max_n: int = 4, strict: bool = False, keeps_pictures: bool = False
) -> GenerationRequest:
    """The GenerationRequest in a decoded JSON body. Raises InvalidRequest with param and code.

    `max_n`: the most choices allowed. `strict`: what cannot be used is refused, instead of being
    left out with a warning. `keeps_pictures`: messages have their pictures, which whoever answers
    looks at, has described, or leaves out; strict reading refuses them all the same.
    """
    keeps_pictures = keeps_pictures and not strict
    chat, leniency = validated(ChatBody, body), Leniency(strict=strict)
    _check_modalities(chat, leniency)
    warn_of_unsupported(chat, _UNSUPPORTED, leniency)
    request = common_request(chat, leniency, max_n=max_n)
    offered, is_legacy = _tools(chat, leniency)
    return replace(
        request,
        messages=read_messages(chat.messages, leniency, keeps_pictures=keeps_pictures),
        # The newer name wins: clients that send both send the older one for older servers.
        max_tokens=positive(chat, "max_completion_tokens", leniency) or request.max_tokens,
        tools=offered.tools,
        tool_choice=offered.choice,
        parallel_tool_calls=chat.parallel_tool_calls is not False and offered.is_parallel,
        legacy_functions=is_legacy,
        json_format=read_format(chat.response_format, leniency),
        warnings=leniency.warnings(),
        source=body,
    )


def _tools(chat: ChatBody, leniency: Leniency) -> tuple[OfferedTools, bool]:
    """(the tools, whether they came as `functions`, the older form of `tools`)."""
    if chat.tools or not chat.functions:
        return read_tools(chat.tools or (), chat.tool_choice, leniency), False
    choice = chat.tool_choice or chat.function_call
    return read_tools(chat.functions, choice, leniency, field="functions"), True


def _check_modalities(body: ChatBody, leniency: Leniency) -> None:
    """A warning for what is not text, but InvalidRequest for audio.

    OpenRouter's clients send ["image", "text"] for models that may also draw. A client that wants
    audio would play it.
    """
    if body.audio is not None or "audio" in (body.modalities or ()):
        param = "audio" if body.audio is not None else "modalities"
        raise InvalidRequest(
            "Only text can be generated here, not audio.", param=param, code="unsupported_value"
        )
    if set(body.modalities or ()) - {"text"}:
        error = InvalidRequest(
            "Only text can be generated here.", param="modalities", code="unsupported_value"
        )
        leniency.tolerate(error, "only text is generated")
