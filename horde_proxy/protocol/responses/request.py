"""Reads a request for a response: OpenAI's body in, a ResponseQuestion out. Pure.

Unknown fields, efforts, includes, tiers and ids are ignored: each client sends some that no other
server knows, and Codex ends its turn at a 400.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, takewhile
from typing import Annotated, Any

from pydantic import Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.chat_messages import ChatMessage, read_messages
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.protocol.json_format import read_format
from horde_proxy.protocol.leniency import Leniency
from horde_proxy.protocol.responses.calls import Item
from horde_proxy.protocol.responses.compaction import summarising
from horde_proxy.protocol.responses.items import (
    COMPACTION_TRIGGER,
    MOST_REFERENCES,
    own_items,
    referenced_ids,
    turns,
)
from horde_proxy.protocol.responses.question import (
    ConversationNotFound,
    PreviousResponseNotFound,
    Recall,
    ResponseQuestion,
)
from horde_proxy.protocol.responses.tools import Place, ResponseTools, read_response_tools
from horde_proxy.protocol.sampled_body import (
    Int,
    Objects,
    SampledBody,
    common_request,
    positive,
    warn_of_unsupported,
)
from horde_proxy.protocol.validation import (
    invalid_type,
    missing_parameter,
    param_name,
    validated,
)

_DEEPEST = 200
"""Levels of a body. What was read can be nested a little deeper than what can be written."""
_MOST_METADATA, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512
"""OpenAI's limits of `metadata`."""
_FROM_BEFORE: Place = ("previous_response_id",)
"""Where the fault is when an item of an earlier turn is unreadable."""
# Fields of chats that the horde's workers cannot honour. X-Horde-Warnings tells the client.
_UNSUPPORTED = ("seed", "logit_bias")
# Fields that the response repeats, if they are texts.
_REPEATED_TEXTS = ("user", "safety_identifier", "prompt_cache_key")


class ResponseBody(SampledBody):
    input: Any = None
    instructions: Any = None
    previous_response_id: str | None = None
    conversation: Any = None
    store: bool | None = None
    background: bool | None = None
    max_output_tokens: Int | None = None
    max_tool_calls: Int | None = None
    text: dict[str, Any] | None = None
    tools: Objects | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    truncation: str | None = None
    metadata: Annotated[dict[str, Any], Field(max_length=_MOST_METADATA)] | None = None
    prompt: Any = None


def read_response(
    body: Any,
    *,
    recall: Recall,
    new_id: Callable[[], str],
    now: Callable[[], float],
    strict: bool = False,
    keeps_pictures: bool = False,
) -> ResponseQuestion:
    """The ResponseQuestion in a decoded JSON body.

    Raises InvalidRequest with param and code, and the NotKept of what `recall` does not have.
    `new_id` gives 48 hexadecimal digits. `strict` and `keeps_pictures` are those of read_chat.
    """
    read, leniency = validated(ResponseBody, body), Leniency(strict=strict)
    _check(read, body)
    response_id = "resp_" + new_id()
    conversation = _conversation_id(read.conversation)
    own = own_items(read.input, response_id, recall)
    before = _before(read.previous_response_id, conversation, recall)
    if not own and not before:
        raise missing_parameter("input")
    items = [*((_FROM_BEFORE, item) for item in before), *_with_places(own, "input")]
    tools = read_response_tools(_tools(read.tools or (), items), read.tool_choice, leniency)
    messages = _messages(read, items, tools, leniency, keeps_pictures and not strict)
    request = _request(read, messages, tools, leniency)
    compacts = bool(own) and own[-1]["type"] == COMPACTION_TRIGGER
    return ResponseQuestion(
        requests=(summarising(request) if compacts else request,),
        id=response_id,
        created=int(now()),
        now=now,
        echo=_echo(read, body),
        input_items=own,
        store=read.store is not False,
        asked_to_store=read.store is True,
        background=bool(read.background),
        previous_response_id=read.previous_response_id,
        conversation=conversation,
        calls=tools.forms,
        compacts=compacts,
    )


def refers_to_kept(body: Any, recall: Recall) -> bool:
    """Whether a body refers to something that `recall` has; it may be any JSON.

    Another server could not answer it.
    """
    if not isinstance(body, dict):
        return False
    previous, conversation = body.get("previous_response_id"), body.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    try:
        if isinstance(previous, str) and previous:
            return bool(recall.chain(previous)) or True
        if isinstance(conversation, str) and conversation:
            return bool(recall.conversation(conversation)) or True
    except (PreviousResponseNotFound, ConversationNotFound):
        return False
    references = islice(referenced_ids(body.get("input")), MOST_REFERENCES)
    return any(recall.item(given) is not None for given in references)


