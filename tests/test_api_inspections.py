"""GET /inspections: what was sent to models and what came back, for the key that asked for it."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
import responses
from flask.testing import FlaskClient

from horde_proxy import reconfigure
from horde_proxy.api.kept_inspections import Inspections
from horde_proxy.upstreams.inspection import (
    MOST_ATTEMPTS,
    MOST_SIZE,
    MOST_TEXT,
    Inspection,
    kept_document,
)
from tests.support import Scripted, World, known
from tests.test_api_proxying import COMPLETION, HOME, STREAM, made
from tests.test_api_proxying import servers as servers

MESSAGES = [{"role": "user", "content": "Where is the key?"}]
CHAT = {"model": "test/model", "messages": MESSAGES, "max_tokens": 16}
ANN, BOB = "key-of-ann-longer", "key-of-bob-longer"


class Hesitant(Scripted):
    """Says nothing the first time."""

    def generate(self, payload: Any, cancelled: Any) -> str:
        text = super().generate(payload, cancelled)
        return text if len(self.payloads) > 1 else ""


def watched(**settings: Any) -> World:
    """A world whose proxy keeps the last two requests of each key."""
    world = World(**settings)
    world.configure(server={"inspect": 2})
    world.employ(Scripted("Under the mat."))
    return world


def ask(http: FlaskClient, key: str = "", **fields: Any) -> str:
    """The id of a chat that was answered."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = http.post(
        "/v1/chat/completions", json={**CHAT, **fields}, headers=headers, buffered=True
    )
    assert answer.status_code == 200, answer.text
    return str(answer.headers["X-Request-Id"])


def inspected(http: FlaskClient, request_id: str, key: str = "") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = http.get(f"/v1/inspections/{request_id}", headers=headers)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json or {}
    return document


def test_a_horde_s_answer_shows_the_prompt_as_it_was_sent_and_the_raw_text() -> None:
    http = watched().http()
    document = inspected(http, ask(http))
    [attempt] = document["attempts"]
    assert "Where is the key?" in attempt["prompt"]
    assert attempt["prompt"] != "Where is the key?"
    assert attempt["sent"]["models"] == ["test/model"]
    assert attempt["sent"]["params"]["max_length"] == 16
    assert [result["text"] for result in attempt["results"]] == ["Under the mat."]
    assert (attempt["endpoint"], attempt["problem"]) == ("horde", None)
    assert attempt["request_id"]
    assert document["received"] == CHAT
    assert document["headers"]["x-horde-format"]
    assert (document["status"], document["model"]) == (200, "test/model")
    assert document["times"]["seconds"] >= 0


