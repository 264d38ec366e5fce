"""The front POST /messages, Anthropic's API, and what its clients call beside it.

What a request means and how an answer is written is protocol/messages' matter.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, g, jsonify, request

from horde_proxy.api.auth import account_name, authenticate, read_json
from horde_proxy.api.context import ServingOptions, current_context
from horde_proxy.api.front import Front
from horde_proxy.api.generation import run_generation
from horde_proxy.api.named_models import with_one_model
from horde_proxy.api.proxying import try_proxy
from horde_proxy.errors import TimedOut, Unavailable, UpstreamFailed
from horde_proxy.prompts.counting import prompt_tokens
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.messages import (
    MessageEvents,
    MessagesQuestion,
    fold_message,
    read_messages_request,
)

blueprint = Blueprint("messages", __name__)


def _read(body: Any, serving: ServingOptions) -> MessagesQuestion:
    question = read_messages_request(
        body,
        id=f"msg_{uuid.uuid4().hex}",
        strict=serving.strict,
        keeps_pictures=serving.keeps_pictures,
    )
    # Only a stream tells the input before the answer is there.
    needs_estimate = question.requests[0].stream or question.is_warm_up
    return replace(question, input_tokens=_counted(question)) if needs_estimate else question


def _counted(question: MessagesQuestion) -> int:
    return prompt_tokens(question.requests[0])


def _ready(question: MessagesQuestion) -> Sequence[Chunk] | None:
    """The answer to a request for no token at all, which warms up Anthropic's cache."""
    if not question.is_warm_up:
        return None
    head = chunks.Head(question.id, 0, question.model)
    usage = chunks.usage(question.input_tokens, 0)
    end = chunks.chunk(head, {}, finish_reason="length")
    return [chunks.role_chunk(head), end, chunks.usage_chunk(head, usage, {})]


FRONT = Front(
    _read,
    fold_message,
    MessageEvents,
    proxied_to="messages",
    is_optional=True,
    ready=_ready,
)
_COUNT = replace(FRONT, proxied_to="messages/count_tokens")


# "claude-haiku-4-5-20251001", "anthropic/claude-opus-5", "us.anthropic.claude-sonnet-4-5-v1:0"
_CLAUDE = re.compile(r"(?:[\w.-]*anthropic[/.])?claude-", re.IGNORECASE)


def _stand_in(model: str) -> str | None:
    """The name that is meant where a model of Anthropic's is not served; None for other models.

    Claude Code names its small model in side calls, whatever model its user has chosen.
    """
    if not _CLAUDE.match(model):
        return None
    return "fast" if "haiku" in model.lower() else "auto"


@blueprint.before_request
def _let_models_stand_in() -> None:
    g.stand_in = _stand_in


@blueprint.post("/messages")
def messages() -> Response:
    """A message, or its events."""
    return run_generation(FRONT)


@blueprint.post("/messages/count_tokens")
def count_tokens() -> Response:
    """About how many tokens the prompt of a message has; exactly where an endpoint can tell.

    It counts against no limit: Claude Code sends 25 of them at once to show its context.
    """
    ctx = current_context()
    authenticate()
    body = with_one_model(read_json())
    g.record.account = account_name(ctx)
    # An estimate needs no endpoint, so none that fails now may fail the count.
    with suppress(Unavailable, UpstreamFailed, TimedOut):
        proxied, _ = try_proxy(ctx, body, _COUNT)
        if proxied is not None and proxied.status_code < 500:
            return proxied
        if proxied is not None:
            proxied.close()
    count = _counted(_read(body.document, ctx.serving))
    answer: dict[str, Any] = {"input_tokens": count}
    if "beta" in request.args:
        answer["context_management"] = {"original_input_tokens": count}
    return jsonify(answer)


@blueprint.get("/api/hello")
def hello() -> Response:
    """An empty answer: Claude Code looks for it at its start, without a key."""
    return Response(status=200, content_type="text/plain; charset=utf-8")
