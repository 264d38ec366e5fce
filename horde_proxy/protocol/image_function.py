"""The function generate_image, which a model may call and the proxy runs. Pure.

    chunks of the model --> CallSeparator --> the client's chunks: text, and calls of its own tools
                                 |
                                 +--> ImageCalls --> api.own_functions --> shown(), ends()

The client never sees the calls. It sees the pictures as Markdown below the text, which chat fronts
show and models can read again in the next turn.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from horde_proxy.errors import InvalidRequest, ProxyError
from horde_proxy.json_reading import parse_json
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.generation_request import GenerationRequest, Tool
from horde_proxy.protocol.image_request import ImageRequest, Picture
from horde_proxy.protocol.images import MOST_PROMPT

GENERATE_IMAGE = Tool(
    "generate_image",
    "Makes a picture and shows it to the user below your answer. Call it when the user wants a "
    "picture, a drawing or a photo, or another version of one. Do not write a link yourself.",
    {
        "type": "object",
        "properties": {
            "prompt": {
                "type": "string",
                "description": "What the picture shows, in English: subject, surroundings, style.",
            },
            "orientation": {"type": "string", "enum": ["square", "portrait", "landscape"]},
        },
        "required": ["prompt"],
    },
)
MOST_PICTURES = 4
"""Pictures of one answer: a model in a loop would call again and again, each time for kudos."""
# About a megapixel, in multiples of 64, as the families of SDXL and Flux were trained. A square is
# as large as suits the model.
_SIZES = {"portrait": (832, 1216), "landscape": (1216, 832)}
_LONGEST_ALT = 1000
"""Characters of a prompt below its picture, which the page's chat takes at most."""
# What would end the Markdown of a picture early, or begin code or a tag in it.
_PLAIN = str.maketrans("[]<>`\\", "()()'/")


def with_function(request: GenerationRequest) -> GenerationRequest:
    """The request with the function beside the client's own tools, also in the client's body."""
    source = request.source
    if source:
        written = {
            "type": "function",
            "function": {
                "name": GENERATE_IMAGE.name,
                "description": GENERATE_IMAGE.description,
                "parameters": GENERATE_IMAGE.parameters,
            },
        }
        source = {**source, "tools": [*(source.get("tools") or ()), written]}
    tools = (*request.tools, GENERATE_IMAGE)
    return replace(request, tools=tools, tool_choice="auto", source=source)


def has_function(request: GenerationRequest) -> bool:
    """Whether `with_function` made this request. A client's own tool may have the same name."""
    return any(tool is GENERATE_IMAGE for tool in request.tools)


def without_function(request: GenerationRequest) -> GenerationRequest | None:
    """The request without the function; None where the model is to call nothing else."""
    tools = tuple(tool for tool in request.tools if tool is not GENERATE_IMAGE)
    is_forced = request.tool_choice == GENERATE_IMAGE.name
    if is_forced or (request.tool_choice == "required" and not tools):
        return None
    choice = request.tool_choice if tools else "none"
    return replace(request, tools=tools, tool_choice=choice, image_tool=None)


def conflict(request: GenerationRequest) -> str:
    """What in a request excludes the function, in words for a warning; "" for nothing."""
    source = request.source
    if request.raw:
        return "only chats have functions"
    # Neither JSON nor the older form of calls has a place for a picture.
    if request.json_format is not None:
        return "the answer is to be JSON"
    if request.legacy_functions:
        return "functions are of the older form"
    if request.tool_choice not in ("none", "auto") or source.get("tool_choice") == "none":
        return "tool_choice excludes it"
    if any(tool.name == GENERATE_IMAGE.name for tool in request.tools):
        return "a tool has the same name"
    return ""


