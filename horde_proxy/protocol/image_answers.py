"""Answers of OpenAI's images API: pictures as one document, or as events. Pure.

What a horde adds is in a `horde` object: who made the pictures, and from which seeds.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from horde_proxy.protocol import sse
from horde_proxy.protocol.image_request import ImageRequest, Picture


def answer(
    request: ImageRequest, pictures: Sequence[Picture], urls: Sequence[str], created: int
) -> dict[str, Any]:
    """The answer to a request that is not streamed. `urls` are used where those are wanted."""
    first = pictures[0]
    return {
        "created": created,
        "data": [
            _image(request, picture, url)
            for picture, url in zip(pictures, urls or [""] * len(pictures), strict=True)
        ],
        "background": "transparent" if request.is_transparent else "opaque",
        "output_format": first.kind,
        "quality": request.quality,
        "size": f"{first.width}x{first.height}",
        "usage": usage(request),
    }


def completed_event(request: ImageRequest, picture: Picture, url: str, created: int) -> bytes:
    """The event of one picture that is ready: `image_generation.completed`, or of an edit."""
    name = "image_edit.completed" if request.kind == "edit" else "image_generation.completed"
    data = {
        "type": name,
        **_image(request, picture, url),
        "created_at": created,
        "size": f"{picture.width}x{picture.height}",
        "quality": request.quality,
        "background": "transparent" if request.is_transparent else "opaque",
        "output_format": picture.kind,
        "usage": usage(request),
        "horde": makers([picture]),
    }
    return sse.event(data, name)


def makers(pictures: Sequence[Picture]) -> dict[str, Any]:
    """Who made the pictures, and from which seeds: fields of the `horde` object.

    A server with OpenAI's API tells neither.
    """
    fields: dict[str, Any] = {"model": pictures[0].model}
    if any(picture.seed for picture in pictures):
        fields["seeds"] = [picture.seed for picture in pictures]
    workers = dict.fromkeys((picture.worker, picture.worker_name) for picture in pictures)
    if named := [{"id": worker, "name": name} for worker, name in workers if worker]:
        fields["workers"] = named
    return fields


def usage(request: ImageRequest) -> dict[str, Any]:
    """OpenAI's usage. A horde counts no tokens of pictures; those of the prompt are estimated."""
    # Four characters a token, as the horde bills texts.
    tokens = -(-len(request.prompt) // 4)
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": tokens},
        "output_tokens": 0,
        "total_tokens": tokens,
    }


def _image(request: ImageRequest, picture: Picture, url: str) -> dict[str, Any]:
    # Without a link, because it could not be stored, the picture itself is better than nothing.
    if request.response_format == "url" and url:
        return {"url": url}
    return {"b64_json": base64.b64encode(picture.data).decode("ascii")}
