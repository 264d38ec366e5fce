"""GET /v1/models and /v1/opencode.json in front of servers of several kinds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
from flask.testing import FlaskClient

from horde_proxy.app.factory import create_app
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from tests.support import Scripted, World

DATA = Path(__file__).parent / "data" / "model_lists"
SERVERS = ("ollama", "llama_cpp", "vllm", "lm_studio", "groq", "mistral", "koboldcpp")


@pytest.fixture
def client() -> Iterator[FlaskClient]:
    """An app that has just started, with one endpoint of each kind of server."""
    endpoints = [
        {"url": f"http://{server}.invalid", "name": server, "prefix": f"{server}/"}
        for server in SERVERS
    ]
    flags = {"endpoints": endpoints, "stats": {"hydrate": False}}
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        for server in SERVERS:
            serve(mock, server)
        yield create_app(load(environ={}, flags=flags), Runtime(run=inline)).test_client()


def serve(mock: responses.RequestsMock, server: str) -> None:
    for call, body in json.loads((DATA / f"{server}.json").read_text()).items():
        method, _, path = call.partition(" ")
        path, _, model = path.partition(" ")
        match = [responses.matchers.json_params_matcher({"model": model})] if model else []
        if method in ("GET", "POST"):
            mock.add(method, f"http://{server}.invalid{path}", json=body, match=match)


def test_the_first_opencode_json_has_the_chat_models_of_all_servers(client: FlaskClient) -> None:
    found: Any = client.get("/v1/opencode.json?min_context=8000").json
    models = found["provider"]["horde"]["models"]
    assert {name: entry["limit"]["context"] for name, entry in models.items()} == {
        "ollama/llama3.2:1b": 8192,
        "ollama/qwen3:8b": 16384,
        "ollama/hf.co/bartowski/Some-3B-GGUF:Q4_K_M": 32768,
        "llama_cpp//models/Qwen3-8B-Q4_K_M.gguf": 8192,
        "vllm/meta-llama/Llama-3.1-8B-Instruct": 32768,
        "vllm/sql-lora": 32768,
        "lm_studio/qwen3-8b": 8192,
        "lm_studio/gpt-oss-20b": 131072,
        "lm_studio/qwen2.5-vl-7b-instruct": 128000,
        "groq/llama-3.3-70b-versatile": 131072,
        "mistral/mistral-small-latest": 131072,
        "koboldcpp/koboldcpp/L3-8B-Stheno-v3.2-Q4_K_M": 16384,
    }
    assert [name for name, entry in models.items() if entry.get("reasoning")] == [
        "llama_cpp//models/Qwen3-8B-Q4_K_M.gguf",
        "lm_studio/gpt-oss-20b",
        "lm_studio/qwen3-8b",
        "ollama/qwen3:8b",
    ]
    assert not models["ollama/hf.co/bartowski/Some-3B-GGUF:Q4_K_M"]["tool_call"]


def test_an_entry_has_the_fields_of_openrouter_vllm_and_llama_cpp(client: FlaskClient) -> None:
    found: Any = client.get("/v1/models/lm_studio/qwen3-8b").json
    assert found == {
        "id": "lm_studio/qwen3-8b",
        "name": "lm_studio/qwen3-8b",
        "object": "model",
        "created": 0,
        "owned_by": "organization_owner",
        "endpoints": ["lm_studio"],
        "context_length": 8192,
        "max_model_len": 8192,
        "architecture": {
            "modality": "text->text",
            "input_modalities": ["text"],
            "output_modalities": ["text"],
            "tokenizer": "Other",
        },
        "top_provider": {
            "context_length": 8192,
            "max_completion_tokens": None,
            "is_moderated": False,
        },
        "supported_parameters": [
            *("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty"),
            *("seed", "stop", "response_format", "structured_outputs", "top_k", "min_p"),
            *("logit_bias", "logprobs", "top_logprobs", "tools", "tool_choice"),
        ],
        "capabilities": ["completion", "tools", "thinking"],
        "reasoning": True,
        "loaded": True,
        "quantization": "Q4_K_M",
        "meta": {"n_ctx_train": 40960, "n_ctx": 8192},
    }


def test_the_embedding_model_is_listed_and_told_apart(client: FlaskClient) -> None:
    found: Any = client.get("/v1/models/ollama/nomic-embed-text:latest").json
    assert found["architecture"]["modality"] == "text->embeddings"
    assert found["capabilities"] == ["embedding"]


def test_models_of_unknown_context_are_named_in_the_warnings() -> None:
    flags = {"endpoints": [{"url": "http://cloud.invalid"}], "stats": {"hydrate": False}}
    with responses.RequestsMock() as mock:
        entries = [{"id": "gpt-4o"}, {"id": "tts-1"}, {"id": "big", "context_window": 16384}]
        mock.get("http://cloud.invalid/v1/models", json={"data": entries})
        http = create_app(load(environ={}, flags=flags), Runtime(run=inline)).test_client()
        response = http.get("/v1/opencode.json")
        assert response.headers["X-Horde-Warnings"] == (
            "models: left out, of unknown context: gpt-4o"
        )
        response = http.get("/v1/opencode.json?min_context=20000")
        assert response.get_json()["error"]["message"] == (
            "No model with such a context is available right now. These are left out, of unknown "
            "context: gpt-4o; min_context=0 takes them as well."
        )
        response = http.get("/v1/opencode.json?min_context=0")
    assert sorted(response.get_json()["provider"]["horde"]["models"]) == ["big", "gpt-4o"]
    assert "X-Horde-Warnings" not in response.headers


def test_a_model_that_the_settings_exclude_is_neither_ready_nor_in_opencode_json() -> None:
    world = World(horde={"validated_backends": True})
    world.employ(Scripted("Hello.", context=32768))
    client = world.http()
    listed: Any = client.get("/v1/models").json
    assert [model["horde"]["available"] for model in listed["data"]] == [False]
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json) == (503, {"status": "unavailable", "models": 0})
    assert client.get("/v1/opencode.json").status_code == 503
    chat = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}]}
    refused = client.post("/v1/chat/completions", json=chat)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (503, "false")
    error: Any = refused.json
    assert "set `validated_backends` to false under [horde]" in error["error"]["message"]
