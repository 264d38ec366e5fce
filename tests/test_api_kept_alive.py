"""Streams of servers that are silent before their first byte: kept alive, and ended legally."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Generator, Iterator
from io import BytesIO
from typing import Any

import pytest
from flask import Flask, Response

from horde_proxy.api import proxying
from horde_proxy.api.stream import EventStream, KeepAliveOptions
from horde_proxy.errors import ClientGone, ShuttingDown, TimedOut, UpstreamFailed
from horde_proxy.protocol.chunks import ChatEvents, Head, role_chunk
from horde_proxy.protocol.stream_start import ChatStart
from horde_proxy.router.failover import _sent_beside
from horde_proxy.upstreams.base import Accepted, StreamItem, Waiting
from horde_proxy.upstreams.beside import HelperThreads
from horde_proxy.upstreams.disconnects import CallGuard, DisconnectMonitor
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.upstreams.proxying import NO_BODY, ProxyRequest, ProxyResponse
from tests import legal_responses
from tests.legal_by_path import check_answer
from tests.legal_messages import checked_stream, events_of
from tests.support import CLIENT_KEY, Clock, Scripted, World

MODEL = "test/model"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES, IMAGES = "/v1/responses", "/v1/messages", "/v1/images/generations"
FRONTS = (CHAT, COMPLETIONS, RESPONSES, MESSAGES, IMAGES)
HELLO = [{"role": "user", "content": "Hello there, how are you today?"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO, "stream_options": {"include_usage": True}},
    COMPLETIONS: {"prompt": "Hello there"},
    RESPONSES: {"input": "Hello there"},
    MESSAGES: {"messages": HELLO, "max_tokens": 100},
    IMAGES: {"prompt": "A cat"},
}
CHUNK = (
    '{"id":"x-1","object":"chat.completion.chunk","created":1,"model":"test/model",'
    '"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}'
)
ANSWERS = {
    CHAT: f"data: {CHUNK}\n\ndata: [DONE]\n\n",
    COMPLETIONS: 'data: {"id":"c","object":"text_completion","choices":[{"index":0,"text":"Hi",'
    '"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
    RESPONSES: 'event: response.created\ndata: {"type":"response.created","sequence_number":0,'
    '"response":{"id":"resp_1"}}\n\nevent: response.completed\ndata: {"type":"response.completed",'
    '"sequence_number":1,"response":{"id":"resp_1"}}\n\n',
    MESSAGES: 'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'
    'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    IMAGES: 'event: image_generation.completed\ndata: {"type":"image_generation.completed",'
    '"b64_json":"eA=="}\n\n',
}
COMMENT = ": generating\n\n"
NOTHING = {
    CHAT: '{"id":"","object":"chat.completion.chunk","created":1010,"model":"test/model",'
    '"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":null}]}',
    COMPLETIONS: '{"id":"","object":"text_completion","created":1010,"model":"test/model",'
    '"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":null}]}',
}
KEEP_ALIVES = {
    CHAT: f"{COMMENT}data: {NOTHING[CHAT]}\n\n",
    COMPLETIONS: f"{COMMENT}data: {NOTHING[COMPLETIONS]}\n\n",
    RESPONSES: COMMENT,
    MESSAGES: f'{COMMENT}event: ping\ndata: {{"type":"ping"}}\n\n',
    IMAGES: COMMENT,
}
EVENTS = "text/event-stream"
INTERVAL = 10
"""The default of server.keepalive_interval."""
Answer = Callable[[], Response]


def answering(body: str, status: int = 200, kind: str = EVENTS) -> Answer:
    return lambda: Response(body, status=status, content_type=kind)


def failing(status: int, message: str = "Broken", **fields: Any) -> Answer:
    body = json.dumps({"error": {"message": message, **fields}})
    return answering(body, status, "application/json")


def server(answer: Answer) -> Flask:
    """A server of one model that answers every POST with the same."""
    app = Flask("server")
    app.get("/v1/models", endpoint="models")(lambda: {"data": [{"id": MODEL}]})
    app.post("/v1/<path:path>", endpoint="answer")(lambda path: answer())
    return app


class Silence:
    """Stands in for Beside: each call is sent after so many seconds, and others at once.

    `guards` were made for the calls; `error` is what a call raises after its silence.
    """

    def __init__(self, world: World, *seconds: float, error: Exception | None = None) -> None:
        self._clock, self._seconds, self._error = world.clock, [*seconds], error
        self.left = 0

    def __call__(self, helpers: HelperThreads, watch: Callable[[], CallGuard]) -> Silence:
        self._watch = watch
        return self

    def send(
        self, send: Callable[[CallGuard], ProxyResponse]
    ) -> Generator[Waiting, None, ProxyResponse]:
        silent = self._seconds.pop(0) if self._seconds else 0
        try:
            for _ in range(int(silent)):
                self._clock.sleep(1)
                yield Waiting("generating")
        except GeneratorExit:
            self.left += 1
            raise
        if self._error is not None:
            raise self._error
        return send(self._watch())


def world_of(*answers: Answer, horde: bool = False, **settings: Any) -> World:
    """A proxy in front of servers "one", "two" ..., and of a horde after them."""
    names = ("one", "two", "three")[: len(answers)]
    endpoints: list[dict[str, Any]] = [
        {"url": f"http://{name}.invalid", "name": name, "priority": at}
        for at, name in enumerate(names)
    ]
    if horde:
        endpoints.append({"type": "horde", "name": "horde", "priority": 9})
    world = World(endpoints=endpoints, **settings)
    for name, answer in zip(names, answers, strict=True):
        world.session.mount(f"http://{name}.invalid", WSGIAdapter(server(answer)))
    return world


def silent(
    monkeypatch: pytest.MonkeyPatch, world: World, *seconds: float, error: Exception | None = None
) -> Silence:
    silence = Silence(world, *seconds, error=error)
    monkeypatch.setattr(proxying, "Beside", silence)
    return silence


def asked(world: World, path: str, model: str = MODEL, **more: Any) -> Any:
    buffered = more.pop("buffered", True)
    body = {"model": model, "stream": True, **BODIES[path], **more}
    return world.http().post(path, json=body, buffered=buffered)


def legal_failure(path: str, text: str) -> dict[str, Any]:
    """The error that a stream ends with, after keep-alives. Raises for one that is not legal."""
    text = text.removeprefix(KEEP_ALIVES[path])
    if path == RESPONSES:
        # OpenAI's list does not have this code, which Codex compacts its chat for.
        is_overflow = '"code":"context_length_exceeded"' in text
        text = text.replace('"context_length_exceeded"', '"server_error"')
        final = legal_responses.check_stream(legal_responses.parsed(text))
        assert final["status"] == "failed"
        error: dict[str, Any] = final["error"]
        error["code"] = "context_length_exceeded" if is_overflow else error["code"]
    elif path == MESSAGES:
        assert checked_stream(text) is None
        error = events_of(text)[-1][1]["error"]
    else:
        lines = text.split("\n\n")
        assert lines[1:] == ([""] if path == IMAGES else ["data: [DONE]", ""])
        error = json.loads(lines[0].partition("data: ")[2])["error"]
    return error


@pytest.mark.parametrize("path", FRONTS)
def test_an_answer_before_the_first_keep_alive_passes_as_if_nothing_had_waited(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    answer = answering(ANSWERS[path])
    plain = asked(world_of(answer, server={"keepalive": "off"}), path)
    world = world_of(answer)
    silent(monkeypatch, world, INTERVAL - 1)
    kept = asked(world, path)
    assert (kept.status_code, kept.text) == (200, ANSWERS[path])
    ours = {"X-Request-Id", "request-id", "openai-processing-ms"}
    assert {name: value for name, value in kept.headers if name not in ours} == {
        name: value for name, value in plain.headers if name not in ours
    }
    assert kept.headers["X-Endpoint"] == "one"


@pytest.mark.parametrize("path", FRONTS)
def test_a_silent_server_s_bytes_follow_the_keep_alives(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    world = world_of(answering(ANSWERS[path]))
    silent(monkeypatch, world, 2 * INTERVAL)
    answer = asked(world, path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert len(answer.headers["X-Request-Id"]) == 32
    assert answer.text == KEEP_ALIVES[path] * 2 + ANSWERS[path]


def test_the_first_keep_alive_goes_out_while_the_server_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(answering(ANSWERS[CHAT]))
    silent(monkeypatch, world, 600)
    answer = asked(world, CHAT, buffered=False)
    pieces: Iterator[bytes] = iter(answer.response)
    for at in range(1, 4):
        assert next(pieces).decode() == KEEP_ALIVES[CHAT]
        assert world.clock() == 1000 + at * INTERVAL
    answer.close()


@pytest.mark.parametrize(("kind", "expected"), [("comment", COMMENT), ("chunk", KEEP_ALIVES[CHAT])])
def test_the_setting_says_what_keeps_a_stream_alive(
    monkeypatch: pytest.MonkeyPatch, kind: str, expected: str
) -> None:
    world = world_of(answering(ANSWERS[CHAT]), server={"keepalive": kind})
    silent(monkeypatch, world, INTERVAL)
    assert asked(world, CHAT).text == expected + ANSWERS[CHAT]


def test_without_keep_alives_the_status_waits_for_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(failing(400, "No such sampler"), server={"keepalive": "off"})
    silence = silent(monkeypatch, world, 600)
    answer = asked(world, CHAT)
    assert (answer.status_code, answer.json["error"]["message"]) == (400, "No such sampler")
    assert (world.clock(), silence._seconds) == (1000, [600])


@pytest.mark.parametrize("path", FRONTS)
def test_another_endpoint_answers_after_a_silent_failure(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    world = world_of(failing(500), answering(ANSWERS[path]))
    silent(monkeypatch, world, INTERVAL, INTERVAL)
    assert asked(world, path).text == KEEP_ALIVES[path] * 2 + ANSWERS[path]


@pytest.mark.parametrize("path", FRONTS)
def test_failures_of_all_endpoints_end_the_stream_in_the_shape_of_its_api(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    world = world_of(failing(500, "Out of memory"), failing(503, "Loading"))
    silent(monkeypatch, world, INTERVAL)
    error = legal_failure(path, asked(world, path).text)
    assert "one: it answered with status 500: Out of memory" in error["message"]
    assert "two: it answered with status 503: Loading" in error["message"]
    assert error.get("code", error.get("type")) == {
        RESPONSES: "server_error",
        MESSAGES: "overloaded_error",
    }.get(path, "no_endpoint")


OVERFLOW = {
    CHAT: ("code", "context_length_exceeded"),
    COMPLETIONS: ("code", "context_length_exceeded"),
    RESPONSES: ("code", "context_length_exceeded"),
    MESSAGES: ("type", "invalid_request_error"),
}
BUSY = {
    CHAT: ("code", "rate_limit_exceeded"),
    COMPLETIONS: ("code", "rate_limit_exceeded"),
    RESPONSES: ("code", "rate_limit_exceeded"),
    MESSAGES: ("type", "rate_limit_error"),
}
MALFORMED = {
    CHAT: ("type", "invalid_request_error"),
    COMPLETIONS: ("type", "invalid_request_error"),
    RESPONSES: ("code", "invalid_prompt"),
    MESSAGES: ("type", "invalid_request_error"),
}
REFUSALS = [
    (OVERFLOW, failing(400, "1000 tokens are too many", code="context_length_exceeded")),
    (BUSY, failing(429, "Slow down")),
    (MALFORMED, failing(422, "No such sampler")),
]


@pytest.mark.parametrize(("expected", "answer"), REFUSALS)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_a_refusal_after_the_silence_keeps_its_code(
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    expected: dict[str, tuple[str, str]],
    answer: Answer,
) -> None:
    world = world_of(answer)
    silent(monkeypatch, world, INTERVAL)
    name, value = expected[path]
    assert legal_failure(path, asked(world, path).text)[name] == value


def test_a_refusal_before_the_first_keep_alive_keeps_its_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(failing(422, "No such sampler"))
    silent(monkeypatch, world, INTERVAL - 1)
    answer = asked(world, CHAT)
    assert (answer.status_code, answer.json["error"]["message"]) == (422, "No such sampler")


def horde_world(path: str) -> World:
    world = world_of(failing(500), horde=True)
    world.employ(Scripted("Hello from the horde.", name=MODEL))
    return world


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_a_horde_answers_in_the_stream_that_a_silent_server_began(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    world = horde_world(path)
    silent(monkeypatch, world, INTERVAL)
    answer = asked(world, path)
    assert (answer.status_code, answer.text[: len(KEEP_ALIVES[path])]) == (200, KEEP_ALIVES[path])
    rest = answer.text.removeprefix(KEEP_ALIVES[path])
    assert "Hello" in rest and "horde" in rest
    if path != COMPLETIONS:
        check_answer(path, {**BODIES[path], "stream": True}, rest)


def test_a_stream_that_has_begun_is_kept_alive_until_an_upstream_accepts_it() -> None:
    clock = Clock()

    def items() -> Generator[StreamItem, None, None]:
        for position in (2, 1):
            clock.sleep(INTERVAL)
            yield Waiting("in line", position, 20)
        yield Accepted({})
        yield role_chunk(Head("chatcmpl-1", 1, MODEL))
        clock.sleep(INTERVAL)
        yield Waiting("generating")
        raise UpstreamFailed("Broken")

    options = KeepAliveOptions("chunk", INTERVAL, clock)
    start = ChatStart({"model": MODEL}, "x", 1010)
    stream = EventStream(items(), ChatEvents(include_usage=False), options, start)
    first, second, role, comment, empty, _, done = stream
    nothing = NOTHING[CHAT]
    assert first.decode() == f": in line, position 2, about 20 s\n\ndata: {nothing}\n\n"
    assert second.decode() == f": in line, position 1, about 20 s\n\ndata: {nothing}\n\n"
    assert b'"role":"assistant"' in role
    assert comment == b": generating\n\n"
    assert b'"id":"chatcmpl-1"' in empty and b'"delta":{}' in empty
    assert done == b"data: [DONE]\n\n"


def test_what_the_horde_cannot_read_is_an_error_of_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = horde_world(CHAT)
    silent(monkeypatch, world, INTERVAL)
    error = legal_failure(CHAT, asked(world, CHAT, temperature="hot").text)
    assert (error["type"], error["param"]) == ("invalid_request_error", "temperature")


WHOLE_CHAT = {
    "id": "x-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
}


def test_a_server_that_does_not_stream_answers_in_events_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(answering(json.dumps(WHOLE_CHAT), kind="application/json"))
    silent(monkeypatch, world, INTERVAL)
    text = asked(world, CHAT).text.removeprefix(KEEP_ALIVES[CHAT])
    *events, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert [chunk["object"] for chunk in chunks] == ["chat.completion.chunk"] * 3
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "finish_reason": None, "delta": {"role": "assistant", "content": "Hi"}}],
        [{"index": 0, "finish_reason": "stop", "delta": {}}],
        [],
    ]
    assert chunks[2]["usage"] == WHOLE_CHAT["usage"]


def test_pictures_of_a_server_that_does_not_stream_come_as_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = {"created": 7, "data": [{"b64_json": "eA=="}, {"b64_json": "eQ=="}]}
    world = world_of(answering(json.dumps(whole), kind="application/json"))
    silent(monkeypatch, world, INTERVAL)
    text = asked(world, IMAGES).text
    name = "image_generation.completed"
    assert text == COMMENT + "".join(
        f'event: {name}\ndata: {{"type":"{name}","created_at":7,"b64_json":"{picture}"}}\n\n'
        for picture in ("eA==", "eQ==")
    )


@pytest.mark.parametrize(("field", "kept"), [("true", COMMENT), ("false", "")])
def test_a_form_may_ask_for_a_stream_of_edited_pictures(
    monkeypatch: pytest.MonkeyPatch, field: str, kept: str
) -> None:
    whole = {"created": 7, "data": [{"b64_json": "eA=="}]}
    world = world_of(answering(json.dumps(whole), kind="application/json"))
    silent(monkeypatch, world, INTERVAL)
    form = {"model": MODEL, "prompt": "A cat", "stream": field, "image": (BytesIO(b"x"), "x.png")}
    text = world.http().post("/v1/images/edits", data=form, buffered=True).text
    name = "image_edit.completed"
    event = f'event: {name}\ndata: {{"type":"{name}","created_at":7,"b64_json":"eA=="}}\n\n'
    assert text == (kept + event if kept else json.dumps(whole))


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_a_whole_answer_that_cannot_become_events_is_an_error(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    world = world_of(answering('{"id": "x"}', kind="application/json"))
    silent(monkeypatch, world, INTERVAL)
    message = legal_failure(path, asked(world, path).text)["message"]
    assert message == "The endpoint answered without a stream. Send `stream: false`."


# What is counted, and what ends.


def kept_state(world: World) -> tuple[Any, Any]:
    """(the app's live state, its test client)."""
    app = world.app()
    return app.extensions["horde_proxy"].live, app.test_client()


def test_the_slot_and_the_list_of_requests_hold_a_silent_stream_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(answering(ANSWERS[CHAT]))
    silence = silent(monkeypatch, world, 600)
    live, http = kept_state(world)
    body = {"model": MODEL, "stream": True, **BODIES[CHAT]}
    answer = http.post(CHAT, json=body, buffered=False)
    next(iter(answer.response))
    [summary] = live.in_flight.proxied_summaries(None)
    assert (live.slots.taken, summary["state"], summary["model"]) == (1, "generating", MODEL)
    answer.close()
    assert (live.slots.taken, live.in_flight.proxied_summaries(None)) == (0, [])
    assert silence.left == 1


def test_a_client_that_leaves_before_it_reads_a_byte_ends_the_call_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(answering(ANSWERS[CHAT]))
    silence = silent(monkeypatch, world, 600)
    live, http = kept_state(world)
    body = {"model": MODEL, "stream": True, **BODIES[CHAT]}
    answer = http.post(CHAT, json=body, buffered=False)
    answer.close()
    assert (live.slots.taken, silence.left) == (0, 1)


def test_the_log_says_who_answered_a_silent_stream_and_what_it_took(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "horde_proxy.requests")
    world = world_of(failing(500), answering(ANSWERS[CHAT]))
    silent(monkeypatch, world, INTERVAL)
    asked(world, CHAT)
    [line] = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert (line["status"], line["upstream"], line["model"]) == (200, "two", MODEL)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 1)
    assert "error" not in line


