"""The front POST /completions: the older API, with raw prompts instead of chats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Response

from horde_proxy.api.context import ServingOptions
from horde_proxy.api.front import Front
from horde_proxy.api.generation import run_generation
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.completions import (
    CompletionEvents,
    CompletionRequest,
    fold_completion,
    read_completion,
)

blueprint = Blueprint("completions", __name__)


def _read(body: Any, serving: ServingOptions) -> CompletionRequest:
    return read_completion(
        body,
        default_tokens=serving.completion_tokens,
        max_n=serving.max_n,
        strict=serving.strict,
    )


def _fold(question: CompletionRequest, chunks: Sequence[Chunk]) -> dict[str, Any]:
    return fold_completion(chunks, question.echoed())


FRONT = Front(_read, _fold, CompletionEvents, proxied_to="completions")


@blueprint.post("/completions")
def completions() -> Response:
    """A text completion for each prompt, or its chunks as server-sent events."""
    return run_generation(FRONT)
