"""Reads the content of a message: what becomes of each type of part. Pure.

Every front reads its parts here, since clients carry the parts of one API's answers into the
requests of another. To support another type, add a line to PART_KINDS.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.generation_request import Message, MessagePicture, ToolCall
from horde_proxy.protocol.leniency import Leniency, plain_name
from horde_proxy.protocol.picture_parts import picture_url
from horde_proxy.protocol.sampled_body import MOST_ELEMENTS
from horde_proxy.protocol.tool_call_shapes import json_text, read_call, text_id
from horde_proxy.protocol.validation import invalid_type, missing_parameter

PART_KINDS: Mapping[str, str] = {
    # Texts of chats and of Anthropic's messages, and of requests and answers of responses.
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "text",
    # Past reasoning: models are trained without it, so it is left out of the prompt.
    "reasoning": "reasoning",
    "reasoning_text": "reasoning",
    "summary_text": "reasoning",
    "thinking": "reasoning",
    "redacted_thinking": "reasoning",
    # Calls and their results, which Anthropic and responses have among the parts.
    "tool_use": "call",
    "function_call": "call",
    "custom_tool_call": "call",
    "tool_result": "result",
    "function_call_output": "result",
    "custom_tool_call_output": "result",
    # What a model of text cannot read.
    "image_url": "image",
    "input_image": "image",
    "image": "image",
    "image_file": "image",
    "image-data": "image",
    "image-url": "image",
    "input_audio": "audio",
    "audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
    "input_video": "video",
    "video": "video",
    "file": "file",
    "input_file": "file",
    "document": "file",
    "container_upload": "file",
    "file-data": "file",
    "file-url": "file",
    "media": "file",
}
"""The kind of each known type of part; what becomes of a kind is decided in ContentReader."""

_MEDIA = frozenset({"image", "audio", "video", "file"})
_PAYLOADS = PART_KINDS.keys() | {"source", "data", "file_id", "file_data", "file_url", "fileId"}
"""Fields of media. A list of files, {"type": "file", "name": "a.py"}, has none of them."""
_LEAST_MEDIA = 1000
"""Characters of base64 that are left out of a text. A picture has more, and less does no harm."""


@dataclass
class Content:
    """What a message contains. `results` are tool turns; `texts` follow each other as lines.

    `pictures` are data URLs and links, by the index of the text that holds the picture's place.
    """

    texts: list[str] = field(default_factory=list)
    pictures: dict[int, str] = field(default_factory=dict)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All texts."""
        return "\n".join(self.texts)

    def placed(self, offset: int = 0) -> tuple[MessagePicture, ...]:
        """The pictures with their places in a text that has `offset` characters before ours."""
        pictures, start = [], offset
        for index, text in enumerate(self.texts):
            end = start + len(text)
            if index in self.pictures:
                pictures.append(MessagePicture(start, end, self.pictures[index]))
            start = end + 1
        return tuple(pictures)


