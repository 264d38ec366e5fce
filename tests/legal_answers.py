"""What a legal answer is: the chunks that OpenAI itself would send."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from openai.types.chat import ChatCompletionChunk


def check_chunks(chunks: Sequence[dict[str, Any]]) -> None:
    """Raises for chunks that OpenAI would not send."""
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        json.dumps(chunk, allow_nan=False, ensure_ascii=False).encode()
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["id"] and chunks[0]["created"] and chunks[0]["model"]
    assert (chunks[-1]["choices"], type(chunks[-1]["usage"])) == ([], dict)
    assert all(chunk.get("usage") is None for chunk in chunks[:-1])
    choices: dict[int, list[dict[str, Any]]] = {}
    for chunk in chunks[:-1]:
        [choice] = chunk["choices"]
        choices.setdefault(choice["index"], []).append(choice)
    for parts in choices.values():
        check_choice(parts)


def check_choice(parts: Sequence[dict[str, Any]]) -> None:
    """Raises for the parts of a choice that OpenAI would not send."""
    first, *others, last = parts
    assert first["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all(part["finish_reason"] is None for part in (first, *others))
    assert last["delta"] == {}
    begun = 0
    for part in others:
        [(name, value)] = part["delta"].items()
        if name == "tool_calls":
            [call] = value
            if call["index"] == begun:
                begun += 1
                assert call.keys() == {"index", "id", "type", "function"}
                assert call["id"] and call["type"] == "function" and call["function"]["name"]
            else:
                assert (call.keys(), call["index"] < begun) == ({"index", "function"}, True)
                assert call["function"].keys() == {"arguments"}
        elif name != "function_call":
            assert name in ("content", "reasoning_content", "refusal") and value
    reasons = {"tool_calls", "length", "content_filter"} if begun else {"stop", "length"}
    assert last["finish_reason"] in reasons | {"content_filter", "function_call"}
