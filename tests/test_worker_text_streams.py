"""Texts that servers write as they grow, whole, in odd pieces, broken off, slow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import responses

from horde_proxy.worker.backends import BackendDown, BackendError, calls, open_backend
from tests.scripted_server import URL, ScriptedServer, koboldcpp, ollama, openai

# KoboldCpp's /api/extra/generate/stream, as its API documents it.
KOBOLDCPP = (
    'event: message\ndata: {"token": " upon", "finish_reason": null}\n\n'
    'event: message\ndata: {"token": " a ti\\u00admé", "finish_reason": null}\n\n'
    'event: message\ndata: {"token": "", "finish_reason": "stop"}\n\n'
)
OLD_KOBOLDCPP = (
    'event: message\ndata: {"token": " upon"}\n\nevent: message\ndata: {"token": " a"}\n\n'
)
OLLAMA = (
    '{"model":"llama3.2:1b","created_at":"2026-8-21T10:00:00.1Z","response":" upon","done":false}\n'
    '{"model":"llama3.2:1b","created_at":"2026-8-21T10:00:01Z","response":" a é","done":false}\n'
    '{"model":"llama3.2:1b","created_at":"2026-8-21T10:00:00.3Z","response":"","done":true,'
    '"done_reason":"stop","total_duration":9,"prompt_eval_count":3,"eval_count":2}\n'
)
COMPLETIONS = (
    'data: {"choices":[{"index":0,"text":" upon","finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"text":" a é","finish_reason":"stop"}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    "data: [DONE]\n\n"
)


def never() -> bool:
    return False


@pytest.mark.parametrize("size", [1, 2, 3, 7, 65_536])
@pytest.mark.parametrize(
    ("opened", "body", "pieces"),
    [
        (koboldcpp, KOBOLDCPP, [" upon", " a ti\xadmé", ""]),
        (koboldcpp, OLD_KOBOLDCPP, [" upon", " a"]),
        (ollama, OLLAMA, [" upon", " a é", ""]),
        # The last line may lack its end.
        (ollama, OLLAMA.rstrip("\n"), [" upon", " a é", ""]),
        (openai, COMPLETIONS, [" upon", " a é"]),
        # Without [DONE], the finish_reason says that the text is whole.
        (openai, COMPLETIONS.replace("data: [DONE]\n\n", ""), [" upon", " a é"]),
    ],
)
def test_a_text_comes_as_the_server_writes_it(
    opened: Callable[[ScriptedServer], Any],
    body: str,
    pieces: list[str],
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "_PIECE", size)
    server = ScriptedServer(body)
    assert list(opened(server).stream({"prompt": "Once"}, never)) == pieces


@pytest.mark.parametrize(
    ("opened", "body", "message"),
    [
        (koboldcpp, KOBOLDCPP[:70], "broke the text off"),
        (koboldcpp, KOBOLDCPP[:90], "sent no text: it broke the answer off in the middle of an ev"),
        (ollama, OLLAMA[:93], "broke the text off"),
        (ollama, OLLAMA[:120], "sent no text: it sent a line that is not JSON, or broke it off"),
        (ollama, '{"error":"llama runner process has terminated"}\n', "llama runner process has t"),
        (openai, COMPLETIONS[:75], "broke the text off"),
        (openai, 'data: {"error":{"message":"out of memory","code":500}}\n\n', "out of memory"),
    ],
)
def test_a_text_that_breaks_off_is_an_error(
    opened: Callable[[ScriptedServer], Any], body: str, message: str
) -> None:
    with pytest.raises(BackendError, match=message) as raised:
        list(opened(ScriptedServer(body)).stream({"prompt": "Once"}, never))
    assert raised.value.reason == "the backend failed"


def test_a_connection_that_is_lost_in_a_text_is_a_backend_that_is_down() -> None:
    server = ScriptedServer(OLLAMA[:93], end=ConnectionResetError("reset"))
    with pytest.raises(BackendDown):
        list(ollama(server).stream({"prompt": "Once"}, never))


def test_an_ollama_gets_a_raw_prompt_and_is_asked_to_stream() -> None:
    server = ScriptedServer(OLLAMA)
    list(ollama(server, chat=False).stream({"prompt": "Once", "max_length": 80}, never))
    assert server.calls == [
        (
            "/api/generate",
            {
                "model": "llama3.2:1b",
                "prompt": "Once",
                "raw": True,
                "stream": True,
                "options": {"num_predict": 80},
            },
        )
    ]


def test_a_koboldcpp_that_does_not_stream_gives_its_text_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = ScriptedServer("Not Found", status=404)
    backend = koboldcpp(server)
    server.then('{"results": [{"text": " upon"}]}').then('{"results": [{"text": " a"}]}')
    assert list(backend.stream({"prompt": "Once"}, never)) == [" upon"]
    assert list(backend.stream({"prompt": "Once"}, never)) == [" a"]
    assert [path for path, _ in server.calls] == [
        "/api/extra/generate/stream",
        "/api/v1/generate",
        "/api/v1/generate",
    ]
    assert caplog.messages == [f"the backend at {URL} does not stream"]


@responses.activate
def test_a_koboldai_does_not_stream() -> None:
    responses.get(f"{URL}/api/v1/model", json={"result": "PygmalionAI/pygmalion-6b"})
    generate = responses.post(f"{URL}/api/v1/generate", json={"results": [{"text": " upon"}]})
    backend: Any = open_backend(URL)
    assert list(backend.stream({"prompt": "Once"}, never)) == [" upon"]
    assert json.loads(generate.calls[0].request.body) == {"prompt": "Once"}


@pytest.mark.parametrize(
    ("opened", "body"),
    [(koboldcpp, KOBOLDCPP[:70]), (ollama, OLLAMA[:93]), (openai, COMPLETIONS[:75])],
)
def test_a_server_that_is_slow_hears_of_a_cancel_at_once(
    opened: Callable[[ScriptedServer], Any], body: str
) -> None:
    server = ScriptedServer(body)
    server.end = server.wait_for_hang_up
    backend = opened(server)

    cancelled: list[bool] = []
    text = backend.stream({"prompt": "Once"}, lambda: bool(cancelled))
    assert next(text) == " upon"
    cancelled.append(True)
    with pytest.raises(BackendError, match="cancelled"):
        list(text)
    if opened is koboldcpp:
        [(_, sent), (path, abort)] = server.calls
        assert (path, abort) == ("/api/extra/abort", {"genkey": sent["genkey"]})


def test_only_a_cancelled_job_is_aborted() -> None:
    server = ScriptedServer(KOBOLDCPP)
    list(koboldcpp(server).stream({"prompt": "Once"}, never))
    assert [path for path, _ in server.calls] == ["/api/extra/generate/stream"]
