"""The OpenAPI 3.1 document, built from the operations. https://spec.openapis.org/oas/v3.1.1

Pure, but for reading the models of protocol/. Paths are without /v1, which is one of the servers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from horde_proxy.api.openapi.horde_operations import HORDE
from horde_proxy.api.openapi.horde_schemas import HORDE_SCHEMAS
from horde_proxy.api.openapi.openai_operations import MODELS, OPENAI, STORED
from horde_proxy.api.openapi.operation import Api, RouteEntry
from horde_proxy.api.openapi.other_operations import ANTHROPIC, OLLAMA, OPERATION, OWN
from horde_proxy.api.openapi.schemas import SCHEMAS
from horde_proxy.api.openapi.shapes import REFERENCE, Schema, Shape, references, schema_of
from horde_proxy.version import VERSION

APIS = (OPENAI, STORED, MODELS, ANTHROPIC, OLLAMA, OWN, OPERATION, HORDE)
EVENT_SCHEMA = "x-event-schema"
"""Beside the type of a stream: the JSON of its events. OpenAPI 3.1 has no word for it."""
_ROOT = [{"url": "/"}]
_ABOUT = """Each path is served below `/v1` and without it, unless it says that it is at the root.

Not described are the pages for browsers, that is `/` and all below `/page`: they change with each
release. Where a model is one of an endpoint that speaks the API of a route, the call is proxied,
and its answer is the endpoint's own: those that this document describes are the proxy's."""
_PARAMETER = re.compile(r"\{(\w+)\}")  # {chat_id}
_KEYED: list[dict[str, list[str]]] = [{"bearer": []}, {"api-key": []}, {"x-api-key": []}]
_SECURITY: Mapping[str, list[dict[str, list[str]]]] = {
    "anybody": [{}],
    # Without keys (`access.mode`), a call needs none.
    "key": [*_KEYED, {}],
    "operator": [*_KEYED, {}],
    "member": [{"apikey": []}],
    "moderator": [{"apikey": []}],
}
_RIGHTS = {
    "anybody": "Needs no key.",
    "key": "Needs a key where `access.mode` is `keys`.",
    "operator": "For an admin's key; where no key is required, for this machine.",
    "member": "For accounts of the private horde.",
    "moderator": "For the owner and the moderators of the private horde.",
}


def document(*, has_horde: bool) -> dict[str, Any]:
    """The document; with the routes of the private horde where there is one."""
    apis = [api for api in APIS if has_horde or api is not HORDE]
    bodies: dict[str, Schema] = {}
    paths: dict[str, Any] = {}
    for api in apis:
        for operation in api.operations:
            entry = paths.setdefault(operation.path, {"servers": _ROOT} if api.at_root else {})
            entry[operation.method.lower()] = _operation(api, operation, bodies)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "horde-proxy",
            "version": VERSION,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/v1"}, {"url": "/"}],
        "tags": [{"name": api.tag, "description": api.about} for api in apis],
        "paths": paths,
        "components": {
            "schemas": _components(paths, bodies),
            "securitySchemes": _security_schemes(has_horde),
            "headers": _HEADERS,
        },
    }


def _components(paths: Mapping[str, Any], bodies: Mapping[str, Schema]) -> dict[str, Schema]:
    """The schemas that the paths refer to, and those that these refer to."""
    shapes = {**SCHEMAS, **HORDE_SCHEMAS}
    schemas: dict[str, Schema] = {}
    wanted = references(dict(paths))
    while wanted:
        name = wanted.pop()
        schemas[name] = bodies[name] if name in bodies else schema_of(shapes[name])
        wanted |= references(schemas[name]) - set(schemas)
    return dict(sorted(schemas.items()))


def _security_schemes(has_horde: bool) -> dict[str, Any]:
    bearer = {"bearer": {"type": "http", "scheme": "bearer"}}
    names = ("api-key", "x-api-key", *(["apikey"] if has_horde else []))
    return bearer | {name: {"type": "apiKey", "in": "header", "name": name} for name in names}


def _header(about: str) -> dict[str, Any]:
    return {"description": about, "schema": {"type": "string"}}


_HEADERS = {
    "X-Request-Id": _header("The id of the call, which the log has."),
    "X-Endpoint": _header("The endpoint that answered."),
    "X-Horde-Request-Id": _header("The id of the request at the horde."),
    "X-Horde-Model": _header("The model that answered."),
    "X-Horde-Warnings": _header("What of the body could not be honoured."),
    "Retry-After": _header("Seconds until another try is worth it."),
}


def _operation(api: Api, operation: RouteEntry, bodies: dict[str, Schema]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation_id(operation),
        "summary": operation.summary,
        "description": _RIGHTS[operation.rights],
        "tags": [api.tag],
        "security": _SECURITY[operation.rights],
        "responses": _responses(api, operation),
    }
    parameters = [*_path_parameters(operation), *_query_parameters(operation)]
    if parameters:
        described["parameters"] = parameters
    content = _body(operation, bodies)
    if content:
        described["requestBody"] = {"required": operation.method != "DELETE", "content": content}
    return described


def operation_id(operation: RouteEntry) -> str:
    """A name as post_chat_completions_chat_id, which generated clients call their function."""
    words = re.findall(r"\w+", f"{operation.method.lower()} {operation.path}")
    return "_".join(words)


def _path_parameters(operation: RouteEntry) -> Iterable[dict[str, Any]]:
    for name in _PARAMETER.findall(operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(operation: RouteEntry) -> Iterable[dict[str, Any]]:
    for parameter in operation.query:
        name, _, kind = parameter.partition(":")
        yield {"name": name, "in": "query", "schema": {"type": kind}}


def _body(operation: RouteEntry, bodies: dict[str, Schema]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.body is not None:
        content["application/json"] = {"schema": _body_schema(operation.body, bodies)}
        if operation.example is not None:
            content["application/json"]["example"] = operation.example
    if operation.form is not None:
        content["multipart/form-data"] = {"schema": schema_of(operation.form)}
    return content


def _body_schema(body: Shape | type[BaseModel], bodies: dict[str, Schema]) -> Schema:
    """A reference to a model's schema, which is put into `bodies`; or the schema of a shape."""
    if not isinstance(body, type):
        return schema_of(body)
    schema = _without_titles(body.model_json_schema(ref_template=f"{REFERENCE}{{model}}"))
    bodies.update(schema.pop("$defs", {}))
    bodies[body.__name__] = schema
    return {"$ref": f"{REFERENCE}{body.__name__}"}


