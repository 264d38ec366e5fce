"""The routes as a client sees them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Generator
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from werkzeug.test import TestResponse

from horde_proxy.api.stream import EventStream, KeepAliveOptions
from horde_proxy.ledger import ClientKey
from horde_proxy.protocol.chunks import ChatEvents, Head, chunk, role_chunk
from horde_proxy.upstreams.base import StreamItem, Waiting
from horde_proxy.upstreams.disconnects import ClientWatch
from tests.support import CLIENT_KEY, OWNER_KEY, Clock, Scripted, World, is_thorough, known

PREFIXES = pytest.mark.parametrize("prefix", ["", "/v1"])


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}], **fields}


def post(client: FlaskClient, path: str = "/v1/chat/completions", **fields: Any) -> TestResponse:
    return client.post(path, json=body(**fields))


def events(response: TestResponse) -> list[Any]:
    """The decoded events of a stream; the last one must be [DONE]."""
    *lines, last = [line for line in response.text.split("\n\n") if line]
    assert last == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def deltas(response: TestResponse) -> list[Any]:
    return [each["choices"][0]["delta"] for each in events(response) if each["choices"]]


@pytest.fixture
def client(world: World) -> FlaskClient:
    world.employ(Scripted("Hello there.<|im_end|>"))
    return world.http()


@PREFIXES
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_chat_is_completed(client: FlaskClient, prefix: str, slash: str) -> None:
    response = post(client, f"{prefix}/chat/completions{slash}")
    assert response.status_code == 200
    completion = ChatCompletion.model_validate(response.json, strict=True)
    assert completion.choices[0].message.content == "Hello there."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "test/model"


def test_a_completion_has_all_of_openais_fields(client: FlaskClient) -> None:
    found = post(client).json
    assert found is not None
    assert set(found) == {
        "id",
        "object",
        "created",
        "model",
        "choices",
        "usage",
        "service_tier",
        "system_fingerprint",
        "horde",
    }
    assert found["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello there.",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


def test_a_stream_has_openais_order(client: FlaskClient) -> None:
    response = post(client, stream=True)
    for event in events(response):
        ChatCompletionChunk.model_validate(event, strict=True)
    assert deltas(response) == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hello"},
        {"content": " there."},
        {},
    ]
    reasons = [each["choices"][0]["finish_reason"] for each in events(response)]
    assert reasons == [None, None, None, "stop"]


def test_all_chunks_share_id_time_and_model(client: FlaskClient) -> None:
    heads = {
        (each["id"], each["created"], each["model"], each["object"])
        for each in events(post(client, stream=True))
    }
    assert len(heads) == 1


def test_a_stream_has_a_usage_only_with_include_usage(client: FlaskClient) -> None:
    assert all("usage" not in each for each in events(post(client, stream=True)))
    found = events(post(client, stream=True, stream_options={"include_usage": True}))
    assert [each["usage"] for each in found[:-1]] == [None] * 4
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["completion_tokens"] == 3


def test_a_stream_of_several_choices_ends_each(client: FlaskClient) -> None:
    found = events(post(client, stream=True, n=2))
    ends = [
        (choice["index"], choice["finish_reason"])
        for each in found
        for choice in each["choices"]
        if choice["finish_reason"]
    ]
    assert ends == [(0, "stop"), (1, "stop")]


def test_the_headers_of_a_stream_keep_proxies_from_buffering(client: FlaskClient) -> None:
    headers = post(client, stream=True).headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in headers


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_stream_is_read_by_clients_that_split_at_unicode_line_breaks(
    world: World, path: str
) -> None:
    world.employ(Scripted("one\u2028two\u2029three\x85four\x0bfive."))
    response = world.http().post(f"/v1/{path}", json={**body(stream=True), "prompt": "Hi"})
    # httpx and requests split decoded text as Python does.
    lines = [line for line in response.text.splitlines() if line and not line.startswith(":")]
    assert lines.pop() == "data: [DONE]"
    choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]
    texts = [choice.get("text") or choice.get("delta", {}).get("content") for choice in choices]
    assert "".join(filter(None, texts)) == "one\u2028two\u2029three\x85four\x0bfive."


@pytest.mark.parametrize("stream", [True, False])
def test_a_name_beyond_ascii_is_percent_encoded_in_headers_only(
    world: World, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    caplog.set_level("INFO", "horde_proxy.requests")
    world.employ(Scripted("Hello.", name="koboldcpp/Llama-🦙-8B"))
    response = world.http().post(
        "/v1/chat/completions", json=body(model="llama-🦙-8b", stream=stream)
    )
    assert response.headers["X-Horde-Model"] == "koboldcpp/Llama-%F0%9F%A6%99-8B"
    assert '"model":"koboldcpp/Llama-🦙-8B"' in response.text.replace("\\ud83e\\udd99", "🦙")
    response.close()
    [record] = caplog.records
    assert record.fields["model"] == "koboldcpp/Llama-🦙-8B"  # type: ignore[attr-defined]


FULL, SHORT = "koboldcpp/L3-8B-Stheno-v3.2", "L3-8B-Stheno-v3.2"


def shortened() -> World:
    world = World(models={"ids": "short"})
    world.employ(Scripted("Hello.", name=FULL))
    return world


def test_with_short_ids_models_are_listed_without_slashes() -> None:
    client = shortened().http()
    [listed] = client.get("/v1/models").get_json()["data"]
    assert (listed["id"], listed["full_id"], listed["object"]) == (SHORT, FULL, "model")
    assert client.get(f"/v1/models/{SHORT}").json == listed
    assert client.get(f"/v1/models/{FULL}").json == listed
    assert client.get("/v1/models/koboldcpp%2FL3-8B-Stheno-v3.2").json == listed
    opencode = client.get("/v1/opencode.json").get_json()
    assert opencode["model"] == f"horde/{SHORT}"
    assert list(opencode["provider"]["horde"]["models"]) == [SHORT]


@pytest.mark.parametrize("model", [SHORT, FULL, "l3-8b-stheno-v3.2", "auto"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_with_short_ids_answers_have_the_short_id(model: str, stream: bool, path: str) -> None:
    fields = {**body(model=model, stream=stream), "prompt": "Hi"}
    response = shortened().http().post(f"/v1/{path}", json=fields)
    answers = events(response) if stream else [response.get_json()]
    assert {answer["model"] for answer in answers} == {SHORT}
    # The horde's own name stays in its header.
    assert response.headers["X-Horde-Model"] == FULL


def test_short_ids_change_no_statistics(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "horde_proxy.requests")
    client = shortened().http()
    post(client, model=SHORT).close()
    [record] = caplog.records
    assert record.fields["model"] == FULL  # type: ignore[attr-defined]
    [row] = client.get("/v1/usage").get_json()["data"]
    assert row["model"] == FULL
    [endpoint] = client.get("/v1/endpoints").get_json()["data"]
    assert endpoint["models"] == [FULL]


def test_with_short_ids_a_keys_globs_are_for_full_ids() -> None:
    ann, bob = ClientKey("ann", models=("koboldcpp/*",)), ClientKey("bob", models=("x/*",))
    world = shortened().configure(**known(ann=ann, bob=bob))
    client = world.http()
    statuses = {
        name: post_as(client, f"key-of-{name}-longer", model=SHORT) for name in ("ann", "bob")
    }
    assert statuses == {"ann": 200, "bob": 404}


def post_as(client: FlaskClient, key: str, **fields: Any) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    response = client.post("/v1/chat/completions", json=body(**fields), headers=headers)
    response.close()
    return response.status_code


@pytest.mark.parametrize("stream", [True, False])
def test_the_horde_is_named_in_the_headers(client: FlaskClient, stream: bool) -> None:
    headers = post(client, stream=stream, seed=1).headers
    assert headers["X-Horde-Model"] == "test/model"
    assert headers["X-Horde-Format"] == "chatml"
    assert headers["X-Horde-Warnings"] == "seed: not supported"
    assert len(headers["X-Horde-Request-Id"]) == 36
    assert len(headers["X-Request-Id"]) == 32


OLD_IMAGE = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:AAAA"}}]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, "I see."]},
    {"role": "user", "content": [{"type": "input_text", "text": "Go on."}]},
]
UNUSABLE: dict[str, Any] = {
    "messages": OLD_IMAGE,
    "tools": [{"type": "web_search"}, {"type": "x\r\nX-Evil: 1"}],
    "tool_choice": "auto",
    "max_tokens": -1,
    "response_format": {},
}


@pytest.mark.parametrize("stream", [True, False])
def test_what_cannot_be_used_is_named_in_whole_and_streamed_answers(stream: bool) -> None:
    world = World()
    worker = world.employ(Scripted("Hello there.<|im_end|>"))
    response = post(world.http(), stream=stream, **UNUSABLE)
    assert response.status_code == 200
    assert response.headers["X-Horde-Warnings"] == (
        "max_tokens: below 1, so the default is used; tools: type 'web_search' left out; "
        "tools: type 'unknown' left out; messages: image left out"
    )
    assert "there." in response.text
    [payload] = worker.payloads
    assert "[image left out]" in payload["prompt"]
    assert "I see." in payload["prompt"]
    assert "Go on." in payload["prompt"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": OLD_IMAGE}, "messages.[0].content", "unsupported_content"),
        ({"tools": [{"type": "web_search"}]}, "tools.[0].type", "unsupported_value"),
        ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
        ({"seed": 1}, "seed", "unsupported_parameter"),
    ],
)
def test_in_strict_mode_it_is_refused(fields: dict[str, Any], param: str, code: str) -> None:
    world = World(server={"strict": True})
    worker = world.employ(Scripted("Hello there.<|im_end|>"))
    response = post(world.http(), **fields)
    assert response.status_code == 400
    assert response.json is not None
    assert response.json["error"]["param"] == param
    assert response.json["error"]["code"] == code
    assert worker.payloads == []


def test_an_image_that_the_question_is_about_is_refused_where_none_is_described(
    world: World,
) -> None:
    world.configure(horde={"describe_images": False})
    worker = world.employ(Scripted("Hello there.<|im_end|>"))
    response = post(world.http(), messages=OLD_IMAGE[:1])
    assert response.status_code == 400
    assert response.json is not None
    assert response.json["error"] == {
        "message": "Only text can be read here: content of type 'image_url' is not supported. "
        "Remove it from the message, or say in words what it shows.",
        "type": "invalid_request_error",
        "param": "messages.[0].content",
        "code": "unsupported_content",
    }
    assert worker.payloads == []


def waiting_world(**sections: Any) -> World:
    """A worker that only checks in: jobs wait."""
    world = World(**sections)
    world.bridge(Scripted("x")).step(world.session)
    return world


def stream_for(world: World, seconds: float) -> list[str]:
    """The lines of a stream until so many seconds of the world's clock have passed."""
    response = post(world.http(), stream=True)
    until, lines = world.clock() + seconds, []
    for line in response.response:
        assert isinstance(line, bytes)
        lines.append(line.decode())
        if world.clock() > until:
            break
    response.close()
    return lines


