"""Reads a Messages request: Anthropic's body in, a question with one neutral request out. Pure.

No field, role, block or tool that is new ends a request: unknown ones are ignored, or left out with
a warning. Claude Code sends a request up to six times after a 400, the last three twice as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.chat import MOST_MESSAGES
from horde_proxy.protocol.generation_request import GenerationRequest, JsonFormat
from horde_proxy.protocol.json_format import without_nulls
from horde_proxy.protocol.leniency import Leniency
from horde_proxy.protocol.messages.blocks import read_turns
from horde_proxy.protocol.messages.tools import called_names, read_message_tools, schema_texts
from horde_proxy.protocol.sampled_body import Objects, SampledBody, Stops, common_request
from horde_proxy.protocol.validation import validated

_NOT_ANTHROPICS = ("n", "stop", "stream_options", "seed", "logit_bias", "logprobs")
"""Fields of SampledBody that Messages do not have. There is always one answer."""


@dataclass(frozen=True)
class MessagesQuestion:
    """A request for one message. `id` is the message's, "msg_...", `model` the requested name.

    `input_tokens` is an estimate for the first event. `shows_thinking`: the client wants to read
    what the model thinks. `is_warm_up`: no token of an answer is wanted.
    """

    requests: tuple[GenerationRequest]
    id: str
    model: str
    shows_thinking: bool = False
    is_warm_up: bool = False
    input_tokens: int = 0


class MessagesBody(SampledBody):
    messages: Annotated[Objects, Field(min_length=1, max_length=MOST_MESSAGES)]
    stop_sequences: str | Stops | None = None
    system: Any = None
    tools: Any = None
    tool_choice: Any = None
    thinking: Any = None
    output_config: Any = None
    # The name of output_config.format in the beta of 2025.
    output_format: Any = None
    mcp_servers: Any = None
    thread: Any = None


def read_messages_request(
    body: Any, *, id: str, strict: bool = False, keeps_pictures: bool = False
) -> MessagesQuestion:
    """The question in a decoded JSON body. Raises InvalidRequest.

    `strict`: what cannot be used is refused, instead of being left out with a warning.
    `keeps_pictures`: messages have their pictures, which whoever answers looks at, has described,
    or leaves out.
    """
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in _NOT_ANTHROPICS}
    read, leniency = validated(MessagesBody, body), Leniency(strict=strict)
    _refuse_what_would_lie(read)
    # 0 fills Anthropic's cache, and brings no token.
    is_warm_up = read.max_tokens == 0
    common = read.model_copy(
        update={"stop": read.stop_sequences, "max_tokens": None if is_warm_up else read.max_tokens}
    )
    request = common_request(common, leniency, max_n=1)
    named = frozenset(
        name for message in read.messages for name in called_names(message.get("content"))
    )
    offered = read_message_tools(read.tools, read.tool_choice, leniency, named=named)
    turns = read_turns(
        read.messages,
        read.system,
        leniency,
        schemas=schema_texts(read.tools),
        keeps_pictures=keeps_pictures and not strict,
    )
    request = replace(
        request,
        messages=turns,
        tools=offered.tools,
        tool_choice=offered.choice,
        parallel_tool_calls=offered.is_parallel,
        json_format=_json_format(read),
        warnings=leniency.warnings(),
    )
    return MessagesQuestion(
        (request,), id, read.model, _shows_thinking(read.thinking), is_warm_up=is_warm_up
    )


def _refuse_what_would_lie(read: MessagesBody) -> None:
    """Raise InvalidRequest for what an answer without it would only pretend to be."""
    if read.mcp_servers:
        raise InvalidRequest(
            "'mcp_servers' cannot be used here: this proxy connects to no MCP servers. Connect the "
            "client to them instead, and send their tools in 'tools'.",
            param="mcp_servers",
            code="unsupported_parameter",
        )
    if isinstance(read.thread, Mapping) and read.thread.get("continue"):
        raise InvalidRequest(
            "'thread.continue' cannot be used here: no thread is stored. Send all messages.",
            param="thread",
            code="unsupported_parameter",
        )


def _json_format(read: MessagesBody) -> JsonFormat | None:
    """The JSON that the answer must be; None for text, and for a format that is not known."""
    config = read.output_config
    given = config.get("format") if isinstance(config, Mapping) else None
    given = given or read.output_format
    if not isinstance(given, Mapping) or given.get("type") not in ("json_schema", "json_object"):
        return None
    schema = given.get("schema")
    if not isinstance(schema, dict) or not schema:
        return JsonFormat()
    return JsonFormat(without_nulls(schema), strict=True)


def _shows_thinking(thinking: Any) -> bool:
    """Whether thinking blocks are wanted. Without `thinking`, Anthropic never sends one.

    Programs that do not ask for it read the answer as `content[0].text`. A type that is not known,
    such as "between_tools" once was, is one that thinks.
    """
    return isinstance(thinking, Mapping) and thinking.get("type") not in (None, "disabled")
