"""Finds the picture in a part of a message, in whichever shape a client wrote it. Pure.

The result is a data URL or a link, which nobody follows here. Whether the bytes are a picture is
not looked at: a chat may have many, and few of them are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from horde_proxy.pictures import BadPicture, decoded, sniffed_type

# A link: "https://example.com/a.png". Other schemes, as file: and blob:, lead nowhere from here.
_LINK = re.compile(r"https?://[^\s/]", re.IGNORECASE)
_MEDIA_TYPES = ("mediaType", "mimeType", "mime_type", "media_type")
"""Where the AI SDK, MCP, Google and Anthropic write "image/png"."""
_SNIFFED = 64
"""Characters of base64 whose bytes tell the type of a picture."""


def picture_url(part: Mapping[str, Any], *, is_file: bool = False) -> str | None:
    """The picture of a part as a data URL or a link; None where there is none to be read.

    `is_file`: the part may be any file, so that only one that says it is a picture counts.
    """
    for value in _sources(part):
        url = _url(value)
        if url is not None and (not is_file or _is_picture(part, url)):
            return url
    return None


def _sources(part: Mapping[str, Any]) -> Iterator[Any]:
    """The values of a part that may be its picture: a text, or an object that holds one.

    image_url is OpenAI's ({"url": ...} in chats, a text in responses), source is Anthropic's, image
    and data the AI SDK's and MCP's, file and file_data are of OpenAI's files.
    """
    for name in ("image_url", "source", "image", "data", "url", "file", "file_data"):
        value = part.get(name)
        if isinstance(value, Mapping):
            yield from (value.get(inner) for inner in ("url", "data", "file_data"))
        else:
            yield value


def _url(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    if value[:5].lower() == "data:" or _LINK.match(value):
        return value
    # Ollama and Anthropic send bare base64.
    try:
        kind = sniffed_type(decoded(value[:_SNIFFED]))
    except BadPicture:
        return None
    return f"data:image/{kind};base64,{value}" if kind else None


def _is_picture(part: Mapping[str, Any], url: str) -> bool:
    if url[:11].lower() == "data:image/":
        return True
    return any(str(part.get(name) or "").lower().startswith("image/") for name in _MEDIA_TYPES)