def test_a_second_try_is_an_attempt_of_its_own() -> None:
    world = World().configure(server={"inspect": 2})
    world.employ(Hesitant("Under the mat."))
    http = world.http()
    document = inspected(http, ask(http))
    texts = [[result["text"] for result in each["results"]] for each in document["attempts"]]
    assert texts == [[""], ["Under the mat."]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_proxied_call_shows_what_the_server_got_and_sent(
    servers: responses.RequestsMock, stream: bool
) -> None:
    body = STREAM if stream else json.dumps(COMPLETION).encode()
    kind = "text/event-stream" if stream else "application/json"
    servers.post(f"{HOME}/v1/chat/completions", body=body, content_type=kind)
    http = made(server={"inspect": 2}).test_client()
    request_id = ask(http, model="m", stream=stream)
    [attempt] = inspected(http, request_id)["attempts"]
    assert attempt["sent"]["messages"] == MESSAGES
    assert attempt["received"] == body.decode()
    assert (attempt["endpoint"], attempt["status"], attempt["problem"]) == ("home", 200, None)
    assert "home-secret" not in json.dumps(attempt)


def test_a_server_that_fails_is_an_attempt_with_its_problem(
    servers: responses.RequestsMock,
) -> None:
    servers.post(f"{HOME}/v1/chat/completions", status=503, json={"error": {"message": "full"}})
    servers.post("http://cloud.invalid:2/v1/chat/completions", json=COMPLETION)
    http = made(server={"inspect": 2}).test_client()
    document = inspected(http, ask(http, model="m"))
    assert [(each["endpoint"], each["status"]) for each in document["attempts"]] == [
        ("home", 503),
        ("cloud", 200),
    ]
    assert document["failed_at"] == [["home", "m"]]


def test_what_is_answered_in_another_front_s_shape_is_kept_as_well() -> None:
    http = watched().http()
    body = {"model": "test/model", "max_tokens": 16, "messages": MESSAGES}
    answer = http.post("/v1/messages", json=body, buffered=True)
    document = inspected(http, answer.headers["request-id"])
    assert document["path"] == "/v1/messages"
    assert len(document["attempts"]) == 1


def test_a_refused_body_is_kept_without_attempts() -> None:
    http = watched().http()
    answer = http.post("/v1/chat/completions", json={**CHAT, "n": "many"}, buffered=True)
    document = inspected(http, answer.headers["X-Request-Id"])
    assert (document["status"], document["attempts"]) == (400, [])


def test_the_inspector_is_off_by_default_and_says_how_to_turn_it_on(world: World) -> None:
    answer = world.http().get("/v1/inspections")
    assert answer.status_code == 404
    assert answer.json is not None
    assert answer.json["error"]["code"] == "inspector_off"
    assert "`server.inspect`" in answer.json["error"]["message"]


def test_nobody_sees_another_key_s_prompts_not_even_an_admin() -> None:
    world = watched(**known(ann=ANN, bob=BOB))
    world.configure(access={"admins": ["bob"]})
    http = world.http()
    request_id = ask(http, ANN)
    assert inspected(http, request_id, ANN)["id"] == request_id
    headers = {"Authorization": f"Bearer {BOB}"}
    refused = http.get(f"/v1/inspections/{request_id}", headers=headers)
    assert refused.status_code == 404
    assert http.get("/v1/inspections", headers=headers).json == {"object": "list", "data": []}


def test_where_no_key_is_needed_nothing_is_kept_of_strangers() -> None:
    world = watched()
    world.configure(access={"mode": "open"})
    http = world.http()
    request_id = ask(http)
    answer = http.get(f"/v1/inspections/{request_id}")
    assert answer.status_code == 403


def test_only_the_last_ones_are_kept_and_listed_without_contents() -> None:
    http = watched().http()
    ids = [ask(http, max_tokens=16 + number) for number in range(3)]
    listed = http.get("/v1/inspections").json
    assert listed is not None
    assert [each["id"] for each in listed["data"]] == [ids[2], ids[1]]
    assert not {"received", "attempts", "headers"} & set(listed["data"][0])
    assert http.get(f"/v1/inspections/{ids[0]}").status_code == 404
    assert http.delete("/v1/inspections").json == {"deleted": 2}
    assert http.get("/v1/inspections").json == {"object": "list", "data": []}


def test_a_reload_turns_the_inspector_off_and_forgets_the_requests() -> None:
    world = watched()
    app = world.app()
    http = app.test_client()
    ask(http)
    reconfigure(app, world.configure(server={"inspect": 0}).config())
    assert http.get("/v1/inspections").status_code == 404
    reconfigure(app, world.configure(server={"inspect": 5}).config())
    assert http.get("/v1/inspections").json == {"object": "list", "data": []}


def test_nothing_that_is_kept_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    http = watched().http()
    inspected(http, ask(http))
    assert "Where is the key?" not in caplog.text
    assert "Under the mat." not in caplog.text


def test_the_least_recent_owner_goes_first() -> None:
    kept = Inspections(1)
    for number in range(101):
        kept.add(str(number), {"id": number})
    assert (kept.of("0"), kept.of("1"), kept.of("100")) == ([], [{"id": 1}], [{"id": 100}])


def test_long_texts_are_shortened_and_secrets_left_out() -> None:
    document = {"prompt": "x" * (MOST_TEXT + 50), "webhook": "http://secret", "n": [1, {"a": None}]}
    kept = kept_document(document)
    assert len(kept["prompt"]) < MOST_TEXT + 100
    assert "(50 characters left out)" in kept["prompt"]
    assert kept["webhook"] == "(not shown)"
    assert kept["n"] == [1, {"a": None}]


def test_the_secrets_of_a_client_s_tools_are_left_out_and_their_schemas_are_not() -> None:
    headers = {"Authorization": "Bearer s", "X-Api-Key": "s", "cookie": "s", "X-Trace": "shown"}
    properties = {"api_key": {"type": "string"}, "password": {"type": "string"}}
    document = {
        "tools": [{"type": "mcp", "authorization": "s", "headers": headers}],
        "mcp_servers": [{"authorization_token": "s", "url": "https://mcp.example"}],
        "functions": [{"parameters": {"properties": properties}}],
        "max_tokens": 5,
    }
    hidden = "(not shown)"
    assert kept_document(document) == {
        "tools": [
            {
                "type": "mcp",
                "authorization": hidden,
                "headers": {
                    "Authorization": hidden,
                    "X-Api-Key": hidden,
                    "cookie": hidden,
                    "X-Trace": "shown",
                },
            }
        ],
        "mcp_servers": [{"authorization_token": hidden, "url": "https://mcp.example"}],
        "functions": [{"parameters": {"properties": properties}}],
        "max_tokens": 5,
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "m", "input": ["Hi"]}),
        ("/api/embed", {"model": "m", "input": ["Hi"]}),
        ("/v1/rerank", {"model": "m", "query": "Hi", "documents": ["x"]}),
    ],
)
def test_calls_that_are_only_proxied_are_kept_as_well(
    servers: responses.RequestsMock, path: str, body: dict[str, Any]
) -> None:
    answer = {"data": [{"index": 0, "embedding": [0.5]}]}
    for proxied in ("embeddings", "rerank"):
        servers.post(f"{HOME}/v1/{proxied}", json=answer)
    http = made(server={"inspect": 2}).test_client()
    response = http.post(path, json=body, buffered=True)
    assert response.status_code == 200
    document = inspected(http, response.headers["X-Request-Id"])
    assert document["received"] == body
    [attempt] = document["attempts"]
    assert (attempt["endpoint"], attempt["status"]) == ("home", 200)
    assert json.loads(attempt["received"]) == answer


