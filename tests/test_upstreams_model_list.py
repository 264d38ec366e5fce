"""Lists of models as servers send them: what is not JSON, no usable id, or too much."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import requests
import responses

from horde_proxy import create_app
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.errors import UpstreamFailed
from horde_proxy.upstreams.disconnects import DisconnectMonitor
from horde_proxy.upstreams.openai.model_list import model_objects, parse_document
from horde_proxy.upstreams.openai.upstream import OpenAIUpstream

URL = "http://server.invalid:11434"


def ids(text: bytes) -> list[str]:
    return [model["id"] for model in model_objects(parse_document(text))[0]]


@pytest.mark.parametrize(
    "text",
    [b'{"object": "list", "data": null}', b'{"data": []}', b"[]", b'{"data": [null, 1, [], {}]}'],
)
def test_a_list_without_models_is_empty(text: bytes) -> None:
    assert ids(text) == []


@pytest.mark.parametrize("text", [b"null", b"{}", b'{"data": {}}', b'{"data": "a"}', b"3"])
def test_json_that_is_not_openais_list_is_an_error(text: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="is not OpenAI's"):
        ids(text)


@pytest.mark.parametrize(
    "text", [b"", b"<html>", b"[" * 100_000, b"\xff", b"[" + b"9" * 5000 + b"]"]
)
def test_what_is_not_json_is_an_error(text: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="is not JSON"):
        ids(text)


@pytest.mark.parametrize(
    "unusable",
    [
        *(None, 3, True, [], {}, "", "  ", "\t"),
        *("a\nb", "a\r\nX-Header: 1", "\x00", "\x1b[2J", "a\x7f", "a\x85", "a\u2028b"),
        *("\ud800", "half \udfff", "x" * 1001),
    ],
)
def test_models_with_unusable_ids_are_left_out_and_counted(unusable: Any) -> None:
    text = json.dumps([{"id": "a"}, {"id": unusable}, {"id": "b/c:d e"}, {"id": "ä 模型 😀"}])
    models, left_out = model_objects(parse_document(text.encode()))
    assert ([model["id"] for model in models], left_out) == (["a", "b/c:d e", "ä 模型 😀"], 1)


def test_of_two_models_with_one_id_the_first_counts() -> None:
    text = b'{"data": [{"id": "a", "owned_by": "x"}, {"id": "b"}, {"id": "a", "owned_by": "y"}]}'
    models, left_out = model_objects(parse_document(text))
    assert [(model["id"], model["owned_by"]) for model in models] == [("a", "x"), ("b", "unknown")]
    assert left_out == 1


def test_a_model_has_openai_s_fields_with_their_types_whatever_was_sent() -> None:
    text = b"""[{"id": "a", "object": null, "created": NaN, "owned_by": ["x"],
        "context_length": Infinity, "price": {"prompt": -Infinity, "image": 1e999, "ok": 0.5}},
        {"id": "b", "created": 1700000000.5, "owned_by": "me", "meta": {}}]"""
    assert model_objects(parse_document(text))[0] == [
        {
            "id": "a",
            "object": "model",
            "created": 0,
            "owned_by": "unknown",
            "context_length": None,
            "price": {"prompt": None, "image": None, "ok": 0.5},
        },
        {"id": "b", "object": "model", "created": 1700000000, "owned_by": "me", "meta": {}},
    ]


def test_halves_of_surrogate_pairs_are_replaced_in_all_fields() -> None:
    [model] = model_objects([{"id": "a", "name": "x\ud800", "tags": [{"\udc00": "\udc00y"}]}])[0]
    assert (model["name"], model["tags"]) == ("x\ufffd", [{"\ufffd": "\ufffdy"}])


def test_deep_nesting_in_a_model_is_cut() -> None:
    nested: Any = "deep"
    for _ in range(500):
        nested = [nested]
    [model] = model_objects([{"id": "a", "nested": nested, "flat": [1]}])[0]
    assert json.dumps(model["nested"]) == "[" * 15 + "null" + "]" * 15
    assert model["flat"] == [1]


def test_a_list_of_a_hundred_thousand_models_is_cut_at_five_thousand() -> None:
    models, left_out = model_objects([{"id": f"m{number}"} for number in range(100_000)])
    assert (len(models), models[-1]["id"], left_out) == (5_000, "m4999", 95_000)


@responses.activate
def test_a_list_that_does_not_end_is_not_read_into_memory() -> None:
    responses.get(f"{URL}/v1/models", body=b"[" + b" " * 32_000_000 + b"]")
    with pytest.raises(UpstreamFailed, match="it sent an answer of more than 32 MB"):
        upstream().models()


@responses.activate
def test_what_is_wrong_with_a_list_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    responses.get(f"{URL}/v1/models", json={"data": [{"id": "a"}, {"id": ""}]})
    server = upstream()
    for _ in range(3):
        assert [model["id"] for model in server._list()] == ["a"]
    assert caplog.messages == [
        "server: entries left out of its list of models because of their ids: 1"
    ]


@responses.activate
def test_our_own_list_is_legal_json_whatever_a_server_sends() -> None:
    text = rb'{"data": [{"id": "a", "x": NaN, "name": "\ud800"}, {"id": ""}, {"id": "\udfff"}]}'
    responses.get(f"{URL}/v1/models", body=text)
    flags = {"endpoints": [{"url": URL, "name": "s"}], "stats": {"hydrate": False}}
    http = create_app(load(environ={}, flags=flags), Runtime(run=inline)).test_client()

    def fail(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    listed = json.loads(http.get("/v1/models").data, parse_constant=fail)["data"]
    assert [(model["id"], model["x"], model["name"]) for model in listed] == [("a", None, "\ufffd")]


def upstream() -> OpenAIUpstream:
    return OpenAIUpstream("server", URL, requests.Session(), DisconnectMonitor(), run=inline)
