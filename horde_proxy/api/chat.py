"""The front POST /chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response

from horde_proxy.api.context import ServingOptions
from horde_proxy.api.front import Front
from horde_proxy.api.generation import run_generation
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.chunks import ChatEvents, Chunk, fold
from horde_proxy.protocol.generation_request import GenerationRequest

blueprint = Blueprint("chat", __name__)


@dataclass(frozen=True)
class _Chat:
    requests: tuple[GenerationRequest]


def _read(body: Any, serving: ServingOptions) -> _Chat:
    request = read_chat(
        body,
        max_n=serving.max_n,
        strict=serving.strict,
        keeps_pictures=serving.keeps_pictures,
    )
    return _Chat((request,))


def _fold(chat: _Chat, chunks: Sequence[Chunk]) -> dict[str, Any]:
    return fold(chunks)


def _stream(chat: _Chat) -> ChatEvents:
    [request] = chat.requests
    shows_progress = request.horde.get("progress") == "reasoning"
    return ChatEvents(include_usage=request.include_usage, shows_progress=shows_progress)


FRONT = Front(_read, _fold, _stream, proxied_to="chat/completions")


@blueprint.post("/chat/completions")
def chat_completions() -> Response:
    """A chat completion, or its chunks as server-sent events."""
    return run_generation(FRONT)
