"""The tags of chat formats in chats: broken up for a worker's server, restored in what it writes.

Servers put messages into their model's template as they are, and read the tags of the whole as
control tokens: llama.cpp makes one token of "<|im_end|>" in a message. So a fetched page could
begin a turn of its own. Prompts have the same marks (`prompts.tags`). Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from horde_proxy.aihorde.transcript import ChatResult
from horde_proxy.prompts.formats import Format, neutralise, restore, unfinished_tag
from horde_proxy.prompts.required_calls import restored
from horde_proxy.protocol.generation_request import Message, Tool
from horde_proxy.upstreams.openai.texts import HalfPairs, whole_characters

_LONGEST_REST = 10_000
"""Characters of a text that are restored anew with each piece: more than a line has."""


def neutral_message(message: Message, format: Format) -> Message:
    """A message whose texts open no turn. Ids are of others, too, and some templates show them."""
    calls = tuple(
        replace(
            call,
            id=neutralise(call.id, format),
            name=neutralise(call.name),
            arguments=neutralise(call.arguments, format),
        )
        for call in message.tool_calls
    )
    call_id = message.tool_call_id
    return replace(
        message,
        text=neutralise(message.text, format),
        reasoning=neutralise(message.reasoning, format),
        tool_calls=calls,
        tool_call_id=neutralise(call_id, format) if call_id else call_id,
    )


def neutral_tool(tool: Tool) -> Tool:
    """A tool whose texts open no turn: a foreign server may have named and described it."""
    return replace(
        tool,
        name=neutralise(tool.name),
        description=neutralise(tool.description),
        parameters=_neutral_schema(tool.parameters),
    )


def _neutral_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    written = json.dumps(schema, ensure_ascii=False)
    neutral = neutralise(written)
    changed: Mapping[str, Any] = schema if neutral == written else json.loads(neutral)
    return changed


def restored_result(result: ChatResult, format: Format) -> ChatResult:
    """What the model means with an answer, in which it may repeat what was neutralised."""
    return replace(
        result,
        content=restore(whole_characters(result.content), format),
        reasoning=restore(whole_characters(result.reasoning), format),
        refusal=restore(whole_characters(result.refusal), format),
        calls={
            index: replace(
                call, name=restore(call.name), arguments=_restored_arguments(call.arguments)
            )
            for index, call in result.calls.items()
        },
    )


class RestoredText:
    """The same of a text that grows, without the end that more of it may change.

    What cannot change any more is restored once, so that a long text costs no more than its length.
    """

    def __init__(self, format: Format) -> None:
        self._format, self._done, self._rest = format, "", ""
        self._halves = HalfPairs()

    def add(self, piece: str) -> None:
        """Add what the model wrote next."""
        self._rest += self._halves.add(piece)
        if len(self._rest) > _LONGEST_REST:
            # No tag has a line end. A line that is still longer has no model written.
            end = self._rest.rfind("\n") + 1 or len(self._rest) - _LONGEST_REST // 2
            self._done += restore(self._rest[:end], self._format)
            self._rest = self._rest[end:]

    @property
    def restored(self) -> str:
        """The text by now."""
        certain = self._rest[: len(self._rest) - unfinished_tag(self._rest)]
        return self._done + restore(certain, self._format)

    def __len__(self) -> int:
        return len(self._done) + len(self._rest)


def _restored_arguments(arguments: str) -> str:
    r"""JSON text with restored values; the server's own text where there is nothing to restore.

    Servers may escape the tag or its mark: "\u003c\u00b7|im_end|>".
    """
    try:
        value = json.loads(arguments)
    # A call that was cut off.
    except (ValueError, RecursionError):
        return restore(arguments)
    meant = restored(value)
    return arguments if meant is value else json.dumps(meant, ensure_ascii=False)
