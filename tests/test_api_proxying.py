"""The proxy in front of other servers: what passes, what is counted, and who may use how much."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.datastructures import MultiDict

from horde_proxy import create_app, reconfigure
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.errors import AnswerLost, ClientGone, ProxyError, TimedOut, Unreachable
from horde_proxy.upstreams.openai.sending import Sender
from tests.support import full_disk

HOME, CLOUD = "http://home.invalid:1", "http://cloud.invalid:2"
ENDPOINTS: list[dict[str, Any]] = [
    {"url": HOME, "name": "home", "api_key": "home-secret"},
    {"url": CLOUD, "name": "cloud", "api_key": "cloud-secret", "priority": 1},
]
ANN, ROOT = "key-of-ann-0123456789", "key-of-root-0123456789"
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
}
STREAM = b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: [DONE]\n\n'


def made(endpoints: list[dict[str, Any]] | None = None, **settings: Any) -> Flask:
    flags = {"endpoints": endpoints or ENDPOINTS, "stats": {"hydrate": False}, **settings}
    # Nothing is loaded in a thread that may go on when the test, and its servers, have ended.
    return create_app(load(environ={}, flags=flags), Runtime(run=inline))


@pytest.fixture
def servers() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(f"{HOME}/v1/models", json={"data": [{"id": "m"}, {"id": "home-only"}]})
        mock.get(f"{CLOUD}/v1/models", json={"data": [{"id": "m"}, {"id": "cloud-only"}]})
        yield mock


def chat(
    http: FlaskClient,
    model: str = "m",
    path: str = "/v1/chat/completions",
    key: str = "",
    buffered: bool = True,
    **body: Any,
) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": model, "messages": [], **body}
    return http.post(path, json=body, headers=headers, buffered=buffered)


def test_a_proxied_answer_names_its_endpoint(
    servers: responses.RequestsMock,
) -> None:
    sent = servers.post(f"{HOME}/v1/chat/completions", json=COMPLETION, headers={"X-Mine": "1"})
    found = chat(made().test_client(), temperature=0.5)
    assert (found.status_code, found.json) == (200, COMPLETION)
    assert (found.headers["X-Endpoint"], found.headers["X-Mine"]) == ("home", "1")
    assert json.loads(sent.calls[0].request.body) == {
        "model": "m",
        "messages": [],
        "temperature": 0.5,
    }
    assert sent.calls[0].request.headers["Authorization"] == "Bearer home-secret"


def test_a_model_that_only_the_second_offers_goes_there(servers: responses.RequestsMock) -> None:
    servers.post(f"{CLOUD}/v1/chat/completions", json=COMPLETION)
    assert chat(made().test_client(), "cloud-only").headers["X-Endpoint"] == "cloud"


def test_with_both_down_both_are_named_with_why(servers: responses.RequestsMock) -> None:
    servers.post(f"{HOME}/v1/chat/completions", body=requests.ConnectionError("refused"))
    servers.post(f"{CLOUD}/v1/chat/completions", status=503)
    found = chat(made().test_client())
    assert (found.status_code, found.json["error"]["code"]) == (503, "no_endpoint")
    assert "home: home.invalid:1 cannot be reached" in found.json["error"]["message"]
    assert "cloud: it answered with status 503" in found.json["error"]["message"]
    assert int(found.headers["Retry-After"]) >= 1


def test_a_stream_is_proxied_byte_for_byte_without_buffering(
    servers: responses.RequestsMock,
) -> None:
    servers.post(f"{HOME}/v1/chat/completions", body=STREAM, content_type="text/event-stream")
    found = chat(made().test_client(), stream=True)
    assert found.data == STREAM
    assert found.headers["X-Accel-Buffering"] == "no"


def test_an_unknown_model_is_a_404_that_names_some(servers: responses.RequestsMock) -> None:
    found = chat(made().test_client(), "cloud-oly")
    assert (found.status_code, found.json["error"]["code"]) == (404, "model_not_found")
    assert "`cloud-only`" in found.json["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        "embeddings",
        "responses",
        "audio/speech",
        "images/generations",
        "moderations",
        "files/a/b",
        "what/ever",
    ],
)
def test_every_path_of_openai_is_proxied(servers: responses.RequestsMock, path: str) -> None:
    sent = servers.post(f"{CLOUD}/v1/{path}", body=b"\x00\xff", content_type="audio/mpeg")
    found = made().test_client().post(f"/v1/{path}?x=y%20z", json={"model": "cloud-only"})
    assert (found.status_code, found.data, found.mimetype) == (200, b"\x00\xff", "audio/mpeg")
    assert sent.calls[0].request.url == f"{CLOUD}/v1/{path}?x=y%20z"


def test_the_usual_paths_pass_without_v1_and_others_do_not(
    servers: responses.RequestsMock,
) -> None:
    servers.post(f"{HOME}/v1/embeddings", json={})
    http = made().test_client()
    assert http.post("/embeddings", json={"model": "m"}).status_code == 200
    assert http.post("/what/ever", json={"model": "m"}).status_code == 404


def test_what_names_no_model_goes_to_the_first_endpoint(servers: responses.RequestsMock) -> None:
    servers.get(f"{HOME}/v1/files", json={"data": []})
    servers.delete(f"{HOME}/v1/files/1", json={"deleted": True})
    http = made().test_client()
    assert http.get("/v1/files").headers["X-Endpoint"] == "home"
    assert http.delete("/v1/files/1").json == {"deleted": True}


def test_a_request_without_a_model_is_answered_by_the_endpoint_that_has_it(
    servers: responses.RequestsMock,
) -> None:
    servers.get(f"{HOME}/v1/files/1", status=404)
    servers.get(f"{CLOUD}/v1/files/1", json={"id": "1"})
    servers.post(f"{HOME}/v1/batches", status=405)
    sent = servers.post(f"{CLOUD}/v1/batches", json={"id": "2"})
    http = made().test_client()
    assert http.get("/v1/files/1").headers["X-Endpoint"] == "cloud"
    assert http.post("/v1/batches", json={"input_file_id": "1"}).json == {"id": "2"}
    assert json.loads(sent.calls[0].request.body) == {"input_file_id": "1"}
    states = http.get("/v1/endpoints").get_json()["data"]
    assert [each["state"] for each in states] == ["up", "up"]


@pytest.mark.parametrize(("lost", "status"), [(AnswerLost, 502), (TimedOut, 504)])
def test_a_post_without_a_model_that_was_taken_is_sent_to_no_other_endpoint(
    servers: responses.RequestsMock,
    monkeypatch: pytest.MonkeyPatch,
    lost: type[ProxyError],
    status: int,
) -> None:
    send = Sender.open

    def lose(sender: Sender, request: Any, guard: Any) -> Any:
        if request.url.startswith(HOME):
            raise lost("home took the request")
        return send(sender, request, guard)

    servers.post(f"{CLOUD}/v1/batches", json={})
    servers.get(f"{CLOUD}/v1/files/1", json={})
    servers.post(f"{CLOUD}/v1/chat/completions", json=COMPLETION)
    monkeypatch.setattr(Sender, "open", lose)
    found = made().test_client().post("/v1/batches", json={"input_file_id": "1"})
    assert found.status_code == status
    assert found.get_json()["error"]["message"] == "home took the request"
    # Reading makes nothing that could be there twice, nor does a chat.
    assert made().test_client().get("/v1/files/1").headers["X-Endpoint"] == "cloud"
    assert chat(made().test_client()).headers["X-Endpoint"] == "cloud"


@pytest.mark.parametrize("is_answer", [True, False])
def test_an_answer_to_a_post_without_a_model_that_breaks_off_at_once_is_lost(
    servers: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch, is_answer: bool
) -> None:
    servers.post(f"{HOME}/v1/batches", json={})
    servers.post(f"{CLOUD}/v1/batches", json={"id": "2"})
    if is_answer:
        cut(monkeypatch, error=AnswerLost("home.invalid:1 broke the answer off"))
    else:
        servers.replace("POST", f"{HOME}/v1/batches", status=503)
    found = made().test_client().post("/v1/batches", json={})
    assert (found.status_code, found.headers.get("X-Endpoint")) == (
        (502, None) if is_answer else (200, "cloud")
    )


def test_what_no_endpoint_has_is_the_last_one_s_404(servers: responses.RequestsMock) -> None:
    servers.get(f"{HOME}/v1/files/1", status=404, json={"error": "home"})
    servers.get(f"{CLOUD}/v1/files/1", status=404, json={"error": "cloud"})
    http = made().test_client()
    found = http.get("/v1/files/1")
    assert (found.status_code, found.json) == (404, {"error": "cloud"})
    chosen = http.get("/v1/files/1", headers={"X-Endpoint": "home"})
    assert (chosen.status_code, chosen.json) == (404, {"error": "home"})


def test_when_no_endpoint_has_it_the_error_has_the_reason_of_each(
    servers: responses.RequestsMock,
) -> None:
    servers.get(f"{HOME}/v1/files/1", status=404)
    servers.get(f"{CLOUD}/v1/files/1", status=503)
    found = made().test_client().get("/v1/files/1")
    assert found.status_code == 503
    assert "home: it answered with status 404" in found.get_json()["error"]["message"]
    assert "cloud: it answered with status 503" in found.get_json()["error"]["message"]


def test_a_path_that_the_first_endpoint_lacks_is_tried_at_the_next(
    servers: responses.RequestsMock,
) -> None:
    servers.post(f"{HOME}/v1/embeddings", status=404, json={"error": "home"})
    servers.post(f"{CLOUD}/v1/embeddings", json={"data": [1]})
    http = made().test_client()
    found = http.post("/v1/embeddings", json={"model": "m", "input": "x"})
    assert (found.headers["X-Endpoint"], found.json) == ("cloud", {"data": [1]})
    states = http.get("/v1/endpoints").get_json()["data"]
    assert [endpoint["state"] for endpoint in states] == ["up", "up"]


def test_a_path_that_no_endpoint_has_is_the_last_ones_404(
    servers: responses.RequestsMock,
) -> None:
    servers.post(f"{HOME}/v1/embeddings", status=404, json={"error": "home"})
    servers.post(f"{CLOUD}/v1/embeddings", status=404, json={"error": "cloud"})
    found = made().test_client().post("/v1/embeddings", json={"model": "m", "input": "x"})
    assert (found.status_code, found.json) == (404, {"error": "cloud"})


def test_a_request_may_name_its_endpoint(servers: responses.RequestsMock) -> None:
    servers.get(f"{CLOUD}/v1/files", json={"data": []})
    found = made().test_client().get("/v1/files", headers={"X-Endpoint": "cloud"})
    assert found.headers["X-Endpoint"] == "cloud"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin",
        "/v1/a/%2e%2e/b",
        "/v1/..%2fadmin",
        "/v1/a/..;/..;x/..%3b/admin",
        "/v1/",
    ],
)
def test_no_path_leads_out_of_the_endpoint(servers: responses.RequestsMock, path: str) -> None:
    found = made().test_client().post(path, json={}, environ_overrides={"RAW_URI": path})
    assert found.status_code == 404
    assert [call.request.method for call in servers.calls] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("TRACE", "/v1/vector_stores", 404),
        ("TRACE", "/v1/chat/completions", 405),
        ("CONNECT", "/v1/vector_stores", 404),
    ],
)
def test_trace_which_would_reveal_the_endpoints_key_is_not_proxied(
    servers: responses.RequestsMock, method: str, path: str, status: int
) -> None:
    for url in (HOME, CLOUD):
        servers.add(method, f"{url}{path}", body="Authorization: Bearer ...")
    assert made().test_client().open(path, method=method).status_code == status


def test_our_own_routes_stay_ours(servers: responses.RequestsMock) -> None:
    http = made().test_client()
    listed = http.get("/v1/models").get_json()["data"]
    assert [(each["id"], each["endpoints"]) for each in listed] == [
        ("m", ["home", "cloud"]),
        ("home-only", ["home"]),
        ("cloud-only", ["cloud"]),
    ]
    assert http.get("/v1/models/m").get_json()["endpoints"] == ["home", "cloud"]
    assert http.get("/health/ready").json == {"status": "ok", "models": 3}


def test_a_proxy_that_relays_nothing_has_only_its_own_routes() -> None:
    http = made([{"type": "horde", "url": "http://horde.invalid"}]).test_client()
    assert http.post("/v1/embeddings", json={"model": "m"}).status_code == 404
    assert http.get("/v1/completions").status_code == 405


@pytest.mark.parametrize("model", ["m-8b", "cloud/org/m-8b", "Cloud--Org--M-8B"])
def test_a_server_gets_its_own_name_for_a_short_id(
    servers: responses.RequestsMock, model: str
) -> None:
    servers.get("http://org.invalid/v1/models", json={"data": [{"id": "org/m-8b"}]})
    sent = servers.post("http://org.invalid/v1/chat/completions", json=COMPLETION)
    endpoint = {"url": "http://org.invalid", "name": "org", "prefix": "cloud/"}
    http = made([endpoint], models={"ids": "short"}).test_client()
    assert [listed["id"] for listed in http.get("/v1/models").get_json()["data"]] == ["m-8b"]
    # The answer passes unchanged.
    assert chat(http, model).json == COMPLETION
    assert json.loads(sent.calls[0].request.body)["model"] == "org/m-8b"


def test_a_model_of_the_horde_answers_chats_only(servers: responses.RequestsMock) -> None:
    servers.get("http://horde.invalid/api/v2/status/models", json=[{"name": "h", "count": 1}])
    servers.get("http://horde.invalid/api/v2/workers", json=[])
    http = made([ENDPOINTS[0], {"type": "horde", "url": "http://horde.invalid"}]).test_client()
    found = http.post("/v1/embeddings", json={"model": "h"})
    assert (found.status_code, found.get_json()["error"]["code"]) == (404, "unsupported_endpoint")


def test_the_list_of_endpoints_has_no_secrets(servers: responses.RequestsMock) -> None:
    found = made().test_client().get("/v1/endpoints")
    assert [
        (each["name"], each["type"], each["url"], each["state"], each["models"])
        for each in found.get_json()["data"]
    ] == [
        ("home", "openai", HOME, "up", ["home-only", "m"]),
        ("cloud", "openai", CLOUD, "up", ["cloud-only", "m"]),
    ]
    assert "secret" not in found.text


def test_the_list_comes_from_cache_while_an_endpoint_is_down(
    servers: responses.RequestsMock,
) -> None:
    http = made().test_client()
    http.get("/v1/models")
    servers.replace("GET", f"{HOME}/v1/models", body=requests.ConnectTimeout())
    assert len(http.get("/v1/models").get_json()["data"]) == 3


def test_a_form_is_proxied_unchanged_also_with_the_model_after_the_file(
    servers: responses.RequestsMock,
) -> None:
    sent = servers.post(f"{HOME}/v1/audio/transcriptions", json={"text": "Hallo"})
    form = {
        "language": "de",
        "file": (BytesIO(b"\x00RIFF" * 1000), "speech.wav"),
        "model": "m",
    }
    found = made().test_client().post("/v1/audio/transcriptions", data=form, buffered=True)
    assert found.json == {"text": "Hallo"}
    request = sent.calls[0].request
    assert b"\x00RIFF" * 1000 in request.body
    assert request.body.count(b'name="model"') == 1
    assert int(request.headers["Content-Length"]) == len(request.body)


def test_a_forms_model_is_renamed_for_an_endpoint_with_a_prefix(
    servers: responses.RequestsMock,
) -> None:
    sent = servers.post(f"{HOME}/v1/audio/transcriptions", json={})
    http = made([{**ENDPOINTS[0], "prefix": "home/"}]).test_client()
    form = {"file": (BytesIO(b"--x\r\nRIFF"), "ä speech.wav"), "model": "home/m"}
    assert http.post("/v1/audio/transcriptions", data=form, buffered=True).status_code == 200
    body = sent.calls[0].request.body
    assert b"\r\n\r\nm\r\n" in body
    assert b"home/m" not in body
    assert b"--x\r\nRIFF" in body
    assert int(sent.calls[0].request.headers["Content-Length"]) == len(body)


PIECE = 65_536


@pytest.mark.parametrize(
    "rest",
    [
        b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\r\n',
        b"--x\r\nContent-Disposition: form-data\r\n\r\nnameless\r\n",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a\\"b.wav"\r\n\r\nx\r\n',
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\nX-Long: '
        + b"x" * (PIECE - 165)
        + b"\r\n\r\nRIFF\r\n",
    ],
)
def test_a_renamed_form_is_else_the_same_bytes(
    servers: responses.RequestsMock, rest: bytes
) -> None:
    """An empty field, a nameless one, a quoted quote, and data that begin with a piece."""
    sent = servers.post(f"{HOME}/v1/audio/transcriptions", json={})
    http = made([{**ENDPOINTS[0], "prefix": "home/"}]).test_client()
    model = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n'
    status = http.post(
        "/v1/audio/transcriptions",
        data=model % b"home/m" + rest + b"--x--\r\n",
        buffered=True,
        content_type="multipart/form-data; boundary=x",
    ).status_code
    assert (status, sent.calls[0].request.body) == (200, model % b"m" + rest + b"--x--\r\n")


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b'--x\r\nContent-Disposition: form-data; name="file"\r\nX-Long: ',
    ],
)
def test_a_form_without_an_end_is_not_read_into_memory(
    servers: responses.RequestsMock, begin: bytes
) -> None:
    found = (
        made()
        .test_client()
        .post(
            "/v1/files",
            data=begin + b"x" * 1_500_000 + b"\r\n\r\n--x--\r\n",
            buffered=True,
            content_type="multipart/form-data; boundary=x",
        )
    )
    assert found.status_code == 400


def transcribe(http: FlaskClient, model: str, size: int) -> Any:
    """What comes of a form with a file. Werkzeug's own forms have a temporary file as well."""
    head = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n'
    named = head % b"model" + model.encode() + b"\r\n" + head % b'file"; filename="speech.wav'
    return http.post(
        "/v1/audio/transcriptions",
        data=named + bytes(size) + b"\r\n--x--\r\n",
        content_type="multipart/form-data; boundary=x",
        buffered=True,
    )


