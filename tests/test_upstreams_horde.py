"""A chat on a horde, from the plan to the chunks, in a world with a clock of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import requests
import responses

from horde_proxy.errors import (
    InvalidApiKey,
    ModelNotFound,
    NoEligibleWorker,
    ProxyError,
    ShuttingDown,
    TimedOut,
    Unavailable,
    UpstreamFailed,
    UpstreamRefused,
)
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.chunks import fold
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.shutdown import Shutdown
from horde_proxy.upstreams.base import Accepted, Caller, Route, StreamItem, Waiting
from horde_proxy.upstreams.horde.model_facts import SUPPORTED_PARAMETERS
from horde_proxy.upstreams.horde.penalties import Penalized
from horde_proxy.upstreams.horde.text import TEXT
from horde_proxy.worker.backends import BackendError
from tests.support import HORDE_URL, OWNER_KEY, Clock, Scripted, World

HI = (Message("system", "Be kind."), Message("user", "Hi"))
BASE = f"{HORDE_URL}/api/v2"
SUBMIT = f"{BASE}/generate/text/async"
STATUS = f"{BASE}/generate/text/status/1"


class Timed(Scripted):
    """A backend of a slow worker: a job of 512 tokens takes 140 seconds."""

    def __init__(self, text: str, clock: Clock) -> None:
        super().__init__(text)
        self.clock = clock

    def generate(self, payload: Any, cancelled: Any) -> str:
        self.clock.seconds += 140
        return super().generate(payload, cancelled)


def chat(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"model": "test/model", "messages": HI, **fields})


def stream(
    world: World, request: GenerationRequest, caller: Caller | None = None
) -> Iterator[StreamItem]:
    upstream = world.upstream()
    return upstream.stream(request, Route(upstream, (request.model,)), caller or Caller())


def completed(world: World, request: GenerationRequest) -> dict[str, Any]:
    return fold(item for item in stream(world, request) if isinstance(item, dict))


def accepted(world: World, request: GenerationRequest) -> Accepted:
    first = next(stream(world, request))
    assert isinstance(first, Accepted)
    return first


def test_a_chat_is_rendered_submitted_and_answered(world: World) -> None:
    worker = world.employ(Scripted(" Hello there.<|im_end|>\n"))
    answer = completed(world, chat(max_tokens=100, sampling={"temperature": 0.5}))
    assert answer["choices"][0]["message"]["content"] == "Hello there."
    assert answer["choices"][0]["finish_reason"] == "stop"
    [payload] = worker.payloads
    assert payload["prompt"] == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert payload["max_length"] == 100
    assert payload["temperature"] == 0.5
    assert payload["stop_sequence"] == ["<|im_end|>", "<|im_start|>"]
    assert payload["use_default_badwordsids"] is False
    assert world.horde.open_requests() == []


def test_the_horde_object_says_what_the_requests_took(world: World) -> None:
    world.employ(Scripted("Hello."))
    found = completed(world, chat())["horde"]
    assert found["model"] == "test/model"
    assert [worker["name"] for worker in found["workers"]] == ["worker-1"]
    assert len(found["request_ids"]) == 1
    assert found["kudos"] > 0
    assert (found["queue_seconds"], found["generation_seconds"]) == (0.0, 0.25)


def test_headers_name_request_model_format_and_warnings(world: World) -> None:
    world.employ(Scripted("Hello."))
    request = chat(warnings=("seed: not supported",), max_tokens=9000, horde={"segments": False})
    headers = accepted(world, request).headers
    assert headers["X-Horde-Model"] == "test/model"
    assert headers["X-Horde-Format"] == "chatml"
    assert headers["X-Horde-Warnings"] == "seed: not supported; max_tokens: lowered to 512"
    assert len(headers["X-Horde-Request-Id"]) == 36


def test_without_warnings_there_is_no_warning_header(world: World) -> None:
    world.employ(Scripted("Hello."))
    assert "X-Horde-Warnings" not in accepted(world, chat()).headers


def test_a_warning_says_how_many_messages_were_left_out(world: World) -> None:
    world.employ(Scripted("Hello.", context=1024))
    turns = (Message("user", "word " * 900), Message("assistant", "A"), Message("user", "Hi"))
    warnings = accepted(world, chat(messages=turns)).headers["X-Horde-Warnings"]
    assert warnings == "messages: the 2 oldest were left out to fit the context"


def test_several_choices_come_with_their_index(world: World) -> None:
    world.employ(Scripted("Hello."))
    answer = completed(world, chat(n=3))
    assert [each["index"] for each in answer["choices"]] == [0, 1, 2]
    assert [each["message"]["content"] for each in answer["choices"]] == ["Hello."] * 3


def test_usage_counts_the_prompt_once_and_all_choices(world: World) -> None:
    world.employ(Scripted("one two three"))
    assert completed(world, chat(n=2))["usage"]["completion_tokens"] == 6
    assert completed(world, chat(n=1))["usage"]["completion_tokens"] == 3


def test_placeholders_are_sent_to_workers_that_fill_them_in(world: World) -> None:
    worker = world.employ(Scripted("Hello.{{[INPUT_END]}}", name="koboldcpp/model"))
    answer = completed(world, chat(model="koboldcpp/model"))
    assert worker.payloads[0]["prompt"] == (
        "{{[SYSTEM]}}Be kind.{{[SYSTEM_END]}}{{[INPUT]}}Hi{{[INPUT_END]}}{{[OUTPUT]}}"
    )
    assert worker.payloads[0]["stop_sequence"] == [
        "{{[INPUT]}}",
        "{{[OUTPUT]}}",
        "{{[INPUT_END]}}",
        "{{[OUTPUT_END]}}",
    ]
    assert answer["choices"][0]["message"]["content"] == "Hello."


def test_a_format_can_be_set_for_a_model(world: World) -> None:
    worker = world.employ(Scripted("Hello."))
    world.configure(formats={"test/*": "plain"})
    completed(world, chat())
    assert worker.payloads[0]["prompt"] == "Be kind.\n\nUser: Hi\nAssistant:"


def test_an_answer_that_ran_out_of_length_says_so(world: World) -> None:
    world.employ(Scripted("word " * 60))
    assert completed(world, chat(max_tokens=50))["choices"][0]["finish_reason"] == "length"


def test_a_censored_generation_is_filtered(world: World) -> None:
    censored = {
        "text": "some words",
        "state": "csam",
        "gen_metadata": [{"type": "censorship", "value": "csam"}],
    }
    items = poll_answers(world, {"json": {"done": True, "finished": 1, "generations": [censored]}})
    choice = fold(item for item in items if isinstance(item, dict))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "content_filter")


def test_a_waiting_has_state_and_position(world: World) -> None:
    bridge = world.bridge(Scripted("Hello."))
    bridge.step(world.session)
    items = stream(world, chat())
    seen = [next(items) for _ in range(8)]
    waiting = [item for item in seen if isinstance(item, Waiting)]
    assert waiting[-1] == Waiting("queued", 1, waiting[-1].seconds)


def test_a_waiting_comes_at_least_every_second(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    last = world.clock()
    for _, item in zip(range(100), stream(world, chat()), strict=False):
        if isinstance(item, Waiting):
            assert world.clock() - last <= 1
            last = world.clock()


def test_closing_the_stream_cancels_the_request(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    items = stream(world, chat())
    next(items)
    assert len(world.horde.open_requests()) == 1
    items.close()  # type: ignore[attr-defined]
    assert world.horde.open_requests() == []


def test_a_shutdown_cancels_the_request(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    halt = Shutdown()
    halt.set()
    world.runtime = replace(world.runtime, sleep=halt.sleep)
    upstream = world.upstream()
    with pytest.raises(ShuttingDown):
        list(upstream.stream(chat(), Route(upstream, ("test/model",)), Caller()))
    assert world.horde.open_requests() == []


def test_an_unknown_model_is_not_submitted(world: World) -> None:
    with pytest.raises(ModelNotFound):
        next(stream(world, chat(model="nope")))


def test_a_model_without_an_allowed_worker_is_unavailable(world: World) -> None:
    world.employ(Scripted("x"))
    with pytest.raises(Unavailable):
        next(stream(world, chat(horde={"workers": ["00000000-0000-0000-0000-000000000000"]})))


LEFT_OUT = (
    "the settings leave out its only online worker (`validated_backends`). To use it, set "
    "`validated_backends` to false under [horde], or in the request's object `horde`."
)


def test_a_model_of_unvalidated_workers_is_listed_as_not_available(world: World) -> None:
    """The worker of this very proxy is one, on the public horde."""
    world.configure(horde={"validated_backends": True})
    world.employ(Scripted("x"))
    [model] = world.upstream().models()
    assert model["horde"]["available"] is False
    assert model["horde"]["reason"] == LEFT_OUT
    assert (model["horde"]["workers"], model["horde"]["threads"]) == (0, 0)


def test_a_request_for_a_model_that_the_settings_exclude_is_refused_at_once(world: World) -> None:
    world.configure(horde={"validated_backends": True})
    worker = world.employ(Scripted("Hello."))
    began = world.clock()
    with pytest.raises(NoEligibleWorker) as raised:
        next(stream(world, chat()))
    assert str(raised.value) == f"`test/model` cannot be used now: {LEFT_OUT}"
    assert (raised.value.status, raised.value.code) == (503, "no_workers")
    assert raised.value.headers()["x-should-retry"] == "false"
    assert world.clock() == began
    # The request itself may have other filters.
    found = completed(world, chat(horde={"validated_backends": False}))
    assert found["choices"][0]["message"]["content"] == "Hello."
    assert len(worker.payloads) == 1


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"validated_backends": True}, "`validated_backends` to false"),
        ({"slow_workers": False}, "`slow_workers` to true"),
        ({"least_speed": 1000.0}, "a lower `least_speed`"),
        ({"allow_workers": ["other"]}, "other `allow_workers` (in a request: `workers`)"),
        ({"deny_workers": ["worker-1"]}, "other `deny_workers`"),
    ],
)
def test_what_is_offered_is_admitted_and_what_is_not_is_refused_by_its_setting(
    world: World, settings: dict[str, Any], setting: str
) -> None:
    world.employ(Timed("Hello.", world.clock))
    assert completed(world, chat())["choices"][0]["message"]["content"] == "Hello."
    world.clock.seconds += 2
    assert world.upstream().models()[0]["horde"]["available"] is True
    world.configure(horde=settings)
    [model] = world.upstream().models()
    assert model["horde"]["available"] is False
    assert f"To use it, set {setting} under [horde]" in model["horde"]["reason"]
    with pytest.raises(NoEligibleWorker, match=re.escape(setting)):
        next(stream(world, chat()))


def test_a_model_whose_last_worker_is_in_maintenance_is_a_503_that_says_so(world: World) -> None:
    world.employ(Scripted("Hello."))
    [worker] = world.horde.fleet.workers("text", None)
    world.horde.fleet.change_worker(OWNER_KEY, worker["id"], {"maintenance": True})
    [model] = world.upstream().models()
    assert model["horde"]["available"] is False
    assert model["horde"]["reason"] == "its only worker is in maintenance."
    with pytest.raises(Unavailable) as raised:
        next(stream(world, chat()))
    assert (
        str(raised.value) == "`test/model` cannot be used now: its only worker is in maintenance."
    )
    assert raised.value.headers() == {"Retry-After": "30"}
    client = world.http()
    body = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}]}
    assert client.post("/v1/chat/completions", json=body).status_code == 503
    # When the worker is back, so is the model.
    world.horde.fleet.change_worker(OWNER_KEY, worker["id"], {"maintenance": False})
    world.clock.seconds += 2
    assert client.post("/v1/chat/completions", json=body).status_code == 200


def test_a_worker_in_maintenance_takes_no_place_beside_those_that_answer(world: World) -> None:
    world.employ(Scripted("Hello.", context=32768), "resting")
    [resting] = world.horde.fleet.workers("text", None)
    world.horde.fleet.change_worker(OWNER_KEY, resting["id"], {"maintenance": True})
    world.employ(Scripted("Hello.", context=4096), "working")
    [model] = world.upstream().models()
    assert (model["horde"]["available"], model["horde"]["workers"]) == (True, 1)
    assert model["context_length"] == 4096
    found = completed(world, chat())["horde"]["workers"]
    assert [worker["name"] for worker in found] == ["working"]


def test_only_workers_that_may_answer_count_in_a_models_entry(world: World) -> None:
    world.employ(Scripted("x", max_length=300, context=4096), "mine")
    world.employ(Scripted("x", max_length=1024, context=32768), "other")
    world.configure(horde={"deny_workers": ["other"]})
    [model] = world.upstream().models()
    assert (model["horde"]["workers"], model["horde"]["threads"]) == (1, 1)
    assert (model["horde"]["max_length"], model["context_length"]) == (300, 4096)


def test_a_requests_worker_filters_reach_the_horde(world: World) -> None:
    world.employ(Scripted("Hello."))
    found = completed(world, chat(horde={"trusted_workers": True}))
    assert found["choices"][0]["message"]["content"] == "Hello."


def test_a_faulted_request_is_a_failing_upstream(world: World) -> None:
    class Failing(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            raise BackendError("no")

    world.employ(Failing(""))
    with pytest.raises(UpstreamFailed, match="workers failed"):
        list(stream(world, chat()))


def test_a_worker_that_fails_once_costs_only_time(world: World) -> None:
    class Shaky(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            super().generate(payload, cancelled)
            if len(self.payloads) < 3:
                raise BackendError("no")
            return self.text

    world.employ(Shaky("Hello."))
    assert completed(world, chat())["choices"][0]["message"]["content"] == "Hello."


def test_a_request_that_no_worker_can_take_is_cancelled(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    items = stream(world, chat())
    next(items)
    [worker] = world.horde.fleet.workers("text", None)
    world.horde.fleet.change_worker(OWNER_KEY, worker["id"], {"maintenance": True})
    start = world.clock()
    with pytest.raises(Unavailable) as raised:
        list(items)
    assert str(raised.value) == (
        "No worker of the horde offers test/model with a context of 768 and a length of 512 "
        "tokens now."
    )
    assert 65 <= world.clock() - start <= 70
    assert world.horde.open_requests() == []


def test_a_request_that_the_horde_forgot_is_sent_again(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    items = stream(world, chat())
    first = next(items)
    assert isinstance(first, Accepted)
    world.client.cancel(TEXT, first.headers["X-Horde-Request-Id"])
    world.employ(Scripted("Hello."))
    answer = fold(item for item in items if isinstance(item, dict))
    assert answer["choices"][0]["message"]["content"] == "Hello."
    assert len(answer["horde"]["request_ids"]) == 2


def test_a_horde_that_forgets_again_and_again_is_a_failing_upstream(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world.clock.every_sleep.append(
        lambda: [world.client.cancel(TEXT, each.id) for each in world.horde.open_requests()]
    )
    with pytest.raises(UpstreamFailed, match="lost the request"):
        list(stream(world, chat()))


def test_a_model_is_measured_once_it_has_answered(world: World) -> None:
    class Slow(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            world.clock.seconds += 5
            return super().generate(payload, cancelled)

    world.employ(Slow("word " * 50))
    upstream = world.upstream()
    [entry] = upstream._horde.catalog.models().values()
    assert not upstream._horde.throughput.expected(entry, 100).is_measured
    list(upstream.stream(chat(), Route(upstream, ("test/model",)), Caller()))
    expected = upstream._horde.throughput.expected(entry, 100)
    assert (expected.is_measured, round(expected.generation)) == (True, 5)


def test_polls_stay_within_the_hordes_rate_limit(world: World) -> None:
    """The private horde has the real limits: 60 polls of an id in a minute, then a 429."""
    world.bridge(Scripted("x")).step(world.session)
    statuses: list[int] = []
    adapter = world.session.get_adapter(HORDE_URL)
    send = adapter.send

    def counted(*args: Any, **kwargs: Any) -> requests.Response:
        response = send(*args, **kwargs)
        statuses.append(response.status_code)
        return response

    adapter.send = counted  # type: ignore[method-assign]
    items = stream(world, chat())
    start = world.clock()
    while world.clock() - start < 300:
        next(items)
    assert len(statuses) > 200
    assert 429 not in statuses


def test_a_submit_that_comes_too_soon_is_tried_again(world: World) -> None:
    world.employ(Scripted("Hello."))
    for _ in range(4):
        assert completed(world, chat())["choices"][0]["message"]["content"] == "Hello."
    world.clock.every_sleep.clear()
    for _ in range(5):
        next(stream(world, chat()))


def test_a_job_is_as_long_as_the_kudos_allow(world: World) -> None:
    world.horde.upfront_kudos = True
    world.configure(horde={"api_key": "0000000000"})
    worker = world.employ(Scripted("Hello.", max_length=2048))
    answer = completed(world, chat(max_tokens=2000))
    assert worker.payloads[0]["max_length"] == 512
    assert answer["choices"][0]["finish_reason"] == "stop"


@contextmanager
def scripted_horde(world: World) -> Iterator[responses.RequestsMock]:
    """A horde of recorded answers in place of the private one; submits are accepted as id 1."""
    world.session.adapters.pop(HORDE_URL)
    with responses.RequestsMock(assert_all_requests_are_fired=False) as horde:
        horde.get(f"{BASE}/status/models", json=[{"name": "test/model", "count": 1}])
        horde.get(f"{BASE}/workers", json=[])
        horde.post(SUBMIT, status=202, json={"id": "1", "kudos": 0.0})
        horde.delete(STATUS, json={})
        yield horde


def poll_answers(world: World, *answers: dict[str, Any], n: int = 1) -> list[StreamItem]:
    """The items when the horde answers the polls so, the last answer being repeated."""
    with scripted_horde(world) as horde:
        for answer in answers:
            horde.get(STATUS, **answer)
        return list(stream(world, chat(n=n)))


def test_a_submit_that_stays_refused_waits_as_long_as_the_client(world: World) -> None:
    with scripted_horde(world) as horde:
        horde.replace(
            responses.POST,
            SUBMIT,
            status=429,
            json={"message": "90 per 1 minute"},
            headers={"Retry-After": "9"},
        )
        start = world.clock()
        with pytest.raises(TimedOut):
            list(stream(world, chat(), Caller(deadline=start + 60)))
    assert 58 <= world.clock() - start < 61


DONE = {"json": {"done": True, "finished": 1, "generations": [{"text": "Hello.", "state": "ok"}]}}


@pytest.mark.parametrize(
    "trouble",
    [
        {"status": 502, "body": "<html>"},
        {"status": 500, "json": {"message": "Internal Server Error"}},
        {"status": 200, "body": "{"},
        {"body": requests.ConnectionError("gone")},
        {"status": 429, "json": {"message": "60 per 1 minute"}, "headers": {"Retry-After": "25"}},
        {
            "json": {
                "done": True,
                "faulted": False,
                "finished": 0,
                "processing": 1,
                "restarted": 2,
                "generations": [],
            }
        },
    ],
)
def test_a_failing_poll_does_not_lose_the_answer(world: World, trouble: dict[str, Any]) -> None:
    items = poll_answers(world, trouble, DONE)
    assert any("Hello." in str(item) for item in items)


def test_a_429_is_waited_out(world: World) -> None:
    start = world.clock()
    limited = {"status": 429, "json": {"message": "m"}, "headers": {"Retry-After": "25"}}
    poll_answers(world, limited, DONE)
    assert world.clock() - start >= 25


def test_a_horde_that_stays_away_is_given_up_after_a_minute(world: World) -> None:
    start = world.clock()
    with pytest.raises(UpstreamFailed):
        poll_answers(world, {"status": 502, "body": "<html>"})
    assert 60 < world.clock() - start < 65


@pytest.mark.parametrize(
    "status",
    [
        {"done": True, "faulted": True, "generations": []},
        {"done": True, "processing": 0, "generations": []},
    ],
)
def test_an_end_without_an_answer_is_an_error(world: World, status: dict[str, Any]) -> None:
    with pytest.raises(ProxyError):
        poll_answers(world, {"json": status})


def test_of_a_hundred_thousand_generations_one_counts_for_each_choice(world: World) -> None:
    more = [{"text": "Hello.", "state": "ok", "model": "m", "worker_id": "w"}] * 20_000
    status = {"done": True, "finished": 20_000, "generations": more}
    items = poll_answers(world, {"json": status}, n=2)
    answer = fold(item for item in items if isinstance(item, dict))
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hello.", "Hello."]
    assert answer["usage"]["completion_tokens"] == 4


def test_names_and_texts_of_a_generation_are_bounded(world: World) -> None:
    generation = {
        "text": "word " * 1_000_000,
        "state": "ok",
        "model": "x" * 100_000,
        "worker_id": "a\nb",
        "worker_name": {"a": 1},
    }
    status = {"done": True, "finished": 1, "generations": [generation]}
    items = poll_answers(world, {"json": status})
    answer = fold(item for item in items if isinstance(item, dict))
    assert answer["model"] == "test/model"
    # 512 tokens is what a worker without a list may be asked for, at 256 characters each.
    assert len(answer["choices"][0]["message"]["content"]) <= 512 * 256
    assert answer["horde"]["workers"] == [{"id": "", "name": ""}]


def test_a_missing_generation_is_requested_again(world: World) -> None:
    partly = {
        "done": True,
        "faulted": True,
        "finished": 1,
        "generations": [{"text": "Hello.", "state": "ok"}],
    }
    items = poll_answers(world, {"json": partly}, n=2)
    answer = fold(item for item in items if isinstance(item, dict))
    assert [each["message"]["content"] for each in answer["choices"]] == ["Hello.", "Hello."]
    assert answer["horde"]["retries"] == 1


def test_model_objects_have_openais_fields_and_the_hordes(world: World) -> None:
    world.employ(Scripted("x", max_length=300, context=4096))
    [model] = world.upstream().models()
    horde = model.pop("horde")
    assert model == {
        "id": "test/model",
        "object": "model",
        "created": 1000,
        "owned_by": "ai-horde",
        "root": "test/model",
        "parent": None,
        "per_request_limits": None,
        "context_length": 4096,
        "max_model_len": 4096,
        "max_output_tokens": 2048,
        "max_completion_tokens": 2048,
        "architecture": {
            "modality": "text->text",
            "input_modalities": ["text"],
            "output_modalities": ["text"],
            "tokenizer": "Other",
        },
        "pricing": {"prompt": "0", "completion": "0"},
        "top_provider": {
            "context_length": 4096,
            "max_completion_tokens": 2048,
            "is_moderated": False,
        },
        "supported_parameters": [
            *("max_tokens", "max_completion_tokens", "n", "stop", "temperature", "top_p"),
            *("frequency_penalty", "presence_penalty", "top_k", "min_p", "top_a", "tfs"),
            *("typical", "typical_p", "rep_pen", "repetition_penalty", "repeat_penalty"),
            *("rep_pen_range", "rep_pen_slope", "smoothing_factor", "dynatemp_range"),
            *("dynatemp_exponent", "sampler_order", "response_format", "structured_outputs"),
            *("tools", "tool_choice", "parallel_tool_calls"),
        ],
        "capabilities": ["completion", "tools"],
        "reasoning": False,
        "meta": {"n_ctx": 4096},
    }
    assert (horde["workers"], horde["threads"], horde["max_length"]) == (1, 1, 300)
    assert horde["format"] == "chatml"
    assert sorted(horde) == [
        *(
            "available",
            "eta",
            "expected_seconds",
            "format",
            "max_length",
            "queued_tokens",
            "threads",
        ),
        *("tokens_per_second", "tools", "workers"),
    ]


def test_a_models_name_tells_size_quantisation_and_reasoning(world: World) -> None:
    world.employ(Scripted("x", name="koboldcpp/Qwen3-8B-Q4_K_M", context=32768))
    world.configure(tool_styles={"*": "none"}, horde={"segments": False})
    [model] = world.upstream().models()
    assert (model["quantization"], model["reasoning"]) == ("Q4_K_M", True)
    assert model["meta"] == {"n_ctx": 32768, "n_params": 8_000_000_000}
    assert model["capabilities"] == ["completion", "thinking"]
    assert model["supported_parameters"][-2:] == ["reasoning", "include_reasoning"]
    # Without a chain an answer is one job, of at most 512 tokens at this worker.
    assert model["max_output_tokens"] == 512


# A value for each parameter that differs from what a request without it has.
VALUES: dict[str, Any] = {
    "stop": ["END"],
    "sampler_order": [0, 1, 2, 3, 4, 5, 6],
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "n": 2,
    "top_k": 20,
    "rep_pen_range": 20,
    "max_tokens": 99,
    "max_completion_tokens": 99,
}


@pytest.mark.parametrize("name", [*SUPPORTED_PARAMETERS, "tools", "tool_choice"])
def test_every_supported_parameter_changes_the_request_without_a_warning(name: str) -> None:
    if name == "structured_outputs":  # the same field as response_format
        return
    tools = {"tools": VALUES["tools"]} if name == "tool_choice" else {}
    plain = {"model": "m", "messages": [{"role": "user", "content": "x"}], **tools}
    before = read_chat(plain)
    after = read_chat({**plain, name: VALUES.get(name, 0.5)})
    assert after.warnings == ()
    assert after != before


def test_a_refusal_of_the_proxys_own_key_is_no_fault_of_the_caller(world: World) -> None:
    world.employ(Scripted("Hello."))
    world.configure(horde={"api_key": "unknown-key-of-the-proxy"})
    with pytest.raises(UpstreamRefused) as raised:
        completed(world, chat())
    assert str(raised.value) == (
        "it refuses the api_key that is configured for it: The horde does not know this API key. "
        "The owner of this proxy should look into it"
    )
    assert (raised.value.status, raised.value.retry_after) == (502, 60)


def test_a_refusal_of_the_callers_own_key_stays_its_own(world: World) -> None:
    world.employ(Scripted("Hello."))
    with pytest.raises(InvalidApiKey, match="The horde does not know this API key."):
        list(stream(world, chat(), Caller(api_key="unknown-key-of-the-caller")))


@pytest.mark.parametrize("key", [None, "own-key-of-the-caller"])
@responses.activate
def test_an_address_in_timeout_is_no_fault_of_any_caller(key: str | None) -> None:
    world = World()
    world.session = requests.Session()
    responses.get(f"{BASE}/status/models", json=[{"name": "test/model", "count": 1}])
    responses.get(f"{BASE}/workers", json=[])
    responses.get(f"{BASE}/find_user", json={"kudos": 10})
    responses.post(SUBMIT, status=403, json={"message": "m", "rc": "TimeoutIP"})
    with pytest.raises(Penalized, match="The horde has put this proxy's address in time-out"):
        list(stream(world, chat(), Caller(api_key=key)))
