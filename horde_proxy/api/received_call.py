"""The current request as a call for an endpoint: its path, its body, and the model that it names.

It reads and refuses. proxying.py decides which endpoints get the call.
"""

from __future__ import annotations

import json
import re
import socket
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from flask import current_app, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from horde_proxy.api.auth import read_json
from horde_proxy.api.context import AppContext
from horde_proxy.api.inspections import begin_inspection
from horde_proxy.api.named_models import with_one_model
from horde_proxy.api.places import refuse_in_form, take_places
from horde_proxy.api.this_request import current_request
from horde_proxy.api.unserved import is_wrong_base_url
from horde_proxy.api.uploads import Upload, read_upload
from horde_proxy.errors import InvalidRequest, Refused
from horde_proxy.json_reading import TooManyValues
from horde_proxy.places import FIELD
from horde_proxy.protocol.named_models import LIST_FIELDS, LONGEST_NAME
from horde_proxy.upstreams.proxying import NO_BODY, Body, JsonBody, ProxyRequest

# OpenAI's paths, and rerank and score of other servers, which are also proxied without /v1.
_WITHOUT_V1 = frozenset(
    {
        "assistants",
        "audio",
        "batches",
        "containers",
        "conversations",
        "embeddings",
        "evals",
        "files",
        "fine_tuning",
        "images",
        "messages",
        "moderations",
        "realtime",
        "rerank",
        "responses",
        "score",
        "threads",
        "uploads",
        "vector_stores",
        "videos",
    }
)
_STORED = frozenset({"responses", "conversations"})
"""The paths below which every route of OpenAI's API is one of ours."""
_END_OF_PART = re.compile(r"[;?#\0]")
# The types under which clients send JSON without saying so: curl's -d sends the last of these.
# Servers that look at the type get application/json instead.
_VAGUE_TYPES = frozenset({"", "text/plain", "application/x-www-form-urlencoded"})

_Kind = TypeVar("_Kind", bound=Body)


def received_call(ctx: AppContext, path: str, *, has_model_list: bool = False) -> ProxyRequest:
    """The current request as a call of an endpoint; `path` is what follows /v1/.

    `has_model_list`: the body may name further models, which become fallbacks.
    """
    body = any_body(ctx)
    # What names no model is about files or batches; embeddings have a default model.
    if path == "embeddings" or model_in(body) is not None:
        begin_inspection(ctx, body)
    return proxy_request(unambiguous(with_one_model(body) if has_model_list else body), path)


def proxy_request(body: Body, path: str, *, is_optional: bool = False) -> ProxyRequest:
    """The current request with this body as a call of an endpoint; `path` is what follows /v1/."""
    received = current_request()
    query = received.query_string.decode("latin-1")
    # Its `items`, because dict() would look up each name alone, among all headers.
    headers = dict(received.headers.items())
    if isinstance(body, JsonBody) and body.content and received.mimetype in _VAGUE_TYPES:
        headers["Content-Type"] = "application/json"
    return ProxyRequest(
        received.method,
        f"{path}?{query}" if query else path,
        headers,
        body,
        model_in(body),
        client_socket(),
        is_optional,
        inspection=g.get("inspection"),
    )


def model_in(body: Body) -> str | None:
    """The model that a body names. Raises InvalidRequest for a name that is too long."""
    if isinstance(body, Upload):
        return body.model
    document: Any = body.document if isinstance(body, JsonBody) else None
    model = document.get("model") if isinstance(document, dict) else None
    if isinstance(model, str) and len(model) > LONGEST_NAME:
        raise InvalidRequest("The model's name is too long.", param="model", code="invalid_value")
    return model if isinstance(model, str) and model else None


def client_socket() -> socket.socket | None:
    """The client's connection, to notice when it is closed; only gunicorn gives it."""
    return cast("socket.socket | None", request.environ.get("gunicorn.socket"))