def _check(read: ResponseBody, body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for what no answer could do right."""
    if read.prompt is not None:
        raise InvalidRequest(
            "Unsupported parameter: 'prompt'. Stored prompts are OpenAI's; send the instructions "
            "themselves.",
            param="prompt",
            code="unsupported_parameter",
        )
    if read.previous_response_id and read.conversation:
        raise InvalidRequest(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Ensure you "
            "are only providing one of them.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    level: list[Any] = [body]
    for _ in range(_DEEPEST):
        level = list(chain.from_iterable(map(_inside, level)))
    if level:
        raise InvalidRequest("The request body is nested too deeply.", code="invalid_value")
    for key, value in (read.metadata or {}).items():
        if not isinstance(value, str):
            raise invalid_type("metadata", "an object of strings", value)
        if len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE:
            raise InvalidRequest(
                f"Invalid 'metadata': keys have at most {_LONGEST_KEY} characters, and values "
                f"{_LONGEST_VALUE}.",
                param="metadata",
                code="string_above_max_length",
            )


def _inside(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _conversation_id(given: Any) -> str | None:
    """The id of the conversation: a text, or an object with `id`."""
    value = given.get("id") if isinstance(given, dict) else given
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise invalid_type("conversation", "a string", value)
    return value


def _before(previous: str | None, conversation: str | None, recall: Recall) -> Sequence[Item]:
    """The items before those of this request."""
    if previous:
        return recall.chain(previous)
    return recall.conversation(conversation) if conversation else ()


def _with_places(items: Sequence[Item], field: str) -> Iterator[tuple[Place, Item]]:
    return (((field, index), item) for index, item in enumerate(items))


def _tools(
    own: Sequence[Mapping[str, Any]], items: Sequence[tuple[Place, Item]]
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The tools of the body, and those that its items bring: Codex may have only the latter."""
    yield from ((("tools", index), tool) for index, tool in enumerate(own))
    for place, item in items:
        tools = item.get("tools")
        if item.get("type") in ("additional_tools", "tool_search_output"):
            for index, tool in enumerate(tools if isinstance(tools, list) else ()):
                if isinstance(tool, dict):
                    yield (*place, "tools", index), tool


def _messages(
    read: ResponseBody,
    items: Sequence[tuple[Place, Item]],
    tools: ResponseTools,
    leniency: Leniency,
    keeps_pictures: bool,
) -> tuple[Message, ...]:
    """The messages for the model. Instructions are those of this request only."""
    first = _with_places(_instructions(read.instructions), "instructions")
    read_turns = turns([*first, *items], tools, leniency)
    if not read_turns:
        raise missing_parameter("input")
    messages = read_messages(
        [validated(ChatMessage, message, place) for place, message in read_turns],
        leniency,
        keeps_pictures=keeps_pictures,
        params=[param_name(place) for place, _ in read_turns],
    )
    return _with_one_system_prompt(messages)


def _instructions(given: Any) -> list[Item]:
    """The items of `instructions`: a text, or items, as the response object may have them."""
    if given is None or given == "":
        return []
    if isinstance(given, str):
        given = [{"type": "message", "role": "system", "content": given}]
    if not isinstance(given, list):
        raise invalid_type("instructions", "a string", given)
    return [item for item in given if isinstance(item, dict)]


def _with_one_system_prompt(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, with the system messages before all others as one.

    Codex sends several developer messages, and the templates of many models take one only.
    """
    first = list(takewhile(lambda message: message.role == "system", messages))
    if len(first) < 2 or any(message.pictures for message in first):
        return messages
    text = "\n\n".join(message.text for message in first)
    return (Message("system", text), *messages[len(first) :])


def _request(
    read: ResponseBody,
    messages: tuple[Message, ...],
    tools: ResponseTools,
    leniency: Leniency,
) -> GenerationRequest:
    warn_of_unsupported(read, _UNSUPPORTED, leniency)
    if (read.n or 1) != 1:
        error = InvalidRequest(
            "Unsupported parameter: 'n'. A response has one answer.",
            param="n",
            code="unsupported_parameter",
        )
        leniency.tolerate(error, "not supported")
    request = common_request(read.model_copy(update={"n": None}), leniency, max_n=1)
    format = (read.text or {}).get("format")
    return replace(
        request,
        messages=messages,
        max_tokens=positive(read, "max_output_tokens", leniency) or request.max_tokens,
        tools=tools.offered.tools,
        tool_choice=tools.offered.choice,
        parallel_tool_calls=read.parallel_tool_calls is not False and tools.offered.is_parallel,
        json_format=read_format(format, leniency, ("text", "format")),
        drops_messages=read.truncation == "auto",
        image_tool=tools.image_tool,
        warnings=leniency.warnings(),
    )


def echo_of_nothing() -> dict[str, Any]:
    """The same fields for a request that was not read: OpenAI's defaults."""
    return _echo(ResponseBody(model="none"), {})


def _echo(read: ResponseBody, body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the response object that repeat the request, or have OpenAI's default."""
    reasoning = body.get("reasoning")
    tier = body.get("service_tier")
    return {
        "instructions": read.instructions,
        "max_output_tokens": read.max_output_tokens,
        "max_tool_calls": read.max_tool_calls,
        "metadata": read.metadata or {},
        "parallel_tool_calls": read.parallel_tool_calls is not False,
        # OpenAI has no penalties here; the specification of OpenResponses requires them.
        "presence_penalty": read.presence_penalty or 0.0,
        "frequency_penalty": read.frequency_penalty or 0.0,
        "prompt": None,
        **{name: _text_or_none(body.get(name)) for name in _REPEATED_TEXTS},
        "reasoning": {
            "effort": None,
            "summary": None,
            **(reasoning if isinstance(reasoning, dict) else {}),
        },
        # "auto" is a choice, and the response names the tier that was chosen.
        "service_tier": tier if isinstance(tier, str) and tier not in ("", "auto") else "default",
        "temperature": 1.0 if read.temperature is None else read.temperature,
        "text": {**(read.text or {}), "format": _format(read.text)},
        "tool_choice": read.tool_choice or "auto",
        "tools": [_with_all_keys(tool) for tool in read.tools or []],
        "top_logprobs": 0,
        "top_p": 1.0 if read.top_p is None else read.top_p,
        "truncation": "auto" if read.truncation == "auto" else "disabled",
    }


def _with_all_keys(tool: Any) -> Any:
    """A function with the keys that OpenAI and the specification of OpenResponses require."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def _format(text: Mapping[str, Any] | None) -> Any:
    return (text or {}).get("format") or {"type": "text"}


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None