def test_sound_is_only_counted(servers: responses.RequestsMock) -> None:
    servers.post(f"{HOME}/v1/audio/speech", body=b"ID3" * 10, content_type="audio/mpeg")
    http = made(server={"inspect": 2}).test_client()
    body = {"model": "m", "input": "Hi", "voice": "x"}
    response = http.post("/v1/audio/speech", json=body, buffered=True)
    [attempt] = inspected(http, response.headers["X-Request-Id"])["attempts"]
    assert attempt["sent"] == body
    assert attempt["received"] == "(30 bytes of audio/mpeg)"


def test_calls_about_files_are_not_kept(servers: responses.RequestsMock) -> None:
    servers.post(f"{HOME}/v1/vector_stores", json={})
    http = made(server={"inspect": 2}).test_client()
    http.post("/v1/vector_stores", json={"name": "x"}, buffered=True)
    listed: Any = http.get("/v1/inspections").json
    assert listed["data"] == []


def test_of_a_form_the_names_of_texts_and_files_are_kept(servers: responses.RequestsMock) -> None:
    servers.post(f"{HOME}/v1/images/edits", json={"created": 1, "data": []})
    http = made(server={"inspect": 2}).test_client()
    form = {"model": "m", "prompt": "a fox", "image": (BytesIO(b"PNG"), "fox.png")}
    answer = http.post("/v1/images/edits", data=form, buffered=True)
    document = inspected(http, answer.headers["X-Request-Id"])
    assert document["received"] == {"form": ["model", "prompt"], "files": ["image"]}


def test_attempts_and_bytes_are_bounded() -> None:
    inspection = Inspection(lambda: 0.0)
    for _ in range(MOST_ATTEMPTS + 3):
        attempt = inspection.begin("home", "text")
    shown = inspection.as_json()
    assert (len(shown["attempts"]), shown["attempts_left_out"]) == (MOST_ATTEMPTS, 3)
    assert [*attempt.noted(iter([b"a" * (MOST_TEXT + 7)]))] == [b"a" * (MOST_TEXT + 7)]
    received = attempt.as_json()["received"]
    assert received.endswith("a... (7 bytes left out)")


def test_a_document_of_many_short_texts_is_bounded_as_a_whole() -> None:
    messages = [{"role": "user", "content": "a word"}] * 500_000
    kept = kept_document({"model": "m", "messages": messages, "n": 1})
    assert len(kept["messages"]) < 10_000
    left_out = 500_000 - len(kept["messages"]) + 1
    assert kept["messages"][-1] == f"... ({left_out} entries left out)"
    assert kept["..."] == "(1 fields left out)"
    assert kept["model"] == "m"
    kept = kept_document({"x" * 5_000_000: 1, "a" * 1_000: 2})
    assert sum(map(len, kept)) < 3_000


def test_all_attempts_of_a_request_are_bounded_together() -> None:
    inspection = Inspection(lambda: 0.0)
    pictures = [f"{number}{'A' * 300_000}" for number in range(6)]
    for _ in range(10):
        inspection.begin("home", {"pictures": pictures})
    attempts = inspection.as_json()["attempts"]
    assert len(attempts) == 10
    assert len(json.dumps(attempts)) < MOST_SIZE + 10_000
    assert attempts[-1]["sent"] == {"...": "(1 fields left out)"}


def test_the_memory_of_all_owners_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horde_proxy.api.kept_inspections.MOST_BYTES", 40_000)
    kept = Inspections(10)
    for number in range(6):
        kept.add("ann", {"id": number, "received": ["x" * 5_000]})
    kept.add("bob", {"id": 6, "received": "y" * 20_000})
    assert [document["id"] for document in kept.of("ann")] == [5, 4, 3]
    kept.add("bob", {"id": 7, "received": "y" * 30_000})
    assert kept.of("ann") == []
    assert [document["id"] for document in kept.of("bob")] == [7]
    assert kept.forget("bob") == 1
    # What was forgotten is not counted any more.
    for number in range(6):
        kept.add("ann", {"id": number, "received": ["x" * 5_000]})
    kept.configure(5)
    assert [document["id"] for document in kept.of("ann")] == [5, 4, 3, 2, 1]
