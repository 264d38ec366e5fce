"""OpenAI-compatible servers: their models, and calls that are proxied unchanged."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import responses

from horde_proxy.api.access_log import RequestLog
from horde_proxy.caching.background import inline
from horde_proxy.errors import (
    ContextLengthExceeded,
    RateLimited,
    ServerBug,
    TimedOut,
    Unreachable,
    UpstreamFailed,
)
from horde_proxy.protocol.chunks import Head, fold
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.upstreams.base import Accepted, Caller, Route, Waiting
from horde_proxy.upstreams.disconnects import DisconnectMonitor
from horde_proxy.upstreams.openai.events import events
from horde_proxy.upstreams.openai.stream import stream_items
from horde_proxy.upstreams.openai.tidy import ForeignAnswer
from horde_proxy.upstreams.openai.upstream import OpenAIUpstream, base_url
from horde_proxy.upstreams.proxying import JsonBody, ProxyRequest, ProxyResponse, response_headers
from tests.support import Clock

URL = "http://server.invalid:11434"
CHAT = f"{URL}/v1/chat/completions"
BODY = b'{"model": "m",  "messages": []}'
HEADERS = {
    "Authorization": "Bearer client-key",
    "X-Api-Key": "client-key",
    "Cookie": "a=b",
    "Host": "proxy",
    "Connection": "close, X-Mine",
    "X-Mine": "1",
    "Content-Type": "x/y",
    "Accept-Encoding": "gzip",
    "User-Agent": "me",
    "OpenAI-Beta": "v2",
    "X-Forwarded-For": "1",
}


def upstream(**extra: Any) -> OpenAIUpstream:
    return OpenAIUpstream(
        "server",
        URL,
        requests.Session(),
        DisconnectMonitor(),
        **{"api_key": "k", "run": inline, **extra},
    )


def call(**extra: Any) -> ProxyRequest:
    body = JsonBody(BODY, json.loads(BODY))
    return ProxyRequest(
        **{
            "method": "POST",
            "path": "chat/completions",
            "headers": HEADERS,
            "body": body,
            "model": "m",
            **extra,
        }
    )


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://a:1", "http://a:1/v1"),
        ("http://a:1/", "http://a:1/v1"),
        ("http://a:1/v1", "http://a:1/v1"),
        ("http://a:1/v1/", "http://a:1/v1"),
        ("https://a/openai/v1", "https://a/openai/v1"),
        ("https://a/v1beta/openai/", "https://a/v1beta/openai"),
    ],
)
def test_a_url_without_a_path_gets_v1(url: str, base: str) -> None:
    assert base_url(url) == base


@responses.activate
def test_the_endpoints_key_is_used_to_list_its_models() -> None:
    sent = responses.get(f"{URL}/v1/models", json={"data": [{"id": "a"}, {"id": 3}, "x", {}]})
    assert upstream().models() == [
        {"object": "model", "created": 0, "owned_by": "unknown", "id": "a"}
    ]
    assert sent.calls[0].request.headers["Authorization"] == "Bearer k"


@responses.activate
@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_a_list_offers_any_model(status: int) -> None:
    responses.get(f"{URL}/v1/models", status=status)
    found = upstream()
    assert (found.models(), found.offers_any) == ([], True)


@responses.activate
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 401}, "it refuses the api_key"),
        ({"status": 500}, "status 500"),
        ({"body": "<html>"}, "is not JSON"),
        ({"json": {"data": 5}}, "is not OpenAI's"),
        ({"body": requests.ConnectionError("Connection refused")}, "connection refused"),
    ],
)
def test_a_listing_error_contains_neither_key_nor_url(answer: Any, said: str) -> None:
    responses.get(f"{URL}/v1/models", **answer)
    with pytest.raises(UpstreamFailed, match=said) as raised:
        upstream().models()
    assert "Bearer" not in str(raised.value)


@responses.activate
def test_the_list_is_kept_for_its_time_and_while_the_server_is_down() -> None:
    clock = Clock()
    responses.get(f"{URL}/v1/models", json={"data": [{"id": "a"}]})
    found = upstream(clock=clock, ttl=60)
    first = found.models()
    responses.replace(responses.GET, f"{URL}/v1/models", status=500)
    clock.seconds += 61
    assert found.models() is first
    assert len(responses.calls) == 2


@responses.activate
def test_a_proxied_call_has_our_key_and_none_of_the_clients_secrets() -> None:
    sent = responses.post(
        CHAT, body=b"answer", headers={"X-Ratelimit": "9", "Set-Cookie": "a=b", "Server": "s"}
    )
    answer = upstream(headers={"OpenAI-Organization": "home"}).proxy(call(), "m")
    request = sent.calls[0].request
    assert request.body == BODY
    assert dict(request.headers) == {
        "Content-Type": "x/y",
        "User-Agent": "me",
        "OpenAI-Beta": "v2",
        "Accept-Encoding": "identity",
        "OpenAI-Organization": "home",
        "Authorization": "Bearer k",
        "Content-Length": str(len(BODY)),
    }
    assert (answer.status, b"".join(answer), answer.header("x-ratelimit")) == (200, b"answer", "9")
    assert (answer.header("set-cookie"), answer.header("server")) == ("", "")


@responses.activate
def test_an_endpoint_without_a_key_gets_none() -> None:
    sent = responses.post(CHAT)
    upstream(api_key=None).proxy(call(), "m")
    assert "Authorization" not in sent.calls[0].request.headers


@responses.activate
def test_another_name_for_the_model_is_written_into_the_body() -> None:
    sent = responses.post(CHAT)
    upstream().proxy(call(), "n")
    assert json.loads(sent.calls[0].request.body) == {"model": "n", "messages": []}


@responses.activate
def test_query_and_method_are_proxied() -> None:
    sent = responses.delete(f"{URL}/v1/files/a?b=c%20d", json={})
    upstream().proxy(call(method="DELETE", path="files/a?b=c%20d", body=JsonBody(b"")), None)
    assert sent.calls[0].request.body is None


@responses.activate
def test_a_failing_status_is_a_response() -> None:
    responses.post(CHAT, status=418, body=b"teapot")
    answer = upstream().proxy(call(), "m")
    assert (answer.status, b"".join(answer)) == (418, b"teapot")


@responses.activate
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (requests.ConnectTimeout(), Unreachable, "server.invalid:11434 does not answer"),
        (requests.ReadTimeout(), TimedOut, "did not answer within 300 s"),
        (
            requests.ConnectionError("NewConnectionError Connection refused"),
            Unreachable,
            "cannot be reached: connection refused",
        ),
        (requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED"), Unreachable, "not trusted"),
        (requests.ConnectionError("Name or service not known"), Unreachable, "unknown host"),
    ],
)
def test_connection_errors_name_their_reason(
    error: Exception, kind: type[Exception], said: str
) -> None:
    responses.post(CHAT, body=error)
    with pytest.raises(kind, match=said):
        upstream().proxy(call(), "m")


@responses.activate
def test_a_new_connection_that_broke_is_not_tried_again() -> None:
    responses.post(CHAT, body=requests.ConnectionError("RemoteDisconnected"))
    with pytest.raises(Unreachable, match="the connection broke"):
        upstream().proxy(call(), "m")
    assert len(responses.calls) == 1


@responses.activate
def test_a_time_out_is_not_tried_again() -> None:
    responses.post(CHAT, body=requests.ReadTimeout())
    with pytest.raises(TimedOut):
        upstream().proxy(call(), "m")
    assert len(responses.calls) == 1


@responses.activate
def test_the_first_bytes_can_be_read_ahead() -> None:
    responses.post(CHAT, body=b"0123456789")
    answer = upstream().proxy(call(), "m")
    assert (answer.head(1), answer.head(4), answer.head(99)) == (b"0", b"0123", b"0123456789")
    assert b"".join(answer) == b"0123456789"


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def choice(delta: dict[str, Any], finish_reason: str | None = None, **extra: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "created": 1,
        "model": "m",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        **extra,
    }


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
ROLES = sse(
    choice({"role": "assistant", "content": "Hel"}),
    choice({"role": "assistant", "content": "lo"}),
    choice({}, "stop", usage=USAGE),
)


@pytest.mark.parametrize("kudos", [None, "7", float("nan"), float("inf"), -1, 10**400])
def test_kudos_that_cannot_be_added_up_are_not_noted(kudos: Any) -> None:
    event = {**choice({}), "choices": [], "usage": USAGE, "horde": {"kudos": kudos}}
    record = RequestLog("id", "POST", "/", "client")
    with record.recording():
        record.note(event)
    assert record.kudos is None


@responses.activate
def test_a_chat_is_streamed_as_chunks() -> None:
    sent = responses.post(CHAT, body=ROLES, content_type="text/event-stream")
    source = {"model": "x", "messages": [], "temperature": 1}
    request = GenerationRequest("x", (Message("user", "Hi"),), source=source)
    found = upstream()
    items = list(found.stream(request, Route(found, ("m",)), Caller()))
    assert items[0] == Accepted({"X-Endpoint": "server"}, "server")
    assert fold(item for item in items if isinstance(item, dict))["usage"] == USAGE
    assert json.loads(sent.calls[0].request.body) == {
        "model": "m",
        "messages": [],
        "temperature": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@responses.activate
@pytest.mark.parametrize(("status", "code"), [(400, 400), (500, 502), (200, 502)])
def test_a_refusal_comes_before_accepted(status: int, code: int) -> None:
    responses.post(CHAT, json={"error": {"message": "no such thing"}}, status=status)
    found = upstream()
    request = GenerationRequest("x", (Message("user", "Hi"),), source={})
    with pytest.raises(Exception, match="no such thing") as raised:
        list(found.stream(request, Route(found, ("m",)), Caller()))
    assert getattr(raised.value, "status", None) == code


def test_a_server_that_is_silent_after_it_began_is_accepted_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("horde_proxy.upstreams.openai.stream.LONGEST_SLEEP", 0.001)
    go_on = threading.Event()

    def body() -> Iterator[bytes]:
        yield b": wait"
        assert go_on.wait(60)
        yield b"\n\n" + ROLES

    def start() -> ProxyResponse:
        # Of another type than an event stream, so that its first event is not waited for.
        return ProxyResponse(200, [("Content-Type", "application/octet-stream")], body())

    accepted = Accepted({}, "server")
    answer = ForeignAnswer(Head("id", 1, "m"))
    items = stream_items(
        accepted, lambda response: answer.chunks(events(response, ())), start, go_on.set
    )
    assert next(item for item in items if not isinstance(item, Waiting)) is accepted
    assert isinstance(next(items), Waiting)
    go_on.set()
    chunks = [item for item in items if isinstance(item, dict)]
    assert fold(chunks)["choices"][0]["message"]["content"] == "Hello"


def test_a_bug_in_reading_an_answer_is_logged_with_its_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def start() -> ProxyResponse:
        raise LookupError("our mistake")

    with pytest.raises(ServerBug):
        list(stream_items(Accepted(), iter, start, lambda: None))
    assert "LookupError: our mistake" in caplog.text


@responses.activate
def test_a_password_in_the_url_is_sent_but_not_shown() -> None:
    sent = responses.get("http://server.invalid/v1/models", json={"data": []})
    found = OpenAIUpstream(
        "server",
        "http://bob:p%40w@server.invalid",
        requests.Session(),
        DisconnectMonitor(),
        run=inline,
    )
    found.models()
    assert sent.calls[0].request.headers["Authorization"] == "Basic Ym9iOnBAdw=="
    assert found.url == "http://server.invalid"


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ([("X-A", "1"), ("Connection", "X-Hop"), ("X-Hop", "1")], [("X-A", "1")]),
        ([("X-A", "a\r\n b")], [("X-A", "a b")]),
        ([("X-A", "a\x01b"), ("X(b)", "1"), ("X-C", "ok")], [("X-C", "ok")]),
        ([("Transfer-Encoding", "chunked"), ("Content-Length", "5")], []),
    ],
)
def test_malformed_and_hop_by_hop_headers_are_dropped(
    headers: list[tuple[str, str]], told: list[tuple[str, str]]
) -> None:
    assert response_headers(headers) == told


@responses.activate
def test_a_stream_from_a_busy_server_is_rate_limited() -> None:
    responses.post(CHAT, status=429, headers={"Retry-After": "9"})
    found = upstream()
    request = GenerationRequest("x", (Message("user", "Hi"),), source={})
    with pytest.raises(RateLimited) as raised:
        list(found.stream(request, Route(found, ("m",)), Caller()))
    assert raised.value.retry_after == 9


@responses.activate
def test_a_context_overflow_of_a_stream_is_recognised() -> None:
    responses.post(
        CHAT,
        status=400,
        json={"error": {"message": "too long", "type": "exceed_context_size_error"}},
    )
    found = upstream()
    request = GenerationRequest("x", (Message("user", "Hi"),), source={})
    with pytest.raises(ContextLengthExceeded, match="too long"):
        list(found.stream(request, Route(found, ("m",)), Caller()))
