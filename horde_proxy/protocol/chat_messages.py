"""Reads the messages of a chat: OpenAI's objects in, neutral messages out. Pure.

What their parts become is decided in content_parts.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator

from horde_proxy.protocol.content_parts import Content, ContentReader, has_results
from horde_proxy.protocol.generation_request import Message, MessagePicture, ToolCall
from horde_proxy.protocol.leniency import Leniency
from horde_proxy.protocol.sampled_body import MOST_ELEMENTS, LenientModel, Objects
from horde_proxy.protocol.tool_call_shapes import read_call, text_id
from horde_proxy.protocol.validation import invalid_type, missing_parameter

Role = Literal["developer", "system", "user", "assistant", "tool", "function"]

_SPEAKERS = ("system", "developer", "user")
"""Roles that need content. An assistant that only calls tools has none: the AI SDK sends null."""
_TOOLS = ("tool", "function")
# The names of the same roles in LangChain, and in Google's API.
_OTHER_ROLES = {"human": "user", "ai": "assistant", "model": "assistant"}


def _role(value: Any) -> Any:
    """OpenAI's name of a role, whatever its case: hand-written clients send "Assistant"."""
    if not isinstance(value, str):
        return value
    name = value.strip().lower()
    name = _OTHER_ROLES.get(name, name)
    return name if name in get_args(Role) else value


def _identifier(value: Any) -> Any:
    return text_id(value) or value


class ChatMessage(LenientModel):
    """A message as it came. Open WebUI and the AI SDK send `content` as parts."""

    role: Annotated[Role, BeforeValidator(_role)]
    content: Any = None
    name: Any = None
    tool_calls: Objects | None = None
    function_call: dict[str, Any] | None = None
    tool_call_id: Annotated[str | None, BeforeValidator(_identifier)] = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    images: Any = None
    audio: Any = None


def read_messages(
    messages: Sequence[ChatMessage],
    leniency: Leniency,
    *,
    keeps_pictures: bool = False,
    params: Sequence[str] = (),
) -> tuple[Message, ...]:
    """The messages. Raises InvalidRequest for what the answer cannot do without.

    `keeps_pictures`: pictures are none of that; they stay beside the notes in the text. `params`
    are the paths of the messages in the body, where they are not "messages.[0]" and so on.
    """
    current = _current(messages)
    params = params or [f"messages.[{index}]" for index in range(len(messages))]
    readers = (
        ContentReader(
            f"{params[index]}.content",
            leniency,
            is_current=index == current,
            is_result=message.role in _TOOLS,
            has_calls=message.role == "assistant",
            keeps_pictures=keeps_pictures,
        )
        for index, message in enumerate(messages)
    )
    return tuple(
        neutral
        for param, message, reader in zip(params, messages, readers, strict=True)
        for neutral in _read(message, param, reader)
    )


def _current(messages: Sequence[ChatMessage]) -> int | None:
    """The index of the user's message that the answer is about; None in the middle of tool calls.

    Only that one may end the chat by what cannot be read. When the user goes on after the refusal,
    it is an older one.
    """
    index = len(messages) - 1
    last = messages[index]
    if last.role == "assistant" and not last.tool_calls and not last.function_call:
        index -= 1  # the beginning of the answer itself
    # Claude Code puts a system message behind the user's.
    while index >= 0 and messages[index].role in ("system", "developer"):
        index -= 1
    if index < 0 or messages[index].role != "user" or has_results(messages[index].content):
        return None
    # opencode 1.18 sends "Attached media from tool result:" as a user's message behind the result.
    follows_result = index > 0 and messages[index - 1].role in _TOOLS
    return None if follows_result else index


def _read(message: ChatMessage, param: str, reader: ContentReader) -> Iterator[Message]:
    """The message, and before or after it the results of tools that it contains."""
    leniency = reader.leniency
    if message.role in _SPEAKERS and "content" not in message.model_fields_set:
        raise missing_parameter(f"{param}.content")
    is_assistant = message.role == "assistant"
    content = reader.read(_content(message))
    for part in _media_beside(message):
        reader.add(part, param, content)
    name = _name(message, param, leniency)
    if is_assistant:
        calls = _with_others(list(_calls(message, param, leniency)), content.calls)
        spoken, pictures = _spoken(name, content)
        yield Message("assistant", spoken, calls, reasoning=_reasoning(message), pictures=pictures)
    # Anthropic's user messages begin with the results of the calls before them.
    yield from content.results
    if not is_assistant and (content.texts or not content.results):
        yield _other_turn(message, name, content)


def _content(message: ChatMessage) -> Any:
    # OpenAI's answers that refuse have no content, and come back as they were.
    is_refusal = not message.content and isinstance(message.refusal, str)
    return message.refusal if is_refusal else message.content


def _reasoning(message: ChatMessage) -> str:
    """What the model thought: "reasoning" is the word of OpenRouter, Ollama and newer vLLMs."""
    given = message.reasoning_content or message.reasoning
    return given if isinstance(given, str) else ""


def _media_beside(message: ChatMessage) -> Iterator[Mapping[str, Any]]:
    """What a message has beside its content, as parts: Ollama's images, OpenAI's spoken answers."""
    if isinstance(message.images, list):
        for image in message.images[:MOST_ELEMENTS]:
            yield {"type": "image", "image": image}
    if message.audio:
        yield {"type": "audio"}


def _other_turn(message: ChatMessage, name: str | None, content: Content) -> Message:
    """A turn of anyone but the assistant."""
    if message.role == "user":
        spoken, pictures = _spoken(name, content)
        return Message("user", spoken, pictures=pictures)
    if message.role in _TOOLS:
        call_id = message.tool_call_id or name
        return Message("tool", content.text, tool_call_id=call_id, pictures=content.placed())
    # "developer" is OpenAI's newer name of the system role. No open model knows it.
    return Message("system", content.text, pictures=content.placed())


def _spoken(name: str | None, content: Content) -> tuple[str, tuple[MessagePicture, ...]]:
    """(what somebody of this name says, with which pictures)."""
    # SillyTavern sends the speakers of a group chat as names, but templates have no names.
    before = f"{name}: " if name else ""
    return before + content.text, content.placed(len(before))


def _name(message: ChatMessage, param: str, leniency: Leniency) -> str | None:
    if message.name is None or isinstance(message.name, str):
        return message.name
    error = invalid_type(f"{param}.name", "a string", message.name)
    leniency.tolerate(error, "name that is no string left out")
    return None


def _calls(message: ChatMessage, param: str, leniency: Leniency) -> Iterator[ToolCall]:
    """The calls beside the content; the older `function_call` is the last."""
    given: list[tuple[str, Mapping[str, Any]]] = [
        (f"{param}.tool_calls.[{index}]", call)
        for index, call in enumerate(message.tool_calls or ())
    ]
    if message.function_call:
        given.append((f"{param}.function_call", message.function_call))
    for place, written in given:
        call = read_call(written, place)
        if call is None:
            leniency.tolerate(
                missing_parameter(f"{place}.function.name"), "tool call without a name left out"
            )
        else:
            yield call


def _with_others(calls: Sequence[ToolCall], parts: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    """The calls with those of the content, where they are not the same ones, as in LangChain."""
    ids = {call.id for call in calls}
    return (*(call for call in parts if call.id not in ids), *calls)
