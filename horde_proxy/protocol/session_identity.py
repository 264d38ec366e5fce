"""Which conversation a request belongs to, by what its client sends. Pure.

Servers keep what they have read of a prompt. The next turn of a conversation is answered sooner by
the server that has read the turns before. A client that tells its conversation is believed; else
the conversation is known by its beginning, which each turn repeats.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from horde_proxy.protocol.generation_request import GenerationRequest

# What clients call their conversation. Those with an underscore do not pass gunicorn.
_HEADERS = (
    "X-Session-Affinity",  # opencode, and routers of vLLM
    "X-Session-Id",  # opencode
    "Session-Id",  # Codex
    "Thread-Id",  # Codex
    "X-Claude-Code-Session-Id",
    "X-OpenWebUI-Chat-Id",  # with ENABLE_FORWARD_USER_INFO_HEADERS
)
# The same in a body: OpenAI's fields, and OpenRouter's `session_id`. A user, who may have several
# conversations, comes last.
_FIELDS = ("prompt_cache_key", "session_id", "user")

_LONGEST_IDENTITY = 512
"""Characters of an identity that count. OpenAI's fields may have 64."""
_LONGEST_BEGINNING = 4000
"""Characters of a message that count, and its length: a system prompt may have megabytes."""
_PROMPT_BEGINNING = 512
"""Characters of a raw prompt that count. It grows with each turn, and a first turn may be short: a
system prompt or a character fills so much."""
_PICTURE_ENDS = 100
"""Characters at both ends of a picture's URL that count, and its length."""
_LEADING = frozenset({"system", "developer"})


def named_identity(header: Callable[[str], str | None], document: Any) -> str | None:
    """The conversation as its client names it: in a header, or a field of the body; else None.

    `header` returns the value of a header.
    """
    for name in _HEADERS:
        if value := (header(name) or "").strip():
            return value[:_LONGEST_IDENTITY]
    fields: Mapping[str, Any] = document if isinstance(document, Mapping) else {}
    metadata = fields.get("metadata")
    conversation = fields.get("conversation")
    values = [
        fields.get(_FIELDS[0]),
        fields.get(_FIELDS[1]),
        # A conversation of OpenAI's API: "conv_1", or {"id": "conv_1"}.
        conversation.get("id") if isinstance(conversation, Mapping) else conversation,
        # Anthropic's field. Claude Code writes device, account and session into it.
        metadata.get("user_id") if isinstance(metadata, Mapping) else None,
        fields.get(_FIELDS[2]),
    ]
    return next(
        (value[:_LONGEST_IDENTITY] for value in values if isinstance(value, str) and value.strip()),
        None,
    )


def beginning_of_body(document: Any) -> str | None:
    """The digest of a body's messages up to the user's first; None for a body without any.

    The body may be of any front: OpenAI's chats, completions and responses, Anthropic's messages,
    Ollama's API.
    """
    if not isinstance(document, Mapping):
        return None
    prompt = document.get("prompt")
    if isinstance(prompt, str):
        # Ollama's `system` stays the same, while the prompt of a completion grows.
        system = _text(document.get("system"))
        return _digest([("system", system), ("prompt", prompt[:_PROMPT_BEGINNING])])
    turns = document.get("messages", document.get("input"))
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    if not isinstance(turns, list) or not turns:
        return None
    # Anthropic's and OpenAI's names for what is a system message elsewhere.
    above = [("system", _text(fields)) for fields in _above(document)]
    # Only the first few of all turns are read.
    below = (
        (str(turn.get("role")), _text(turn.get("content")))
        for turn in turns
        if isinstance(turn, dict)
    )
    return _digest(chain(above, below))


def beginning_of_request(request: GenerationRequest) -> str | None:
    """The same for a request that was read, which has the turns that are stored here, too."""
    return _digest((message.role, _bounded(message.text)) for message in request.messages)


def _above(document: Mapping[str, Any]) -> list[Any]:
    return [value for name in ("system", "instructions") if (value := document.get(name))]


def _text(content: Any) -> str:
    """A content as a text: that of its parts, and a word for each picture."""
    if isinstance(content, list):
        return _bounded("\n".join(map(_part, content)))
    return _bounded(content) if isinstance(content, str) else ""


def _part(part: Any) -> str:
    """One part. "cache_control" moves from turn to turn, and is no part of the prompt."""
    if not isinstance(part, Mapping):
        return part if isinstance(part, str) else ""
    if isinstance(part.get("text"), str):
        return str(part["text"])
    url = json.dumps(part.get("image_url", part.get("source")), default=str)
    return f"{len(url)} {url[:_PICTURE_ENDS]}{url[-_PICTURE_ENDS:]}"


def _bounded(text: str) -> str:
    return f"{len(text)} {text[:_LONGEST_BEGINNING]}"


def _digest(turns: Iterable[tuple[str, str]]) -> str:
    """The digest of (role, text) up to the user's first: a model's greeting may come before it."""
    digest = hashlib.sha256()
    for role, text in turns:
        turn = f"{'system' if role in _LEADING else role}\0{text}\0"
        # Half a pair of surrogates has no UTF-8: JSON may hold one.
        digest.update(turn.encode("utf-8", "surrogatepass"))
        if role == "user":
            break
    return digest.hexdigest()
