"""Anthropic's message batches: /messages/batches, stored and run as OpenAI's batches are.

What a line of a batch does is api/batch_jobs.py's matter, what a batch looks like
protocol/messages/batches.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, jsonify, request

from horde_proxy.api.auth import account_name, authenticate, read_json
from horde_proxy.api.batches import batch_identity, stored_batches
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.files import prefers_servers, stored_files
from horde_proxy.api.kept_elsewhere import or_elsewhere
from horde_proxy.api.models import rfc3339
from horde_proxy.api.picture_links import public_url
from horde_proxy.api.places import is_bound
from horde_proxy.api.proxying import proxy_stored
from horde_proxy.api.query import whole_number
from horde_proxy.errors import InvalidRequest
from horde_proxy.json_reading import parse_json
from horde_proxy.protocol import batches as protocol
from horde_proxy.protocol.batches import BatchFacts, BatchRequest, UnknownBatch, compact_json
from horde_proxy.protocol.files import UnknownFile
from horde_proxy.protocol.messages.batches import (
    COUNT,
    ENDPOINT,
    counts_never_called,
    deleted_batch,
    message_batch,
    read_requests,
    result_of,
    stored_id,
)

if TYPE_CHECKING:
    from horde_proxy.store.files import FileStore

_LONGEST_PAGE, _PAGE = 1_000, 20
"""Batches of a page of the list, and those where no limit is given (Anthropic's API reference)."""
_LONGEST_LINE = 100_000_000
"""Bytes of a line of a result file, which has a message, and no pictures."""

blueprint = Blueprint("message_batches", __name__)
blueprint.before_request(authenticate)


@blueprint.post("/messages/batches")
def create_batch() -> Response:
    """Begin a batch, whose requests run in the background."""
    ctx, body = current_context(), read_json()
    is_for_servers = prefers_servers(ctx) or ctx.store.batches is None
    if is_for_servers and not _has_bound_request(ctx, body.document):
        response = proxy_stored(ctx, body, is_optional=True)
        if response is not None:
            return response
    files, batches = stored_files(ctx), stored_batches(ctx)
    content, count = read_requests(body.document)
    owner = account_name(ctx)
    file = files.add(owner, "message_batch.jsonl", "batch", [content], size=len(content))
    wanted = BatchRequest(file.id, ENDPOINT, {COUNT: str(count)}, None)
    created = batches.create(owner, wanted, batch_identity())
    if ctx.jobs is not None:
        ctx.jobs.wake()
    return jsonify(_object(ctx, created))


def _has_bound_request(ctx: AppContext, document: Any) -> bool:
    """Whether a request of a batch is bound to places, so that each is run from here."""
    requests = document.get("requests") if isinstance(document, dict) else None
    entries = requests if isinstance(requests, list) else []
    return any(
        isinstance(entry, dict) and is_bound(ctx.router, entry.get("params")) for entry in entries
    )


@blueprint.get("/messages/batches")
def list_batches() -> Response:
    """The client's message batches, the newest first."""
    ctx = current_context()
    if prefers_servers(ctx):
        response = proxy_stored(ctx, is_optional=True)
        if response is not None:
            return response
    before, after = request.args.get("before_id"), request.args.get("after_id")
    page, has_more = stored_batches(ctx).page(
        account_name(ctx),
        limit=whole_number("limit", 1, _LONGEST_PAGE) or _PAGE,
        after=None if after is None else stored_id(after),
        before=None if before is None else stored_id(before),
        endpoint=ENDPOINT,
    )
    objects = [_object(ctx, facts) for facts in page]
    ids = [batch["id"] for batch in objects]
    return jsonify(
        {
            "data": objects,
            "has_more": has_more,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
        }
    )


@blueprint.get("/messages/batches/<batch_id>")
@or_elsewhere(UnknownBatch)
def get_batch(batch_id: str) -> Response:
    """A batch: how far it is, and where its results are at the end."""
    ctx = current_context()
    return jsonify(_object(ctx, _facts(ctx, batch_id)))


@blueprint.post("/messages/batches/<batch_id>/cancel")
@or_elsewhere(UnknownBatch)
def cancel_batch(batch_id: str) -> Response:
    """Let no further request run. Results that are there are kept."""
    ctx = current_context()
    _facts(ctx, batch_id)
    facts = stored_batches(ctx).cancel(account_name(ctx), stored_id(batch_id))
    if ctx.jobs is not None:
        ctx.jobs.wake()
    return jsonify(_object(ctx, facts))


@blueprint.delete("/messages/batches/<batch_id>")
@or_elsewhere(UnknownBatch)
def delete_batch(batch_id: str) -> Response:
    """Delete a batch that has ended, with its results."""
    ctx = current_context()
    facts = _facts(ctx, batch_id)
    if not facts.has_ended:
        raise InvalidRequest(
            "This batch has not ended yet. Cancel it before you delete it.", code="invalid_value"
        )
    owner, files = account_name(ctx), stored_files(ctx)
    # All of them were made for this batch alone, the input as well.
    for file_id in (facts.input_file_id, facts.output_file_id, facts.error_file_id):
        if file_id is not None:
            _delete_file(files, owner, file_id)
    stored_batches(ctx).delete(owner, facts.id)
    return jsonify(deleted_batch(batch_id))


@blueprint.get("/messages/batches/<batch_id>/results")
@or_elsewhere(UnknownBatch)
def batch_results(batch_id: str) -> Response:
    """The results of a batch that has ended, one in each line, in any order."""
    ctx = current_context()
    facts = _facts(ctx, batch_id)
    if not facts.has_ended:
        raise InvalidRequest(
            "This batch has not ended yet, so that it has no results. Its `processing_status` "
            "says when it has.",
            code="invalid_value",
        )
    files, owner = stored_files(ctx), account_name(ctx)
    lines = (
        compact_json(result_of(line)) + b"\n"
        for file_id in (facts.output_file_id, facts.error_file_id)
        for line in _lines(files, owner, file_id)
    )
    return Response(lines, content_type="application/x-jsonl")


def _facts(ctx: AppContext, batch_id: str) -> BatchFacts:
    """A message batch of the client. Raises UnknownBatch, UnsupportedEndpoint."""
    facts = stored_batches(ctx).get(account_name(ctx), stored_id(batch_id))
    if not batch_id.startswith("msgbatch_") or facts.endpoint != ENDPOINT:
        raise UnknownBatch(batch_id)
    return facts


def _object(ctx: AppContext, facts: BatchFacts) -> dict[str, Any]:
    never_called: Mapping[str, int] = {}
    if facts.status in ("expired", "cancelled"):
        lines = _lines(stored_files(ctx), account_name(ctx), facts.error_file_id)
        never_called = counts_never_called(lines)
    address = public_url(ctx)

    def results(name: str) -> str:
        # Anthropic's SDK for Python fetches this link, and not the route.
        return f"{address}/v1/messages/batches/{name}/results"

    return message_batch(facts, never_called, rfc3339, results)


def _lines(files: FileStore, owner: str, file_id: str | None) -> Iterator[Mapping[str, Any]]:
    """The lines of a result file; none where there is no such file, or not any more."""
    if file_id is None:
        return
    try:
        pieces = files.content(owner, file_id)
    except UnknownFile:
        return
    for _, line in protocol.split_lines(pieces, _LONGEST_LINE):
        if line is not None:
            yield parse_json(line)


def _delete_file(files: FileStore, owner: str, file_id: str) -> None:
    try:
        files.delete(owner, file_id)
    except UnknownFile:
        return