@pytest.mark.parametrize(
    ("error", "code"),
    [(ClientGone(), "client_closed_request"), (TimedOut("it did not answer"), "timeout")],
)
def test_the_log_has_the_error_of_a_silent_stream(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: str,
) -> None:
    caplog.set_level("INFO", "horde_proxy.requests")
    world = world_of(answering(ANSWERS[CHAT]))
    silent(monkeypatch, world, INTERVAL, error=error)
    text = asked(world, CHAT).text
    assert ("error" in text) == (code == "timeout")
    [line] = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert (line["status"], line["error"]) == (200, code)


def test_a_client_that_leaves_a_silent_stream_pays_for_its_prompt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "horde_proxy.requests")
    world = world_of(answering(ANSWERS[CHAT]))
    silent(monkeypatch, world, 600)
    answer = asked(world, CHAT, buffered=False)
    next(iter(answer.response))
    answer.close()
    [line] = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert (line["error"], line["upstream"]) == ("client_closed_request", "one")
    assert line["prompt_tokens"] > 0


def test_a_shutdown_during_the_silence_is_an_error_of_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(answering(ANSWERS[CHAT]))
    silent(monkeypatch, world, INTERVAL, error=ShuttingDown())
    assert legal_failure(CHAT, asked(world, CHAT).text)["code"] == "shutting_down"


