"""Reads messages and system prompt of a Messages request: content blocks become turns. Pure.

    a block -> the parts that content_parts.ContentReader knows -> the turns of a message

How the turns follow each other is turns.py's matter. A block that nobody knows is left out with a
warning: each version of Claude Code sends new ones, and a chat keeps what it once sent.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.content_parts import PART_KINDS, Content, ContentReader, has_results
from horde_proxy.protocol.generation_request import Message
from horde_proxy.protocol.leniency import Leniency, plain_name
from horde_proxy.protocol.messages.turns import joined_turns
from horde_proxy.protocol.sampled_body import MOST_ELEMENTS
from horde_proxy.protocol.validation import invalid_type

Block = Mapping[str, Any]

# What other APIs, and vLLM's clients, call the roles. All else, such as "ctx" and "msg" of vLLM,
# is read as a user's.
_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
_BILLING = "x-anthropic-billing-header:"
"""How a block of Claude Code's system prompt begins that differs in each request: it would change
the beginning of every prompt, which workers have in their caches."""
_SKIPPED = frozenset(
    {
        # Anthropic's servers made these calls; what came of them is text.
        "server_tool_use",
        "mcp_tool_use",
        "mcp_tool_listing",
        # Notices that the tools or the model changed. `tools` has the current ones.
        "tool_addition",
        "tool_removal",
        "fallback",
        # Thoughts that only Anthropic can read.
        "redacted_thinking",
    }
)
_DEEPEST = 4
"""Levels of blocks within blocks that are read for their text: a search within a result has two."""


def read_system(system: Any, leniency: Leniency) -> str:
    """The system prompt in a string or text blocks, with a blank line between blocks."""
    if isinstance(system, str):
        return system
    if system is None:
        return ""
    system = [system] if isinstance(system, dict) else system
    if not isinstance(system, list):
        raise invalid_type("system", "a string or an array", system)
    texts = [_system_text(block, leniency) for block in system[:MOST_ELEMENTS]]
    return "\n\n".join(text for text in texts if text and not text.startswith(_BILLING))


def _system_text(block: Any, leniency: Leniency) -> str:
    text = block.get("text") if isinstance(block, dict) else block
    if isinstance(text, str):
        return text
    kind = plain_name(block.get("type") if isinstance(block, dict) else None)
    leniency.tolerate(_unknown("system", kind), f"block of type '{kind}' left out")
    return ""


def read_turns(
    messages: Sequence[Block],
    system: Any,
    leniency: Leniency,
    *,
    schemas: Mapping[str, Block],
    keeps_pictures: bool = False,
) -> tuple[Message, ...]:
    """The turns of a chat, the system's first. Raises InvalidRequest.

    `schemas` has what a tool_reference stands for, by the tool's name. `keeps_pictures`: pictures
    stay beside the notes in the text.
    """
    current = _current(messages)
    turns: list[Message] = []
    for index, message in enumerate(messages):
        reader = _BlockReader(index, leniency, schemas, index == current, keeps_pictures)
        turns += reader.turns(message)
    prompt = read_system(system, leniency)
    joined = joined_turns([Message("system", prompt)] if prompt else [], turns)
    if not joined:
        raise InvalidRequest(
            "Invalid value for 'messages': they have no content.",
            param="messages",
            code="invalid_value",
        )
    return tuple(joined)


def role_of(message: Block) -> str:
    """The role in our words: user, assistant or system. An unknown one counts as a user's."""
    role = message.get("role")
    return _ROLES.get(role.strip().lower(), "user") if isinstance(role, str) else "user"


def _current(messages: Sequence[Block]) -> int | None:
    """The index of the user's message that the answer is about; None in the middle of tool calls.

    Only in that one, a picture that nobody can look at is refused: history keeps the others.
    """
    index = len(messages) - 1
    if role_of(messages[index]) == "assistant":
        index -= 1  # the beginning of the answer itself
    # Claude Code puts a system message behind the user's.
    while index >= 0 and role_of(messages[index]) == "system":
        index -= 1
    if index < 0 or role_of(messages[index]) != "user":
        return None
    return None if has_results(messages[index].get("content")) else index


