"""Writing a request for a server with OpenAI's images API, and reading its answer. Pure.

The mirror of `images`, for requests that were not proxied: the answer is always wanted in base64
and in the server's own format, since it is converted here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.numbers import finite
from horde_proxy.protocol.image_request import ImageRequest
from horde_proxy.protocol.models import as_mapping

# gpt-image-1.5 and chatgpt-image-latest always answer in base64 and refuse `response_format`.
# Other servers, as LocalAI, answer with links without it (images-api.md 1.2).
_ALWAYS_BASE64 = ("gpt-image-", "chatgpt-image-")
_MOST_OF_HIGH_FIDELITY = 0.45
"""Strengths up to this are what OpenAI calls a high input_fidelity: the picture stays much as it
was. That is between what `high` and its absence stand for: 0.35 and about 0.6."""
_MOST_TOKENS = 1e9
"""Of an answer; a larger number is none, and no database could keep it."""


@dataclass(frozen=True)
class PictureFile:
    """A file of a form, as PNG."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class ImageBody:
    """A request: `path` is what follows /v1/. With files it is a form, otherwise JSON.

    `left_out` are the names of parameters that the server does not know.
    """

    path: str
    fields: Mapping[str, Any]
    files: tuple[PictureFile, ...] = ()
    left_out: tuple[str, ...] = ()

    def form_fields(self) -> dict[str, str]:
        """The fields as the texts of a form."""
        return {name: _text(value) for name, value in self.fields.items()}


def image_body(request: ImageRequest, model: str, *, is_strict: bool = False) -> ImageBody:
    """The request for a server's own model.

    `is_strict`: the server refuses what OpenAI itself does not know. Others read what they know
    of the parameters of image models.
    """
    fields: dict[str, Any] = {"model": model, "prompt": request.prompt, "n": request.n}
    if request.kind == "variation":
        del fields["prompt"]
    if request.size is not None:
        fields["size"] = "{}x{}".format(*request.size)
    if request.quality != "medium":
        fields["quality"] = request.quality
    if request.is_transparent:
        fields["background"] = "transparent"
    if request.allows_nsfw:
        fields["moderation"] = "low"
    if not model.lower().startswith(_ALWAYS_BASE64):
        fields["response_format"] = "b64_json"
    ours = dict(request.parameters)
    if request.sources and request.strength is not None:
        if request.strength <= _MOST_OF_HIGH_FIDELITY:
            fields["input_fidelity"] = "high"
        ours["strength"] = request.strength
    fields |= {} if is_strict else ours
    left_out = [*sorted(request.parameters)] if is_strict else []
    left_out += ["upscaling"] if request.is_upscaled else []
    return ImageBody(f"images/{request.kind}s", fields, _files(request), tuple(left_out))


def images_in(document: Any) -> list[str]:
    """The pictures of an answer in their order: base64, data URLs or links; [] for no answer."""
    data = as_mapping(document).get("data")
    entries = map(as_mapping, data if isinstance(data, list) else ())
    images = (entry.get("b64_json") or entry.get("url") for entry in entries)
    return [image for image in images if isinstance(image, str)]


def tokens_in(document: Any) -> tuple[int, int]:
    """(tokens of the prompt, of the pictures) that an answer tells; 0 for what it does not."""
    usage = as_mapping(as_mapping(document).get("usage"))
    return _tokens(usage.get("input_tokens")), _tokens(usage.get("output_tokens"))


def _tokens(value: Any) -> int:
    number = finite(value) or 0.0
    return int(number) if 0 <= number <= _MOST_TOKENS else 0


def _files(request: ImageRequest) -> tuple[PictureFile, ...]:
    # OpenAI's SDKs write `image` for one file and `image[]` for several (images-api.md 1.3).
    name = "image" if len(request.sources) == 1 else "image[]"
    files = [PictureFile(name, source.encoded("png")) for source in request.sources]
    if request.mask is not None:
        files.append(PictureFile("mask", request.mask.encoded("png")))
    return tuple(files)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
