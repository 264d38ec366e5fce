"""Ollama's API as its clients see it: before a horde, before a server, and with random bodies."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import httpx
import ollama
import pytest
import responses
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import TestResponse
from werkzeug.wrappers import Response

from horde_proxy import create_app
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from tests.support import Scripted, World, is_thorough, known

MODEL = "test/model"
USER = {"role": "user", "content": "Hi"}
NDJSON = "application/x-ndjson"


def chat(http: FlaskClient, **fields: Any) -> TestResponse:
    return http.post("/api/chat", json={"model": MODEL, "messages": [USER], **fields})


def lines(response: Response) -> list[Any]:
    """The lines of a stream; the last one, and only that, is done or an error."""
    assert (response.status_code, response.content_type) == (200, NDJSON)
    *whole, rest = response.get_data(as_text=True).split("\n")
    assert rest == ""
    read = [json.loads(line) for line in whole]
    assert [line.get("done") or "error" in line for line in read] == [False] * (len(read) - 1) + [
        True
    ]
    return read


def text(read: list[Any]) -> str:
    return "".join(line["message"]["content"] for line in read if "message" in line)


@pytest.fixture
def http(world: World) -> FlaskClient:
    world.employ(Scripted("Hello there.<|im_end|>"))
    return world.http()


class InApp(httpx.BaseTransport):
    """Sends the calls of ollama for Python to a test client."""

    def __init__(self, http: FlaskClient) -> None:
        self._http = http

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._http.open(
            request.url.raw_path.decode(),
            method=request.method,
            data=request.read(),
            headers=[(name, value) for name, value in request.headers.items() if name != "host"],
        )
        return httpx.Response(
            response.status_code, headers=dict(response.headers), content=response.data
        )


def client(http: FlaskClient, **options: Any) -> ollama.Client:
    return ollama.Client(host="http://localhost:11434", transport=InApp(http), **options)


# A horde alone.


def test_a_chat_streams_lines(http: FlaskClient) -> None:
    response = chat(http)
    read = lines(response)
    assert text(read) == "Hello there."
    assert read[0]["message"] == {"role": "assistant", "content": ""}
    assert read[-1]["done_reason"] == "stop"
    assert read[-1]["prompt_eval_count"] > 0
    assert read[-1]["eval_count"] > 0
    assert {line["model"] for line in read} == {MODEL}
    assert response.headers["X-Horde-Model"] == MODEL
    assert response.headers["X-Accel-Buffering"] == "no"


def test_a_refused_body_is_freed_without_the_garbage_collector(http: FlaskClient) -> None:
    """A traceback that refers to itself kept bodies of 30 MB until the next full collection."""
    picture = "QUJD" * 1000
    gc.collect()
    gc.disable()
    try:
        answer = chat(http, messages=[{"role": "user", "content": "Hi", "images": [picture]}])
        assert answer.status_code == 400
        answer.close()
        assert not [
            content
            for content in gc.get_objects()
            # Not isinstance(), which asks weak references for what they refer to.
            if type(content) is dict and content.get("images") == [picture]
        ]
    finally:
        gc.enable()


def test_a_chat_in_one_piece_is_one_object(http: FlaskClient) -> None:
    response = chat(http, stream=False)
    assert response.content_type == "application/json"
    answer: Any = response.json
    assert answer["message"] == {"role": "assistant", "content": "Hello there."}
    assert (answer["done"], answer["done_reason"]) == (True, "stop")


@pytest.mark.parametrize("name", ["test/model:latest", "TEST/MODEL", "model", "model:latest"])
def test_an_answer_has_the_name_that_was_asked_for(http: FlaskClient, name: str) -> None:
    answer: Any = chat(http, model=name, stream=False).json
    assert answer["model"] == name


def test_a_prompt_is_answered_through_the_models_own_format(world: World) -> None:
    backend = world.employ(Scripted("Hello."))
    body = {"model": MODEL, "prompt": "Hi", "system": "Be brief.", "stream": False}
    answer: Any = world.http().post("/api/generate", json=body).json
    assert answer["response"] == "Hello."
    assert "Be brief." in backend.payloads[0]["prompt"]
    assert backend.payloads[0]["prompt"] != "Hi"


def test_a_raw_prompt_reaches_the_worker_as_it_is(world: World) -> None:
    backend = world.employ(Scripted(" upon a time"))
    body = {"model": MODEL, "prompt": "Once", "raw": True, "options": {"num_predict": 20}}
    response = world.http().post("/api/generate", json=body)
    assert "".join(line["response"] for line in lines(response)) == " upon a time"
    assert backend.payloads[0]["prompt"] == "Once"
    assert backend.payloads[0]["max_length"] == 20


def test_a_gap_is_filled_over_an_alias(world: World) -> None:
    backend = world.employ(Scripted("x", name="koboldcpp/Qwen2.5-Coder-7B"))
    world.configure(aliases={"coder": "koboldcpp/Qwen2.5-Coder-7B"})
    body = {"model": "coder", "prompt": "def f(", "suffix": "): pass", "stream": False}
    answer: Any = world.http().post("/api/generate", json=body).json
    assert answer["response"] == "x"
    assert backend.payloads[0]["prompt"] == (
        "<|fim_prefix|>def f(<|fim_suffix|>): pass<|fim_middle|>"
    )


def test_options_reach_the_worker_and_the_rest_is_told(world: World) -> None:
    backend = world.employ(Scripted("Hello."))
    options = {"num_predict": 33, "top_k": 7, "tfs_z": 0.9, "num_ctx": 8192, "mirostat": 2}
    response = chat(world.http(), options=options)
    assert response.headers["X-Horde-Warnings"] == "options: mirostat not supported"
    response.close()
    payload = backend.payloads[0]
    assert (payload["max_length"], payload["top_k"], payload["tfs"]) == (33, 7, 0.9)


def test_a_stream_is_kept_alive_by_lines(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world.configure(server={"stream_timeout": 60})
    read = lines(chat(world.http()))
    waiting = {"role": "assistant", "content": ""}
    # One at the beginning, and one every ten seconds.
    assert [line["message"] for line in read[:-1]] == [waiting] * 6
    assert read[-1] == {
        "error": "The answer did not come within the time that this proxy waits for one."
    }


def test_keep_alives_may_be_turned_off(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world.configure(server={"stream_timeout": 60, "keepalive": "off"})
    assert len(lines(chat(world.http()))) == 2


TOOL = {
    "type": "function",
    "function": {
        "name": "turn_on",
        "description": "Turns a light on.",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "turn_on", "arguments": {"room": "kitchen"}}\n</tool_call>'


def test_a_tool_is_called_with_an_object(world: World) -> None:
    world.employ(Scripted(CALL))
    read = lines(chat(world.http(), tools=[TOOL]))
    [call] = read[-2]["message"]["tool_calls"]
    assert call["function"] == {"index": 0, "name": "turn_on", "arguments": {"room": "kitchen"}}
    assert call["id"].startswith("call_")
    assert (read[-1]["done_reason"], read[-1]["message"]["content"]) == ("stop", "")


@pytest.mark.parametrize(
    ("path", "body"),
    [("chat", {"messages": []}), ("chat", {}), ("generate", {}), ("generate", {"prompt": ""})],
)
def test_a_model_is_loaded_and_unloaded_without_a_job(
    world: World, path: str, body: dict[str, Any]
) -> None:
    backend = world.employ(Scripted("x"))
    http = world.http()
    for keep_alive, reason in (("5m", "load"), (0, "unload")):
        loaded: Any = http.post(
            f"/api/{path}", json={"model": MODEL, "keep_alive": keep_alive, **body}
        ).json
        assert (loaded["done"], loaded["done_reason"]) == (True, reason)
    response = http.post(f"/api/{path}", json={"model": "nobodys", **body})
    assert response.status_code == 404
    assert backend.payloads == []


ERRORS: list[tuple[str, Any, int, str]] = [
    ("/api/chat", {"messages": [USER]}, 400, "model is required"),
    ("/api/show", {}, 400, "model is required"),
    ("/api/chat", [], 400, "The request body must be a JSON object."),
    (
        "/api/chat",
        {"model": "nobodys/x", "messages": [USER]},
        404,
        "model 'nobodys/x' not found; available: test/model",
    ),
    (
        "/api/show",
        {"model": "nobodys/x"},
        404,
        "model 'nobodys/x' not found; available: test/model",
    ),
    ("/api/pull", {"model": "nobodys/x"}, 404, "pull model manifest: file does not exist"),
    (
        "/api/generate",
        {"model": MODEL, "prompt": "a", "suffix": "b"},
        400,
        '"test/model" does not support insert',
    ),
    ("/api/push", {"model": "x"}, 403, "models on this server are provided by the horde"),
    ("/api/create", {"model": "x"}, 403, "models on this server are provided by the horde"),
    ("/api/copy", {}, 403, "models on this server are provided by the horde"),
    ("/api/blobs/sha256:1", {}, 403, "models on this server are provided by the horde"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), ERRORS)
def test_errors_are_texts_with_their_status(
    http: FlaskClient, path: str, body: Any, status: int, message: str
) -> None:
    response = http.post(path, json=body)
    assert (response.status_code, response.json) == (status, {"error": message})


def test_a_model_is_not_deleted(http: FlaskClient) -> None:
    response = http.delete("/api/delete", json={"model": MODEL})
    assert response.status_code == 403


def test_keys_are_checked_in_ollamas_words(world: World) -> None:
    world.employ(Scripted("Hello."))
    world.configure(**known(ann="key-of-ann-longer"))
    http = world.http()
    for response in (http.get("/api/tags"), chat(http), http.post("/api/pull", json={})):
        assert (response.status_code, response.json) == (401, {"error": "unauthorized"})
    assert http.get("/api/version").status_code == 200
    bearer = {"Authorization": "Bearer key-of-ann-longer"}
    found: Any = http.get("/api/tags", headers=bearer).json
    assert [model["name"] for model in found["models"]] == ["test/model:latest"]
    body = {"model": MODEL, "messages": [USER]}
    with http.post("/api/chat", json=body, headers=bearer) as answer:
        assert text(lines(answer)) == "Hello."
    [row] = http.get("/v1/usage", headers=bearer).get_json()["data"]
    assert (row["key"], row["requests"]) == ("ann", 1)


def test_the_version_has_three_plain_numbers(http: FlaskClient) -> None:
    version: Any = http.get("/api/version").json
    # VS Code needs 0.6.4 at least; Open WebUI reads each part as a number.
    assert [int(part) for part in version["version"].split(".")] >= [0, 6, 4]


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
def test_head_is_answered(http: FlaskClient, path: str) -> None:
    response = http.head(path)
    assert (response.status_code, response.data) == (200, b"")


def test_models_are_listed_and_shown_for_all_clients(http: FlaskClient) -> None:
    [model] = http.get("/api/tags").get_json()["models"]
    assert model["name"] == model["model"] == "test/model:latest"
    assert model["modified_at"].endswith("Z")
    for body in ({"model": model["name"]}, {"name": MODEL}):
        shown: Any = http.post("/api/show", json=body).json
        assert shown["details"] == model["details"]
        assert shown["capabilities"] == ["completion", "tools", "vision"]
        architecture = shown["model_info"]["general.architecture"]
        assert shown["model_info"][f"{architecture}.context_length"] == 8192
    [running] = http.get("/api/ps").get_json()["models"]
    assert running["model"] == "test/model:latest"


def test_listed_models_are_pulled_at_once(http: FlaskClient) -> None:
    response = http.post("/api/pull", json={"model": "test/model"})
    assert response.content_type == NDJSON
    steps = [json.loads(line)["status"] for line in response.text.splitlines()]
    assert steps == ["pulling manifest", "success"]
    whole = http.post("/api/pull", json={"name": "test/model:latest", "stream": False})
    assert whole.json == {"status": "success"}


def test_a_private_horde_keeps_its_own_api(world: World) -> None:
    world.configure(private_horde={"enabled": True})
    http = world.http()
    assert http.get("/api/v2/status/heartbeat").status_code == 200
    assert http.get("/api/version").status_code == 200
    assert http.post("/api/v2/nothing").status_code == 404
    assert set(http.post("/api/v2/nothing").get_json()) != {"error"}


# What clients send, as they send it.


def test_home_assistant_sets_up_and_runs_a_tool(world: World) -> None:
    """ollama for Python without streams of its own: list, pull, then rounds of tools."""
    world.employ(Scripted(CALL))
    http = world.http()
    own = client(http)
    listed = [model.model for model in own.list().models]
    assert "test/model:latest" in listed
    assert [step.status for step in own.pull("test/model", stream=True)][-1] == "success"
    messages: list[Any] = [{"role": "system", "content": "A home."}, USER]
    options = {"num_ctx": 8192}
    pieces = [
        *own.chat(
            "test/model:latest",
            messages,
            tools=[TOOL],
            stream=True,
            keep_alive="-1s",
            options=options,
            think=False,
        )
    ]
    calls = [call for piece in pieces for call in piece.message.tool_calls or ()]
    assert [call.function.arguments for call in calls] == [{"room": "kitchen"}]
    # It sends the result without the tool's name or an id.
    messages += [
        {"role": "assistant", "content": "", "tool_calls": [call.model_dump() for call in calls]},
        {"role": "tool", "content": '{"data": "done"}'},
    ]
    again = [*own.chat("test/model:latest", messages, tools=[TOOL], stream=True)]
    assert again[-1].done


def test_ollama_for_python_reads_all_that_is_answered(http: FlaskClient) -> None:
    own = client(http)
    assert own.chat(MODEL, [USER]).message.content == "Hello there."
    assert own.generate(MODEL, "Hi").response == "Hello there."
    pieces = [piece.response for piece in own.generate(MODEL, "Hi", stream=True)]
    assert "".join(piece or "" for piece in pieces) == "Hello there."
    assert own.show(MODEL).capabilities == ["completion", "tools", "vision"]
    assert own.ps().models[0].model == "test/model:latest"
    with pytest.raises(ollama.ResponseError, match="model 'nobodys' not found") as refused:
        own.chat("nobodys", [USER])
    assert refused.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="provided by the horde"):
        own.delete(MODEL)


def test_an_error_in_a_stream_reaches_ollama_for_python(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world.configure(server={"stream_timeout": 30})
    with pytest.raises(ollama.ResponseError, match="did not come within the time"):
        [*client(world.http()).chat(MODEL, [USER], stream=True)]


def test_zed_reads_each_line_of_a_round_of_tools(world: World) -> None:
    backend = world.employ(Scripted(CALL))
    http = world.http()
    body = {
        "model": "test/model:latest",
        "stream": True,
        "keep_alive": -1,
        "options": {"num_ctx": 8192, "stop": [], "temperature": 1.0},
        "think": None,
        "tools": [TOOL],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Light!", "images": None},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_9", **function("turn_on", room="hall")}],
                "images": None,
                "thinking": None,
            },
            {"role": "tool", "tool_name": "turn_on", "content": "It shines in the hall."},
        ],
    }
    read = lines(http.post("/api/chat", json=body))
    for line in read:
        assert line["message"]["role"] == "assistant"
        assert isinstance(line["message"]["content"], str)
    [call] = read[-2]["message"]["tool_calls"]
    assert call["function"]["arguments"] == {"room": "kitchen"}
    assert "It shines in the hall." in backend.payloads[0]["prompt"]


def function(name: str, **arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


def test_continue_reads_what_is_shown_of_a_model(http: FlaskClient) -> None:
    """It parses lines of a name and a value, and offers tools without a stream."""
    shown: Any = http.post("/api/show", json={"name": MODEL}).json
    assert [line.split() for line in shown["parameters"].split("\n")] == [["num_ctx", "8192"]]
    answer: Any = chat(http, tools=[TOOL], stream=False, keep_alive=1800).json
    assert answer["message"]["content"] == "Hello there."


def test_n8n_and_jetbrains_find_a_server(http: FlaskClient) -> None:
    accepted = "application/json, text/plain, */*"
    assert http.get("/", headers={"Accept": accepted}).status_code == 200
    assert http.get("/", headers={"Accept": "*/*"}).text == "Ollama is running"


def test_vs_code_lists_by_this_api_and_chats_by_openais(http: FlaskClient) -> None:
    [model] = http.get("/api/tags").get_json()["models"]
    body = {"model": model["model"], "messages": [USER]}
    answer: Any = http.post("/v1/chat/completions", json=body).json
    assert answer["choices"][0]["message"]["content"] == "Hello there."


def test_open_webui_unloads_a_model(http: FlaskClient) -> None:
    [model] = http.get("/api/ps").get_json()["models"]
    body = {"model": model["model"], "keep_alive": 0, "prompt": ""}
    unloaded: Any = http.post("/api/generate", json=body).json
    assert unloaded["done_reason"] == "unload"


# A server of OpenAI's API.

SERVER = "http://server.invalid:1"
STREAM = (
    b'data: {"id": "1", "choices": [{"index": 0, "delta": {"content": "Roses."}}]}\n\n'
    b'data: {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
    b'data: {"id": "1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}\n\n'
    b"data: [DONE]\n\n"
)


@pytest.fixture
def server() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        models = [{"id": "llama3.2:1b"}, {"id": "nomic-embed-text"}, {"id": "llava:13b"}]
        mock.get(f"{SERVER}/v1/models", json={"data": models})
        yield mock


def before_server(**sections: Any) -> FlaskClient:
    endpoints = [{"url": SERVER, "name": "server"}]
    flags = {"endpoints": endpoints, "stats": {"hydrate": False}, **sections}
    settings = load(environ={}, flags=flags)
    return create_app(settings, Runtime(run=inline)).test_client()


def test_a_server_gets_openais_chat(server: responses.RequestsMock) -> None:
    sent = server.post(
        f"{SERVER}/v1/chat/completions", body=STREAM, content_type="text/event-stream"
    )
    response = chat(
        before_server(),
        model="llama3.2:1b",
        options={"num_predict": 9, "mirostat": 1},
        tools=[TOOL],
    )
    read = lines(response)
    assert text(read) == "Roses."
    assert (read[-1]["prompt_eval_count"], read[-1]["eval_count"]) == (7, 2)
    assert response.headers["X-Horde-Warnings"] == "options: mirostat not supported"
    assert json.loads(sent.calls[0].request.body) == {
        "model": "llama3.2:1b",
        "messages": [USER],
        "max_tokens": 9,
        "tools": [TOOL],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_picture_reaches_a_server_that_sees(server: responses.RequestsMock) -> None:
    sent = server.post(
        f"{SERVER}/v1/chat/completions", body=STREAM, content_type="text/event-stream"
    )
    image = "iVBORw0KGgoAAAANSUhEUg=="
    message = {"role": "user", "content": "What?", "images": [image]}
    http = before_server(horde={"describe_images": False})
    assert text(lines(chat(http, model="llava:13b", messages=[message]))) == "Roses."
    [message] = json.loads(sent.calls[0].request.body)["messages"]
    assert message["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
    ]


def test_a_servers_error_is_a_text(server: responses.RequestsMock) -> None:
    server.post(
        f"{SERVER}/v1/chat/completions", status=400, json={"error": {"message": "no rhymes"}}
    )
    response = chat(before_server(), model="llama3.2:1b")
    assert (response.status_code, response.json) == (400, {"error": "no rhymes"})


def test_models_that_embed_are_listed_as_such(server: responses.RequestsMock) -> None:
    models = before_server().get("/api/tags").get_json()["models"]
    assert {model["name"]: model["capabilities"] for model in models} == {
        "llama3.2:1b": ["completion", "tools"],
        "nomic-embed-text:latest": ["embedding"],
        "llava:13b": ["completion", "tools", "vision"],
    }


# Any body at all.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
TEXTS = st.text(max_size=20)
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "function": st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["turn_on", "x"]),
                    "arguments": st.dictionaries(TEXTS, VALUES),
                }
            )
        }
    ),
    max_size=2,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "System"]), "content": TEXTS},
        optional={
            "thinking": TEXTS,
            "tool_calls": CALLS,
            "tool_name": TEXTS,
            "tool_call_id": TEXTS,
        },
    ),
    max_size=4,
)
OPTIONS = st.dictionaries(
    st.sampled_from(["num_predict", "top_k", "seed", "num_ctx", "mirostat", "repeat_last_n", "x"]),
    st.integers(-2, 100) | VALUES,
    max_size=4,
) | st.fixed_dictionaries({"stop": st.lists(TEXTS, max_size=2), "temperature": st.floats(0, 5)})
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FIELDS = {
    "system": TEXTS,
    "stream": st.booleans(),
    "options": OPTIONS,
    "format": st.sampled_from(["", "json", SCHEMA, None]),
    "think": st.sampled_from([True, False, "low", "max", None]),
    "tools": st.sampled_from([[], [TOOL]]),
    "keep_alive": st.sampled_from([0, "5m", -1, "0s"]),
    "raw": st.booleans(),
    "context": st.lists(st.integers(), max_size=3),
    "images": st.just([]),
    "horde": st.just({}),
}
LEGAL = st.fixed_dictionaries(
    {
        "model": st.sampled_from([MODEL, f"{MODEL}:latest"]),
        "messages": MESSAGES,
        "prompt": st.text(min_size=1, max_size=20),
    },
    optional=FIELDS,
)
# Most are legal, and a broken one is broken at one place: else all of them would fail at the first.
BODIES = st.one_of(
    LEGAL,
    LEGAL,
    st.builds(
        lambda body, name, value: {**body, name: value},
        LEGAL,
        st.sampled_from(["model", "messages", "prompt", *FIELDS]),
        VALUES,
    ),
)
ANSWERS = ("Hello there.", CALL, '{"a": 1}', "<think>Hm.</think>Yes.", "")


def sent_body(body: Any) -> bytes:
    """JSON, also where a value is a float that is no JSON."""
    return json.dumps(body).encode("utf-8", "surrogatepass")


@cache
def answering(text: str) -> FlaskClient:
    """A proxy whose workers always give this text; one for all bodies."""
    world = World(server={"loop_limit": 0})
    world.employ(Scripted(text))
    return world.http()


@pytest.mark.parametrize("text", ANSWERS)
@pytest.mark.parametrize("route", ["chat", "generate"])
@given(data=st.data())
def test_any_body_gets_an_answer_or_an_error_of_ollamas(
    route: str, text: str, data: st.DataObject
) -> None:
    http = answering(text)
    # With the 200 examples of the thorough run, these are 2,000 bodies for each route.
    count = 2 if is_thorough() else 1
    for body in data.draw(st.lists(BODIES, min_size=count, max_size=count)):
        response = http.post(f"/api/{route}", data=sent_body(body))
        assert response.status_code != 500, body
        if response.status_code == 200 and response.content_type == NDJSON:
            check_lines(response, route)
        elif response.status_code == 200:
            answer: Any = response.json
            assert answer["done"] is True
        else:
            refusal: Any = response.json
            assert list(refusal) == ["error"]
            assert isinstance(refusal["error"], str)


def check_lines(response: Response, route: str) -> None:
    models: Mapping[str, Callable[[Any], Any]] = {
        "chat": ollama.ChatResponse.model_validate,
        "generate": ollama.GenerateResponse.model_validate,
    }
    for line in lines(response):
        if "error" in line:
            assert list(line) == ["error"]
        else:
            models[route](line)
