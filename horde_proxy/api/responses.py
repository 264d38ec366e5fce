"""The front POST /responses. Other routes below /responses are in modules of their own."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response

from horde_proxy.api import background
from horde_proxy.api.context import AppContext, ServingOptions, current_context
from horde_proxy.api.front import Front
from horde_proxy.api.generation import run_generation
from horde_proxy.api.internal_call import current_job
from horde_proxy.api.kept_elsewhere import is_foreign_previous, previous_elsewhere
from horde_proxy.api.named_models import further_models
from horde_proxy.api.places import allowed_places, bind_to_aliases
from horde_proxy.api.recall import recall
from horde_proxy.api.recording import record_response
from horde_proxy.errors import ProxyError
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.responses.events import ResponseEvents, fold_response
from horde_proxy.protocol.responses.failures import as_refusal
from horde_proxy.protocol.responses.question import ResponseQuestion
from horde_proxy.protocol.responses.request import read_response, refers_to_kept
from horde_proxy.protocol.stored import NOTHING_IS_STORED

blueprint = Blueprint("responses", __name__)
_ID_BYTES = 24
"""OpenAI's ids have 48 hexadecimal digits."""


def _new_id() -> str:
    return secrets.token_hex(_ID_BYTES)


def _read(body: Any, serving: ServingOptions) -> ResponseQuestion:
    ctx, job = current_context(), current_job()
    # The client of a background response has its id already.
    known = job.answer.id.removeprefix("resp_") if job and job.answer else None
    question = read_response(
        body,
        recall=recall(ctx),
        new_id=lambda: known or _new_id(),
        now=ctx.now,
        strict=serving.strict,
        keeps_pictures=serving.keeps_pictures,
    )
    question = _bound(ctx, question)
    return question if ctx.store.responses else _not_stored(question)


def _bound(ctx: AppContext, question: ResponseQuestion) -> ResponseQuestion:
    """The question, whose response says to which places it is bound.

    It is stored with that, so that no later request that continues it leaves them.
    """
    bind_to_aliases(ctx.router, question.requests[0].model, *further_models())
    places = allowed_places()
    if places is None:
        return question
    return replace(question, echo={**question.echo, "places": places})


def _not_stored(question: ResponseQuestion) -> ResponseQuestion:
    """The question, for a proxy that keeps nothing."""
    if not question.asked_to_store:
        return replace(question, store=False)
    [request] = question.requests
    request = replace(request, warnings=(*request.warnings, NOTHING_IS_STORED))
    return replace(question, requests=(request,), store=False, asked_to_store=False)


def _fold(question: ResponseQuestion, chunks: Sequence[Chunk]) -> dict[str, Any]:
    return fold_response(question, chunks)


def _is_ours(ctx: AppContext, body: Any) -> bool:
    """Whether a body needs what is kept here, or a job that outlives its connection."""
    is_background = isinstance(body, dict) and body.get("background") is True
    return is_background or refers_to_kept(body, recall(ctx)) or is_foreign_previous(ctx, body)


FRONT = Front(
    _read,
    _fold,
    ResponseEvents,
    proxied_to="responses",
    is_optional=True,
    is_ours=_is_ours,
    kept_at=previous_elsewhere,
    defer=background.defer,
    record=record_response,
)


@blueprint.post("/responses")
def create_response() -> Response:
    """A response, or its events as server-sent events."""
    try:
        return run_generation(FRONT)
    except ProxyError as exc:
        # No client repeats the calls of jobs, and their true errors say when to try again.
        if current_job() is not None:
            raise
        raise as_refusal(exc) from exc