def test_a_stream_that_is_silent_for_longer_than_streams_may_take_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(answering(ANSWERS[CHAT]), server={"stream_timeout": 30})
    silence = silent(monkeypatch, world, 600)
    text = asked(world, CHAT).text
    assert text.startswith(KEEP_ALIVES[CHAT] * 3)
    assert legal_failure(CHAT, text.removeprefix(KEEP_ALIVES[CHAT] * 2))["code"] == "timeout"
    assert silence.left == 1


def test_the_limit_of_requests_at_a_time_counts_a_silent_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {"ann": {"key": CLIENT_KEY, "concurrent": 1}}
    world = world_of(answering(ANSWERS[CHAT]), access={"mode": "keys", "keys": keys})
    silent(monkeypatch, world, INTERVAL)
    http = world.http()
    headers = {"Authorization": f"Bearer {CLIENT_KEY}"}
    body = {"model": MODEL, "stream": True, **BODIES[CHAT]}
    first = http.post(CHAT, json=body, headers=headers, buffered=False)
    next(iter(first.response))
    assert http.post(CHAT, json=body, headers=headers).status_code == 429
    first.close()
    assert http.post(CHAT, json=body, headers=headers).status_code == 200


def test_a_whole_answer_is_not_sent_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(answering(json.dumps(WHOLE_CHAT), kind="application/json"))
    silence = silent(monkeypatch, world, 600)
    assert asked(world, CHAT, stream=False).json == WHOLE_CHAT
    assert silence._seconds == [600]


