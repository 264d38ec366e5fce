"""The neutral request: what is asked of a model, whichever front read it. Pure.

Each front's reader makes one, checked and without nulls; upstreams doubt nothing in it. Who asks,
and how long that client waits, is upstreams.base.Caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from horde_proxy.protocol.image_request import ImageRequest


@dataclass(frozen=True)
class ToolCall:
    """A call in an assistant's turn. `arguments` is JSON text, as in OpenAI's API."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True)
class JsonFormat:
    """The answer must be JSON: any object, or a value that fits `schema`."""

    schema: Mapping[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True)
class MessagePicture:
    """A picture in a message. `url` is a data URL, or a link that nobody has followed.

    In the message's text, a note holds its place from `start` to `end`: "[image left out]".
    """

    start: int
    end: int
    url: str = field(repr=False)


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    `tool_calls` are the calls of an assistant's turn; `tool_call_id` is the call that a tool's
    turn answers. `reasoning` is what the model thought before an assistant's turn: a server with
    the model's own template may show it the model again. `suffix` follows the text, and is not the
    client's: instructions of this proxy, or the beginning of the answer. So tags of the chat's
    format stay tags in it, and only in it. `pictures` are in the order of their places in the text.
    """

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    suffix: str = ""
    reasoning: str = field(default="", compare=False)
    pictures: tuple[MessagePicture, ...] = ()

    def with_notes(self, notes: Sequence[str | None]) -> Message:
        """The message without its pictures: each note is replaced, where there is another one."""
        pieces, position = [], 0
        for picture, note in zip(self.pictures, notes, strict=True):
            if note is not None:
                pieces += [self.text[position : picture.start], note]
                position = picture.end
        return replace(self, text="".join([*pieces, self.text[position:]]), pictures=())


@dataclass(frozen=True)
class GenerationRequest:
    """What a client asks for, checked and with nulls gone. Who asks is upstreams.base.Caller.

    `max_tokens` None: the upstream's default. `sampling` and `horde` hold only what the client
    set. `warnings` say which parts of the body could not be used (leniency.py); `front_warnings`
    are those of them whose parts are not in `source`, so that no server gets them. `tool_choice` is
    "none", "auto", "required" or the name of a tool. `legacy_functions`: the client expects
    `function_call` instead of `tool_calls`. `raw`: the only message is a prompt that the model
    continues, without a chat format. Without `drops_messages`, a chat that is too long is refused
    instead of losing its oldest messages. `image_tool`: how the pictures are to be that the model
    calls for, where the answer has them as items of their own; its prompt means nothing. `source`
    is the client's body where that is OpenAI's own: a chat, or with `raw` a completion. Without
    it, openai_body writes one from the rest.
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
    warnings: tuple[str, ...] = ()
    front_warnings: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "none"
    parallel_tool_calls: bool = True
    legacy_functions: bool = False
    json_format: JsonFormat | None = None
    raw: bool = False
    drops_messages: bool = True
    image_tool: ImageRequest | None = None
    source: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def warnings_anywhere(self) -> tuple[str, ...]:
        """The warnings that hold whoever answers: all of them where openai_body writes the body."""
        return self.front_warnings if self.source else self.warnings

    @property
    def has_pictures(self) -> bool:
        """Whether a message has a picture that some models can look at."""
        return any(message.pictures for message in self.messages)
