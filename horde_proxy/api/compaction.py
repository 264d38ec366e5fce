"""POST /responses/input_tokens and /responses/compact: a response's input, counted or summarised.

Both read the same bodies as POST /responses, what these refer to included. The summary is written
by the model itself, through the pipeline.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from flask import Blueprint, Response, jsonify

from horde_proxy.api.auth import authenticate, read_json
from horde_proxy.api.context import AppContext, ServingOptions, current_context
from horde_proxy.api.front import Front
from horde_proxy.api.generation import run_generation
from horde_proxy.api.kept_elsewhere import is_foreign_previous, previous_elsewhere
from horde_proxy.api.named_models import with_one_model
from horde_proxy.api.proxying import try_proxy
from horde_proxy.api.recall import recall
from horde_proxy.errors import ProxyError, TimedOut, Unavailable, UpstreamFailed
from horde_proxy.prompts.counting import prompt_tokens
from horde_proxy.protocol.chunks import ChatEvents, Chunk, fold
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.responses.calls import Item
from horde_proxy.protocol.responses.compaction import summarising, write_compaction
from horde_proxy.protocol.responses.failures import as_refusal
from horde_proxy.protocol.responses.object import usage_object
from horde_proxy.protocol.responses.question import ResponseQuestion
from horde_proxy.protocol.responses.request import read_response, refers_to_kept
from horde_proxy.protocol.stored import listed_item

blueprint = Blueprint("compaction", __name__)


@dataclass(frozen=True)
class _Compaction:
    """What is to be summarised. `user_messages` are given back as they came."""

    requests: tuple[GenerationRequest]
    created: int
    user_messages: Sequence[Item]


def _read_question(body: Any, serving: ServingOptions) -> ResponseQuestion:
    ctx = current_context()
    return read_response(
        body,
        recall=recall(ctx),
        new_id=lambda: secrets.token_hex(24),
        now=ctx.now,
        strict=serving.strict,
    )


def _read(body: Any, serving: ServingOptions) -> _Compaction:
    question = _read_question(body, serving)
    [request] = question.requests
    request = replace(summarising(request), stream=False)
    items = (*_before(question), *question.input_items)
    messages = [item for item in items if item.get("role") == "user"]
    return _Compaction((request,), question.created, messages)


def _before(question: ResponseQuestion) -> Sequence[Item]:
    """The items of earlier turns that the question goes on from."""
    stored = recall(current_context())
    if question.previous_response_id:
        return stored.chain(question.previous_response_id)
    return stored.conversation(question.conversation) if question.conversation else ()


def _fold(compaction: _Compaction, chunks: Sequence[Chunk]) -> dict[str, Any]:
    completion = fold(chunks)
    summary = completion["choices"][0]["message"]["content"]
    if not summary or not summary.strip():
        raise UpstreamFailed("The model wrote no summary.")
    item = {
        "id": f"cmp_{secrets.token_hex(24)}",
        "type": "compaction",
        "encrypted_content": write_compaction(summary.strip()),
    }
    return {
        "id": f"resp_{secrets.token_hex(24)}",
        "object": "response.compaction",
        "created_at": compaction.created,
        "output": [*map(listed_item, compaction.user_messages), item],
        "usage": usage_object(completion.get("usage") or {}),
    }


def _is_ours(ctx: AppContext, body: Any) -> bool:
    return refers_to_kept(body, recall(ctx)) or is_foreign_previous(ctx, body)


COMPACT = Front(
    _read,
    _fold,
    lambda compaction: ChatEvents(include_usage=False),
    proxied_to="responses/compact",
    is_optional=True,
    is_ours=_is_ours,
    kept_at=previous_elsewhere,
)
COUNT = replace(COMPACT, proxied_to="responses/input_tokens")


@blueprint.post("/responses/compact")
def compact() -> Response:
    """The user's messages and a summary, which a request may send instead of the conversation."""
    try:
        return run_generation(COMPACT)
    except ProxyError as exc:
        raise as_refusal(exc) from exc


@blueprint.post("/responses/input_tokens")
def count_input_tokens() -> Response:
    """About how many tokens a response's input has; exactly where an endpoint can tell."""
    ctx = current_context()
    authenticate()
    body = with_one_model(read_json())
    # An estimate needs no endpoint, so none that fails now may fail the count.
    with suppress(Unavailable, UpstreamFailed, TimedOut):
        proxied, _ = try_proxy(ctx, body, COUNT)
        if proxied is not None:
            return proxied
    document = body.document
    if isinstance(document, dict) and not document.get("model"):
        # OpenAI's API needs none here, and the estimate is the same for all.
        document = {**document, "model": "auto"}
    [request] = _read_question(document, ctx.serving).requests
    return jsonify({"object": "response.input_tokens", "input_tokens": prompt_tokens(request)})