def test_the_role_comes_before_any_waiting() -> None:
    world = waiting_world()
    response = post(world.http(), stream=True)
    start = world.clock()
    assert b'"role":"assistant"' in next(iter(response.response))
    assert world.clock() == start
    response.close()


def test_while_waiting_an_empty_chunk_comes_every_ten_seconds() -> None:
    lines = stream_for(waiting_world(), 25)
    assert [json.loads(line.removeprefix("data: "))["choices"] for line in lines[2::2]] == [
        [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}]
    ] * 2
    assert lines[1] == ": queued, position 1, about 14 s\n\n"


def test_a_keep_alive_is_of_a_choice_that_has_not_ended() -> None:
    clock, head = Clock(), Head("chatcmpl-1", 1, "m")

    def items() -> Generator[StreamItem, None, None]:
        yield from (role_chunk(head, 0), role_chunk(head, 1))
        yield chunk(head, {}, index=0, finish_reason="stop")
        clock.sleep(11)
        yield Waiting("queued")
        yield chunk(head, {}, index=1, finish_reason="stop")

    stream = EventStream(
        items(), ChatEvents(include_usage=False), KeepAliveOptions("chunk", 10, clock)
    )
    *lines, last = [line for line in stream if line.startswith(b"data: ")]
    choices = [json.loads(line.removeprefix(b"data: "))["choices"] for line in lines]
    assert [(each["index"], each["finish_reason"]) for [each] in choices] == [
        (0, None),
        (1, None),
        (0, "stop"),
        (1, None),
        (1, "stop"),
    ]
    assert last == b"data: [DONE]\n\n"


