"""The OpenAPI document has every route, is valid, and says what the routes answer.

That last is tried by all tests: openapi_check.py compares what their apps answer with it.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import jsonschema
import pytest
from flask import Flask
from openapi_spec_validator import validate

from horde_proxy.api.openapi.document import APIS, document, operation_id
from horde_proxy.api.openapi.horde_operations import HORDE
from horde_proxy.api.openapi.shapes import schema_of
from horde_proxy.private_horde import PrivateHorde, blueprint
from horde_proxy.private_horde.streams import StreamRules
from tests import openapi_check
from tests.openapi_check import DocumentLies
from tests.support import World

OPERATIONS = {operation.call: (api, operation) for api in APIS for operation in api.operations}
# For browsers: / and all below /page, which the document names in its description. A provisional
# page before the first settings is one of them.
PAGES = re.compile(r"/|/page(/.*)?|/first-run(/.*)?")


def routes_of(app: Flask) -> set[tuple[str, str]]:
    """(method, path as the document writes it, with /v1) of each route."""
    found = set()
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        found |= {(method, path) for method in methods if not PAGES.fullmatch(path)}
    return found


def horde_app() -> Flask:
    horde = PrivateHorde(streaming=StreamRules(("stream", "wait", "chat"), time.sleep))
    app = Flask("private_horde", static_folder=None)
    app.register_blueprint(blueprint(horde))
    return app


def test_each_route_has_an_entry_and_each_entry_a_route() -> None:
    described = set()
    for api in APIS:
        for operation in api.operations:
            bases = [""] if api.at_root else ["", "/v1"]
            described |= {(operation.method, base + operation.path) for base in bases}
    at_root = {(method, path) for method, path in described if path.startswith("/api/v2/")}
    # Anthropic's client tries this at the root and below /v1.
    assert routes_of(World().app()) == described - at_root


def test_each_route_of_the_private_horde_has_an_entry() -> None:
    """Its routes take all methods, and answer 405 to those that they do not have."""
    app = horde_app()
    paths = {path for _, path in routes_of(app)} - {"/api/v2", "/api/v2/", "/api/v2/{rest}"}
    described = {(operation.method, operation.path) for operation in HORDE.operations}
    assert {path for _, path in described} == paths
    http = app.test_client()
    for path in paths:
        methods = {method for method, known in described if known == path}
        allowed = http.options(re.sub(r"\{\w+\}", "x", path)).headers["Allow"].split(", ")
        assert methods == set(allowed) - {"OPTIONS"}, path


@pytest.mark.parametrize("has_horde", [True, False])
def test_the_document_is_valid(has_horde: bool) -> None:
    made = document(has_horde=has_horde)
    validate(made)
    assert json.loads(json.dumps(made)) == made
    assert any(path.startswith("/api/v2/") for path in made["paths"]) == has_horde
    assert ("HordeUser" in made["components"]["schemas"]) == has_horde


def test_operations_have_names_of_their_own() -> None:
    names = [operation_id(operation) for _, operation in OPERATIONS.values()]
    assert len(set(names)) == len(names)
    assert "post_chat_completions_chat_id" in names


def test_the_examples_fit_their_schemas() -> None:
    made, tried = document(has_horde=True), 0
    for entry in made["paths"].values():
        for operation in (value for name, value in entry.items() if name != "servers"):
            for media in operation.get("requestBody", {}).get("content", {}).values():
                if "example" in media:
                    schema = {**media["schema"], "components": made["components"]}
                    jsonschema.validate(media["example"], schema)
                    tried += 1
    assert tried >= 8


@pytest.mark.parametrize("path", ["/openapi.json", "/v1/openapi.json"])
def test_the_document_is_served_with_an_etag(path: str) -> None:
    http = World().http()
    response = http.get(path)
    assert (response.status_code, response.mimetype) == (200, "application/json")
    assert response.json == document(has_horde=False)
    assert response.headers["Cache-Control"] == "max-age=3600, public"
    again = http.get(path, headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_the_document_has_the_routes_of_a_private_horde_that_is_there() -> None:
    world = World(private_horde={"enabled": True, "database": "memory"})
    made = world.http().get("/v1/openapi.json").json or {}
    assert "/api/v2/generate/text/async" in made["paths"]


@pytest.mark.parametrize(
    ("shape", "schema"),
    [
        ("string", {"type": "string"}),
        ("number|null", {"type": ["number", "null"]}),
        ("any", {}),
        ("'a'|'b'|null", {"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]}),
        (["Error"], {"type": "array", "items": {"$ref": "#/components/schemas/Error"}}),
        (
            {"a": "string", "b?": "integer", "*": "null"},
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
                "required": ["a"],
                "additionalProperties": {"type": "null"},
            },
        ),
        (("null", []), {"anyOf": [{"type": "null"}, {"type": "array"}]}),
    ],
)
def test_a_shape_is_a_schema(shape: Any, schema: dict[str, Any]) -> None:
    assert schema_of(shape) == schema


def test_a_word_that_is_no_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="no shape: text"):
        schema_of("text")


def answer_of(app: Flask, path: str, answer: Any, status: int = 200) -> None:
    """Let the view of a path answer that, and read it."""
    endpoint = next(rule.endpoint for rule in app.url_map.iter_rules() if rule.rule == path)
    app.view_functions[endpoint] = lambda: (answer, status)
    assert app.test_client().get(path).data


@pytest.mark.parametrize(
    ("answer", "status", "fault"),
    [
        ({"status": "fine"}, 200, r"200: status: 'ok' was expected"),
        ({}, 200, r"'status' is a required property"),
        ({"status": "ok"}, 201, r"GET /health/live 201: the document has no such status"),
        ("ok", 200, r"the document has no text/html"),
        ({"error": "why"}, 404, r"404: error: 'why' is not of type 'object'"),
    ],
)
def test_a_test_fails_whose_app_answers_something_else(
    answer: Any, status: int, fault: str
) -> None:
    with pytest.raises(DocumentLies, match=fault):
        answer_of(World().app(), "/health/live", answer, status)


def test_the_path_of_a_request_is_found() -> None:
    found = openapi_check.operation_path
    assert found("/v1/chat/completions/x", "DELETE") == "/chat/completions/{chat_id}"
    assert found("/v1/models/a/b", "GET") == "/models/{name}"
    assert found("/horde/models/a/b", "GET") == "/horde/models/{name}"
    assert found("/responses/compact", "POST") == "/responses/compact"
    assert found("/page/live", "GET") is None
    assert found("/v1/chat/completions", "PUT") is None
