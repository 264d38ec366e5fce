"""Compaction: a request for a summary of a conversation, and the item with the summary. Pure.

OpenAI encrypts the summary. Here it is readable text in base64, because it holds nothing that its
client did not say or get.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace

from horde_proxy.protocol.generation_request import GenerationRequest, Message

_INSTRUCTION = (
    "Summarise our conversation so far, so that it can be continued from your summary alone. Keep "
    "what was asked for and decided, names, numbers, paths, code that still matters, results of "
    "tools, and what is still to be done. Write only the summary."
)
_SUMMARY_TOKENS = 1024
"""As many as 4,000 characters need; a shorter answer would lose too much of a long conversation."""

_MARK = "horde-proxy/summary:"
"""What the text of a blob of ours begins with; others cannot be read."""


def summarising(request: GenerationRequest) -> GenerationRequest:
    """The request with its messages, asking for a summary of them instead of an answer.

    A conversation that is too long loses its oldest messages: to refuse it would be a dead end.
    """
    return replace(
        request,
        messages=(*request.messages, Message("user", _INSTRUCTION)),
        max_tokens=_SUMMARY_TOKENS,
        tools=(),
        tool_choice="none",
        json_format=None,
        image_tool=None,
        drops_messages=True,
    )


def write_compaction(summary: str) -> str:
    """The `encrypted_content` of a compaction item with this summary."""
    return base64.b64encode(f"{_MARK}{summary}".encode("utf-8", "replace")).decode()


def read_compaction(blob: object) -> str | None:
    """The summary in an `encrypted_content`; None for one of another server."""
    if not isinstance(blob, str):
        return None
    try:
        text = base64.b64decode(blob, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return text.removeprefix(_MARK) if text.startswith(_MARK) else None