def test_keep_alives_can_be_comments() -> None:
    assert stream_for(waiting_world(server={"keepalive": "comment"}), 25)[1:3] == [
        ": queued, position 1, about 14 s\n\n",
        ": queued, position 1, about 14 s\n\n",
    ]


def test_keep_alives_can_be_off() -> None:
    world = waiting_world(server={"keepalive": "off", "stream_timeout": 60})
    assert len(events(post(world.http(), stream=True))) == 2


def test_a_client_that_leaves_a_stream_cancels_the_request() -> None:
    world = waiting_world()
    response = post(world.http(), stream=True)
    assert len(world.horde.open_requests()) == 1
    response.close()
    assert world.horde.open_requests() == []


def test_a_client_that_leaves_in_the_middle_cancels_the_request() -> None:
    world = waiting_world()
    stream_for(world, 25)
    assert world.horde.open_requests() == []


def test_a_wait_that_takes_too_long_is_a_504_that_asks_not_to_be_repeated() -> None:
    world = waiting_world()
    start = world.clock()
    response = post(world.http())
    assert response.status_code == 504
    assert response.json is not None
    assert response.json["error"]["code"] == "timeout"
    assert response.headers["x-should-retry"] == "false"
    assert 278 < world.clock() - start < 280
    assert world.horde.open_requests() == []