class _BlockReader:
    """Reads one message. `is_current`: it is what the answer is about."""

    def __init__(
        self,
        index: int,
        leniency: Leniency,
        schemas: Mapping[str, Block],
        is_current: bool,
        keeps_pictures: bool,
    ) -> None:
        self._param, self._leniency, self._schemas = f"messages.[{index}]", leniency, schemas
        self._is_current, self._keeps_pictures = is_current, keeps_pictures

    def turns(self, message: Block) -> Iterator[Message]:
        """The message's turns: results of tools first, then what was said."""
        role, given = role_of(message), message.get("content")
        given = [given] if isinstance(given, dict) else given
        if isinstance(message.get("role"), str) and message["role"].strip().lower() not in _ROLES:
            error = _unknown(f"{self._param}.role", "role")
            self._leniency.tolerate(error, "unknown role read as 'user'")
        blocks = [*self._blocks(given, role)] if isinstance(given, list) else given
        reader = ContentReader(
            f"{self._param}.content",
            self._leniency,
            is_current=self._is_current,
            has_calls=role == "assistant",
            keeps_pictures=self._keeps_pictures,
        )
        content = reader.read(blocks)
        yield from content.results
        if role == "assistant":
            thoughts = _thoughts(given)
            if content.texts or content.calls or thoughts:
                yield _assistant(content, thoughts)
        elif content.texts:
            speaker: Any = role
            yield Message(speaker, content.text, pictures=content.placed())

    def _blocks(self, blocks: Sequence[Any], role: str) -> Iterator[Any]:
        """The blocks as parts that ContentReader knows."""
        # ContentReader refuses what is longer.
        for block in blocks[: MOST_ELEMENTS + 1]:
            yield from self._parts(block, role) if isinstance(block, dict) else [block]

    def _parts(self, block: Block, role: str) -> Iterator[Any]:
        named = block.get("type")
        kind = named if isinstance(named, str) else "text" if "text" in block else ""
        if kind == "tool_result":
            yield self._result_part(block)
        elif PART_KINDS.get(kind) == "call" and role == "assistant":
            yield _call_part(block)
        elif kind == "document":
            yield from _document_parts(block)
        elif PART_KINDS.get(kind) not in (None, "call"):
            # Anthropic refuses empty texts; clients send them all the same.
            if block.get("text") != "":
                yield block
        else:
            yield from self._particular(block, kind)

    def _particular(self, block: Block, kind: str) -> Iterator[Any]:
        """The parts of a block that only Anthropic has."""
        if kind == "tool_reference":
            yield _text_part(self._schema_text(block))
        elif kind == "search_result":
            yield _text_part(_titled(block.get("title"), block.get("source"), _texts(block)))
        elif kind.endswith("_result") or kind in ("compaction", "mid_conv_system"):
            if text := "\n".join(_texts(block)):
                yield _text_part(text)
        elif kind not in _SKIPPED:
            shown, given = plain_name(kind), block.get("text")
            outcome = "read as text" if isinstance(given, str) else "left out"
            error = _unknown(f"{self._param}.content", shown)
            self._leniency.tolerate(error, f"block of type '{shown}' {outcome}")
            if isinstance(given, str) and given:
                yield _text_part(given)

    def _result_part(self, block: Block) -> Block:
        """A tool_result whose content has parts that ContentReader knows."""
        content = block.get("content")
        if not isinstance(content, list):
            return block
        inner = [part for part in content[: MOST_ELEMENTS + 1] if not _is_result(part)]
        parts = [
            known
            for part in inner
            for known in (self._parts(part, "user") if isinstance(part, dict) else [part])
        ]
        return {**block, "content": parts}

    def _schema_text(self, block: Block) -> str:
        """What a reference to a deferred tool tells the model: all that it needs for a call."""
        name = block.get("tool_name")
        schema = self._schemas.get(name) if isinstance(name, str) else None
        return _json(schema) if schema is not None else f"Tool: {name}"


