"""Checks what the apps of all tests answer against the OpenAPI document.

conftest.py switches it on. An answer is looked at when its test reads it, so that nothing changes
for streams. Answers that the proxy passes on unchanged are their servers', and are left out.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import jsonschema
import pytest
from flask import Response
from flask.testing import FlaskClient
from jsonschema.protocols import Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from werkzeug.test import TestResponse

from horde_proxy.api import proxied_call
from horde_proxy.api.openapi.document import EVENT_SCHEMA, document
from horde_proxy.api.openapi.shapes import REFERENCE

_CHECKED_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}
_MOST_EVENTS = 20
"""Events of a stream that are checked: its beginning and its end have all kinds."""
_URI = "urn:openapi"
_thread = threading.local()


class DocumentLies(AssertionError):
    """An answer is not what the document says."""


def install(patch: pytest.MonkeyPatch) -> None:
    """Check all answers that test clients read, as long as the patch holds."""
    opened: Callable[..., TestResponse] = FlaskClient.open
    read: Callable[..., Any] = TestResponse.get_data
    passed_on: Callable[..., Response] = proxied_call._response
    begun: Callable[..., Response] = proxied_call._begun

    def note_proxied(*arguments: Any) -> Response:
        _thread.is_proxied = True
        return passed_on(*arguments)

    def note_begun(*arguments: Any) -> Response:
        _thread.is_proxied = True
        return begun(*arguments)

    def open_and_note(self: FlaskClient, *arguments: Any, **options: Any) -> TestResponse:
        _thread.is_proxied = False
        response = opened(self, *arguments, **options)
        app = self.application
        is_ours = "horde_proxy" in app.extensions or app.name == "private_horde"
        vars(response)["is_described"] = is_ours and not _thread.is_proxied
        return response

    def read_and_check(self: TestResponse, as_text: bool = False) -> Any:
        data = read(self)
        if vars(self).pop("is_described", False):
            check(self, data)
        return data.decode(self.mimetype_params.get("charset", "utf-8")) if as_text else data

    patch.setattr(proxied_call, "_response", note_proxied)
    patch.setattr(proxied_call, "_begun", note_begun)
    patch.setattr(FlaskClient, "open", open_and_note)
    patch.setattr(TestResponse, "get_data", read_and_check)
    patch.setattr(TestResponse, "data", property(read_and_check))


def check(response: TestResponse, data: bytes) -> None:
    """Compare an answer with the document. Raises DocumentLies."""
    method = response.request.method
    # A mask of the private horde leaves out any field.
    if method not in _CHECKED_METHODS or "X-Fields" in response.request.headers:
        return
    path = operation_path(response.request.path, method)
    if path is None:
        return
    where = f"{method} {path} {response.status_code}"
    media = _media(method, path, response.status_code)
    if media is None:
        raise DocumentLies(f"{where}: the document has no such status")
    if not data:
        return
    kind = next((known for known in media if _is_of(response.mimetype, known)), None)
    if kind is None:
        raise DocumentLies(f"{where}: the document has no {response.mimetype}")
    for instance in _instances(data, kind, media[kind]):
        _compare(where, _validator(method, path, response.status_code, kind), instance)


def _compare(where: str, validator: Validator, instance: Any) -> None:
    if not validator.is_valid(instance):
        error = jsonschema.exceptions.best_match(validator.iter_errors(instance))
        place = "/".join(map(str, error.absolute_path))
        raise DocumentLies(f"{where}: {place or 'the answer'}: {error.message[:500]}")


def _is_of(mimetype: str | None, known: str) -> bool:
    kind = (mimetype or "").partition("/")[0]
    return known in (mimetype, f"{kind}/*")


def _instances(data: bytes, kind: str, media: dict[str, Any]) -> Iterator[Any]:
    """The JSON of an answer, or of the events of a stream."""
    if kind == "application/json":
        yield json.loads(data)
    elif EVENT_SCHEMA in media:
        lines = [line for line in data.splitlines() if line.startswith((b"data:", b"{"))]
        half = _MOST_EVENTS // 2
        for line in lines if len(lines) <= _MOST_EVENTS else lines[:half] + lines[-half:]:
            text = line.removeprefix(b"data:").strip()
            if text and text != b"[DONE]":
                yield json.loads(text)


@cache
def _document() -> dict[str, Any]:
    return document(has_horde=True)


@cache
def _registry() -> Registry[Any]:
    """The schemas of the document, found once for all validators."""
    resource: Resource[Any] = DRAFT202012.create_resource(_absolute(_document()))
    registry: Registry[Any] = Registry().with_resource(_URI, resource)
    return registry


def _absolute(schema: Any) -> Any:
    """A schema whose references find the document from anywhere."""
    return json.loads(
        json.dumps(schema).replace(f'"$ref": "{REFERENCE}', f'"$ref": "{_URI}{REFERENCE}')
    )


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """A regular expression for each path, the most literal first, as werkzeug prefers them."""
    paths = sorted(_document()["paths"], key=lambda path: (path.count("{"), -len(path)))
    return [(_pattern(path), path) for path in paths]


def _pattern(path: str) -> re.Pattern[str]:
    # A name of a model has slashes: {name} at the end takes them, and ids have none.
    literal = re.sub(r"\\\{(?:name|address)\\\}$", "(.+)", re.escape(path))
    return re.compile(re.sub(r"\\\{\w+\\\}", "([^/]+)", literal))


@cache
def operation_path(path: str, method: str) -> str | None:
    """The path of the document that a request's path belongs to, where that has the method."""
    short = path.removeprefix("/v1") if path.startswith("/v1/") else path
    for pattern, known in _patterns():
        if pattern.fullmatch(short.rstrip("/")):
            return known if method.lower() in _document()["paths"][known] else None
    return None


def _media(method: str, path: str, status: int) -> dict[str, Any] | None:
    """The types of an answer, with their schemas; None for a status that is not described."""
    responses = _document()["paths"][path][method.lower()]["responses"]
    described = responses.get(str(status)) or responses.get(f"{status // 100}XX")
    return None if described is None else described.get("content", {})


@cache
def _validator(method: str, path: str, status: int, kind: str) -> Validator:
    media = (_media(method, path, status) or {})[kind]
    schema = _absolute(media.get(EVENT_SCHEMA, media.get("schema", {})))
    return jsonschema.Draft202012Validator(schema, registry=_registry())
