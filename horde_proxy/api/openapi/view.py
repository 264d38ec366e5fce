"""GET /openapi.json: the document, built at the first call."""

from __future__ import annotations

import hashlib
import json
from functools import cache

from flask import Blueprint, Response, request

from horde_proxy.api.context import current_context

blueprint = Blueprint("openapi", __name__)


@blueprint.get("/openapi.json")
def openapi_document() -> Response:
    """The document, which is the same until the next release. Browsers keep it for an hour."""
    content, tag = _encoded(current_context().serving.has_horde_pages)
    response = Response(content, content_type="application/json")
    response.set_etag(tag)
    response.cache_control.max_age = 3600
    response.cache_control.public = True
    response.make_conditional(request)
    return response


@cache
def _encoded(has_horde: bool) -> tuple[bytes, str]:
    """(the JSON, its ETag). What it is built from is imported here, not at the start."""
    from horde_proxy.api.openapi.document import document

    content = json.dumps(document(has_horde=has_horde), separators=(",", ":")).encode()
    return content, hashlib.sha256(content).hexdigest()[:16]