def test_a_form_that_the_disk_has_no_room_for_is_answered_and_closes_no_endpoint(
    servers: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", full_disk)
    http = made().test_client()
    found = transcribe(http, "m", size=1_100_000)
    assert (found.status_code, found.headers["Retry-After"]) == (503, "10")
    assert found.json == {
        "error": {
            "message": "This proxy cannot store the body.",
            "type": "server_error",
            "param": None,
            "code": "cannot_store_body",
        }
    }


def test_a_renamed_form_that_the_disk_has_no_room_for_closes_no_endpoint(
    servers: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the copy is longer than what stays in memory.
    monkeypatch.setattr("tempfile.TemporaryFile", full_disk)
    servers.get("http://den.invalid:3/v1/models", json={"data": [{"id": "a-longer-name" * 20}]})
    den = {"url": "http://den.invalid:3", "name": "den"}
    http: Any = made([den], aliases={"a": "a-longer-name" * 20}).test_client()
    found = transcribe(http, "a", size=1_048_200)
    assert (found.status_code, found.json["error"]["code"]) == (503, "cannot_store_body")
    assert [state["state"] for state in http.get("/v1/endpoints").json["data"]] == ["up"]


def test_a_form_that_is_broken_is_the_clients_fault(servers: responses.RequestsMock) -> None:
    found = (
        made()
        .test_client()
        .post(
            "/v1/audio/transcriptions",
            data=b"nonsense",
            content_type="multipart/form-data; boundary=x",
        )
    )
    assert found.status_code == 400


def test_an_upload_has_a_limit_of_its_own(servers: responses.RequestsMock) -> None:
    servers.post(f"{HOME}/v1/files", json={})
    http = made(server={"max_body": 1024, "max_upload": 4096}).test_client()

    def status(size: int) -> int:
        found = http.post(
            "/v1/files", data=b"x" * size, content_type="application/octet-stream", buffered=True
        )
        return int(found.status_code)

    assert (status(4096), status(4097)) == (200, 413)


def test_a_fallback_answers_when_the_context_is_too_small(servers: responses.RequestsMock) -> None:
    error = {"error": {"message": "too long", "type": "exceed_context_size_error"}}
    servers.post(f"{HOME}/v1/chat/completions", json=error, status=400)
    servers.post(f"{CLOUD}/v1/chat/completions", json=COMPLETION)
    found = chat(made(fallbacks={"home-only": ["cloud-only"]}).test_client(), "home-only")
    assert (found.status_code, found.headers["X-Endpoint"]) == (200, "cloud")


def test_new_settings_add_remove_and_rekey_endpoints(servers: responses.RequestsMock) -> None:
    sent = servers.post(f"{HOME}/v1/chat/completions", json=COMPLETION)
    app = made([ENDPOINTS[0]])
    http = app.test_client()
    assert chat(http, "cloud-only").status_code == 404
    kept = app.extensions["horde_proxy"].router.endpoints[0]
    both = [{**ENDPOINTS[0], "api_key": "new-secret"}, ENDPOINTS[1]]
    reconfigure(app, load(environ={}, flags={"endpoints": both}))
    chat(http)
    assert sent.calls[0].request.headers["Authorization"] == "Bearer new-secret"
    assert app.extensions["horde_proxy"].router.endpoints[0] is not kept
    before = app.extensions["horde_proxy"].router.endpoints
    reconfigure(app, load(environ={}, flags={"endpoints": both, "server": {"places": 5}}))
    after = app.extensions["horde_proxy"].router.endpoints
    assert [one is other for one, other in zip(before, after, strict=True)] == [True, True]
    reconfigure(app, load(environ={}, flags={"endpoints": [ENDPOINTS[1]]}))
    assert [each["id"] for each in http.get("/v1/models").get_json()["data"]] == ["m", "cloud-only"]


def keyed(tmp_path: Path, **ann: Any) -> FlaskClient:
    keys = {"ann": {"key": ANN, **ann}, "root": {"key": ROOT, "admin": True}}
    access = {"mode": "keys", "keys": keys, "database": f"sqlite:///{tmp_path}/ledger.db"}
    return made(access=access).test_client()


def test_new_settings_keep_the_store_and_its_connections(tmp_path: Path) -> None:
    access = {"mode": "keys", "keys": {"ann": ANN}, "database": f"sqlite:///{tmp_path}/ledger.db"}
    app = made(access=access)
    store = app.extensions["composition"].ledger.database
    access = {**access, "keys": {"root": ROOT}}
    reconfigure(app, load(environ={}, flags={"endpoints": ENDPOINTS, "access": access}))
    assert app.extensions["composition"].ledger.database is store
    keys = app.extensions["horde_proxy"].access.keys
    assert [keys.find(each) and keys.find(each).name for each in (ANN, ROOT)] == [None, "root"]


def usage(http: FlaskClient, key: str) -> list[tuple[str, str, str, int, int]]:
    rows = http.get("/v1/usage", headers={"Authorization": f"Bearer {key}"}).get_json()["data"]
    return [
        (
            each["key"],
            each["model"],
            each["endpoint"],
            each["requests"],
            each["prompt_tokens"] + each["completion_tokens"],
        )
        for each in rows
    ]


def test_usage_is_ones_own_and_an_admins_is_all(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    servers.post(f"{HOME}/v1/chat/completions", json=COMPLETION)
    http = keyed(tmp_path)
    for key in (ANN, ANN, ROOT):
        assert chat(http, key=key).status_code == 200
    assert usage(http, ANN) == [("ann", "m", "home", 2, 24)]
    assert usage(http, ROOT) == [("ann", "m", "home", 2, 24), ("root", "m", "home", 1, 12)]
    assert http.get("/v1/usage").status_code == 401


def test_a_stream_without_usage_counts_its_prompt_and_its_events(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    servers.post(f"{HOME}/v1/chat/completions", body=STREAM, content_type="text/event-stream")
    http = keyed(tmp_path)
    assert chat(http, key=ANN, stream=True).data == STREAM
    assert usage(http, ANN) == [("ann", "m", "home", 1, 2)]
    messages = [{"role": "user", "content": "x" * 400}]
    chat(http, key=ANN, stream=True, messages=messages)
    assert usage(http, ANN) == [("ann", "m", "home", 2, 2 + 103 + 2)]


def test_tokens_a_day_end_in_a_429_that_nobody_retries_before_midnight(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    servers.post(f"{HOME}/v1/chat/completions", json=COMPLETION)
    http = keyed(tmp_path, tokens_per_day=12)
    assert chat(http, key=ANN).status_code == 200
    found = chat(http, key=ANN)
    assert (found.status_code, found.json["error"]["code"]) == (429, "daily_limit_reached")
    assert (found.headers["x-should-retry"], int(found.headers["Retry-After"]) > 0) == (
        "false",
        True,
    )
    assert chat(http, key=ROOT).status_code == 200


def test_requests_a_minute_are_limited_for_all_paths_that_do_work(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    servers.post(f"{HOME}/v1/embeddings", json={})
    http = keyed(tmp_path, requests_per_minute=2)
    headers = {"Authorization": f"Bearer {ANN}"}
    statuses = [
        http.post("/v1/embeddings", json={"model": "m"}, headers=headers).status_code
        for _ in range(3)
    ]
    assert statuses == [200, 200, 429]
    assert http.get("/v1/models", headers=headers).status_code == 200


def test_requests_at_a_time_are_limited_until_one_has_ended(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    servers.post(f"{HOME}/v1/chat/completions", body=STREAM, content_type="text/event-stream")
    http = keyed(tmp_path, concurrent=1)
    first = chat(http, key=ANN, buffered=False)
    assert chat(http, key=ANN).status_code == 429
    first.close()
    assert chat(http, key=ANN).status_code == 200


def test_a_key_sees_only_its_models_and_endpoints(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    servers.post(f"{CLOUD}/v1/chat/completions", json=COMPLETION)
    http = keyed(tmp_path, models=["m", "cloud-*"], endpoints=["cloud"])
    headers = {"Authorization": f"Bearer {ANN}"}
    assert [each["id"] for each in http.get("/v1/models", headers=headers).get_json()["data"]] == [
        "m",
        "cloud-only",
    ]
    listed = http.get("/v1/endpoints", headers=headers).get_json()["data"]
    assert [endpoint["name"] for endpoint in listed] == ["cloud"]
    assert chat(http, key=ANN).headers["X-Endpoint"] == "cloud"
    assert chat(http, "home-only", key=ANN).status_code == 404
    assert chat(http, "home-only", key=ROOT).status_code != 404


def test_usage_days_are_bounded(servers: responses.RequestsMock) -> None:
    http = made().test_client()
    for days in ("367", "0", "-1", "1.5", "abc", "", "٣", "9" * 5000):
        found = http.get("/v1/usage", query_string={"days": days})
        assert (found.status_code, found.get_json()["error"]["param"]) == (400, "days")
    assert http.get("/v1/usage?days=366").get_json()["data"] == []
    assert http.get("/v1/usage").get_json()["data"] == []


def test_a_key_for_some_models_cannot_name_two(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    sent = servers.post(f"{HOME}/v1/chat/completions", json=COMPLETION)
    http = keyed(tmp_path, models=["m"])
    headers = {"Authorization": f"Bearer {ANN}", "Content-Type": "application/json"}

    def status(body: bytes) -> int:
        return int(
            http.post("/v1/chat/completions", data=body, headers=headers, buffered=True).status_code
        )

    assert status(b'{"model": "m", "Model": "home-only"}') == 403
    assert status(b'{"model": "m", "models": ["home-only"]}') == 403
    assert status(b'{"model": "home-only", "model": "m"}') == 200
    assert json.loads(sent.calls[0].request.body) == {"model": "m"}
    assert sent.calls[0].request.body.count(b"model") == 1


def test_a_form_that_names_two_models_is_refused(servers: responses.RequestsMock) -> None:
    form = MultiDict([("model", "m"), ("model", "home-only")])
    found = (
        made()
        .test_client()
        .post(
            "/v1/audio/transcriptions", data=form, content_type="multipart/form-data", buffered=True
        )
    )
    assert (found.status_code, found.get_json()["error"]["param"]) == (400, "model")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", None])
def test_json_is_json_whatever_its_type_is_called(
    servers: responses.RequestsMock, kind: str | None
) -> None:
    sent = servers.post(f"{CLOUD}/v1/embeddings", json={})
    found = (
        made()
        .test_client()
        .post("/v1/embeddings", data=b' {"model": "cloud-only"}', content_type=kind, buffered=True)
    )
    assert found.headers["X-Endpoint"] == "cloud"
    assert sent.calls[0].request.headers["Content-Type"] == "application/json"


def test_an_answer_without_a_content_type_stays_without_one(
    servers: responses.RequestsMock,
) -> None:
    servers.post(f"{HOME}/v1/embeddings", body=b"<script>", content_type=None)
    found = made().test_client().post("/v1/embeddings", json={"model": "m"})
    assert "Content-Type" not in found.headers


def test_a_model_s_name_has_a_longest_length(servers: responses.RequestsMock) -> None:
    found = chat(made().test_client(), "x" * 1001)
    assert (found.status_code, found.json["error"]["param"]) == (400, "model")


def test_older_completions_keep_to_the_endpoint_that_is_named(
    servers: responses.RequestsMock,
) -> None:
    servers.post(f"{CLOUD}/v1/completions", json={"choices": []})
    found = (
        made()
        .test_client()
        .post(
            "/v1/completions", json={"model": "m", "prompt": "a"}, headers={"X-Endpoint": "cloud"}
        )
    )
    assert found.headers["X-Endpoint"] == "cloud"


def test_usage_is_counted_for_the_model_that_answered(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    servers.post(f"{HOME}/v1/chat/completions", json=COMPLETION)
    http = keyed(tmp_path)
    for name in ("home-only", "HOME-ONLY", "home*", "gone,home-only"):
        assert chat(http, name, key=ANN).status_code == 200
    assert usage(http, ANN) == [("ann", "home-only", "home", 4, 48)]


def cut(monkeypatch: pytest.MonkeyPatch, *pieces: bytes, error: Exception) -> None:
    """Let the bodies of all proxied answers be these pieces, and then the error."""

    def body(*_: Any) -> Iterator[bytes]:
        yield from pieces
        raise error

    monkeypatch.setattr(Sender, "pieces", body)


def events(*texts: str, finish_reason: str | None = None) -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    if finish_reason:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


BROKEN = (
    b'data: {"error":{"message":"home.invalid:1 broke the answer off","type":"server_error",'
    b'"param":null,"code":"upstream_error"}}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize(
    ("pieces", "between"),
    [
        ([b'data: {"choi'], b"\n\n"),
        ([b'data: {"choices": []}\n'], b"\n\n"),
        ([b'data: {"choices": []}\r\n'], b"\n\n"),
        ([b'data: {"choices": []}\r\n\r'], b"\n\n"),
        ([b": comm"], b"\n\n"),
        ([b"da", b"t", b"a"], b"\n\n"),
        ([b'data: {"choices": []}\n\n'], b""),
        ([b'data: {"choices": []}\r\n\r\n'], b""),
        ([b'data: {"choices": []}\r\r'], b""),
        ([b"data: {}", b"\n", b"\n"], b""),
        ([b"data: {}", b"\r", b"\n", b"\r", b"\n"], b""),
    ],
)
@pytest.mark.parametrize("kind", ["text/event-stream", "Text/Event-Stream; charset=utf-8"])
def test_a_stream_that_breaks_off_ends_with_a_separate_error_event(
    servers: responses.RequestsMock,
    monkeypatch: pytest.MonkeyPatch,
    pieces: list[bytes],
    between: bytes,
    kind: str,
) -> None:
    servers.post(f"{HOME}/v1/chat/completions", content_type=kind)
    pieces = [events("Hi"), *pieces]
    cut(monkeypatch, *pieces, error=Unreachable("home.invalid:1 broke the answer off"))
    http = made().test_client()
    assert chat(http, stream=True).data == b"".join(pieces) + between + BROKEN
    [row] = http.get("/v1/usage").get_json()["data"]
    assert (row["requests"], row["errors"]) == (1, 1)


@pytest.mark.parametrize(
    ("stream", "is_whole"),
    [
        (events("Hi", finish_reason="stop"), True),
        (events("Hi", finish_reason="stop") + b"data: [DONE]\n\n", True),
        (events("Hi") + b"data: [DONE]", True),
        (events("Hi") + b'data: {"error": {"message": "out of memory"}}\n\n', True),
        (events("Hi"), False),
        (events("Hi") + b'data: {"choi', False),
        (events("Hi") + b": ping\n\n" * 9, False),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_that_ends_in_the_middle_of_the_answer_says_so(
    servers: responses.RequestsMock, stream: bytes, is_whole: bool, path: str
) -> None:
    servers.post(f"{HOME}{path}", body=stream, content_type="text/event-stream")
    found = chat(made().test_client(), path=path, stream=True, prompt="x").data
    error = BROKEN.replace(b"home.invalid:1 broke the answer off", b"The answer broke off.")
    between = b"" if stream.endswith(b"\n\n") else b"\n\n"
    assert found == stream + (b"" if is_whole else between + error)


def test_a_stream_of_another_api_ends_as_it_will(servers: responses.RequestsMock) -> None:
    stream = b'event: response.completed\ndata: {"type": "response.completed"}\n\n'
    servers.post(f"{HOME}/v1/responses", body=stream, content_type="text/event-stream")
    found = made().test_client().post("/v1/responses", json={"model": "m"})
    assert found.data == stream


PROMPT = [{"role": "user", "content": "x" * 400}]  # 103 tokens, by estimate
TEXT = {"choices": [{"message": {"content": "y" * 80}}]}  # 20 tokens, by estimate


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (COMPLETION, 12),
        (TEXT, 103 + 20),
        ({**TEXT, "usage": None}, 103 + 20),
        ({**TEXT, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}, 103 + 20),
        ({**TEXT, "usage": {"total_tokens": 500}}, 500),
        ({**TEXT, "usage": {"prompt_tokens": 400.0, "completion_tokens": 100.0}}, 500),
        ({"usage": {"prompt_tokens": 400, "completion_tokens": 100}, "x": "y" * 50_000}, 500),
        ({"choices": []}, 103),
    ],
)
def test_a_whole_answer_counts_for_its_key_whatever_the_server_tells(
    servers: responses.RequestsMock, tmp_path: Path, answer: Any, tokens: int
) -> None:
    servers.post(f"{HOME}/v1/chat/completions", json=answer)
    http = keyed(tmp_path, tokens_per_day=tokens)
    assert chat(http, key=ANN, messages=PROMPT).json == answer
    assert usage(http, ANN) == [("ann", "m", "home", 1, tokens)]
    assert chat(http, key=ANN, messages=PROMPT).json["error"]["code"] == "daily_limit_reached"


def test_a_compressed_answer_counts_and_passes_decoded(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    servers.post(
        f"{HOME}/v1/chat/completions",
        body=gzip.compress(json.dumps(COMPLETION).encode()),
        headers={"Content-Encoding": "gzip", "Content-Type": "application/json"},
    )
    http = keyed(tmp_path)
    found = chat(http, key=ANN)
    assert (found.json, "Content-Encoding" in found.headers) == (COMPLETION, False)
    assert usage(http, ANN) == [("ann", "m", "home", 1, 12)]


def test_a_stream_counts_its_usage_though_pings_follow(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    told = b'data: {"choices": [], "usage": {"prompt_tokens": 400, "completion_tokens": 100}}\n\n'
    stream = events(*["word"] * 80, finish_reason="stop") + told + b": ping\n\n" * 5000
    servers.post(f"{HOME}/v1/chat/completions", body=stream, content_type="text/event-stream")
    http = keyed(tmp_path, tokens_per_day=500)
    assert chat(http, key=ANN, stream=True, messages=PROMPT).data == stream
    assert usage(http, ANN) == [("ann", "m", "home", 1, 500)]
    assert chat(http, key=ANN).status_code == 429


@pytest.mark.parametrize(
    ("path", "body", "answer", "tokens"),
    [
        ("embeddings", {"input": "x" * 400}, {"data": [{"embedding": [0.1]}]}, 100),
        ("embeddings", {"input": "x"}, {"data": [], "usage": {"total_tokens": 7}}, 7),
        ("responses", {"input": "x" * 400}, {"output": [{"content": [{"text": "y" * 80}]}]}, 120),
        ("messages", {"messages": PROMPT}, {"content": [{"type": "text", "text": "y" * 80}]}, 123),
        ("messages/count_tokens", {"messages": PROMPT}, {"input_tokens": 103}, 0),
        ("images/generations", {"prompt": "x" * 400}, {"data": [{"b64_json": "A" * 9999}]}, 100),
        ("rerank", {"query": "x"}, {"results": [], "usage": {"total_tokens": 7}}, 7),
    ],
)
def test_other_apis_are_counted_too(
    servers: responses.RequestsMock, tmp_path: Path, path: str, body: Any, answer: Any, tokens: int
) -> None:
    servers.post(f"{HOME}/v1/{path}", json=answer)
    http = keyed(tmp_path)
    headers = {"Authorization": f"Bearer {ANN}"}
    body = {"model": "m", **body}
    assert http.post(f"/v1/{path}", json=body, headers=headers, buffered=True).json == answer
    assert usage(http, ANN) == [("ann", "m", "home", 1, tokens)]


def test_a_stored_answer_counts_once_however_often_it_is_fetched(
    servers: responses.RequestsMock, tmp_path: Path
) -> None:
    stored = {"id": "resp_1", "usage": {"input_tokens": 400, "output_tokens": 100}}
    servers.post(f"{HOME}/v1/responses", json=stored)
    servers.get(f"{HOME}/v1/responses/resp_1", json=stored)
    servers.post(f"{HOME}/v1/files", json={"id": "file-1", "content": "y" * 80})
    http = keyed(tmp_path)
    headers = {"Authorization": f"Bearer {ANN}"}
    body = {"model": "m", "input": "x"}
    assert http.post("/v1/responses", json=body, headers=headers, buffered=True).json == stored
    for _ in range(2):
        assert http.get("/v1/responses/resp_1", headers=headers, buffered=True).json == stored
    assert http.post("/v1/files", json={}, headers=headers, buffered=True).status_code == 200
    assert [row[4] for row in usage(http, ANN)] == [0, 500]


def test_a_refusal_counts_no_tokens(servers: responses.RequestsMock, tmp_path: Path) -> None:
    servers.post(f"{HOME}/v1/chat/completions", json={"error": {"message": "x" * 99}}, status=400)
    http = keyed(tmp_path)
    assert chat(http, key=ANN, messages=PROMPT).status_code == 400
    assert usage(http, ANN) == [("ann", "m", "home", 1, 0)]


LONG = json.dumps({"choices": [{"message": {"content": "y" * 80_000}}]}).encode()


@pytest.mark.parametrize(
    ("kind", "pieces", "tokens"),
    [
        # The first 8 kB of a whole answer are held back, because they could be an error.
        ("application/json", [LONG[:20_000], LONG[20_000:40_038]], 103 + 10_000),
        ("text/event-stream", [events(*["word"] * 9)], 103 + 9),
        ("text/event-stream", [events(*["word"] * 9), b'data: {"choi'], 103 + 9),
    ],
)
def test_what_came_before_a_client_left_counts_for_its_key(
    servers: responses.RequestsMock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    pieces: list[bytes],
    tokens: int,
) -> None:
    servers.post(f"{HOME}/v1/chat/completions", content_type=kind)
    cut(monkeypatch, *pieces, error=ClientGone())
    http = keyed(tmp_path)
    is_stream = kind == "text/event-stream"
    found = chat(http, key=ANN, messages=PROMPT, stream=is_stream, buffered=False)
    assert found.data == b"".join(pieces)
    found.close()
    assert usage(http, ANN) == [("ann", "m", "home", 1, tokens)]


def test_a_client_that_leaves_before_the_first_byte_pays_for_its_prompt(
    servers: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    servers.post(f"{HOME}/v1/chat/completions", json=TEXT)
    cut(monkeypatch, error=ClientGone())
    http = keyed(tmp_path)
    assert chat(http, key=ANN, messages=PROMPT).status_code == 499
    assert usage(http, ANN) == [("ann", "m", "home", 1, 103)]