def _call_part(block: Block) -> Block:
    """A tool_use whose input is an object, as the arguments of all calls are."""
    given = block.get("input")
    if isinstance(given, dict):
        return block
    return {**block, "input": {} if given is None else {"input": given}}


def _document_parts(block: Block) -> Iterator[Any]:
    """A document as text with its title; the block itself where that takes more than reading it."""
    source = block.get("source")
    source = source if isinstance(source, dict) else {}
    kind, data = source.get("type"), source.get("data")
    if kind == "content":
        yield from _inner_blocks(block, source.get("content"))
        return
    text = data if kind == "text" else _decoded(data) if _is_plain_text(source) else None
    if isinstance(text, str):
        yield _text_part(_titled(block.get("title"), block.get("context"), [text]))
    else:
        yield block


def _inner_blocks(block: Block, content: Any) -> Iterator[Any]:
    """The texts and pictures that a document consists of."""
    blocks = [_text_part(content)] if isinstance(content, str) else content
    blocks = blocks[:MOST_ELEMENTS] if isinstance(blocks, list) else []
    if head := _titled(block.get("title"), block.get("context"), []):
        yield _text_part(head)
    for part in blocks:
        if isinstance(part, dict) and part.get("type") in ("text", "image"):
            yield part


def _is_result(part: Any) -> bool:
    """Whether a part is a result, which another result cannot contain."""
    return isinstance(part, dict) and part.get("type") == "tool_result"


def _is_plain_text(source: Block) -> bool:
    return source.get("type") == "base64" and str(source.get("media_type")).startswith("text/")


def _decoded(data: Any) -> str | None:
    """The text in base64; None where it is none."""
    try:
        return base64.b64decode(data, validate=False).decode("utf-8") if data else None
    except (binascii.Error, TypeError, ValueError):
        return None


def _titled(title: Any, context: Any, texts: Iterable[str]) -> str:
    """Texts below the title and the origin of what they come from."""
    return "\n".join([part for part in (title, context) if isinstance(part, str)] + [*texts])


def _texts(block: Block) -> list[str]:
    """All texts in a block of a kind that is not known in detail, such as a search's results."""
    return [text for text in _texts_in(block, _DEEPEST) if text]


def _texts_in(value: Any, depth: int) -> Iterator[str]:
    if depth < 0:
        return
    if isinstance(value, list):
        for element in value[:MOST_ELEMENTS]:
            yield from _texts_in(element, depth - 1)
    elif isinstance(value, dict):
        # The names that results of Anthropic's own tools have for what a reader needs.
        for name in ("title", "url", "text", "stdout", "stderr", "error_code"):
            if isinstance(value.get(name), str):
                yield value[name]
        content = value.get("content")
        if isinstance(content, str):
            yield content
        else:
            yield from _texts_in(content, depth - 1)


def _thoughts(content: Any) -> str:
    """What the model thought before it answered. Signatures mean nothing here: none is checked."""
    blocks = content if isinstance(content, list) else []
    thoughts = [
        block["thinking"]
        for block in blocks[:MOST_ELEMENTS]
        if isinstance(block, dict)
        and block.get("type") == "thinking"
        and isinstance(block.get("thinking"), str)
    ]
    return "\n".join(thoughts)


def _assistant(content: Content, thoughts: str) -> Message:
    calls = tuple(content.calls)
    return Message("assistant", content.text, calls, reasoning=thoughts, pictures=content.placed())


def _text_part(text: str) -> Block:
    return {"type": "text", "text": text}


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError as exc:
        raise InvalidRequest(
            "Invalid value for 'messages': it is nested too deeply.",
            param="messages",
            code="invalid_value",
        ) from exc


def _unknown(param: str, kind: str) -> InvalidRequest:
    return InvalidRequest(
        f"Blocks of type '{kind}' cannot be read here.", param=param, code="unsupported_content"
    )