@dataclass(frozen=True)
class ContentReader:
    """Reads the content of one message, whose field is `param`.

    `is_current`: the message is what the answer is about, so what cannot be read is refused.
    Elsewhere it becomes a note such as "[image left out]", and a warning. `is_result`: the content
    is a tool's, which may be any JSON. `has_calls`: an assistant's content, which may call tools.
    `keeps_pictures`: pictures stay beside their notes, for models that see and for descriptions.
    `is_nested`: the content is a result among the parts of another content; there are none in it,
    which could else be nested without end.
    """

    param: str
    leniency: Leniency
    is_current: bool = False
    is_result: bool = False
    has_calls: bool = False
    is_nested: bool = False
    keeps_pictures: bool = False

    def read(self, value: Any) -> Content:
        """The content in a string, a part or a list of parts. Raises InvalidRequest."""
        if self.is_result and isinstance(value, str):
            value = _written_parts(value) or value
        if value is None or isinstance(value, str):
            return Content([value] if value else [])
        if self.is_result and not _is_parts(value):
            return Content([json_text(value, self.param)])
        content = Content()
        for param, part in self._parts(value):
            self.add(part, param, content)
        return content

    def _parts(self, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(param, part) for each part."""
        if isinstance(value, dict):
            yield self.param, value
            return
        if not isinstance(value, list):
            raise invalid_type(self.param, "a string", value)
        if len(value) > MOST_ELEMENTS:
            raise InvalidRequest(
                f"Invalid value for '{self.param}': it has more than {MOST_ELEMENTS} parts.",
                param=self.param,
                code="invalid_value",
            )
        for index, part in enumerate(value):
            param = f"{self.param}.[{index}]"
            if isinstance(part, str):
                # LangChain's messages may mix strings with parts.
                yield param, {"type": "text", "text": part}
            elif isinstance(part, dict):
                yield param, part
            elif part is not None:
                raise invalid_type(param, "an object", part)

    def add(self, part: Mapping[str, Any], param: str, content: Content) -> None:
        """Add one part, whose own field is `param`, to the content. Raises InvalidRequest."""
        kind = PART_KINDS.get(_type(part))
        if kind == "text":
            content.texts.append(_text(part, param))
        elif kind == "call" and self.has_calls:
            self._add_call(part, param, content)
        elif kind == "result" and not self.is_nested:
            content.results.append(self._result(part, param))
        elif kind is not None and kind in _MEDIA:
            self._add_media(part, kind, content)
        elif kind != "reasoning":
            self._read_unknown(part, content)

    def _add_media(self, part: Mapping[str, Any], kind: str, content: Content) -> None:
        """A note of what is left out; a picture may be kept beside it."""
        may_be_picture = self.keeps_pictures and kind in ("image", "file")
        url = picture_url(part, is_file=kind == "file") if may_be_picture else None
        if url is None:
            self._leave_out(part, f"{kind} left out")
        else:
            kind = "image"
            content.pictures[len(content.texts)] = url
        content.texts.append(f"[{kind} left out]")

    def _add_call(self, part: Mapping[str, Any], param: str, content: Content) -> None:
        call = read_call(part, param)
        if call is None:
            missing = missing_parameter(f"{param}.name")
            self.leniency.tolerate(missing, "tool call without a name left out")
        else:
            content.calls.append(call)

    def _result(self, part: Mapping[str, Any], param: str) -> Message:
        """A tool's turn: Anthropic has its text in `content`, responses have it in `output`."""
        key = "content" if "content" in part else "output"
        reader = ContentReader(
            f"{param}.{key}",
            self.leniency,
            is_result=True,
            is_nested=True,
            keeps_pictures=self.keeps_pictures,
        )
        content = reader.read(part.get(key))
        # Anthropic's is_error is all that tells a failure from a result.
        before = "Error: " if part.get("is_error") is True else ""
        call_id = text_id(part.get("tool_use_id")) or text_id(part.get("call_id"))
        return Message(
            "tool",
            before + content.text,
            tool_call_id=call_id,
            pictures=content.placed(len(before)),
        )

    def _read_unknown(self, part: Mapping[str, Any], content: Content) -> None:
        shown = plain_name(_type(part))
        text = part.get("text")
        if isinstance(text, str):
            self.leniency.tolerate(_unsupported(self.param, shown), f"type '{shown}' read as text")
            content.texts.append(text)
        else:
            self._leave_out(part, f"content of type '{shown}' left out")

    def _leave_out(self, part: Mapping[str, Any], outcome: str) -> None:
        error = _unsupported(self.param, plain_name(_type(part)))
        if self.is_current:
            raise error
        self.leniency.tolerate(error, outcome)


def has_results(value: Any) -> bool:
    """Whether results of tools are among the parts of a content."""
    elements = value[:MOST_ELEMENTS] if isinstance(value, list) else [value]
    return any(
        isinstance(element, dict) and PART_KINDS.get(_type(element)) == "result"
        for element in elements
    )


def shows_pictures(document: Any) -> bool:
    """Whether a body has a picture in a message, by the types of its parts; it may be any JSON.

    Chats and Anthropic's API have `messages`, responses `input`.
    """
    if not isinstance(document, dict):
        return False
    messages = document.get("messages") or document.get("input")
    return any(map(_shows_picture, messages)) if isinstance(messages, list) else False


def _shows_picture(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    # Ollama's pictures are beside the content.
    return bool(message.get("images")) or any(map(_is_shown, _list(message.get("content"))))


def _is_shown(part: Any) -> bool:
    """Whether a part is a picture, or the result of a tool with one, as in Anthropic's API."""
    if not isinstance(part, dict):
        return False
    kind = PART_KINDS.get(_own_type(part))
    inner = _list(part.get("content")) if kind == "result" else []
    return kind == "image" or any(
        isinstance(block, dict) and PART_KINDS.get(_own_type(block)) == "image" for block in inner
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_parts(value: Any) -> bool:
    """Whether a tool's result consists of parts, and is not data of its own."""
    elements: Sequence[Any] = (value if isinstance(value, list) else [value])[: MOST_ELEMENTS + 1]
    return any(map(_is_part, elements)) or all(isinstance(element, str) for element in elements)


def _is_part(element: Any) -> bool:
    if not isinstance(element, dict):
        return False
    kind = PART_KINDS.get(_own_type(element))
    return kind is not None and (kind not in _MEDIA or bool(_PAYLOADS & element.keys() - {"type"}))


def _written_parts(text: str) -> list[Any] | None:
    """The parts that a result has as JSON text, if media are among them.

    So @ai-sdk/openai-compatible writes the parts of a result. A picture in base64 would fill the
    context with what no model can read.
    """
    if len(text) < _LEAST_MEDIA or not text.startswith("[{"):
        return None
    try:
        parts: list[Any] = json.loads(text)
    except (ValueError, RecursionError):
        return None
    has_media = any(
        _is_part(part) and len(str(part.get("data") or "")) >= _LEAST_MEDIA for part in parts
    )
    return parts if has_media and all(map(_is_part, parts)) else None


def _type(part: Mapping[str, Any]) -> str:
    """The type; for a part without one, the field that is named like a type: {"text": "Hi"}."""
    return _own_type(part) or next((key for key in part if key in PART_KINDS), "")


def _own_type(part: Mapping[str, Any]) -> str:
    given = part.get("type")
    return given if isinstance(given, str) else ""


def _text(part: Mapping[str, Any], param: str) -> str:
    text = part.get("text")
    # OpenAI's assistants wrote {"type": "text", "text": {"value": ..., "annotations": []}}.
    if isinstance(text, dict):
        text = text.get("value")
    text = part.get("refusal") or "" if text is None else text
    if not isinstance(text, str):
        raise invalid_type(f"{param}.text", "a string", text)
    return text


def _unsupported(param: str, type: str) -> InvalidRequest:
    return InvalidRequest(
        f"Only text can be read here: content of type '{type}' is not supported. Remove it from "
        "the message, or say in words what it shows.",
        param=param,
        code="unsupported_content",
    )
