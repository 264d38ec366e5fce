"""Open Compute Framework: tables of peers, and failures that look like answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
import responses

from horde_proxy.caching.background import inline
from horde_proxy.errors import UpstreamFailed
from horde_proxy.upstreams.disconnects import DisconnectMonitor
from horde_proxy.upstreams.openai.errors import server_error
from horde_proxy.upstreams.openai.ocf import OCFUpstream, models_of
from horde_proxy.upstreams.proxying import JsonBody, ProxyRequest

NODE = "http://node.invalid:8092"
CHAT = f"{NODE}/v1/service/llm/v1/chat/completions"
CALL = ProxyRequest("POST", "chat/completions", {}, JsonBody(b"{}", {}), "m")
TABLE = json.loads("""
{"/QmA": {"id": "QmA", "connected": true, "service": [{"name": "llm", "status": "connected",
  "host": "localhost", "port": "8080", "identity_group": ["model=Qwen/Qwen3-8B", "region=eu"]}],
  "hardware": {"gpus": [{"name": "GH200", "total_memory": 0, "used_memory": 0}]}},
 "/QmB": {"id": "QmB", "service": null}}
""")


def upstream() -> OCFUpstream:
    return OCFUpstream(
        "node", NODE, requests.Session(), DisconnectMonitor(), api_key="k", run=inline
    )


def peer(*groups: Any, **extra: Any) -> dict[str, Any]:
    return {
        "connected": True,
        "service": [{"name": "llm", "identity_group": list(groups)}],
        **extra,
    }


def names(table: Any) -> list[str]:
    return [model["id"] for model in models_of(table)]


def test_the_specifications_example_offers_one_model() -> None:
    assert models_of(TABLE) == [
        {
            "id": "Qwen/Qwen3-8B",
            "object": "model",
            "created": 0,
            "owned_by": "ocf",
            "ocf": {"peers": 1},
        }
    ]


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ({}, []),
        ([], []),
        (list(TABLE.values()), ["Qwen/Qwen3-8B"]),
        ({"a": peer("model=a"), "b": peer("model=a", "model=b")}, ["a", "b"]),
        ({"a": peer("model=a=b")}, ["a=b"]),
        ({"a": peer("model=*", "all", "*", "model=", "model", "a")}, []),
        ({"a": peer("model=a", connected=False)}, []),
        ({"a": {"service": [{"identity_group": ["model=a"]}]}}, ["a"]),
        (
            {"a": {"service": [None, 3, {"identity_group": None}, {"identity_group": [None, 5]}]}},
            [],
        ),
        ({"a": None, "b": "x", "c": 3}, []),
        (
            {"a": {"service": [{"identity_group": ["model=a"]}, {"identity_group": ["model=a"]}]}},
            ["a"],
        ),
    ],
)
def test_models_are_the_identity_groups_of_connected_peers(table: Any, found: list[str]) -> None:
    assert names(table) == found


def test_the_peers_of_a_model_are_counted_once_each() -> None:
    twice = {"service": [{"identity_group": ["model=a"]}, {"identity_group": ["model=a"]}]}
    [model] = models_of({"a": twice, "b": peer("model=a")})
    assert model["ocf"] == {"peers": 2}


@pytest.mark.parametrize("table", [None, "x", 3])
def test_an_answer_that_is_no_table_is_refused(table: Any) -> None:
    with pytest.raises(UpstreamFailed):
        models_of(table)


@responses.activate
def test_models_come_from_the_nodes_table() -> None:
    responses.get(f"{NODE}/v1/dnt/table", json=TABLE)
    assert [model["id"] for model in upstream().models()] == ["Qwen/Qwen3-8B"]


@responses.activate
def test_calls_go_to_the_nodes_service() -> None:
    sent = responses.post(CHAT, json={"answer": 1})
    answer = upstream().proxy(CALL, "m")
    assert (answer.status, b"".join(answer)) == (200, b'{"answer": 1}')
    assert sent.calls[0].request.headers["Authorization"] == "Bearer k"


@responses.activate
def test_a_transport_error_with_status_200_is_a_502() -> None:
    responses.post(CHAT, body="ERROR: failed to dial\n peer")
    error = server_error(upstream().proxy(CALL, "m"))
    assert isinstance(error, UpstreamFailed)
    assert str(error) == "it answered with an error: failed to dial peer"


@responses.activate
@pytest.mark.parametrize("status", [200, 404, 500, 503])
def test_no_provider_is_a_503_whatever_the_status(status: int) -> None:
    error = {"error": "No provider found for the requested service."}
    responses.post(CHAT, json=error, status=status)
    found = server_error(upstream().proxy(CALL, "m"))
    assert found is not None
    assert (found.status, found.code) == (503, "no_provider")


@responses.activate
@pytest.mark.parametrize(
    "body",
    [
        b"ERR",
        b"E",
        b"ERRORS: are no error",
        b'{"id": "No provider found"}',
    ],
)
def test_an_answer_that_only_looks_like_a_failure_is_an_answer(body: bytes) -> None:
    responses.post(CHAT, body=body)
    answer = upstream().proxy(CALL, "m")
    assert (server_error(answer), answer.status, b"".join(answer)) == (None, 200, body)
