"""What a worker takes from the server that it lends to a horde: model, context and length.

The bodies in tests/data/model_lists were written after the public API of each server.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from click.testing import CliRunner

from horde_proxy.commands.cli import main
from horde_proxy.protocol.models import ModelFacts
from horde_proxy.worker.backends import BackendError, BackendOptions, open_backend, open_backends
from horde_proxy.worker.backends.offered_model import ServerModel, choose, limits_of

DATA = Path(__file__).parent / "data" / "model_lists"
URL = "http://backend.invalid:5001"


def serve(server: str, without: str = "", url: str = URL) -> None:
    """What the file of a kind of server says, at a URL; all else is refused."""
    document = json.loads((DATA / f"{server}.json").read_text())
    extra = {"GET /api/version": {"version": "0.21.0"}} if server == "ollama" else {}
    for call, body in {**extra, **document}.items():
        method, _, path = call.partition(" ")
        path, _, model = path.partition(" ")
        match = [responses.matchers.json_params_matcher({"model": model})] if model else []
        if method in ("GET", "POST") and path != without:
            responses.add(method, url + path, json=body, match=match)


def opened(**options: Any) -> tuple[Any, list[str]]:
    """(the backend at URL, what it reported)."""
    said: list[str] = []
    return open_backend(URL, BackendOptions(**options, report=said.append)), said


@responses.activate
@pytest.mark.parametrize(
    ("server", "options", "model", "context", "length"),
    [
        ("ollama", {}, "qwen3:8b", 16384, 512),
        ("ollama", {"model": "llama3.2:1b"}, "llama3.2:1b", 8192, 512),
        ("ollama", {"model": "LLaVA:13B"}, "llava:13b", 4096, 512),
        ("llama_cpp", {}, "/models/Qwen3-8B-Q4_K_M.gguf", 8192, 512),
        ("llama_cpp_router", {}, "gemma-3-4b-it", 4096, 1024),
        ("llama_cpp_router", {"model": "Qwen3-0.6B"}, "Qwen3-0.6B", 32768, 512),
        ("vllm", {}, "meta-llama/Llama-3.1-8B-Instruct", 32768, 512),
        ("vllm", {"model": "sql-lora"}, "sql-lora", 32768, 512),
        ("sglang", {}, "Qwen/Qwen2.5-VL-7B-Instruct", 128000, 512),
        ("lm_studio", {}, "qwen3-8b", 8192, 512),
        ("lm_studio", {"model": "gpt-oss-20b"}, "gpt-oss-20b", 4096, 512),
        ("tabbyapi", {}, "Mistral-Small-24B-4.0bpw-exl2", 32768, 512),
        ("koboldcpp", {}, "koboldcpp/L3-8B-Stheno-v3.2-Q4_K_M", 8192, 1024),
        ("vllm", {"max_length": 99, "max_context_length": 999}, None, 999, 99),
    ],
)
def test_model_context_and_length_come_from_the_server(
    server: str, options: dict[str, Any], model: str | None, context: int, length: int
) -> None:
    serve(server)
    backend, _ = opened(**options)
    assert (backend.max_context_length, backend.max_length) == (context, length)
    assert model in (None, backend.model)


@responses.activate
def test_koboldcpps_loaded_context_is_used_when_its_owner_sets_no_other() -> None:
    serve("koboldcpp", without="/api/v1/config/max_context_length")
    backend, _ = opened()
    assert backend.max_context_length == 16384


@responses.activate
def test_what_was_taken_from_where_is_reported() -> None:
    serve("ollama")
    assert opened()[1] == [
        f"Ollama server at {URL}: model qwen3:8b (the one that is loaded)",
        "context 16384 (told by the server), max length 512 (the server tells none; --max-length "
        "changes it)",
    ]
    assert opened(model="home/llama3.2:1b", max_length=300, max_context_length=9000)[1] == [
        f"Ollama server at {URL}: model llama3.2:1b (--model), advertised as home/llama3.2:1b",
        "context 9000 (--max-context-length; the server tells 8192), max length 300 (--max-length)",
    ]


@responses.activate
def test_of_several_models_the_user_is_asked_for_one() -> None:
    serve("ollama", without="/api/ps")
    with pytest.raises(BackendError) as raised:
        opened()
    assert str(raised.value) == (
        f"the server at {URL} has several models; add --model with one of these: "
        "hf.co/bartowski/Some-3B-GGUF:Q4_K_M, llama3.2:1b, llava:13b, qwen3:8b"
    )
    with pytest.raises(BackendError, match="has no model nope: it has hf.co/.*, llava:13b, qwen"):
        opened(model="nope")


@responses.activate
def test_an_embedding_model_is_never_offered() -> None:
    embedding = {"id": "my-vectors", "object": "model", "owned_by": "library"}
    shown = {"capabilities": ["embedding"], "model_info": {"bert.context_length": 512}}
    responses.get(f"{URL}/api/version", json={"version": "0.21.0"})
    responses.get(f"{URL}/api/tags", json={"models": [{"name": "my-vectors", "digest": "a"}]})
    responses.post(f"{URL}/api/show", json=shown)
    responses.get(f"{URL}/v1/models", json={"data": [embedding]})
    with pytest.raises(BackendError, match="has no model that writes text: my-vectors"):
        opened()
    with pytest.raises(BackendError, match="my-vectors at .* cannot write text: it is for embeddi"):
        opened(model="my-vectors")


@responses.activate
@pytest.mark.parametrize(
    "other",
    ["bge-reranker-v2-m3", "whisper-large-v3", "FLUX.1-schnell", "text-embedding-3-small", "tts-1"],
)
def test_an_openai_server_offers_its_only_model_that_writes_text(other: str) -> None:
    responses.get(f"{URL}/v1/models", json={"data": [{"id": other}, {"id": "Some-8B"}]})
    backend, said = opened()
    assert backend.name == "Some-8B"
    assert "(its only one that writes text)" in said[0]


@responses.activate
def test_a_koboldcpp_without_a_model_says_so() -> None:
    responses.get(f"{URL}/api/v1/model", json={"result": "inactive"})
    with pytest.raises(BackendError, match="has no text model loaded"):
        opened()


@responses.activate
@pytest.mark.parametrize("document", [{"data": None}, {"data": "x"}, [], {"data": [{"id": ""}]}, 3])
def test_a_server_without_a_list_of_models_is_refused(document: Any) -> None:
    responses.get(f"{URL}/v1/models", json=document)
    with pytest.raises(BackendError, match="is not a KoboldAI, Ollama or OpenAI-compatible"):
        opened()


@pytest.mark.parametrize(
    ("facts", "options", "context", "length"),
    [
        (ModelFacts(), {}, 4096, 512),
        (ModelFacts(trained_context=131072), {}, 4096, 512),
        (ModelFacts(trained_context=2048), {}, 2048, 512),
        (ModelFacts(context=8192, trained_context=131072), {}, 8192, 512),
        (ModelFacts(context=512), {}, 512, 256),
        (ModelFacts(context=8192, max_output=2048), {}, 8192, 2048),
        (ModelFacts(context=8192, max_output=8192), {}, 8192, 4096),
        (ModelFacts(context=131072, max_output=65536), {}, 131072, 4096),
        (ModelFacts(context=8192, max_output=5), {}, 8192, 16),
        (ModelFacts(context=10_000_000), {}, 1_048_576, 512),
        (ModelFacts(context=8192), {"max_context_length": 32768}, 32768, 512),
        (ModelFacts(context=8192, max_output=2048), {"max_length": 4000}, 8192, 4000),
    ],
)
def test_lengths_are_what_is_served_and_what_a_horde_takes(
    facts: ModelFacts, options: dict[str, int], context: int, length: int
) -> None:
    limits = limits_of(facts, BackendOptions(**options))  # type: ignore[arg-type]
    assert (limits.context, limits.length) == (context, length)


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (["a", "b"], "b", "b"),
        (["llama3.2:latest", "b"], "Llama3.2", "llama3.2:latest"),
        (["b", "a/b"], "home/a/b", "a/b"),
        (["b", "B"], "B", "B"),
        (["b"], "anything", "b"),
    ],
)
def test_a_name_finds_a_model_of_the_server(names: list[str], wanted: str, chosen: str) -> None:
    models = [ServerModel(name, ModelFacts()) for name in names]
    assert choose(models, wanted, URL)[0].name == chosen


@responses.activate
def test_the_command_says_what_it_took_from_the_server() -> None:
    serve("llama_cpp")
    responses.get(f"{URL}/health", json={"status": "ok"})
    responses.post(
        "http://h.invalid/api/v2/generate/text/pop", status=403, json={"rc": "WrongCredentials"}
    )
    responses.get(f"{URL}/api/v1/model", body=requests.ConnectionError("x"))
    command = ["worker", "--horde", "http://h.invalid", "--backend", URL, "--api-key", "k"]
    result = CliRunner().invoke(main, [*command, "--name", "w"])
    assert result.exit_code == 1
    assert result.output.splitlines()[:3] == [
        f"OpenAI-compatible server at {URL}: model /models/Qwen3-8B-Q4_K_M.gguf (its only one)",
        "context 8192 (told by the server), max length 512 (the server tells none; --max-length "
        "changes it)",
        "w offers /models/Qwen3-8B-Q4_K_M.gguf to http://h.invalid",
    ]


LOGIN_URL = "http://user:SECRET@backend.invalid:5001"


@responses.activate
def test_a_login_in_a_url_is_neither_printed_nor_logged(caplog: pytest.LogCaptureFixture) -> None:
    serve("llama_cpp", url=LOGIN_URL)
    responses.get(f"{LOGIN_URL}/health", json={"status": "ok"})
    responses.post(
        "http://user:SECRET@h.invalid/api/v2/generate/text/pop",
        status=403,
        json={"rc": "WrongCredentials"},
    )
    horde = "http://user:SECRET@h.invalid"
    command = ["worker", "--horde", horde, "--backend", LOGIN_URL, "--api-key", "k", "--name", "w"]
    result = CliRunner().invoke(main, command)
    assert f"OpenAI-compatible server at {URL}: model /models/Qwen3" in result.output
    assert "w offers /models/Qwen3-8B-Q4_K_M.gguf to http://h.invalid\n" in result.output
    assert "http://h.invalid: the horde refuses this worker: 403" in caplog.text
    assert "SECRET" not in result.output + caplog.text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (LOGIN_URL, f"{URL} is not a KoboldAI"),
        ("http://user:SECRET@[::1", "(not a valid URL) is not a KoboldAI"),
        ("user:SECRET@backend.invalid", "unknown backend (hidden): use"),
    ],
)
@responses.activate
def test_a_login_in_the_url_of_no_backend_is_not_printed(url: str, shown: str) -> None:
    horde = "http://h.invalid"
    command = ["worker", "--horde", horde, "--backend", url, "--api-key", "k"]
    result = CliRunner().invoke(main, command)
    assert f"Error: {shown}" in result.output
    assert "SECRET" not in result.output


@responses.activate
def test_a_login_in_a_backends_url_is_in_no_error(caplog: pytest.LogCaptureFixture) -> None:
    models = responses.get(f"{LOGIN_URL}/v1/models", json={"data": [{"id": "m"}, {"id": "bge-m3"}]})
    errors = []
    for options in (
        BackendOptions(model="bge-m3"),
        BackendOptions(models=("x",)),
        BackendOptions(denied_models=("*",)),
    ):
        with pytest.raises(BackendError) as raised:
            open_backends(LOGIN_URL, options)
        errors.append(str(raised.value))
    backend: Any = open_backend(LOGIN_URL)
    responses.remove(models)
    for call in (backend.state, lambda: backend.generate({"prompt": "x", "tfs": 0.5}, bool)):
        with pytest.raises(BackendError) as raised:
            call()
        errors.append(str(raised.value))
    responses.get(f"{LOGIN_URL}/api/v1/model", json={"result": "koboldcpp/inactive"})
    with pytest.raises(BackendError) as raised:
        open_backend(LOGIN_URL)
    errors.append(str(raised.value))
    assert all("http://backend.invalid:5001" in error for error in [*errors, caplog.text])
    assert "SECRET" not in "".join(errors) + caplog.text


@responses.activate
def test_an_openai_server_gives_its_text_as_it_grows() -> None:
    serve("llama_cpp")
    responses.add(
        "POST",
        URL + "/v1/completions",
        body=b'data: {"choices":[{"text":"Hello"}]}\n\ndata: {"choices":[{"text":" world"}]}\n\n'
        b'data: {"choices":[],"usage":{}}\n\ndata: [DONE]\n\n',
        match=[responses.matchers.json_params_matcher({"stream": True}, strict_match=False)],
    )
    backend, _ = opened()
    assert list(backend.stream({"prompt": "Say hi."}, lambda: False)) == ["Hello", " world"]


@responses.activate
def test_a_server_that_fails_in_a_stream_raises_an_error() -> None:
    serve("llama_cpp")
    responses.add("POST", URL + "/v1/completions", status=500)
    backend, _ = opened()
    with pytest.raises(BackendError, match="answered with status 500"):
        list(backend.stream({"prompt": "Say hi."}, lambda: False))