@dataclass(eq=False)
class ImageCall:
    """A call of the function by a choice. `arguments` is JSON, which grows while it is read."""

    index: int
    arguments: str = ""

    def request(
        self, horde: Mapping[str, Any], image_tool: ImageRequest | None = None
    ) -> ImageRequest:
        """The request for its picture. Raises InvalidRequest for arguments that are unusable.

        `horde`: the parameters of the chat, which are those of its pictures as well. `image_tool`
        says how the client wants its pictures; see GenerationRequest.
        """
        try:
            given = parse_json(self.arguments.encode("utf-8", "replace"))
        except (ValueError, RecursionError):
            given = None
        prompt = given.get("prompt") if isinstance(given, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise InvalidRequest("The model did not say what to draw.")
        # Workers send WebP, so it stays as it came; a PNG would be five times as large.
        wanted = image_tool or ImageRequest(model="", prompt="", output_format="webp")
        return replace(
            wanted,
            prompt=prompt.strip()[:MOST_PROMPT],
            size=wanted.size or _SIZES.get(str(given.get("orientation"))),
            horde=horde,
        )


def picture_text(prompt: str, link: str) -> str:
    """A picture in Markdown, with its prompt: "![a fox in snow](http://...)"."""
    alt = " ".join(prompt.split()).translate(_PLAIN)[:_LONGEST_ALT]
    return f"![{alt}]({link})"


def picture_delta(request: ImageRequest, picture: Picture) -> dict[str, Any]:
    """A picture as a delta of its own, for an answer that has pictures as items."""
    return {
        "image_generation": {
            "result": base64.b64encode(picture.data).decode(),
            "revised_prompt": request.prompt,
            "output_format": picture.kind,
            "size": f"{picture.width}x{picture.height}",
            "quality": request.quality,
        }
    }


def failure_text(error: ProxyError) -> str:
    """The sentence that stands where the picture would."""
    return f"The picture could not be made: {error}"


@dataclass
class _ChoiceCalls:
    """What is known of one choice: its calls of the function, and the client's, by their numbers.

    `numbers` are those of the client's calls, by the model's. `end` is the chunk that ends it,
    where that waits for pictures.
    """

    own: dict[int, ImageCall] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    has_text: bool = False
    end: Chunk | None = None


class CallSeparator:
    """Takes the calls of the function out of an answer, and puts their pictures in.

    The end of a choice that has such calls is held back: see `ends`.
    """

    def __init__(self) -> None:
        self.calls: list[ImageCall] = []
        self._choices: dict[int, _ChoiceCalls] = {}
        self._last: Chunk = {}

    def chunk(self, chunk: Chunk) -> Chunk | None:
        """What the client gets of a chunk with choices; None for nothing."""
        self._last = chunk
        parts = [self._part(chunk, part) for part in chunk["choices"]]
        left = [part for part in parts if part]
        return {**chunk, "choices": left} if left else None

    def shown(self, call: ImageCall, text: str, maker: Mapping[str, Any] | None = None) -> Chunk:
        """The chunk with what became of a call, a paragraph of its own.

        `maker` says who made the picture, in the chunk's `horde` object.
        """
        choice = self._choices[call.index]
        content = f"\n\n{text}" if choice.has_text else text
        choice.has_text = True
        return self.beside(call, {"content": content}, maker)

    def beside(
        self, call: ImageCall, delta: dict[str, Any], maker: Mapping[str, Any] | None = None
    ) -> Chunk:
        """The chunk with a delta in place of a call."""
        chunk = self._of_choice(call.index, delta)
        return chunk if maker is None else {**chunk, "horde": {"images": [maker]}}

    def ends(self) -> Iterator[Chunk]:
        """The ends that were held back, once all pictures are there."""
        return (choice.end for choice in self._choices.values() if choice.end)

    def _part(self, chunk: Chunk, part: dict[str, Any]) -> dict[str, Any] | None:
        """The same for a chunk's part of one choice."""
        choice = self._choices.setdefault(part["index"], _ChoiceCalls())
        delta = dict(part["delta"])
        calls = [self._call(choice, part["index"], call) for call in delta.pop("tool_calls", ())]
        if client_calls := [call for call in calls if call]:
            delta["tool_calls"] = client_calls
        choice.has_text = choice.has_text or bool(delta.get("content"))
        left, reason = {**part, "delta": delta}, part["finish_reason"]
        if choice.own and reason:
            if reason == "tool_calls" and not choice.numbers:
                reason = "stop"
            end = {"index": part["index"], "delta": {}, "logprobs": None, "finish_reason": reason}
            choice.end = {**chunk, "choices": [end]}
            left["finish_reason"] = None
        return left if delta or left["logprobs"] or left["finish_reason"] else None

    def _call(
        self, choice: _ChoiceCalls, index: int, part: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The client's part of a call, counted without ours; None for a part of one of ours."""
        number, function = part["index"], part["function"]
        # Only the first part of a call has the name.
        if function.get("name") == GENERATE_IMAGE.name:
            choice.own[number] = ImageCall(index)
            self.calls.append(choice.own[number])
        if number in choice.own:
            choice.own[number].arguments += function.get("arguments", "")
            return None
        return {**part, "index": choice.numbers.setdefault(number, len(choice.numbers))}

    def _of_choice(self, index: int, delta: dict[str, Any]) -> Chunk:
        part = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**self._last, "choices": [part]}
