"""OpenAI's files: POST and GET /files, GET and DELETE /files/ID, GET /files/ID/content.

Files are kept in this proxy's store, each for its owner alone. Where servers in [[endpoints]] have
files of their own, calls go there unchanged as long as the store cannot be meant:

    POST   to a server, if there is no horde, X-Endpoint names one, or the purpose is not `batch`;
           kept here where no server has the route, or a line of a batch is bound to places
    GET /files     to a server, if there is no horde or X-Endpoint names one, and it has the route
    /files/ID      to a server, if the store has no such file of this owner

So a file of another owner is answered as one that does not exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, current_app, jsonify, request

from horde_proxy.api.auth import account_name, authenticate
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.kept_elsewhere import or_elsewhere
from horde_proxy.api.places import has_bound_line
from horde_proxy.api.proxying import UnsupportedEndpoint, proxy_stored
from horde_proxy.api.query import choice, whole_number
from horde_proxy.api.received_call import any_body
from horde_proxy.api.uploads import FormOutline, Upload
from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol import files as protocol
from horde_proxy.protocol.files import UnknownFile

if TYPE_CHECKING:
    from horde_proxy.store.files import FileStore

_LONGEST_PAGE = 10_000
"""Files of a page of the list, also where no limit is given (OpenAI's API reference)."""
_ORDERS = {"asc": True, "desc": False}
"""The values of `order`, and whether the oldest file comes first."""

blueprint = Blueprint("files", __name__)
blueprint.before_request(authenticate)


@blueprint.post("/files")
def upload_file() -> Response:
    """Store the file of a multipart form, or pass it on to a server that keeps files."""
    ctx = current_context()
    body = any_body(ctx)
    form = body if isinstance(body, Upload) and body.is_form else None
    outline = form.outline("file") if form is not None else None
    purpose = outline.fields.get("purpose") if outline is not None else None
    is_input = form is not None and purpose == "batch"
    if not is_input or (prefers_servers(ctx) and not _has_bound_line(ctx, form)):
        response = proxy_stored(ctx, body, is_optional=True)
        if response is not None:
            return response
    store = stored_files(ctx)
    if form is None or outline is None:
        raise InvalidRequest(
            "The request body must be a form of the type multipart/form-data, with the fields "
            "`file` and `purpose`."
        )
    return jsonify(protocol.file_object(_stored(store, account_name(ctx), form, outline)))


def _has_bound_line(ctx: AppContext, form: Upload | None) -> bool:
    """Whether an input has lines that are bound to places, each of which is then run from here."""
    longest: int = current_app.config["MAX_CONTENT_LENGTH"]
    return form is not None and has_bound_line(ctx.router, form.file_pieces("file"), longest)


def _stored(store: FileStore, owner: str, form: Upload, outline: FormOutline) -> protocol.FileFacts:
    purpose = protocol.read_purpose(outline.fields.get("purpose"))
    if outline.filename is None:
        raise InvalidRequest(
            "The form has no `file`.", param="file", code="missing_required_parameter"
        )
    seconds = protocol.read_expires_after(outline.fields.get("expires_after"), "expires_after")
    return store.add(
        owner,
        protocol.read_filename(outline.filename),
        purpose,
        form.file_pieces("file"),
        size=outline.size,
        seconds=seconds,
    )


@blueprint.get("/files")
def list_files() -> Response:
    """The client's files, the newest first; results of batches are among them."""
    ctx = current_context()
    if prefers_servers(ctx):
        response = proxy_stored(ctx, is_optional=True)
        if response is not None:
            return response
    page, has_more = stored_files(ctx).page(
        account_name(ctx),
        limit=whole_number("limit", 1, _LONGEST_PAGE) or _LONGEST_PAGE,
        after=request.args.get("after"),
        purpose=request.args.get("purpose"),
        oldest_first=choice("order", _ORDERS) or False,
    )
    return jsonify(protocol.list_object(list(map(protocol.file_object, page)), has_more=has_more))


@blueprint.get("/files/<file_id>")
@or_elsewhere(UnknownFile)
def get_file(file_id: str) -> Response:
    """What is known of a file."""
    ctx = current_context()
    facts = stored_files(ctx).get(account_name(ctx), file_id)
    return jsonify(protocol.file_object(facts))


@blueprint.get("/files/<file_id>/content")
@or_elsewhere(UnknownFile)
def file_content(file_id: str) -> Response:
    """The bytes of a file."""
    ctx = current_context()
    store, owner = stored_files(ctx), account_name(ctx)
    facts = store.get(owner, file_id)
    pieces = store.content(owner, file_id)
    response = Response(pieces, content_type="application/octet-stream")
    response.content_length = facts.size
    return response


@blueprint.delete("/files/<file_id>")
@or_elsewhere(UnknownFile)
def delete_file(file_id: str) -> Response:
    """Delete a file. A batch that runs goes on: it has its lines."""
    ctx = current_context()
    stored_files(ctx).delete(account_name(ctx), file_id)
    return jsonify(protocol.deleted_file(file_id))


def stored_files(ctx: AppContext) -> FileStore:
    """The store of files. Raises UnsupportedEndpoint where nothing is kept."""
    if ctx.store.files is None:
        raise UnsupportedEndpoint(
            f"Files and batches ({request.path[:100]}) are not kept here: the setting store.days "
            "is 0."
        )
    return ctx.store.files


def prefers_servers(ctx: AppContext) -> bool:
    """Whether a call that names no file of ours is for a server, if one has the route."""
    return not ctx.hordes or "X-Endpoint" in request.headers
