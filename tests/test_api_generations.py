"""GET /generation: what is known of an answer, by any of its ids, for its owner only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import responses
from flask.testing import FlaskClient

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.store.generation_log import MOST_RECENT, GenerationLog
from horde_proxy.store.generation_record import GenerationRecord, kept_horde
from horde_proxy.store.generations import GenerationStore
from tests.support import Scripted, World, known
from tests.test_api_proxying import CLOUD, COMPLETION, HOME, made
from tests.test_api_proxying import servers as servers

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "test/model", "messages": MESSAGES, "max_tokens": 16}
STREAM = (
    b'data: {"id":"chatcmpl-9","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    b'data: {"id":"chatcmpl-9","choices":[{"index":0,"delta":{},"finish_reason":"length"}],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":5,"cost":0.25}}\n\ndata: [DONE]\n\n'
)


def recorded(http: FlaskClient, identity: str | None, key: str = "") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = http.get("/v1/generation", query_string={"id": identity}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json is not None
    data: dict[str, Any] = answer.json["data"]
    return data


def test_a_hordes_answer_has_all_that_is_known_of_it(world: World) -> None:
    world.employ(Scripted("Hello."))
    http = world.http()
    answer = http.post("/v1/chat/completions", json=CHAT, buffered=True)
    assert answer.json is not None
    data = recorded(http, answer.json["id"])
    horde = data.pop("horde")
    times = [data.pop(name) for name in ("latency", "generation_time")]
    assert all(isinstance(milliseconds, int) for milliseconds in times)
    assert data == {
        "id": answer.json["id"],
        "upstream_id": None,
        "request_id": answer.headers["X-Request-Id"],
        "created_at": data["created_at"],
        "model": "test/model",
        "provider_name": "horde",
        "api_type": "completions",
        "total_cost": 0.0,
        "usage": 0.0,
        "upstream_inference_cost": None,
        "cache_discount": None,
        "is_byok": False,
        "app_id": None,
        "origin": "",
        "streamed": False,
        "cancelled": False,
        "finish_reason": "stop",
        "native_finish_reason": "stop",
        "moderation_latency": None,
        "tokens_prompt": answer.json["usage"]["prompt_tokens"],
        "tokens_completion": answer.json["usage"]["completion_tokens"],
        "native_tokens_prompt": answer.json["usage"]["prompt_tokens"],
        "native_tokens_completion": answer.json["usage"]["completion_tokens"],
        "native_tokens_reasoning": None,
        "native_tokens_cached": None,
        "provider_responses": [],
        "num_media_prompt": None,
        "num_media_completion": None,
        "num_search_results": None,
        "status": 200,
        "error": None,
    }
    assert data["created_at"].startswith("1970-01-01T00:1")
    assert [worker["name"] for worker in horde["workers"]] == ["worker-1"]
    assert (horde["retries"], len(horde["request_ids"])) == (0, 1)
    assert horde["kudos"] > 0


ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "test/model", "prompt": "Hi"},
    "/v1/responses": {"model": "test/model", "input": "Hi"},
    "/v1/messages": CHAT,
    "/api/chat": {**CHAT, "stream": False},
}


@pytest.mark.parametrize("path", ASKED)
def test_each_apis_answer_is_found_by_its_id_and_by_its_request(world: World, path: str) -> None:
    world.employ(Scripted("Hello."))
    http = world.http()
    answer = http.post(path, json=ASKED[path], buffered=True)
    assert answer.json is not None
    request_id = answer.headers["X-Request-Id"]
    by_request = recorded(http, request_id)
    assert by_request["request_id"] == request_id
    assert recorded(http, f"req_{request_id}") == by_request
    if "id" in answer.json:
        assert recorded(http, answer.json["id"]) == by_request


def test_a_proxied_stream_is_found_once_it_has_ended(servers: responses.RequestsMock) -> None:
    kind = "text/event-stream"
    servers.post(f"{HOME}/v1/chat/completions", body=STREAM, content_type=kind)
    http = made(store={"days": 0}).test_client()
    body = {"model": "m", "messages": MESSAGES, "stream": True}
    answer = http.post("/v1/chat/completions", json=body, buffered=True)
    assert answer.data == STREAM
    data = recorded(http, "chatcmpl-9")
    assert (data["provider_name"], data["model"], data["streamed"]) == ("home", "m", True)
    assert (data["tokens_prompt"], data["tokens_completion"]) == (7, 5)
    assert (data["finish_reason"], data["total_cost"], data["horde"]) == ("length", 0.25, None)


def test_a_proxied_message_is_found_with_why_it_ended(servers: responses.RequestsMock) -> None:
    message = {
        "id": "msg_9",
        "type": "message",
        "content": [],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    servers.post(f"{HOME}/v1/messages", json=message)
    http = made(store={"days": 0}).test_client()
    http.post(
        "/v1/messages", json={"model": "m", "messages": MESSAGES, "max_tokens": 9}, buffered=True
    )
    data = recorded(http, "msg_9")
    assert (data["finish_reason"], data["tokens_prompt"]) == ("end_turn", 3)
    assert data["total_cost"] is None


def test_another_owners_answer_is_not_there() -> None:
    world = World(**known(ann="key-of-ann-longer", bob="key-of-bob-longer"))
    world.employ(Scripted("Hello."))
    http = world.http()
    headers = {"Authorization": "Bearer key-of-ann-longer"}
    answer = http.post("/v1/chat/completions", json=CHAT, headers=headers, buffered=True)
    assert answer.json is not None
    for identity in (answer.json["id"], answer.headers["X-Request-Id"]):
        assert recorded(http, identity, "key-of-ann-longer")["id"] == answer.json["id"]
        headers = {"Authorization": "Bearer key-of-bob-longer"}
        refused = http.get("/v1/generation", query_string={"id": identity}, headers=headers)
        assert refused.json is not None
        expected = (404, "generation_not_found")
        assert (refused.status_code, refused.json["error"]["code"]) == expected


@pytest.mark.parametrize("query", ["", "?id=", "?id=%20", f"?id={'x' * 201}"])
def test_an_id_is_needed(world: World, query: str) -> None:
    answer = world.http().get(f"/v1/generation{query}")
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "id")


def test_a_whole_answer_can_be_looked_up_before_its_response_is_closed(world: World) -> None:
    world.employ(Scripted("Hello."))
    http = world.http()
    with http.post("/v1/chat/completions", json=CHAT) as answer:
        assert answer.json is not None
        assert recorded(http, answer.json["id"])["finish_reason"] == "stop"


def test_records_outlive_a_restart(world: World) -> None:
    world.employ(Scripted("Hello."))
    http = world.http()
    answer = http.post("/v1/chat/completions", json=CHAT, buffered=True).json
    assert answer is not None
    before = recorded(http, answer["id"])
    world.clock.sleep(3)
    assert recorded(world.http(), answer["id"]) == before
    assert "Hi" not in repr(before)
    assert "Hello" not in repr(before)


def test_the_end_of_the_process_writes_what_is_in_memory(world: World) -> None:
    world.employ(Scripted("Hello."))
    app = world.app()
    answer = app.test_client().post("/v1/chat/completions", json=CHAT, buffered=True).json
    assert answer is not None
    app.extensions["composition"].save()
    assert recorded(world.http(), answer["id"])["model"] == "test/model"


def test_records_are_removed_after_the_days_of_the_store() -> None:
    world = World(store={"days": 2})
    world.employ(Scripted("Hello."))
    answer = world.http().post("/v1/chat/completions", json=CHAT, buffered=True).json
    assert answer is not None
    world.clock.sleep(3)
    world.clock.seconds += 3 * 24 * 3600
    # The next one has the table pruned.
    world.employ(Scripted("Hello again."))
    http = world.http()
    http.post("/v1/chat/completions", json=CHAT, buffered=True)
    world.clock.sleep(3)
    assert http.get("/v1/generation", query_string={"id": answer["id"]}).status_code == 404


def test_a_record_names_who_failed_before(servers: responses.RequestsMock) -> None:
    servers.post(f"{HOME}/v1/chat/completions", status=503)
    servers.post(f"{CLOUD}/v1/chat/completions", json={**COMPLETION, "id": "chatcmpl-5"})
    http = made(store={"days": 0}).test_client()
    http.post("/v1/chat/completions", json={"model": "m", "messages": MESSAGES}, buffered=True)
    data = recorded(http, "chatcmpl-5")
    assert data["provider_name"] == "cloud"
    assert data["provider_responses"] == [{"provider_name": "home", "model": "m", "status": None}]


def record(number: int, kudos: float | None = None) -> GenerationRecord:
    return GenerationRecord(f"chatcmpl-{number}", f"r{number}", 1000.0, "/v1/x", kudos=kudos)


def test_without_a_store_the_newest_are_in_memory() -> None:
    log = GenerationLog()
    for number in range(MOST_RECENT + 1):
        log.add("ann", record(number))
    assert log.get("ann", "chatcmpl-0") is None
    assert log.get("ann", "r1") == record(1)
    assert log.get("bob", "r1") is None


def test_late_kudos_are_added() -> None:
    log = GenerationLog()
    log.add("ann", record(1, kudos=3.0))
    log.add_kudos("ann", "r1", 1.5)
    log.add_kudos("ann", "r2", 9.0)
    assert log.get("ann", "r1") == record(1, kudos=4.5)
    assert log.get("ann", "r2") is None


def test_a_record_of_a_later_version_can_be_read() -> None:
    text = record(1).to_text().replace("{", '{"colour":"red",', 1)
    assert GenerationRecord.from_text(text) == record(1)
    failed = replace(record(1), failed_at=(("home", "m"),))
    assert GenerationRecord.from_text(failed.to_text()) == failed


def test_a_huge_horde_object_is_not_kept() -> None:
    assert kept_horde({"workers": ["x" * 9000]}) == {}
    assert kept_horde("text") is None


def test_the_oldest_records_beyond_the_bound_are_removed(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path}/store.db", setting="store.database")
    store = GenerationStore(database, 30, now=lambda: 1000.0)
    store.save([("ann", replace(record(number), created=number)) for number in range(5)])
    store.prune(most=2)
    kept = [number for number in range(5) if store.get("ann", f"chatcmpl-{number}")]
    assert kept == [3, 4]


def test_a_clock_that_was_set_back_does_not_stop_the_removal(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, seconds = Database(f"sqlite:///{tmp_path}/store.db", setting="x"), [90_000.0]
    store, prunings = GenerationStore(database, 30, now=lambda: seconds[0]), []
    monkeypatch.setattr(store, "prune", lambda: prunings.append(seconds[0]))
    for now in (90_000.0, 90_001.0, 50_000.0, 50_001.0):
        seconds[0] = now
        store.save([("ann", record(1))])
    assert prunings == [90_000.0, 50_000.0]


def test_an_id_that_no_client_can_ask_for_is_not_kept(servers: responses.RequestsMock) -> None:
    """Two thousand of them, each of a megabyte, would fill the memory."""
    servers.post(f"{HOME}/v1/chat/completions", json={**COMPLETION, "id": "c" * 1_000_000})
    http = made(store={"days": 0}).test_client()
    response = http.post(
        "/v1/chat/completions", json={"model": "m", "messages": MESSAGES}, buffered=True
    )
    request_id = response.headers["X-Request-Id"]
    assert recorded(http, request_id)["id"] == request_id


def test_what_cannot_be_written_is_written_later(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def __init__(self) -> None:
            self.saved: list[str] = []
            self.fails = True

        def save(self, records: Any) -> None:
            if self.fails:
                raise DatabaseError("The database failed.")
            self.saved += [record.id for _, record in records]

    store: Any = Failing()
    log = GenerationLog(store, lambda seconds, call: None)
    log.add("ann", record(1))
    log.flush()
    log.flush()
    assert caplog.text.count("until the database works: The database failed.") == 1
    store.fails = False
    log.add("ann", record(2))
    log.flush()
    assert store.saved == ["chatcmpl-1", "chatcmpl-2"]
