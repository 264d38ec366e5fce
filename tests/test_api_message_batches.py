"""/messages/batches: Anthropic's batches, from their requests to their results."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.errors import InvalidRequest
from horde_proxy.ledger import ClientKey
from horde_proxy.protocol.messages.batches import counts_never_called, read_requests, result_of
from tests.legal_messages import check_message
from tests.support import Scripted, World, known
from tests.test_api_batches import Proxy
from tests.test_api_files import FileServer, alone

BATCHES = "/messages/batches"


@pytest.fixture
def proxy(world: World) -> Proxy:
    world.employ(Scripted("Hello."))
    return Proxy(world)


def one(custom_id: str = "a", **params: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"I am {custom_id}."}]
    body = {"model": "test/model", "max_tokens": 16, "messages": messages, **params}
    return {"custom_id": custom_id, "params": body}


def begin(proxy: Proxy, *requests: Any, key: str = "") -> Any:
    response = proxy.post(BATCHES, {"requests": list(requests)}, key)
    assert response.status_code == 200, response.get_json()
    return response.get_json()


def results(proxy: Proxy, batch: Any, key: str = "") -> dict[str, Any]:
    # Anthropic's SDK for Python fetches the link.
    assert batch["results_url"] == f"http://localhost/v1{BATCHES}/{batch['id']}/results"
    headers = {"x-api-key": key} if key else {}
    lines = proxy.http.get(f"/v1{BATCHES}/{batch['id']}/results", headers=headers).data.splitlines()
    return {line["custom_id"]: line["result"] for line in map(json.loads, lines)}


def counts(**given: int) -> dict[str, int]:
    return {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0, **given}


def test_a_batch_runs_to_its_results(proxy: Proxy) -> None:
    batch = begin(proxy, one("a"), one("b", model="nothing"), one("c", stop_sequences=["lo"]))
    assert batch["id"].startswith("msgbatch_")
    assert batch == {
        "id": batch["id"],
        "type": "message_batch",
        "processing_status": "in_progress",
        "request_counts": counts(processing=3),
        "created_at": "1970-01-01T00:16:40Z",
        "expires_at": "1970-01-02T00:16:40Z",
        "ended_at": None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": None,
    }
    proxy.work()
    ended = proxy.get(f"{BATCHES}/{batch['id']}")
    assert (ended["processing_status"], ended["ended_at"] is None) == ("ended", False)
    assert ended["request_counts"] == counts(succeeded=2, errored=1)
    outcomes = results(proxy, ended)
    assert (outcomes["a"]["type"], outcomes["c"]["type"]) == ("succeeded", "succeeded")
    check_message(outcomes["a"]["message"])
    assert outcomes["a"]["message"]["content"] == [{"type": "text", "text": "Hello."}]
    assert outcomes["c"]["message"]["stop_sequence"] == "lo"
    assert outcomes["b"]["type"] == "errored"
    assert outcomes["b"]["error"]["type"] == "error"
    assert outcomes["b"]["error"]["error"]["type"] == "not_found_error"


def test_a_batch_that_is_cancelled_tells_what_never_ran(proxy: Proxy) -> None:
    batch = begin(proxy, one("a"), one("b"))
    canceling = proxy.post(f"{BATCHES}/{batch['id']}/cancel").get_json()
    assert canceling["processing_status"] == "canceling"
    assert canceling["cancel_initiated_at"] is not None
    proxy.work()
    ended = proxy.get(f"{BATCHES}/{batch['id']}")
    assert ended["processing_status"] == "ended"
    ran = ended["request_counts"]
    assert (ran["processing"], sum(ran.values()) in (0, 2)) == (0, True)
    assert {result["type"] for result in results(proxy, ended).values()} <= {"canceled"}


def test_batches_are_listed_in_pages_and_deleted(proxy: Proxy) -> None:
    ids = [begin(proxy, one())["id"] for _ in range(3)]
    running = proxy.http.delete(f"/v1{BATCHES}/{ids[0]}")
    assert (running.status_code, running.get_json()["error"]["type"]) == (
        400,
        "invalid_request_error",
    )
    assert proxy.http.get(f"/v1{BATCHES}/{ids[0]}/results").status_code == 400
    proxy.work()
    listed: list[str] = []
    after = ""
    for _ in range(9):
        page = proxy.get(f"{BATCHES}?limit=2{after}")
        listed += [batch["id"] for batch in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after_id={page['last_id']}"
    assert sorted(listed) == sorted(ids)
    deleted = proxy.http.delete(f"/v1{BATCHES}/{ids[0]}").get_json()
    assert deleted == {"id": ids[0], "type": "message_batch_deleted"}
    assert proxy.http.get(f"/v1{BATCHES}/{ids[0]}").status_code == 404
    assert len(proxy.get(BATCHES)["data"]) == 2


def test_another_keys_batch_is_an_unknown_one(world: World) -> None:
    world.employ(Scripted("Hello."))
    world.configure(**known(ann=ClientKey("ann"), bob=ClientKey("bob")))
    proxy = Proxy(world)
    ann, bob = "key-of-ann-longer", "key-of-bob-longer"
    batch = begin(proxy, one(), key=ann)
    proxy.work()
    path = f"{BATCHES}/{batch['id']}"
    assert results(proxy, proxy.get(path, ann), ann)["a"]["type"] == "succeeded"
    unknown = proxy.get(f"{BATCHES}/msgbatch_0", bob)["error"]
    theirs = proxy.get(path, bob)["error"]
    assert theirs["type"] == unknown["type"] == "not_found_error"
    assert (
        theirs["message"].replace(batch["id"].removeprefix("msg"), "batch_0")
        == (unknown["message"])
    )
    assert proxy.get(f"{path}/results", bob)["error"]["type"] == "not_found_error"
    assert proxy.post(f"{path}/cancel", key=bob).status_code == 404
    assert proxy.get(BATCHES, bob)["data"] == []


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (
            None,
            "`requests` is not usable: it must be a list of objects with `custom_id` and `params`.",
        ),
        (
            [],
            "`requests` is not usable: it must be a list of objects with `custom_id` and `params`.",
        ),
        (
            [one("a"), one("a")],
            "`requests.[1].custom_id` is not usable: it is that of an earlier request.",
        ),
        (
            [one("x" * 65)],
            "`requests.[0].custom_id` is not usable: it must be a text of 1 to 64 characters.",
        ),
        (
            [{"custom_id": "a"}],
            "`requests.[0].params` is not usable: it must be the body of a message.",
        ),
        (
            [one("a", stream=True)],
            "`requests.[0].params.stream` is not usable: a batch cannot stream.",
        ),
        (["a"], "`requests.[0].custom_id` is not usable: it must be a text of 1 to 64 characters."),
    ],
)
def test_a_batch_that_could_not_run_is_refused_at_once(
    proxy: Proxy, requests: Any, message: str
) -> None:
    response = proxy.post(BATCHES, {"requests": requests})
    assert response.status_code == 400
    assert response.get_json()["error"] == {"type": "invalid_request_error", "message": message}


def test_a_batch_of_openais_is_no_message_batch(proxy: Proxy) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/messages", "body": one()["params"]}
    chats = {**line, "url": "/v1/chat/completions"}
    other = proxy.create(chats)
    assert proxy.http.get(f"/v1{BATCHES}/msg{other['id']}").status_code == 404
    assert proxy.get(BATCHES)["data"] == []
    # OpenAI's clients may have messages in a batch, too.
    own = proxy.create(line, endpoint="/v1/messages")
    proxy.work()
    assert proxy.get(f"{BATCHES}/msg{own['id']}")["request_counts"] == counts(succeeded=1)


def test_lines_that_never_ran_and_foreign_errors_are_results() -> None:
    def unanswered(code: str) -> dict[str, Any]:
        return {"custom_id": "a", "response": None, "error": {"code": code, "message": "Late."}}

    lines = [unanswered("batch_expired"), unanswered("batch_cancelled"), unanswered("server_error")]
    assert [result_of(line)["result"]["type"] for line in lines] == [
        "expired",
        "canceled",
        "errored",
    ]
    assert counts_never_called(lines) == {"expired": 1, "canceled": 1}
    page = {"custom_id": "a", "response": {"status_code": 502, "body": "<html>"}, "error": None}
    assert result_of(page)["result"] == {
        "type": "errored",
        "error": {"type": "error", "error": {"type": "api_error", "message": "<html>"}},
    }


def test_a_message_that_is_refused_for_now_is_tried_again(world: World) -> None:
    proxy = Proxy(world)
    batch = begin(proxy, one())
    proxy.work()
    assert proxy.get(f"{BATCHES}/{batch['id']}")["request_counts"] == counts(processing=1)
    world.employ(Scripted("Hello."))
    world.clock.seconds += 10
    proxy.work()
    assert proxy.get(f"{BATCHES}/{batch['id']}")["request_counts"] == counts(succeeded=1)


def test_pages_go_back_as_well(proxy: Proxy) -> None:
    ids: list[str] = []
    for _ in range(4):
        ids.insert(0, begin(proxy, one())["id"])
        proxy.world.clock.seconds += 1
    back = proxy.get(f"{BATCHES}?limit=2&before_id={ids[3]}")
    assert ([batch["id"] for batch in back["data"]], back["has_more"]) == (ids[1:3], True)
    back = proxy.get(f"{BATCHES}?limit=2&before_id={ids[1]}")
    assert ([batch["id"] for batch in back["data"]], back["has_more"]) == (ids[:1], False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["requests", "custom_id", "params"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_body_is_a_batch_or_a_refusal(body: Any) -> None:
    try:
        content, count = read_requests(body)
    except InvalidRequest:
        return
    assert len(content.splitlines()) == count > 0


def test_without_a_horde_a_servers_batches_are_used(world: World) -> None:
    server = FileServer(has_files=True)
    for path in ("/v1/messages/batches", "/v1/messages/batches/<path:rest>"):
        methods = ["GET", "POST", "DELETE"]
        server.app.add_url_rule(path, path, server.answer, methods=methods)
    http = alone(world, server)
    assert http.post(f"/v1{BATCHES}", json={"requests": []}).get_json()["server"] is True
    assert http.get(f"/v1{BATCHES}").get_json()["server"] is True
    assert http.get(f"/v1{BATCHES}/msgbatch_x/results").get_json()["server"] is True


def test_without_a_store_there_are_no_batches(world: World) -> None:
    world.configure(store={"days": 0})
    for method, path in (("POST", BATCHES), ("GET", f"{BATCHES}/msgbatch_0")):
        response = world.http().open(f"/v1{path}", method=method, json={"requests": [one()]})
        assert response.status_code == 404
        assert response.get_json()["error"]["type"] == "not_found_error"
