"""GET /inspections: what a client's own requests sent to models, and what came back, word for word.

    POST ... -> begin_inspection: g.inspection -> upstreams note attempts -> response closed: keep

Off by default (`server.inspect`). What is kept is in the memory of the process that served the
request, the last ones of each owner, and is never logged. Nobody sees another owner's, not even an
admin; where strangers would be one owner, nothing is kept.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask import Blueprint, Response, g, jsonify

from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.auth import account_name, authenticate
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.errors import ProxyError, Refused
from horde_proxy.upstreams.inspection import Inspection, kept_document
from horde_proxy.upstreams.proxying import Body, JsonBody

if TYPE_CHECKING:
    from horde_proxy.api.uploads import Upload

blueprint = Blueprint("inspections", __name__)
blueprint.before_request(authenticate)

_HEADERS = ("X-Horde-Model", "X-Horde-Format", "X-Horde-Warnings", "X-Endpoint")
"""Headers of the answer that say how it was made."""
_FACTS = (
    "method",
    "path",
    "status",
    "requested",
    "model",
    "error",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "kudos",
)
_TIMES = ("waited", "generated", "first_text", "seconds")


class InspectorOff(ProxyError):
    """The proxy keeps no requests."""

    status = 404
    type = "invalid_request_error"
    code = "inspector_off"

    def __init__(self) -> None:
        super().__init__(
            "This proxy keeps no requests to look into. Its owner turns that on with "
            "`server.inspect`, the number of requests to keep for each key."
        )


class InspectionNotFound(ProxyError):
    """This client has no such request here."""

    status = 404
    type = "invalid_request_error"
    code = "inspection_not_found"


@blueprint.get("/inspections")
def inspections() -> Response:
    """The client's last requests, the newest first, without what they sent and got."""
    documents = [_summary(document) for document in kept_requests(current_context())]
    return jsonify({"object": "list", "data": documents})


@blueprint.get("/inspections/<request_id>")
def inspection(request_id: str) -> Response:
    """One request by the X-Request-Id of its answer: prompts, raw answers, attempts, times."""
    return jsonify(kept_request(current_context(), request_id))


@blueprint.delete("/inspections")
def forget() -> Response:
    """Forget the client's requests."""
    ctx = current_context()
    kept_requests(ctx)
    return jsonify({"deleted": ctx.live.inspections.forget(account_name(ctx))})


def kept_requests(ctx: AppContext) -> list[dict[str, Any]]:
    """The requests of the current client. Raises InspectorOff, or Refused for a stranger."""
    if not ctx.live.inspections.count:
        raise InspectorOff()
    if not _has_owner(ctx):
        raise Refused(
            "Prompts are shown to the key that sent them only, and this request names no key: "
            "set access.mode to 'keys', or use a horde key of your own."
        )
    return ctx.live.inspections.of(account_name(ctx))


def kept_request(ctx: AppContext, request_id: str) -> dict[str, Any]:
    """One of them by its id. Raises InspectionNotFound."""
    # Anthropic's SDKs show our request id as "req_1".
    wanted = request_id.removeprefix("req_")
    documents = (kept for kept in kept_requests(ctx) if kept["id"] == wanted)
    if (document := next(documents, None)) is None:
        raise InspectionNotFound("You have no request with this id here, or it is too long ago.")
    return document


def begin_inspection(ctx: AppContext, body: Body) -> None:
    """Have upstreams note what the current request sends and gets, where it is to be kept.

    The document is kept when the response has ended: see keep_inspection.
    """
    if not ctx.live.inspections.count or not _has_owner(ctx):
        return
    began = ctx.clock()
    g.inspection = Inspection(lambda: ctx.clock() - began)
    g.received = kept_document(_received(body))


def _received(body: Body) -> Any:
    """The client's body; of a form only the names of its texts and files."""
    if isinstance(body, JsonBody):
        return body.document
    upload = cast("Upload", body)
    return {"form": sorted(upload.names), "files": sorted(upload.file_names)}


def keep_inspection(ctx: AppContext, record: RequestLog, response: Response) -> None:
    """Have the current request kept once its response has ended, if it was to be."""
    noted: Inspection | None = g.get("inspection")
    if noted is None:
        return
    owner, headers, received = account_name(ctx), response.headers, g.received
    sent = {name.lower(): headers[name] for name in _HEADERS if name in headers}
    response.call_on_close(partial(_keep, ctx, owner, record, noted, received, sent))


def _keep(
    ctx: AppContext,
    owner: str,
    record: RequestLog,
    noted: Inspection,
    received: Any,
    headers: dict[str, str],
) -> None:
    document = {
        "id": record.id,
        "object": "inspection",
        "created": int(ctx.now() - record.seconds),
        **{name: getattr(record, name) for name in _FACTS},
        "endpoint": record.upstream,
        "failed_at": [list(pair) for pair in record.failed_at],
        "times": {name: getattr(record, name) for name in _TIMES},
        "headers": headers,
        "received": received,
        **noted.as_json(),
    }
    ctx.live.inspections.add(owner, document)


def _summary(document: dict[str, Any]) -> dict[str, Any]:
    left_out = ("received", "attempts", "attempts_left_out", "headers")
    return {name: value for name, value in document.items() if name not in left_out}


def _has_owner(ctx: AppContext) -> bool:
    """Whether nobody else is the same owner: a key, one's own horde key, or this machine."""
    if g.key is not None:
        return True
    if ctx.access.passthrough:
        return account_name(ctx).startswith("key ")
    return ctx.access.guard.is_local_only
