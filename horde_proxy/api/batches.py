"""OpenAI's batches: POST and GET /batches, GET /batches/ID, POST /batches/ID/cancel.

A batch whose input file is in this proxy's store is run here (api/batch_jobs.py). Every other call
goes to a server that has batches, as calls about files do (api/files.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, jsonify, request

from horde_proxy.api.auth import account_name, authenticate, job_identity, read_json
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.files import prefers_servers, stored_files
from horde_proxy.api.kept_elsewhere import or_elsewhere
from horde_proxy.api.proxying import proxy_stored
from horde_proxy.api.query import whole_number
from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.batches import (
    MOST_INPUT_BYTES,
    UnknownBatch,
    batch_object,
    read_batch,
)
from horde_proxy.protocol.files import FileFacts, UnknownFile, list_object

if TYPE_CHECKING:
    from horde_proxy.store.batches import BatchStore

_LONGEST_PAGE, _PAGE = 100, 20
"""Batches of a page of the list, and those where no limit is given (OpenAI's API reference)."""

blueprint = Blueprint("batches", __name__)
blueprint.before_request(authenticate)


@blueprint.post("/batches")
def create_batch() -> Response:
    """Begin a batch, whose input is checked in the background."""
    ctx, body = current_context(), read_json()
    file = _input_file(ctx, body.document)
    if file is None:
        response = proxy_stored(ctx, body)
        if response is not None:
            return response
    batches = stored_batches(ctx)
    wanted = read_batch(body.document)
    if file is None:
        raise UnknownFile(wanted.input_file_id)
    _check_input_file(file)
    created = batches.create(account_name(ctx), wanted, batch_identity())
    if ctx.jobs is not None:
        ctx.jobs.wake()
    return jsonify(batch_object(created))


def _input_file(ctx: AppContext, document: Any) -> FileFacts | None:
    """The client's file that a body names; None if the store has no such file."""
    name = document.get("input_file_id") if isinstance(document, dict) else None
    if ctx.store.files is None or not isinstance(name, str):
        return None
    try:
        return ctx.store.files.get(account_name(ctx), name)
    except UnknownFile:
        return None


def _check_input_file(file: FileFacts) -> None:
    if file.purpose != "batch":
        raise InvalidRequest(
            f"The file was uploaded with the purpose `{file.purpose}`. The input of a batch needs "
            "the purpose `batch`.",
            param="input_file_id",
            code="invalid_value",
        )
    if file.size > MOST_INPUT_BYTES:
        raise InvalidRequest(
            f"The input of a batch may have {MOST_INPUT_BYTES // 1_000_000} MB. Split the file.",
            param="input_file_id",
            code="file_too_large",
        )


def batch_identity() -> dict[str, Any]:
    """For whom the lines are run: fields of a JobIdentity, to be stored as JSON."""
    identity = job_identity("")
    return {
        "client": identity.client,
        "address": identity.address,
        "key_digest": identity.key_digest,
        "horde_key": identity.horde_key,
        "places": identity.places,
    }


@blueprint.get("/batches")
def list_batches() -> Response:
    """The client's batches, the newest first."""
    ctx = current_context()
    if prefers_servers(ctx):
        response = proxy_stored(ctx, is_optional=True)
        if response is not None:
            return response
    page, has_more = stored_batches(ctx).page(
        account_name(ctx),
        limit=whole_number("limit", 1, _LONGEST_PAGE) or _PAGE,
        after=request.args.get("after"),
    )
    return jsonify(list_object(list(map(batch_object, page)), has_more=has_more))


@blueprint.get("/batches/<batch_id>")
@or_elsewhere(UnknownBatch)
def get_batch(batch_id: str) -> Response:
    """A batch: how far it is, and its result files at the end."""
    ctx = current_context()
    facts = stored_batches(ctx).get(account_name(ctx), batch_id)
    return jsonify(batch_object(facts))


@blueprint.post("/batches/<batch_id>/cancel")
@or_elsewhere(UnknownBatch)
def cancel_batch(batch_id: str) -> Response:
    """Let no further line run. Results that are there are kept."""
    ctx = current_context()
    facts = stored_batches(ctx).cancel(account_name(ctx), batch_id)
    if ctx.jobs is not None:
        ctx.jobs.wake()
    return jsonify(batch_object(facts))


def stored_batches(ctx: AppContext) -> BatchStore:
    """The store of batches. Raises UnsupportedEndpoint where nothing is kept."""
    stored_files(ctx)
    assert ctx.store.batches is not None
    return ctx.store.batches
