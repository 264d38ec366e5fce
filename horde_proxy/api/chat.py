"""The front POST /chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flask import Blueprint, Response

from horde_proxy.api.auth import account_name
from horde_proxy.api.context import AppContext, ServingOptions, current_context
from horde_proxy.api.front import Front
from horde_proxy.api.generation import run_generation
from horde_proxy.api.recording import ChatFacts, ChatRecorder
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.chunks import ChatEvents, Chunk, fold
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.stored import NOTHING_IS_STORED, read_metadata

blueprint = Blueprint("chat", __name__)


@dataclass(frozen=True)
class _Chat:
    """A chat; `facts` are what is stored with its answer, if it is to be stored."""

    requests: tuple[GenerationRequest]
    facts: ChatFacts | None = None


def _read(body: Any, serving: ServingOptions) -> _Chat:
    request = read_chat(
        body,
        max_n=serving.max_n,
        strict=serving.strict,
        keeps_pictures=serving.keeps_pictures,
    )
    facts = _facts(body, request)
    if facts is not None and current_context().store.chats is None:
        return _Chat((replace(request, warnings=(*request.warnings, NOTHING_IS_STORED)),))
    return _Chat((request,), facts)


def _facts(body: dict[str, Any], request: GenerationRequest) -> ChatFacts | None:
    """What is stored with the answer; None unless the client asked for that."""
    if body.get("store") is not True:
        return None
    return ChatFacts(request.n, body["messages"], read_metadata(body))


def _record(ctx: AppContext, chat: _Chat) -> ChatRecorder | None:
    store = ctx.store.chats
    if chat.facts is None or store is None:
        return None
    return ChatRecorder(chat.facts, account_name(ctx), store)


def _fold(chat: _Chat, chunks: Sequence[Chunk]) -> dict[str, Any]:
    return fold(chunks)


def _stream(chat: _Chat) -> ChatEvents:
    [request] = chat.requests
    shows_progress = request.horde.get("progress") == "reasoning"
    return ChatEvents(include_usage=request.include_usage, shows_progress=shows_progress)


FRONT = Front(_read, _fold, _stream, proxied_to="chat/completions", record=_record)


@blueprint.post("/chat/completions")
def chat_completions() -> Response:
    """A chat completion, or its chunks as server-sent events."""
    return run_generation(FRONT)