def test_a_stream_that_takes_too_long_ends_with_an_error_event() -> None:
    world = waiting_world(server={"stream_timeout": 45})
    last = events(post(world.http(), stream=True))[-1]
    assert last == {
        "error": {
            "message": "The answer did not come within the time that this proxy waits for one.",
            "type": "server_error",
            "param": None,
            "code": "timeout",
        }
    }
    assert world.horde.open_requests() == []


def test_a_bug_in_the_middle_of_a_stream_is_an_error_event_without_details(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.employ(Scripted("x"))
    client = world.http()
    world.clock.every_sleep.append(lambda: 1 / 0)
    error = events(post(client, stream=True))[-1]["error"]
    assert (error["type"], error["code"]) == ("server_error", None)
    assert "division" not in error["message"]
    assert world.horde.open_requests() == []


def test_a_bug_is_a_500_envelope(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.employ(Scripted("x"))
    client = world.http()
    world.clock.every_sleep.append(lambda: 1 / 0)
    response = post(client)
    assert response.status_code == 500
    assert response.json is not None
    assert response.json["error"]["type"] == "server_error"
    assert world.horde.open_requests() == []


def test_a_client_that_hangs_up_ends_its_request() -> None:
    world = waiting_world()
    app, (ours, theirs) = world.app(), socket.socketpair()
    monitor = app.extensions["horde_proxy"].live.disconnects

    def hang_up() -> None:
        theirs.close()
        # The monitor's own thread needs some of the machine's time.
        for _ in range(10_000):
            if all(watch.error for watch in monitor._all):
                break
            time.sleep(0.001)

    world.clock.every_sleep.append(hang_up)
    began = world.clock()
    with ours:
        response = app.test_client().post(
            "/v1/chat/completions", json=body(), environ_overrides={"gunicorn.socket": ours}
        )
    assert response.status_code == 499
    assert 10 <= world.clock() - began < 15
    assert world.horde.open_requests() == []


def test_a_client_that_has_gone_already_does_not_wait() -> None:
    world = waiting_world()
    app, (ours, theirs) = world.app(), socket.socketpair()
    monitor = app.extensions["horde_proxy"].live.disconnects
    theirs.close()
    watch_client = monitor.watch_client

    def watch_and_wait(client: socket.socket | None) -> ClientWatch:
        watch: ClientWatch = watch_client(client)
        while watch.error is None:
            time.sleep(0.001)
        return watch

    monitor.watch_client = watch_and_wait
    began = world.clock()
    with ours:
        response = app.test_client().post(
            "/v1/chat/completions", json=body(), environ_overrides={"gunicorn.socket": ours}
        )
    assert response.status_code == 499
    assert world.clock() - began < 15


@PREFIXES
def test_models_are_listed(client: FlaskClient, prefix: str) -> None:
    found = client.get(f"{prefix}/models").json
    assert found is not None
    assert found["object"] == "list"
    assert [model["id"] for model in found["data"]] == ["test/model"]
    assert {"id", "object", "created", "owned_by"} <= set(found["data"][0])


@PREFIXES
@pytest.mark.parametrize("name", ["test/model", "test%2Fmodel"])
def test_one_model_is_found_with_its_slash_in_both_spellings(
    client: FlaskClient, prefix: str, name: str
) -> None:
    response = client.get(f"{prefix}/models/{name}")
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["id"] == "test/model"


def test_names_with_spaces_colons_and_ats_are_found(world: World) -> None:
    world.employ(Scripted("x", name="koboldcpp/Qwen 3:8b@x"))
    response = world.http().get("/v1/models/koboldcpp%2FQwen%203:8b@x")
    assert response.status_code == 200


def test_live_answers_without_a_horde() -> None:
    assert World().http().get("/health/live").json == {"status": "ok"}


def test_ready_says_whether_a_model_is_available(client: FlaskClient) -> None:
    response = client.get("/health/ready")
    assert (response.status_code, response.json) == (200, {"status": "ok", "models": 1})
    response = World().http().get("/health/ready")
    assert (response.status_code, response.json) == (503, {"status": "unavailable", "models": 0})


def test_ready_says_why_not_when_the_horde_is_down(world: World) -> None:
    world.session.adapters.clear()
    response = world.http().get("/health/ready")
    assert response.status_code == 503
    assert response.json is not None
    assert response.json["reason"] == "The horde at horde.invalid cannot be reached."


def test_the_probe_sends_an_event_at_once_and_one_every_interval(world: World) -> None:
    text = world.http().get("/health/probe?seconds=2&interval=0.5").text
    assert [json.loads(line[6:])["seconds"] for line in text.split("\n\n") if line] == [
        0.0,
        0.5,
        1.0,
        1.5,
        2.0,
    ]


@pytest.mark.parametrize(
    "query",
    [
        "seconds=301",
        "seconds=0",
        "seconds=-1",
        "seconds=nan",
        "seconds=1e-300",
    ],
)
def test_a_probe_is_bounded(world: World, query: str) -> None:
    assert world.http().get(f"/health/probe?{query}").status_code == 400


ERRORS: list[tuple[str, str, dict[str, Any], int, str | None, str | None]] = [
    ("POST", "/v1/chat/completions", {"data": "{"}, 400, None, None),
    ("POST", "/v1/chat/completions", {"data": b"\xff\xfe"}, 400, None, None),
    ("POST", "/v1/chat/completions", {"data": "[" * 100_000}, 400, None, None),
    ("POST", "/v1/chat/completions", {"data": ""}, 400, None, None),
    ("POST", "/v1/chat/completions", {"data": b'{"a":' + b"1" * 5000 + b"}"}, 400, None, None),
    (
        "POST",
        "/v1/chat/completions",
        {"data": json.dumps(body(min_p=float("nan")))},
        400,
        "min_p",
        "invalid_value",
    ),
    (
        "POST",
        "/v1/chat/completions",
        {"json": {"model": "m"}},
        400,
        "messages",
        "missing_required_parameter",
    ),
    (
        "POST",
        "/v1/chat/completions",
        {"json": body(temperature="hot")},
        400,
        "temperature",
        "invalid_type",
    ),
    ("POST", "/v1/chat/completions", {"json": body(model="nope")}, 404, "model", "model_not_found"),
    ("POST", "/v1/chat/completions", {"json": body(n=5)}, 400, "n", "integer_above_max_value"),
    ("POST", "/v1/chat/completions", {"data": b"x" * 1_000_001}, 413, None, "request_too_large"),
    ("GET", "/v1/models/nope", {}, 404, "model", "model_not_found"),
    ("GET", "/v1/nope", {}, 404, None, None),
    ("POST", "/v1/nope", {}, 404, None, None),
    ("GET", "/v1/completions", {}, 405, None, "method_not_supported"),
    ("DELETE", "/v1/models/test/model", {}, 405, None, "method_not_supported"),
]


@pytest.mark.parametrize(("method", "path", "sent", "status", "param", "code"), ERRORS)
def test_every_error_is_openais_envelope(
    client: FlaskClient,
    method: str,
    path: str,
    sent: dict[str, Any],
    status: int,
    param: str | None,
    code: str | None,
) -> None:
    response = client.open(path, method=method, **sent)
    assert response.status_code == status
    assert response.json is not None
    error = response.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        param,
        code,
    )
    assert error["message"]
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["X-Request-Id"]


def test_an_unknown_route_is_named_as_openai_names_it(client: FlaskClient) -> None:
    response = client.post("/v1/foo")
    assert response.json is not None
    assert response.json["error"]["message"] == "Invalid URL (POST /v1/foo)"


def test_a_wrong_method_names_the_right_ones(client: FlaskClient) -> None:
    assert client.get("/v1/completions").headers["Allow"] == "OPTIONS, POST"


def test_the_content_type_does_not_matter(client: FlaskClient) -> None:
    response = client.post(
        "/v1/chat/completions", data=json.dumps(body()), content_type="text/plain"
    )
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/nope"])
def test_a_preflight_is_answered_without_a_key(client: FlaskClient, path: str) -> None:
    asked = "authorization, x-stainless-lang"
    response = client.options(path, headers={"Access-Control-Request-Headers": asked})
    assert response.status_code == 204
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    methods = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
    assert response.headers["Access-Control-Allow-Methods"] == methods
    assert response.headers["Access-Control-Allow-Headers"] == asked
    assert response.headers["Access-Control-Max-Age"] == "86400"
    assert response.headers["Access-Control-Allow-Private-Network"] == "true"
    assert "Access-Control-Allow-Credentials" not in response.headers


def test_browsers_may_read_the_hordes_headers(client: FlaskClient) -> None:
    exposed = client.get("/v1/models").headers["Access-Control-Expose-Headers"]
    assert {"x-request-id", "retry-after", "x-horde-warnings"} <= set(exposed.split(", "))


def keys_seen(headers: dict[str, str], **sections: Any) -> str:
    """The key under which a request was submitted, for a client that sends these headers."""
    world = World(**sections)
    world.employ(Scripted("Hello."))
    world.horde.add_account("Bearer-like-Bea", "bea")
    submit, keys = world.horde.submit, []

    def noted(key: str | None, *arguments: Any) -> Any:
        keys.append(key)
        return submit(key, *arguments)

    world.horde.submit = noted  # type: ignore[assignment]
    world.http().post("/v1/chat/completions", json=body(), headers=headers)
    [key] = keys
    return str(key)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer Bearer-like-Bea"},
        {"Authorization": "bearer  Bearer-like-Bea "},
        {"api-key": "Bearer-like-Bea"},
        {"x-api-key": "Bearer-like-Bea"},
        {"apikey": "Bearer-like-Bea"},
        {"Authorization": "Bearer null", "api-key": "Bearer-like-Bea"},
    ],
)
def test_with_passthrough_the_clients_key_pays(headers: dict[str, str]) -> None:
    assert keys_seen(headers, access={"mode": "passthrough"}) == "Bearer-like-Bea"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "null",
        "undefined",
        "none",
        "None",
        "anonymous",
        "EMPTY",
        "sk-no-key-required",
    ],
)
def test_a_stand_in_for_no_key_is_anonymous(token: str) -> None:
    assert (
        keys_seen({"Authorization": f"Bearer {token}"}, access={"mode": "passthrough"})
        == "0000000000"
    )