@pytest.mark.parametrize(
    ("status", "kind", "pieces"),
    [
        (200, EVENTS, [b": PING\n\n", b"data: {}\n\n"]),
        (500, "application/json", [b'{"error":', b' "Broken"}']),
    ],
)
def test_all_that_says_whether_a_call_failed_is_read_beside(
    status: int, kind: str, pieces: list[bytes]
) -> None:
    response = ProxyResponse(status, [("Content-Type", kind)], iter(pieces))
    call = ProxyRequest("POST", "chat/completions", {}, NO_BODY)
    guard = DisconnectMonitor().watch(None)
    assert _sent_beside(lambda *_: response, call, None, guard) is response
    assert response.arrived() == b"".join(pieces)


def test_a_response_that_breaks_off_after_comments_only_fails_legally(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    comment = ": PROCESSING\n\n"
    pieces = [comment] * 5
    world = world_of(lambda: Response(iter(pieces), content_type=EVENTS))
    silent(monkeypatch, world)
    # The server is at work: its comments are no empty answer.
    monkeypatch.setattr("horde_proxy.upstreams.openai.answer_start._LONGEST_HOLD", -1.0)
    text = asked(world, RESPONSES).text
    assert text.startswith(comment * 5)
    final = legal_responses.check_stream(legal_responses.parsed(text))
    assert (final["status"], final["error"]["code"]) == ("failed", "server_error")


# Calls in one piece wait for their turn in silence.


class Line:
    """Stands in for router.proxy: so many Waitings, one a second, then an answer."""

    def __init__(self, world: World, seconds: int) -> None:
        self._clock, self._seconds, self.was_left = world.clock, seconds, False

    def __call__(self, *_: Any) -> Generator[Waiting, None, ProxyResponse]:
        try:
            for position in range(self._seconds, 0, -1):
                self._clock.sleep(1)
                yield Waiting("in line", position)
        except GeneratorExit:
            self.was_left = True
            raise
        return ProxyResponse(200, [("Content-Type", "application/json")], iter([b"{}"]))


def in_line(monkeypatch: pytest.MonkeyPatch, world: World, seconds: int) -> tuple[Line, Any]:
    """(the line, the test client of an app whose calls wait in it)."""
    app, line = world.app(), Line(world, seconds)
    monkeypatch.setattr(app.extensions["horde_proxy"].router, "proxy", line)
    return line, app.test_client()


def test_a_call_in_one_piece_waits_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(answering("{}"))
    _, http = in_line(monkeypatch, world, 100)
    answer = http.post(CHAT, json={"model": MODEL, **BODIES[CHAT]})
    assert (answer.status_code, answer.data, world.clock()) == (200, b"{}", 1100)


def test_a_call_in_one_piece_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(answering("{}"), server={"timeout": 30})
    line, http = in_line(monkeypatch, world, 100)
    answer = http.post(CHAT, json={"model": MODEL, **BODIES[CHAT]})
    assert (answer.status_code, answer.json["error"]["code"]) == (504, "timeout")
    assert (world.clock(), line.was_left) == (1031, True)


def test_a_call_in_one_piece_is_given_up_when_its_client_leaves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "horde_proxy.requests")
    world = world_of(answering("{}"))
    line, http = in_line(monkeypatch, world, 100)
    client, ours = socket.socketpair()
    world.clock.run_later(5, client.close)
    with ours:
        body = {"model": MODEL, **BODIES[CHAT]}
        connection = {"gunicorn.socket": ours}
        http.post(CHAT, json=body, environ_overrides=connection, buffered=True)
    assert (world.clock(), line.was_left) == (1005, True)
    [logged] = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert logged["error"] == "client_closed_request"


def test_the_running_requests_say_what_a_call_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(answering("{}"))
    app, line = world.app(), Line(world, 20)
    context = app.extensions["horde_proxy"]
    monkeypatch.setattr(context.router, "proxy", line)
    body = {"model": MODEL, "stream": True, **BODIES[CHAT]}
    answer = app.test_client().post(CHAT, json=body, buffered=False)
    pieces: Iterator[bytes] = iter(answer.response)  # type: ignore[arg-type]
    assert next(pieces).decode().startswith(": in line, position 11\n\n")
    [summary] = context.live.in_flight.proxied_summaries(None)
    assert (summary["state"], summary["queue_position"]) == ("in line", 11)
    answer.close()
    assert line.was_left
