"""GET /generation: who gave an answer, and what it cost. OpenRouter's route.

Records are made when a response has ended, so that one of a stream is there after its last byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, request

from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.auth import account_name, authenticate
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.late_kudos import KudosCorrections
from horde_proxy.errors import InvalidRequest, ProxyError
from horde_proxy.store.generation_record import GenerationRecord, kept_horde

blueprint = Blueprint("generations", __name__)
blueprint.before_request(authenticate)

_STREAMS = ("text/event-stream", "application/x-ndjson")
_LONGEST_ID = 200
"""Characters. Our own ids have 60 at most."""


class GenerationNotFound(ProxyError):
    """This client has no answer with such an id."""

    status = 404
    type = "invalid_request_error"
    code = "generation_not_found"


@blueprint.get("/generation")
def generation() -> Response:
    """The record of an answer, by its id or by the X-Request-Id of its request."""
    ctx, identity = current_context(), request.args.get("id", "").strip()
    if not identity or len(identity) > _LONGEST_ID:
        raise InvalidRequest(
            "`id` must be the id of an answer, or its X-Request-Id: GET /v1/generation?id=...",
            param="id",
            code="invalid_value",
        )
    owner = account_name(ctx)
    records = (ctx.store.generations.get(owner, written) for written in _ways_to_write(identity))
    record = next(filter(None, records), None)
    if record is None:
        raise GenerationNotFound(f"You have no answer with the id '{identity}' here.")
    return jsonify({"data": record.to_json()})


def _ways_to_write(identity: str) -> tuple[str, ...]:
    """The id as it is, and as the record has it.

    A completion has the id of its chunks, "chatcmpl-1", as "cmpl-1". Anthropic's SDKs show our
    request id as "req_1".
    """
    if identity.startswith("cmpl-"):
        return identity, f"chat{identity}"
    if identity.startswith("req_"):
        return identity, identity.removeprefix("req_")
    return (identity,)


def keep_record(
    ctx: AppContext, record: RequestLog, response: Response, late: KudosCorrections
) -> None:
    """Have a record made of the answer once the response has ended, if a model gives one."""
    owner = record.account
    if owner is None:
        return
    generations, is_stream = ctx.store.generations, response.mimetype in _STREAMS

    def keep() -> None:
        if _is_answer(record):
            generations.add(owner, _made(ctx, record, streamed=is_stream))

    # Whoever has a whole answer may look it up at once, before the server has closed the response.
    if not response.is_streamed:
        keep()
    response.call_on_close(keep)
    late.add_counter(lambda kudos: generations.add_kudos(owner, record.id, kudos))


def _is_answer(record: RequestLog) -> bool:
    """Whether a model was to answer: counting tokens is none, nor is a call about a file."""
    has_answer = record.prompt_tokens is not None or bool(record.images)
    return bool(record.model and record.upstream and (has_answer or record.error))


def _kept_id(record: RequestLog) -> str:
    """The id of an answer; that of its request where a server's own is longer than GET takes."""
    own = record.answer_id
    return own if isinstance(own, str) and 0 < len(own) <= _LONGEST_ID else record.id


def _horde_of(record: RequestLog) -> Mapping[str, Any] | None:
    """The `horde` object; an answer that broke off has none, but may have cost kudos."""
    if record.horde is None and record.horde_request is not None:
        return {"request_ids": [record.horde_request]}
    return kept_horde(record.horde)


def _made(ctx: AppContext, record: RequestLog, *, streamed: bool) -> GenerationRecord:
    return GenerationRecord(
        id=_kept_id(record),
        request_id=record.id,
        created=ctx.now() - record.seconds,
        path=record.path,
        status=record.status,
        model=record.model,
        endpoint=record.upstream,
        streamed=streamed,
        error=record.error,
        finish_reason=record.finish_reason,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        images=record.images,
        seconds=record.seconds,
        first_text=record.first_text,
        waited=record.waited,
        generated=record.generated,
        kudos=record.kudos,
        cost=record.cost,
        cached_tokens=record.cached_tokens,
        failed_at=tuple(record.failed_at),
        horde=_horde_of(record),
    )
