"""The response object, which one function makes whatever its state. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from horde_proxy.protocol.responses.calls import Item
from horde_proxy.protocol.responses.question import ResponseQuestion
from horde_proxy.protocol.usage import counts_of

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


def response_object(
    question: ResponseQuestion,
    *,
    status: Status,
    output: Sequence[Item] = (),
    usage: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    incomplete_reason: str | None = None,
    model: str | None = None,
    completed_at: int | None = None,
) -> dict[str, Any]:
    """The response object of a question.

    `usage` is that of chats; see usage_object. `error` has `code` and `message`, see failures.py.
    `incomplete_reason` is "max_output_tokens" or "content_filter". `model` is the one that answers;
    None: the requested one. Keys without a value are there, since OpenAI requires many and clients
    read more: agents-js and LangChain fail at a missing list.
    """
    return {
        "id": question.id,
        "object": "response",
        "created_at": question.created,
        "status": status,
        "background": question.background,
        "completed_at": completed_at,
        "error": dict(error) if error else None,
        "incomplete_details": {"reason": incomplete_reason} if incomplete_reason else None,
        "model": model or question.requests[0].model,
        "output": list(output),
        "previous_response_id": question.previous_response_id,
        "conversation": {"id": question.conversation} if question.conversation else None,
        "store": question.store,
        **question.echo,
        "usage": usage_object(usage) if usage is not None else None,
    }


def usage_object(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The usage of a chat with the names that responses have for it."""
    prompt, completion, _ = counts_of(dict(usage))
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": _detail(usage, "prompt_tokens_details", "cached_tokens"),
            "cache_write_tokens": 0,
        },
        "output_tokens": completion,
        "output_tokens_details": {
            "reasoning_tokens": _detail(usage, "completion_tokens_details", "reasoning_tokens")
        },
        "total_tokens": prompt + completion,
    }


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    """A count of usage's details, which a server may leave out; 0 for what is no count."""
    details = usage.get(group)
    count = details.get(name) if isinstance(details, Mapping) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0