def path_after_v1() -> str | None:
    """The path after /v1/, as it was sent; None for a path that no endpoint is to get."""
    raw: str = request.environ.get("RAW_URI") or request.environ.get("REQUEST_URI") or request.path
    path = raw.partition("?")[0].lstrip("/")
    if is_wrong_base_url(path):
        return None
    if path.startswith("v1/"):
        path = path.removeprefix("v1/")
    elif path.partition("/")[0] not in _WITHOUT_V1 | {"chat", "completions"}:
        return None
    parts = _parts(path)
    return path if parts[0] and not {".", ".."} & set(parts) else None


def _parts(path: str) -> list[str]:
    """The parts of a path as the most lenient of servers may read them.

    They decode twice, take a backslash for a slash, and do not look at case, at blanks, and at what
    follows a NUL or the parameters of a part.
    """
    plain = unquote(unquote(path)).replace("\\", "/")
    return [_END_OF_PART.split(part, maxsplit=1)[0].strip().casefold() for part in plain.split("/")]


def leads_to_stored(path: str) -> bool:
    """Whether a path may name an answer that an endpoint keeps for one of our clients.

    Our own routes know whose it is. So no other way of writing them may reach the endpoint, e.g.
    "responses;x/resp_1", "Responses/resp_1" or "chat//completions/chatcmpl-1".
    """
    # Many servers take several slashes for one.
    parts = [part for part in _parts(path) if part]
    return parts[0] in _STORED or (parts[:2] == ["chat", "completions"] and len(parts) > 2)


def route_family() -> str | None:
    """The beginning of an unrouted request's path, e.g. /embeddings; None for an unknown one."""
    name = request.path.removeprefix("/v1").strip("/").partition("/")[0]
    return f"/{name}" if name in _WITHOUT_V1 else None


def read_body(ctx: AppContext) -> JsonBody | Upload:
    """The body of a front that takes forms as well. Raises what `read_json` does."""
    body = any_body(ctx)
    # It says that an empty body is no JSON.
    return read_json() if body is NO_BODY else cast("JsonBody | Upload", body)


def any_body(ctx: AppContext) -> Body:
    """A JsonBody if the body is JSON, whatever Content-Type says; otherwise an upload on disk."""
    is_chunked = "chunked" in request.headers.get("Transfer-Encoding", "").lower()
    if not request.content_length and not is_chunked:
        return NO_BODY
    if _is_json():
        return read_json()
    upload = read_upload(request, ctx.serving.max_upload)
    g.closing.append(upload.close)
    refuse_in_form(upload.names)
    # Many servers read JSON of whatever type, so that it may name a model or places.
    try:
        body = upload.as_json(current_app.config["MAX_CONTENT_LENGTH"])
    except TooManyValues as exc:
        # Nobody knows which model and places it names; a server may read them all the same.
        if _is_limited() or upload.has_word(FIELD):
            raise RequestEntityTooLarge(f"The JSON of the body is too large: {exc}.") from exc
        body = None
    return take_places(body) if body is not None else upload


def _is_json() -> bool:
    return request.mimetype == "application/json" or request.mimetype.endswith("+json")


def unambiguous(body: _Kind) -> _Kind:
    """The body, written anew for a client that is limited to some models or places. Raises Refused.

    Servers differ in which of two `model` fields they read, and some read more models from other
    fields; so that only the model that was checked can reach them. LiteLLM at home would go on to a
    provider, where Ollama has models that ollama.com runs.
    """
    document = body.document if isinstance(body, JsonBody) else None
    if not _is_limited() or not isinstance(document, dict):
        return body
    names = [name.casefold() for name in document]
    if names.count("model") > 1 or not set(LIST_FIELDS).isdisjoint(names):
        what = "to places" if g.scope.allows_all_models else "to some models"
        raise Refused(f"This request is limited {what}, and names several models.")
    return cast(_Kind, JsonBody(json.dumps(document).encode(), document))


def _is_limited() -> bool:
    """Whether the client may not use every model, or may not send its request everywhere."""
    scope = g.scope
    return not scope.allows_all_models or bool(scope.bindings)