def test_without_passthrough_the_proxys_own_key_pays() -> None:
    assert keys_seen({"Authorization": "Bearer Bearer-like-Bea"}) == CLIENT_KEY


def test_an_unknown_key_is_a_401_that_does_not_repeat_it() -> None:
    world = World(access={"mode": "passthrough"})
    world.employ(Scripted("Hello."))
    response = world.http().post(
        "/v1/chat/completions", json=body(), headers={"Authorization": "Bearer wrong-key"}
    )
    assert response.status_code == 401
    assert response.json is not None
    assert response.json["error"]["code"] == "invalid_api_key"
    assert "wrong-key" not in response.text


def test_a_horde_in_maintenance_is_a_503_before_the_stream_begins(world: World) -> None:
    world.employ(Scripted("Hello."))
    world.horde.maintenance = True
    response = post(world.http(), stream=True)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "60"
    assert response.json is not None
    assert response.json["error"]["code"] == "maintenance"


def test_a_chat_that_cannot_fit_is_openais_context_error(world: World) -> None:
    world.employ(Scripted("x", context=512))
    response = post(world.http(), messages=[{"role": "user", "content": "word " * 900}])
    assert response.status_code == 400
    assert response.json is not None
    assert response.json["error"]["code"] == "context_length_exceeded"
    assert response.json["error"]["param"] == "messages"


