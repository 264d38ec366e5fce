"""What servers tell of their models, and how GET /v1/models tells it.

The bodies in tests/data/model_lists were written after the public API of each server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.caching.background import inline
from horde_proxy.protocol.models import (
    ModelFacts,
    facts_in,
    facts_of,
    tokens,
    with_facts,
    writes_text,
)
from horde_proxy.upstreams.disconnects import DisconnectMonitor
from horde_proxy.upstreams.openai.described_models import is_at_home
from horde_proxy.upstreams.openai.native_apis import (
    MOST_SHOWS,
    ShownModels,
    facts_in_props,
    native_facts,
)
from horde_proxy.upstreams.openai.ocf import OCFUpstream
from horde_proxy.upstreams.openai.upstream import OpenAIUpstream
from tests.support import Clock

DATA = Path(__file__).parent / "data" / "model_lists"
SERVERS = sorted(path.stem for path in DATA.glob("*.json"))


def bodies(server: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DATA / f"{server}.json").read_text())
    return document


def entries_of(server: str) -> list[dict[str, Any]]:
    listed = bodies(server)["GET /v1/models"]
    data = listed["data"] if isinstance(listed, dict) else listed
    return [{"owned_by": "unknown", **entry} for entry in data]


class Server:
    """Answers as the file of a kind of server says; `asked` are the calls."""

    def __init__(self, server: str) -> None:
        self.bodies, self.asked = bodies(server), list[str]()

    def ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        call = f"GET {path}" if body is None else f"POST {path} {body['model']}"
        self.asked.append(call)
        return self.bodies.get(call)


def learned(server: str) -> dict[str, ModelFacts]:
    return native_facts(Server(server).ask, entries_of(server), ShownModels())


# The fields that are read, and some that must not be passed on.
KEYS = (
    *("context_length", "max_model_len", "max_output_tokens", "max_tokens", "context_window"),
    *("meta", "n_ctx", "n_ctx_train", "n_params", "size", "parameters", "max_seq_len"),
    *("architecture", "modality", "input_modalities", "output_modalities", "modalities", "input"),
    *("capabilities", "limits", "supports", "features", "supported_features", "metadata"),
    *("tags", "info", "provider", "name", "type", "status", "args", "value", "state"),
    *("supported_parameters", "pricing", "prompt", "top_provider", "max_completion_tokens"),
    *("reasoning", "tools", "quantization", "supports_tools", "supported", "thinking", "loaded"),
)

# (server, model): (context that counts, longest answer, tools, reasoning, inputs, outputs).
EXPECTED: dict[tuple[str, str], tuple[Any, ...]] = {
    ("ollama", "llama3.2:1b"): (8192, None, True, False, "text", "text"),
    ("ollama", "qwen3:8b"): (16384, None, True, True, "text", "text"),
    ("ollama", "llava:13b"): (4096, None, False, False, "text image", "text"),
    ("ollama", "nomic-embed-text:latest"): (8192, None, None, None, "", "embeddings"),
    ("ollama", "hf.co/bartowski/Some-3B-GGUF:Q4_K_M"): (32768, None, False, False, "text", "text"),
    ("llama_cpp", "/models/Qwen3-8B-Q4_K_M.gguf"): (8192, None, True, True, "text", "text"),
    ("llama_cpp_router", "gemma-3-4b-it"): (4096, 1024, None, None, "text image", "text"),
    ("llama_cpp_router", "Qwen3-0.6B"): (32768, None, None, True, "", "text"),
    ("llama_cpp_router", "bge-m3"): (None, None, None, None, "", "embeddings"),
    ("vllm", "meta-llama/Llama-3.1-8B-Instruct"): (32768, None, None, None, "", "text"),
    ("vllm", "sql-lora"): (32768, None, None, None, "", "text"),
    ("sglang", "Qwen/Qwen2.5-VL-7B-Instruct"): (128000, None, None, None, "text image", "text"),
    ("llama_swap", "qwen3-8b"): (None, None, None, True, "", "text"),
    ("llama_swap", "gemma-3-4b"): (None, None, None, None, "text image", "text"),
    ("llama_swap", "smollm2"): (None, None, None, None, "", "text"),
    ("lm_studio", "qwen3-8b"): (8192, None, True, True, "", "text"),
    ("lm_studio", "gpt-oss-20b"): (131072, None, True, True, "", "text"),
    ("lm_studio", "qwen2.5-vl-7b-instruct"): (128000, None, None, None, "text image", "text"),
    ("lm_studio", "text-embedding-nomic-embed-text-v1.5"): (
        *(2048, None, None, None, "", "embeddings"),
    ),
    ("tabbyapi", "Mistral-Small-24B-4.0bpw-exl2"): (
        *(32768, None, None, None, "text image", "text"),
    ),
    ("tabbyapi", "Qwen2.5-7B-exl2"): (None, None, None, None, "", "text"),
    ("koboldcpp", "koboldcpp/L3-8B-Stheno-v3.2-Q4_K_M"): (16384, None, None, None, "", "text"),
    ("openrouter", "anthropic/claude-sonnet-4.5"): (
        *(1000000, 64000, True, True, "text image file", "text"),
    ),
    ("openrouter", "openai/text-embedding-3-small"): (
        *(8192, None, None, None, "text", "embeddings"),
    ),
    ("groq", "llama-3.3-70b-versatile"): (131072, 32768, None, None, "", ""),
    ("groq", "whisper-large-v3"): (448, 448, None, None, "", "transcription"),
    ("groq", "playai-tts"): (8192, 8192, None, None, "", "speech"),
    ("mistral", "mistral-small-latest"): (131072, None, True, None, "text image", "text"),
    ("mistral", "mistral-embed"): (8192, None, False, None, "", "embeddings"),
    ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"): (131072, None, None, None, "", "text"),
    ("together", "black-forest-labs/FLUX.1-schnell"): (None, None, None, None, "", "image"),
    ("together", "BAAI/bge-large-en-v1.5"): (512, None, None, None, "", "embeddings"),
    ("openai", "gpt-4o"): (None, None, None, None, "", ""),
    ("openai", "text-embedding-3-small"): (None, None, None, None, "", "embeddings"),
    ("openai", "whisper-1"): (None, None, None, None, "", "transcription"),
    ("openai", "tts-1"): (None, None, None, None, "", "speech"),
    ("openai", "dall-e-3"): (None, None, None, None, "", "image"),
    ("openai", "omni-moderation-latest"): (None, None, None, None, "", "moderation"),
    ("anthropic", "claude-sonnet-4-5-20250929"): (200000, 64000, None, True, "text image", "text"),
    ("chutes", "deepseek-ai/DeepSeek-R1"): (163840, 65536, None, True, "text", "text"),
    ("deepinfra", "google/gemma-3-27b-it"): (131072, 16384, None, None, "text image", "text"),
    ("deepinfra", "BAAI/bge-m3"): (None, None, None, None, "", "embeddings"),
    ("moonshot", "kimi-k2.5"): (262144, None, None, True, "text image", "text"),
}


@pytest.mark.parametrize("server", SERVERS)
def test_what_each_kind_of_server_tells_is_read(server: str) -> None:
    facts = learned(server)
    assert {
        model: (
            fact.length,
            fact.max_output,
            fact.tools,
            fact.reasoning,
            " ".join(fact.inputs),
            " ".join(fact.outputs),
        )
        for model, fact in facts.items()
    } == {model: values for (name, model), values in EXPECTED.items() if name == server}


@pytest.mark.parametrize("server", SERVERS)
def test_whether_a_model_chats_is_the_same_by_the_short_way(server: str) -> None:
    for entry in entries_of(server):
        assert writes_text(entry) == facts_of(entry).writes_text


def test_what_is_served_goes_before_what_was_trained() -> None:
    facts = learned("llama_cpp")["/models/Qwen3-8B-Q4_K_M.gguf"]
    assert (facts.context, facts.trained_context) == (8192, 40960)
    facts = learned("ollama")["llama3.2:1b"]
    assert (facts.context, facts.trained_context, facts.quantization) == (8192, 131072, "Q8_0")
    assert facts_in({"max_model_len": 4096, "context_length": 131072}).context == 4096


@pytest.mark.parametrize(
    ("server", "loaded"),
    [
        ("ollama", ["qwen3:8b"]),
        ("llama_cpp", ["/models/Qwen3-8B-Q4_K_M.gguf"]),
        ("llama_cpp_router", ["gemma-3-4b-it"]),
        ("vllm", ["meta-llama/Llama-3.1-8B-Instruct"]),
        ("llama_swap", ["qwen3-8b"]),
        ("lm_studio", ["qwen3-8b"]),
        ("tabbyapi", ["Mistral-Small-24B-4.0bpw-exl2"]),
        ("koboldcpp", ["koboldcpp/L3-8B-Stheno-v3.2-Q4_K_M"]),
        ("openai", []),
    ],
)
def test_a_server_tells_what_it_has_loaded(server: str, loaded: list[str]) -> None:
    assert [name for name, facts in learned(server).items() if facts.is_loaded] == loaded


@pytest.mark.parametrize("server", SERVERS)
def test_the_list_tells_what_is_loaded_where_that_is_known(server: str) -> None:
    for entry in entries_of(server):
        facts = learned(server)[entry["id"]]
        assert with_facts(entry, facts).get("loaded") is facts.is_loaded


@pytest.mark.parametrize(
    ("server", "slots"),
    [
        ("llama_cpp", {"/models/Qwen3-8B-Q4_K_M.gguf": 2}),
        ("llama_cpp_router", {"gemma-3-4b-it": 1}),
        ("sglang", {"Qwen/Qwen2.5-VL-7B-Instruct": 96}),
        ("tabbyapi", {"Mistral-Small-24B-4.0bpw-exl2": 1}),
        *[(server, {}) for server in ("ollama", "vllm", "lm_studio", "llama_swap", "openai")],
    ],
)
def test_a_server_tells_its_slots(server: str, slots: dict[str, int]) -> None:
    told = {name: facts.slots for name, facts in learned(server).items() if facts.slots}
    assert told == slots


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("https://ollama.com:443", "https://ollama.com:443"),
        ("", None),
        (None, None),
        # What cannot be read is no reason to take the model for one at home.
        (["ollama.com"], "unknown"),
        ("https://" + "x" * 200, "unknown"),
    ],
)
def test_ollama_tells_which_models_another_server_runs(value: Any, told: str | None) -> None:
    server, entries = Server("ollama"), entries_of("ollama")
    first, *others = server.bodies["GET /api/tags"]["models"]
    first["remote_host"] = value
    facts = native_facts(server.ask, entries, ShownModels())
    assert facts[first["name"]].remote_host == told
    assert {facts[model["name"]].remote_host for model in others} == {None}
    [entry] = [entry for entry in entries if entry["id"] == first["name"]]
    assert with_facts(entry, facts[entry["id"]]).get("remote_host") == told


@pytest.mark.parametrize("slots", [0, -1, "2", True, None, [], 1e400])
def test_slots_are_a_number_or_unknown(slots: Any) -> None:
    assert facts_in_props({"total_slots": slots}).slots is None


def test_a_llama_cpp_that_sleeps_has_unloaded_its_model() -> None:
    server = Server("llama_cpp")
    server.bodies["GET /props"]["is_sleeping"] = True
    [facts] = native_facts(server.ask, entries_of("llama_cpp"), ShownModels()).values()
    assert facts.is_loaded is False


def test_the_state_of_models_is_newer_than_the_list() -> None:
    server, entries = Server("llama_cpp_router"), entries_of("llama_cpp_router")
    for entry in server.bodies["GET /v1/models"]["data"]:
        entry["status"]["value"] = "loaded" if entry["id"] == "Qwen3-0.6B" else "unloaded"
    facts = native_facts(server.ask, entries, ShownModels())
    assert [name for name, known in facts.items() if known.is_loaded] == ["Qwen3-0.6B"]


def test_what_is_loaded_is_unknown_where_the_server_does_not_say_it() -> None:
    for server in ("ollama", "llama_swap", "llama_cpp"):
        silent = native_facts(lambda path, body: None, entries_of(server), ShownModels())
        assert {facts.is_loaded for facts in silent.values()} == {None}


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (8192, 8192),
        (8192.0, 8192),
        ("8192", 8192),
        (" 8192 ", 8192),
        (1, 1),
        (0, None),
        (-1, None),
        ("-1", None),
        (True, None),
        (1e30, None),
        (10**40, None),
        (float("nan"), None),
        (float("inf"), None),
        ("8k", None),
        ("9" * 5000, None),
        ("", None),
        ([8192], None),
        ({}, None),
        (None, None),
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        "max_model_len",
        "meta.n_ctx",
        "context_window",
        "max_context_length",
        "context_length",
        "top_provider.context_length",
    ],
)
def test_a_context_is_a_number_or_unknown(path: str, value: Any, number: int | None) -> None:
    entry: dict[str, Any] = {"id": "a"}
    *parents, last = path.split(".")
    inner = entry
    for key in parents:
        inner = inner.setdefault(key, {})
    inner[last] = value
    assert tokens(value) == number
    assert facts_in(entry).context == number
    told = with_facts(entry, facts_of(entry))
    assert told.get("context_length") == number
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, True, [None], {"a": None}, float("nan")])
def test_no_shape_of_a_field_breaks_the_reading(value: Any) -> None:
    for server in SERVERS:
        for entry in entries_of(server):
            for key in [*entry, "meta", "status", "state", "modalities", "limits", "features"]:
                if key != "id":
                    changed = {**entry, key: value}
                    assert with_facts(changed, facts_of(changed))["id"] == entry["id"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["8192", "vision", "tools", "loaded", "text->image", "chat", "-c"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_json_in_an_entry_gives_a_legal_entry(fields: dict[str, Any]) -> None:
    entry = {**fields, "id": "a/b", "object": "model", "created": 1, "owned_by": "x"}
    told = with_facts(entry, facts_of(entry))
    json.dumps(told, allow_nan=False)
    assert facts_of(told).length == facts_of(entry).length
    for number in ("context_length", "max_model_len", "max_output_tokens"):
        assert told.get(number) is None or type(told[number]) is int
    assert not {"tags", "info", "provider"} & set(told)


@pytest.mark.parametrize("answer", [None, [], {}, "x", {"models": [None, {"name": 3}, {}]}, 5])
@pytest.mark.parametrize("server", SERVERS)
def test_no_answer_of_a_servers_own_api_breaks_the_reading(server: str, answer: Any) -> None:
    facts = native_facts(lambda path, body: answer, entries_of(server), ShownModels())
    assert list(facts) == [entry["id"] for entry in entries_of(server)]


def test_what_a_server_tells_is_completed_not_contradicted() -> None:
    [claude, _] = entries_of("openrouter")
    told = with_facts(claude, facts_of(claude))
    assert {name: told[name] for name in claude} == claude
    assert (told["max_output_tokens"], told["reasoning"]) == (64000, True)
    assert told["capabilities"] == ["completion", "tools", "thinking", "vision"]
    [mistral, _] = entries_of("mistral")
    told = with_facts(mistral, facts_of(mistral))
    assert {name: told[name] for name in mistral} == mistral
    assert (told["context_length"], told["max_model_len"]) == (131072, 131072)


def test_fields_that_are_open_webuis_own_are_left_out() -> None:
    entry = {"id": "a", "object": "model", "created": 1, "owned_by": "llamacpp", "mine": 1}
    theirs = {"tags": ["chat"], "info": {}, "provider": "x", "actions": [], "urlIdx": 0}
    theirs |= {"preset": "", "arena": True, "filters": [], "pipeline": {}, "openai": {}}
    theirs |= {"connection_type": "local", "name": None}
    assert with_facts({**entry, **theirs}, ModelFacts()) == entry


def test_a_field_of_the_wrong_type_is_replaced() -> None:
    entry = {"id": "a", "context_length": "many", "top_provider": "x", "architecture": "llama"}
    facts = ModelFacts(context=8192, outputs=("text",))
    assert with_facts(entry, facts) == {
        "id": "a",
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
        "capabilities": ["completion"],
        "meta": {"n_ctx": 8192},
    }


def test_what_was_written_is_read_back() -> None:
    facts = ModelFacts(
        context=8192,
        trained_context=131072,
        max_output=4096,
        inputs=("text", "image"),
        outputs=("text",),
        tools=True,
        reasoning=True,
        supported_parameters=("tools", "reasoning"),
        quantization="Q4_K_M",
        parameter_count=8_000_000_000,
        size=5_000_000_000,
    )
    assert facts_in(with_facts({"id": "a"}, facts)) == facts


@pytest.mark.parametrize(
    ("props", "tools"),
    [
        # llama.cpp of October 2026 with SmolLM2, and with Qwen2.5.
        (
            {
                "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
                "chat_template_caps": {"supports_tool_calls": False, "supports_tools": False},
            },
            False,
        ),
        (
            {
                "chat_template": "{%- if tools %}{{ tools }}{%- endif %}",
                "chat_template_caps": {"supports_tool_calls": True, "supports_tools": True},
            },
            True,
        ),
        # Its older versions describe tools to any model.
        ({"chat_template": "{{ messages }}"}, None),
        ({"chat_template_caps": [False]}, None),
    ],
)
def test_a_llama_cpp_tells_whether_its_template_has_tools(
    props: dict[str, Any], tools: bool | None
) -> None:
    assert facts_in_props(props).tools is tools


def test_an_image_model_is_told_apart() -> None:
    told = with_facts({"id": "FLUX.1-schnell"}, facts_of({"id": "FLUX.1-schnell"}))
    assert told["architecture"]["modality"] == "text->image"
    assert told["capabilities"] == ["image"]


URL = "http://server.invalid:11434"


def upstream(url: str = URL, kind: type[OpenAIUpstream] = OpenAIUpstream, **more: Any) -> Any:
    session, monitor = requests.Session(), DisconnectMonitor()
    return kind("server", url, session, monitor, api_key="k", run=inline, **more)


def serve(server: str, **answers: Any) -> None:
    """What the file of a server says, at URL; an answer given here instead of it."""
    for call, body in {**bodies(server), **answers}.items():
        method, _, path = call.partition(" ")
        path, _, model = path.partition(" ")
        matchers = [responses.matchers.json_params_matcher({"model": model})] if model else []
        answer = {"body": body} if isinstance(body, Exception) else {"json": body}
        if method in ("GET", "POST"):
            responses.add(method, URL + path, match=matchers, **answer)


@responses.activate
def test_the_models_of_ollama_have_their_contexts() -> None:
    serve("ollama")
    models = {model["id"]: model for model in upstream().models()}
    assert {name: model["context_length"] for name, model in models.items()} == {
        "llama3.2:1b": 8192,
        "qwen3:8b": 16384,
        "llava:13b": 4096,
        "nomic-embed-text:latest": 8192,
        "hf.co/bartowski/Some-3B-GGUF:Q4_K_M": 32768,
    }
    assert models["llama3.2:1b"]["meta"] == {
        "n_ctx_train": 131072,
        "n_ctx": 8192,
        "n_params": 1235814432,
        "size": 1321098329,
    }
    assert models["llama3.2:1b"]["supported_parameters"][-2:] == ["tools", "tool_choice"]
    sent = responses.calls[-1].request.headers
    assert (sent["Authorization"], sent["Content-Type"]) == ("Bearer k", "application/json")


@responses.activate
def test_an_upstream_tells_slots_and_loaded_models_without_waiting() -> None:
    clock = Clock()
    serve("llama_cpp")
    server = upstream(clock=clock)
    name = "/models/Qwen3-8B-Q4_K_M.gguf"
    server.models()
    calls = len(responses.calls)
    assert (server.slots(name), server.is_loaded(name)) == (2, True)
    assert (server.slots("other"), server.is_loaded("other")) == (None, None)
    assert len(responses.calls) == calls
    # What is not known yet is loaded in the background.
    waiting = list[Any]()
    late = OpenAIUpstream(
        "late", URL, requests.Session(), DisconnectMonitor(), run=waiting.append, clock=clock
    )
    assert (late.slots(name), late.is_loaded(name)) == (None, None)
    assert len(waiting) == 1


@responses.activate
@pytest.mark.parametrize(
    "failure",
    [requests.ConnectionError("x"), requests.ReadTimeout("x"), [], {"models": "x"}, None],
)
def test_an_own_api_that_fails_never_spoils_the_list(failure: Any) -> None:
    serve("ollama", **{"GET /api/tags": failure, "GET /api/ps": failure})
    assert len(upstream().models()) == 5


@responses.activate
def test_an_own_api_that_fails_later_leaves_what_was_known() -> None:
    clock = Clock()
    serve("ollama")
    server = upstream(clock=clock)
    server.models()
    responses.replace("GET", f"{URL}/api/tags", body=requests.ConnectionError("x"))
    clock.seconds += 1000
    assert server.models()[0]["context_length"] == 8192
    assert server.models()[1]["context_length"] == 16384


@responses.activate
@pytest.mark.parametrize(("server", "call"), [("ollama", "/api/ps"), ("llama_cpp", "/props")])
def test_what_was_loaded_before_is_not_told_of_a_server_that_does_not_answer(
    server: str, call: str
) -> None:
    clock = Clock()
    serve(server)
    known = upstream(clock=clock)
    assert [model["loaded"] for model in known.models() if model["loaded"]] == [True]
    responses.replace("GET", f"{URL}{call}", body=requests.ReadTimeout("x"))
    clock.seconds += 1000
    models = known.models()
    assert [model.get("loaded") for model in models] == [None] * len(models)
    assert [model["context_length"] for model in models][:1] == [8192]
    assert known.is_loaded(models[0]["id"]) is None


@responses.activate
def test_a_model_that_did_not_change_is_shown_once() -> None:
    clock = Clock()
    serve("ollama")
    server = upstream(clock=clock)
    first = server.models()
    for _ in range(10):
        clock.seconds += 16
        server.models()
    shows = [call for call in responses.calls if call.request.url == f"{URL}/api/show"]
    assert len(shows) == 5
    assert server.models() == first


def test_of_many_models_a_round_asks_for_some() -> None:
    entries = [
        {"id": f"m{number}:1b", "owned_by": "library", "object": "model"} for number in range(100)
    ]
    tags = {"models": [{"name": entry["id"], "digest": "d"} for entry in entries]}
    shows = []

    def ask(path: str, body: Mapping[str, Any] | None) -> Any:
        if path == "/api/show":
            shows.append(body)
            return {"model_info": {"x.context_length": 2048}}
        return tags if path == "/api/tags" else None

    shown = ShownModels()
    rounds = [native_facts(ask, entries, shown) for _ in range(5)]
    known = [sum(fact.length == 2048 for fact in facts.values()) for facts in rounds]
    assert MOST_SHOWS == 30
    assert known == [30, 60, 90, 100, 100]
    assert len(shows) == 100


def test_an_imitation_of_ollama_without_tags_is_asked_for_each_model() -> None:
    server = Server("ollama")
    del server.bodies["GET /api/tags"], server.bodies["GET /api/ps"]
    facts = native_facts(server.ask, entries_of("ollama"), ShownModels())
    assert [fact.length for fact in facts.values()] == [8192, 40960, 4096, 8192, 32768]


def test_a_server_that_does_not_answer_is_asked_for_one_model_only() -> None:
    server = Server("ollama")
    server.bodies = {call: body for call, body in server.bodies.items() if "POST" not in call}
    native_facts(server.ask, entries_of("ollama"), ShownModels())
    assert [call for call in server.asked if "POST" in call] == ["POST /api/show llama3.2:1b"]


@responses.activate
@pytest.mark.parametrize("server", ["vllm", "openrouter", "groq", "mistral", "openai", "together"])
def test_a_server_that_is_not_recognised_is_asked_for_its_list_only(server: str) -> None:
    serve(server)
    upstream().models()
    assert [call.request.url for call in responses.calls] == [f"{URL}/v1/models"]


def test_a_new_list_gets_its_facts_and_the_same_list_stays_the_same_object() -> None:
    clock = Clock()
    with responses.RequestsMock() as mock:
        mock.get(f"{URL}/v1/models", json={"data": [{"id": "a", "max_model_len": "4096"}]})
        server = upstream(clock=clock, ttl=60)
        first = server.models()
        clock.seconds += 30
        assert server.models() is first
        mock.replace("GET", f"{URL}/v1/models", json={"data": [{"id": "b", "context_window": 9}]})
        clock.seconds += 31
        [model] = server.models()
    assert (model["id"], model["context_length"]) == ("b", 9)


def test_a_model_that_was_pulled_since_has_its_context_at_once() -> None:
    clock = Clock()
    old, new = "llama3.2:1b", "qwen3:8b"
    document = bodies("ollama")
    with responses.RequestsMock() as mock:
        for names in ([old], [old, new]):
            kept = [entry for entry in entries_of("ollama") if entry["id"] in names]
            mock.get(f"{URL}/v1/models", json={"data": kept})
        mock.get(f"{URL}/api/tags", json=document["GET /api/tags"])
        mock.get(f"{URL}/api/ps", json=document["GET /api/ps"])
        mock.post(f"{URL}/api/show", json=document[f"POST /api/show {old}"])
        server = upstream(clock=clock, ttl=10)
        server.models()
        clock.seconds += 10.5
        assert [model["context_length"] for model in server.models()] == [8192, 8192]


def test_what_an_entry_says_now_goes_before_what_was_learned_earlier() -> None:
    clock = Clock()
    with responses.RequestsMock() as mock:
        for context in (4096, 8192):
            mock.get(f"{URL}/v1/models", json={"data": [{"id": "a", "max_model_len": context}]})
        server = upstream(clock=clock, ttl=10)
        contexts = [server.models()[0]["context_length"]]
        clock.seconds += 10.5
        contexts.append(server.models()[0]["context_length"])
    assert contexts == [4096, 8192]


@pytest.mark.parametrize(
    ("url", "is_ours"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://localhost:8000/v1", True),
        ("http://[::1]:1234", True),
        ("http://192.168.1.20:8080", True),
        ("http://10.1.2.3", True),
        ("http://[fd00::1]:8080", True),
        ("http://100.101.102.103:11434", True),
        ("http://ollama:11434", True),
        ("http://nas.local:11434", True),
        ("http://gpu.home.arpa", True),
        ("http://host.docker.internal:11434", True),
        ("https://api.openai.com/v1", False),
        ("https://8.8.8.8/v1", False),
        ("http://local.example.org", False),
    ],
)
def test_a_server_at_home_is_free_and_no_other(url: str, is_ours: bool) -> None:
    assert is_at_home(url) == is_ours
    with responses.RequestsMock() as mock:
        base = url if url.endswith("/v1") else f"{url}/v1"
        mock.get(f"{base}/models", json={"data": [{"id": "a"}]})
        [model] = upstream(url).models()
    assert model.get("pricing") == ({"prompt": "0", "completion": "0"} if is_ours else None)


def test_an_endpoint_that_tells_its_prices_keeps_them() -> None:
    for pricing in ({"prompt": "0.000003", "completion": "0.000015"}, {"input": 0.88, "hourly": 0}):
        with responses.RequestsMock() as mock:
            mock.get("http://box/v1/models", json={"data": [{"id": "a", "pricing": pricing}]})
            [model] = upstream("http://box").models()
        assert model["pricing"] == pricing


def test_the_peers_of_an_ocf_node_are_not_called_free() -> None:
    table = {"p": {"service": [{"name": "llm", "identity_group": ["model=a/bge-m3"]}]}}
    with responses.RequestsMock() as mock:
        mock.get("http://127.0.0.1:8092/v1/dnt/table", json=table)
        [model] = upstream("http://127.0.0.1:8092", OCFUpstream).models()
    assert "pricing" not in model
    assert model["capabilities"] == ["embedding"]
