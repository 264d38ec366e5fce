"""Pictures, sounds and videos in the messages of a chat, where they are no part of it. Pure.

Model servers fetch them: vLLM and llama.cpp call any address. A chat of a stranger must not reach
what only a worker's server can, such as a router's page at http://192.168.0.1.
"""

from __future__ import annotations

from typing import Any

_MEDIA = ("image_url", "audio_url", "video_url")
"""Fields of a message's parts: OpenAI's, and those of vLLM for other media."""


def is_to_be_fetched(part: Any) -> bool:
    """Whether a part of a message has media at an address, rather than as a data: URL."""
    return isinstance(part, dict) and any(
        _is_address(part[name]) for name in _MEDIA if part.get(name) is not None
    )


def _is_address(media: Any) -> bool:
    # {"image_url": {"url": "https://..."}}, or vLLM's shorter {"image_url": "https://..."}.
    url = media.get("url") if isinstance(media, dict) else media
    return not (isinstance(url, str) and url.startswith("data:"))