def _without_titles(schema: Any) -> Any:
    """A schema without pydantic's titles, which repeat the names of the fields."""
    if isinstance(schema, list):
        return [_without_titles(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: _without_titles(value) for name, value in schema.items()}
    if isinstance(kept.get("title"), str):
        del kept["title"]
    return kept


def _responses(api: Api, operation: RouteEntry) -> dict[str, Any]:
    """The answers by status; the errors of an API have one shape."""
    responses: dict[str, Any] = {}
    content = _success(operation)
    if operation.status < 400:
        responses[str(operation.status)] = {
            "description": "Success",
            "headers": {name: _header_reference(name) for name in ("X-Request-Id",)},
            **({"content": content} if content else {}),
        }
    if operation.has_etag:
        responses["304"] = {"description": "The same as If-None-Match names"}
    for status, shape in operation.others.items():
        responses[str(status)] = {
            "description": operation.summary,
            "content": {"application/json": {"schema": schema_of(shape)}},
        }
    error = {"application/json": {"schema": schema_of(api.error)}}
    if operation.rights not in ("anybody",):
        responses["401"] = {"description": "No key, or a wrong one", "content": error}
        retry = {"Retry-After": _header_reference("Retry-After")}
        responses["429"] = {"description": "Too many", "headers": retry, "content": error}
    responses["4XX"] = {"description": "The call cannot be answered", "content": error}
    responses["5XX"] = {"description": "No answer could be made", "content": error}
    return responses


def _header_reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def _success(operation: RouteEntry) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": schema_of(operation.answer)}
    if operation.events is not None:
        text = {"type": "string"}
        content[operation.stream] = {"schema": text, EVENT_SCHEMA: schema_of(operation.events)}
    if operation.media is not None:
        content[operation.media] = {}
    return content