def test_no_key_and_no_prompt_is_ever_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    world.employ(Scripted("x"))
    client = world.http()
    world.clock.every_sleep.append(lambda: 1 / 0)
    post(client, messages=[{"role": "user", "content": "my own secret"}])
    assert caplog.records
    for secret in (OWNER_KEY, CLIENT_KEY, "my own secret"):
        assert secret not in caplog.text


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())


EXAMPLES = 1000 if is_thorough() else settings().max_examples
"""Of bodies and of messages: 2,000 together in the thorough run."""
BODIES = st.dictionaries(
    st.sampled_from(
        [
            "messages",
            "max_tokens",
            "temperature",
            "top_p",
            "n",
            "stop",
            "stream",
            "stream_options",
            "seed",
            "top_k",
            "rep_pen",
            "sampler_order",
            "horde",
            "tools",
            "response_format",
        ]
    ),
    VALUES,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])},
        optional={
            "content": VALUES
            | st.lists(
                st.fixed_dictionaries(
                    {"type": st.sampled_from(["text", "image_url", "tool_use", "tool_result"])},
                    optional={
                        "text": st.text() | st.none(),
                        "id": st.text(),
                        "name": st.text(),
                        "input": VALUES,
                        "content": VALUES,
                    },
                )
            ),
            "name": st.text() | st.none(),
            "tool_call_id": st.text() | st.none(),
            "tool_calls": st.lists(
                st.fixed_dictionaries(
                    {"function": st.fixed_dictionaries({"name": st.text(), "arguments": st.text()})}
                )
            )
            | st.none(),
        },
    ),
    max_size=6,
)


def answered_well(fields: dict[str, Any]) -> None:
    world = World()
    world.employ(Scripted("Hello."))
    response = post(world.http(), **fields)
    assert response.status_code in (200, 400), response.text
    if fields.get("stream") is True and response.status_code == 200:
        assert events(response)
    else:
        assert response.json
    assert world.horde.open_requests() == []


@settings(max_examples=EXAMPLES)
@given(BODIES)
def test_no_body_leads_to_a_500(fields: dict[str, Any]) -> None:
    answered_well(fields)


@settings(max_examples=EXAMPLES)
@given(MESSAGES)
def test_no_messages_lead_to_a_500(messages: list[Any]) -> None:
    answered_well({"messages": messages})


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=5000)
@given(BODIES, MESSAGES | VALUES)
def test_none_of_five_thousand_bodies_leads_to_a_500(fields: dict[str, Any], messages: Any) -> None:
    answered_well({"messages": messages, **fields})
