"""What servers get of a job's sampling, what they tell of their load, and how they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import requests
import responses

from horde_proxy.worker.backends import (
    BackendDown,
    BackendError,
    BackendOptions,
    JobRefused,
    ReportsState,
    ServerState,
    open_backend,
    open_backends,
)
from horde_proxy.worker.backends.samplers import (
    LLAMA_CPP,
    LM_STUDIO,
    OLLAMA,
    OPENAI_COMPATIBLE,
    TABBY_API,
    VLLM,
    Dialect,
)
from horde_proxy.worker.backends.server_state import (
    kobold_state,
    llama_cpp_slots,
    llama_cpp_state,
    vllm_state,
)
from horde_proxy.worker.formatting import formatted

URL = "http://backend.invalid:5001"
# What KoboldAI Lite sends to the horde, completed with the horde's defaults.
PAYLOAD: dict[str, Any] = {
    "prompt": "Once",
    "n": 1,
    "max_context_length": 2048,
    "max_length": 80,
    "rep_pen": 1.1,
    "rep_pen_range": 320,
    "rep_pen_slope": 0.7,
    "temperature": 0.7,
    "tfs": 0.9,
    "top_a": 0.1,
    "top_k": 40,
    "top_p": 0.9,
    "typical": 0.8,
    "sampler_order": [6, 0, 1, 3, 4, 2, 5],
    "use_default_badwordsids": True,
    "singleline": True,
    "frmttriminc": False,
    "stop_sequence": ["END"],
    "min_p": 0.05,
    "smoothing_factor": 0.3,
    "dynatemp_range": 0.2,
    "dynatemp_exponent": 2.0,
}
# Capture text_pop_defaults.
DEFAULTS = {
    "prompt": "Once",
    "n": 1,
    "max_context_length": 2048,
    "max_length": 80,
    "min_p": 0.0,
    "smoothing_factor": 0.0,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
}


def never() -> bool:
    return False


@pytest.mark.parametrize(
    ("dialect", "body", "unknown"),
    [
        (
            LLAMA_CPP,
            {
                "max_tokens": 80,
                "repeat_penalty": 1.1,
                "repeat_last_n": 320,
                "temperature": 0.7,
                "top_k": 40,
                "top_p": 0.9,
                "typical_p": 0.8,
                "samplers": ["penalties", "top_k", "typ_p", "top_p", "min_p", "temperature"],
                "ignore_eos": True,
                "stop": ["END"],
                "min_p": 0.05,
                "dynatemp_range": 0.2,
                "dynatemp_exponent": 2.0,
            },
            ["rep_pen_slope", "tfs", "top_a", "smoothing_factor"],
        ),
        (
            VLLM,
            {
                "max_tokens": 80,
                "repetition_penalty": 1.1,
                "temperature": 0.7,
                "top_k": 40,
                "top_p": 0.9,
                "ignore_eos": True,
                "stop": ["END"],
                "min_p": 0.05,
            },
            [
                "rep_pen_range",
                "rep_pen_slope",
                "tfs",
                "top_a",
                "typical",
                "sampler_order",
                "smoothing_factor",
                "dynatemp_range",
                "dynatemp_exponent",
            ],
        ),
        (
            TABBY_API,
            {
                "max_tokens": 80,
                "repetition_penalty": 1.1,
                "penalty_range": 320,
                "temperature": 0.7,
                "tfs": 0.9,
                "top_a": 0.1,
                "top_k": 40,
                "top_p": 0.9,
                "typical": 0.8,
                "ban_eos_token": True,
                "stop": ["END"],
                "min_p": 0.05,
                "smoothing_factor": 0.3,
                "min_temp": pytest.approx(0.5),
                "max_temp": pytest.approx(0.9),
                "temp_exponent": 2.0,
            },
            ["rep_pen_slope", "sampler_order"],
        ),
        (
            OLLAMA,
            {
                "num_ctx": 2048,
                "num_predict": 80,
                "repeat_penalty": 1.1,
                "repeat_last_n": 320,
                "temperature": 0.7,
                "top_k": 40,
                "top_p": 0.9,
                "typical_p": 0.8,
                "stop": ["END"],
                "min_p": 0.05,
            },
            [
                "rep_pen_slope",
                "tfs",
                "top_a",
                "sampler_order",
                "use_default_badwordsids",
                "smoothing_factor",
                "dynatemp_range",
                "dynatemp_exponent",
            ],
        ),
        (
            OPENAI_COMPATIBLE,
            {
                "max_tokens": 80,
                "repetition_penalty": 1.1,
                "repeat_penalty": 1.1,
                "temperature": 0.7,
                "top_k": 40,
                "top_p": 0.9,
                "stop": ["END"],
                "min_p": 0.05,
            },
            [
                "rep_pen_range",
                "rep_pen_slope",
                "tfs",
                "top_a",
                "typical",
                "sampler_order",
                "use_default_badwordsids",
                "smoothing_factor",
                "dynatemp_range",
                "dynatemp_exponent",
            ],
        ),
    ],
    ids=["llama.cpp", "vLLM", "TabbyAPI", "Ollama", "unknown"],
)
def test_each_kind_of_server_gets_the_sampling_in_its_own_words(
    dialect: Dialect, body: dict[str, Any], unknown: list[str]
) -> None:
    assert dialect.translated(PAYLOAD) == (body, unknown)


@pytest.mark.parametrize("dialect", [LLAMA_CPP, VLLM, TABBY_API, LM_STUDIO, OLLAMA])
def test_a_plain_job_has_nothing_that_a_server_does_not_know(dialect: Dialect) -> None:
    assert dialect.translated(DEFAULTS)[1] == []


@pytest.mark.parametrize(
    ("field", "value", "body"),
    [
        ("top_k", 0, {"top_k": -1}),
        ("top_k", 40, {"top_k": 40}),
        ("rep_pen", 3.0, {"repetition_penalty": 2.0}),
    ],
)
def test_vllm_gets_values_that_it_takes(field: str, value: float, body: dict[str, Any]) -> None:
    assert VLLM.translated({field: value}) == (body, [])


@responses.activate
def test_a_parameter_that_a_server_does_not_know_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    responses.get(f"{URL}/v1/models", json={"data": [{"id": "m", "owned_by": "llamacpp"}]})
    responses.post(f"{URL}/v1/completions", json={"choices": [{"text": " upon"}]})
    backend = open_backend(URL)
    for _ in range(3):
        backend.generate({"prompt": "Once", "tfs": 0.5}, never)
    assert caplog.messages == [f"the backend at {URL} does not know tfs: it is left out"]


@pytest.mark.parametrize(
    ("text", "payload", "expected"),
    [
        ("One. Two, and", {"frmttriminc": True}, "One."),
        ('He said "no." And', {"frmttriminc": True}, 'He said "no."'),
        ("no end", {"frmttriminc": True}, "no end"),
        ("a\n\n\nb\nc", {"frmtrmblln": True}, "a\nb\nc"),
        ("a#b <c>", {"frmtrmspch": True}, "ab c"),
        ("\nfirst\nsecond", {"singleline": True}, "first"),
        ("a\n\nb", {"singleline": False, "frmtrmblln": "yes"}, "a\n\nb"),
        ("One. Two\nthree.", {"frmttriminc": True, "singleline": True}, "One. Two"),
    ],
)
def test_a_text_is_formatted_as_the_job_asks(
    text: str, payload: dict[str, Any], expected: str
) -> None:
    assert formatted(text, payload) == expected


def reading(pages: Mapping[str, str]) -> Callable[[str], str | None]:
    return pages.get


def test_llama_cpp_tells_its_requests() -> None:
    metrics = (
        "# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing 2\n"
        "llamacpp:requests_deferred 1\nllamacpp:tokens_predicted_total 9\n"
    )
    slots = json.dumps([{"id": 0, "is_processing": True}, {"id": 1, "is_processing": False}])
    assert llama_cpp_state(reading({"/metrics": metrics, "/slots": slots})) == ServerState(3)
    assert llama_cpp_state(reading({"/slots": slots})) == ServerState(1)
    assert llama_cpp_state(reading({"/health": "{}"})) == ServerState(None)
    assert llama_cpp_state(reading({})) is None
    assert llama_cpp_slots(reading({"/props": '{"total_slots": 4}'})) == 4
    assert llama_cpp_slots(reading({"/props": '{"total_slots": "4"}'})) is None


def test_vllm_and_koboldcpp_tell_their_requests() -> None:
    metrics = (
        'vllm:num_requests_running{engine="0",model_name="a b"} 2.0\n'
        'vllm:num_requests_waiting{engine="0",model_name="a b"} 3.0\n'
    )
    assert vllm_state(reading({"/metrics": metrics})) == ServerState(5)
    assert vllm_state(reading({"/v1/models": "{}"})) == ServerState(None)
    assert kobold_state(reading({"/api/extra/perf": '{"queue": 1, "idle": 0}'})) == ServerState(2)
    assert kobold_state(reading({"/api/extra/perf": '{"queue": 0, "idle": 1}'})) == ServerState(0)
    assert kobold_state(reading({"/api/v1/model": "{}"})) == ServerState(None)
    assert kobold_state(reading({"/api/extra/perf": "no JSON"})) is None


@responses.activate
def test_a_server_that_does_not_answer_is_down() -> None:
    listing = responses.get(f"{URL}/v1/models", json={"data": [{"id": "m"}]})
    backend = open_backend(URL)
    assert isinstance(backend, ReportsState)
    assert (backend.state(), backend.slots()) == (ServerState(None), None)
    responses.remove(listing)
    responses.get(f"{URL}/v1/models", body=requests.ConnectionError("x"))
    with pytest.raises(BackendDown, match="does not answer"):
        backend.state()


@pytest.mark.parametrize(
    ("failure", "kind", "reason"),
    [
        ({"status": 400}, JobRefused, "the backend refuses the job with status 400"),
        ({"status": 503}, BackendDown, "the backend is down"),
        ({"status": 401}, BackendDown, "the backend is down"),
        ({"status": 500}, BackendError, "the backend failed"),
        ({"body": requests.ConnectionError("x")}, BackendDown, "the backend is down"),
        ({"body": requests.ReadTimeout("x")}, BackendError, "the backend failed"),
        ({"body": "<html>"}, BackendError, "the backend failed"),
    ],
)
@responses.activate
def test_a_failure_says_whether_the_next_job_may_fare_better(
    failure: dict[str, Any], kind: type[BackendError], reason: str
) -> None:
    responses.get(f"{URL}/v1/models", json={"data": [{"id": "m"}]})
    responses.post(f"{URL}/v1/completions", **failure)
    with pytest.raises(BackendError) as raised:
        open_backend(URL).generate(PAYLOAD, never)
    assert (type(raised.value), raised.value.reason) == (kind, reason)


@responses.activate
def test_the_servers_key_and_kind_may_be_set() -> None:
    listing = responses.get(f"{URL}/v1/models", json={"data": [{"id": "m"}]})
    generate = responses.post(f"{URL}/v1/completions", json={"choices": [{"text": "x"}]})
    backend = open_backend(URL, BackendOptions(kind="llama.cpp", api_key="secret"))
    backend.generate({"prompt": "Once", "rep_pen": 1.2}, never)
    assert listing.calls[0].request.headers["Authorization"] == "Bearer secret"
    assert json.loads(generate.calls[0].request.body) == {
        "repeat_penalty": 1.2,
        "model": "m",
        "prompt": "Once",
    }
    assert "secret" not in repr(BackendOptions(api_key="secret"))


@responses.activate
def test_several_models_of_a_server_are_offered_by_globs() -> None:
    names = ["Qwen3-8B", "Qwen3-0.6B", "Llama-3.2-1B", "bge-m3"]
    responses.get(f"{URL}/v1/models", json={"data": [{"id": name} for name in names]})

    def offered(*models: str, without: tuple[str, ...] = ()) -> list[str]:
        options = BackendOptions(kind="openai", models=models, denied_models=without)
        return [backend.name for backend in open_backends(URL, options)]

    assert offered("*") == ["Qwen3-8B", "Qwen3-0.6B", "Llama-3.2-1B"]
    assert offered("llama*", "qwen3-8b") == ["Qwen3-8B", "Llama-3.2-1B"]
    assert offered("*", without=("qwen*",)) == ["Llama-3.2-1B"]
    with pytest.raises(BackendError, match="has no model mistral: it has Llama-3.2-1B, Qwen3"):
        offered("mistral")
    with pytest.raises(BackendError, match="has no model that writes text: bge-m3"):
        offered("bge*")
    with pytest.raises(BackendError, match="denied_models leaves no model of .*: Llama-3.2-1B, Q"):
        offered("*", without=("*",))


def test_a_built_in_model_may_be_denied() -> None:
    assert open_backends("echo", BackendOptions(denied_models=["qwen*"]))[0].name.endswith("echo")
    with pytest.raises(BackendError, match="denied_models leaves no model of echo"):
        open_backends("echo", BackendOptions(denied_models=["*echo"]))


@responses.activate
def test_a_koboldcpp_is_told_to_stop_what_is_not_needed_any_more() -> None:
    responses.get(f"{URL}/api/v1/model", json={"result": "koboldcpp/Some-8B"})
    generate = responses.post(f"{URL}/api/v1/generate", body=requests.ConnectionError("shut down"))
    abort = responses.post(f"{URL}/api/extra/abort", json={"success": "true"})
    with pytest.raises(BackendError, match="cancelled"):
        open_backend(URL).generate(PAYLOAD, lambda: True)
    key = json.loads(generate.calls[0].request.body)["genkey"]
    assert json.loads(abort.calls[0].request.body) == {"genkey": key}
