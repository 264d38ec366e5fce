"""The older completions, opencode.json, and clients in a loop, through the front."""

from __future__ import annotations

import json
from typing import Any

import openai.types
import pytest

from tests.support import Scripted, World

CHAT = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}]}


def complete(world: World, **fields: Any) -> Any:
    body = {"model": "test/model", "prompt": "Once upon", **fields}
    return world.http().post("/v1/completions", json=body)


def test_a_prompt_reaches_the_model_without_a_chat_format(world: World) -> None:
    worker = world.employ(Scripted(" a time,\nthere was"))
    answer = complete(world, prompt="Once {{[INPUT]}} upon", temperature=0.5).json
    openai.types.Completion.model_validate(answer, strict=False)
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"] == [
        {"text": " a time,\nthere was", "index": 0, "logprobs": None, "finish_reason": "stop"}
    ]
    [payload] = worker.payloads
    assert payload["prompt"] == "Once {{[INPUT]}} upon"
    assert payload["max_length"] == 256
    assert payload["temperature"] == 0.5


def test_each_prompt_of_a_list_has_its_own_choices(world: World) -> None:
    world.employ(Scripted(" x"))
    answer = complete(world, prompt=["one", "two"], n=2, echo=True).json
    assert [each["text"] for each in answer["choices"]] == ["one x", "one x", "two x", "two x"]
    assert [each["index"] for each in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 4


def test_completions_are_streamed(world: World) -> None:
    world.employ(Scripted(" a time"))
    response = complete(world, stream=True, echo=True, stream_options={"include_usage": True})
    *events, done = [line for line in response.text.split("\n\n") if line]
    found = [json.loads(each[6:]) for each in events]
    assert done == "data: [DONE]"
    assert (
        "".join(choice["text"] for each in found for choice in each["choices"])
        == "Once upon a time"
    )
    assert {each["object"] for each in found} == {"text_completion"}
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["total_tokens"] > 0
    assert found[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[1]]}, "prompt"),
        ({"n": 9}, "n"),
        ({"prompt": ["a"] * 21}, "prompt"),
        ({"max_tokens": "80"}, "max_tokens"),
    ],
)
def test_what_cannot_be_completed_is_refused(
    world: World, fields: dict[str, Any], param: str
) -> None:
    response = complete(world, **fields)
    assert response.status_code == 400
    assert response.json["error"]["param"] == param


def test_a_missing_prompt_is_named(world: World) -> None:
    response = world.http().post("/v1/completions", json={"model": "test/model"})
    assert response.json is not None
    assert response.json["error"]["code"] == "missing_required_parameter"


def test_nulls_are_absent_and_what_is_not_done_is_named(world: World) -> None:
    world.employ(Scripted(" x"))
    response = complete(world, suffix=None, logprobs=2, best_of=3, echo=None, max_tokens=None)
    assert response.status_code == 200
    assert response.headers["X-Horde-Warnings"] == (
        "logprobs: not supported; best_of: not supported"
    )


@pytest.mark.parametrize("stream", [True, False])
def test_a_limit_below_one_is_the_default_with_a_warning(world: World, stream: bool) -> None:
    worker = world.employ(Scripted(" x"))
    response = complete(world, max_tokens=-1, stop=["END", None, ""], stream=stream)
    assert response.status_code == 200
    warning = "max_tokens: below 1, so the default is used"
    assert response.headers["X-Horde-Warnings"] == warning
    assert response.text
    [payload] = worker.payloads
    assert payload["max_length"] == 256
    assert payload["stop_sequence"] == ["END"]


def test_an_answer_is_cut_at_a_stop_that_the_horde_did_not_get(world: World) -> None:
    worker = world.employ(Scripted(" a time END240 there"))
    stops = [f"END{number}" for number in range(100, 250)]
    response = complete(world, stop=stops)
    assert response.json["choices"][0]["text"] == " a time "
    assert response.json["choices"][0]["finish_reason"] == "stop"
    assert "X-Horde-Warnings" not in response.headers
    assert "END249" not in worker.payloads[0]["stop_sequence"]


def test_in_strict_mode_a_limit_below_one_is_refused(world: World) -> None:
    world.employ(Scripted(" x"))
    world.configure(server={"strict": True})
    response = complete(world, max_tokens=0)
    assert response.status_code == 400
    assert response.json["error"]["code"] == "integer_below_min_value"


def test_opencodes_configuration_is_served(world: World) -> None:
    world.employ(Scripted("x", context=16384))
    found = world.http().get("/v1/opencode.json?key={env:KEY}").json
    assert found is not None
    assert found["model"] == found["small_model"] == "horde/test/model"
    provider = found["provider"]["horde"]
    assert provider["options"]["baseURL"] == "http://localhost/v1"
    assert provider["options"]["apiKey"] == "{env:KEY}"
    assert provider["models"]["test/model"] == {
        "name": "test/model",
        "tool_call": True,
        "cost": {"input": 0, "output": 0},
        "limit": {"context": 16384, "output": 4096},
    }


def test_opencodes_configuration_without_a_capable_model_is_a_503(world: World) -> None:
    world.employ(Scripted("x", context=4096))
    assert world.http().get("/v1/opencode.json").status_code == 503
    assert world.http().get("/v1/opencode.json?min_context=1000").status_code == 200


def test_a_client_in_a_loop_gets_a_400_that_nobody_retries(world: World) -> None:
    world.employ(Scripted("Hello."))
    world.configure(server={"loop_limit": 5})
    http = world.http()
    statuses = []
    for number in range(8):
        empty = [{"role": "assistant", "content": ""}] * (number % 3)
        body = {**CHAT, "messages": [*CHAT["messages"], *empty]}
        statuses.append(http.post("/v1/chat/completions", json=body).status_code)
    assert statuses == [200] * 5 + [400] * 3
    refused = http.post("/v1/chat/completions", json=CHAT)
    assert refused.json is not None
    assert refused.json["error"]["code"] == "repeated_request"
    assert "x-should-retry" not in refused.headers
    world.clock.seconds += 61
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_another_message_is_no_loop(world: World) -> None:
    world.employ(Scripted("Hello."))
    world.configure(server={"loop_limit": 2})
    http = world.http()
    for number in range(6):
        body = {**CHAT, "messages": [{"role": "user", "content": f"Hi {number}"}]}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
