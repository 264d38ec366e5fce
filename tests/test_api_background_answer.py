"""What was shown of an answer is not shown again after a restart, however it is cut into chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import responses
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy import create_app
from horde_proxy.api.background_answer import SeenOutput
from horde_proxy.app.factory import composition_of
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.protocol.chunks import Head, chunk

HEAD = Head("chatcmpl-1", 0, "m")
SERVER = "http://server.invalid/v1"


def message(text: str) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text}]}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


@given(st.text(), st.text(), st.data())
def test_only_what_is_new_comes(thinking: str, content: str, data: st.DataObject) -> None:
    texts = {"reasoning_content": thinking, "content": content}
    ends = {name: data.draw(st.integers(0, len(text))) for name, text in texts.items()}
    output = [thought(thinking[: ends["reasoning_content"]]), message(content[: ends["content"]])]
    shown, came = SeenOutput(output), {"reasoning_content": "", "content": ""}
    for name, text in texts.items():
        left = text
        while left:
            size = data.draw(st.integers(1, len(left)))
            piece = shown.without(chunk(HEAD, {name: left[:size]}))
            left = left[size:]
            for choice in piece["choices"]:
                came[name] += choice["delta"].get(name, "")
    assert came == {name: text[ends[name] :] for name, text in texts.items()}


def test_an_answer_that_nobody_has_read_is_not_shown() -> None:
    assert not SeenOutput([])
    assert not SeenOutput([message("")])
    assert SeenOutput([message("a")])
    assert SeenOutput([{"type": "function_call", "name": "f", "arguments": ""}])


# Answers of servers, which have no requests that could be taken up


@pytest.fixture
def server() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(f"{SERVER}/models", json={"data": [{"id": "test/model"}]})
        yield mock


def stream_of(*texts: str) -> bytes:
    deltas = [{"role": "assistant"}, *({"content": text} for text in texts)]
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    events = [json.dumps({"id": "1", "model": "test/model", "choices": [c]}) for c in choices]
    return b"".join(b"data: " + event.encode() + b"\n\n" for event in [*events, "[DONE]"])


def app_before_server(folder: Any) -> Flask:
    flags = {
        "endpoints": [{"url": SERVER, "name": "server"}],
        "stats": {"hydrate": False},
        "store": {"database": f"sqlite:///{folder}/store.db"},
    }
    runtime = Runtime(run=inline, run_loop=lambda loop: None)
    return create_app(load(environ={}, flags=flags), runtime)


def begin(app: Flask, **fields: Any) -> str:
    body = {"model": "test/model", "input": "Rhyme.", "background": True, **fields}
    response = app.test_client().post("/v1/responses", json=body)
    assert response.status_code == 200
    if not fields.get("stream"):
        return str((response.json or {})["id"])
    event = next(iter(response.iter_encoded())).partition(b"data: ")[2]
    response.close()
    return str(json.loads(event)["response"]["id"])


def get(app: Flask, response_id: str) -> dict[str, Any]:
    answer = app.test_client().get(f"/v1/responses/{response_id}").json
    assert answer is not None
    return dict(answer)


def test_a_server_answers_in_the_background(server: responses.RequestsMock, tmp_path: Any) -> None:
    server.post(
        f"{SERVER}/chat/completions",
        body=stream_of("Roses", " are red."),
        content_type="text/event-stream",
    )
    app = app_before_server(tmp_path)
    response_id = begin(app)
    composition_of(app).jobs.step()
    answer = get(app, response_id)
    assert (answer["status"], answer["background"]) == ("completed", True)
    assert answer["output"][0]["content"][0]["text"] == "Roses are red."


def test_a_server_that_is_busy_is_asked_again(
    server: responses.RequestsMock, tmp_path: Any
) -> None:
    busy = server.post(
        f"{SERVER}/chat/completions", status=429, headers={"Retry-After": "1"}, json={}
    )
    app = app_before_server(tmp_path)
    response_id = begin(app)
    composition_of(app).jobs.step()
    assert get(app, response_id)["status"] == "queued"
    assert len(busy.calls) >= 1


def test_a_refusal_of_a_server_fails_the_response(
    server: responses.RequestsMock, tmp_path: Any
) -> None:
    server.post(
        f"{SERVER}/chat/completions",
        status=400,
        json={"error": {"message": "No such thing.", "type": "invalid_request_error"}},
    )
    app = app_before_server(tmp_path)
    response_id = begin(app)
    composition_of(app).jobs.step()
    answer = get(app, response_id)
    assert answer["status"] == "failed"
    assert answer["error"]["code"] == "invalid_prompt"
    assert "No such thing." in answer["error"]["message"]


def interrupted(app: Flask, response_id: str, item: dict[str, Any]) -> None:
    """Store what a killed process would have left of an answer."""
    store = composition_of(app).store.responses
    assert store is not None
    stored = store.get("anybody", response_id)
    assert stored is not None
    item = {"id": "item_1", "status": "in_progress", **item}
    store.update("anybody", {**stored.response, "status": "in_progress", "output": [item]})


def sent_messages(call: Any) -> Any:
    return json.loads(call.request.body)["messages"]


def test_a_streamed_answer_goes_on_from_what_was_read_of_it(
    server: responses.RequestsMock, tmp_path: Any
) -> None:
    sent = server.post(
        f"{SERVER}/chat/completions",
        body=stream_of(" are", " red."),
        content_type="text/event-stream",
    )
    app = app_before_server(tmp_path)
    response_id = begin(app, stream=True)
    interrupted(app, response_id, {"role": "assistant", **message("Roses")})
    composition_of(app).jobs.step()
    assert sent_messages(sent.calls[0]) == [
        {"role": "user", "content": "Rhyme."},
        {"role": "assistant", "content": "Roses"},
    ]
    answer = get(app, response_id)
    assert answer["status"] == "completed"
    assert answer["output"][0]["content"][0]["text"] == "Roses are red."


def test_an_answer_that_nobody_has_read_begins_anew(
    server: responses.RequestsMock, tmp_path: Any
) -> None:
    sent = server.post(
        f"{SERVER}/chat/completions",
        body=stream_of("Violets."),
        content_type="text/event-stream",
    )
    app = app_before_server(tmp_path)
    response_id = begin(app)
    interrupted(app, response_id, {"role": "assistant", **message("Roses")})
    composition_of(app).jobs.step()
    assert sent_messages(sent.calls[0]) == [{"role": "user", "content": "Rhyme."}]
    assert get(app, response_id)["output"][0]["content"][0]["text"] == "Violets."


def test_half_a_call_that_was_read_is_not_gone_on_with(
    server: responses.RequestsMock, tmp_path: Any
) -> None:
    app = app_before_server(tmp_path)
    response_id = begin(app, stream=True)
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{"}
    interrupted(app, response_id, call)
    composition_of(app).jobs.step()
    answer = get(app, response_id)
    assert answer["status"] == "failed"
    assert answer["error"]["message"].startswith("The proxy was restarted in the middle")
