"""/batches over HTTP: from an uploaded file to result files, as clients poll them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from requests import PreparedRequest, Response

from horde_proxy import reconfigure
from horde_proxy.api import batch_jobs
from horde_proxy.api.context import AppContext
from horde_proxy.app.factory import composition_of
from horde_proxy.caching.background import inline
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import Unavailable
from horde_proxy.ledger import ClientKey
from horde_proxy.store.batches import BatchStore
from horde_proxy.store.job_runner import JobRunner
from tests.support import CLIENT_KEY, OWNER_KEY, Scripted, World, known
from tests.test_api_files import FileServer, alone, bearer, beside_horde, upload
from tests.test_upstreams_penalties import TIMEOUT, refusing

CHATS = "/v1/chat/completions"


class Proxy:
    """A proxy whose jobs are done when `work` is called, one after the other."""

    def __init__(self, world: World) -> None:
        self.world, self.app = world, world.app()
        self.http = self.app.test_client()
        works = batch_jobs.works(self.app, self.context)
        jobs = self.context().store.jobs
        assert jobs is not None
        self.runner = JobRunner(lambda: jobs, works, places=1, start=inline)

    def context(self) -> AppContext:
        context: AppContext = self.app.extensions["horde_proxy"]
        return context

    def work(self) -> None:
        """Do all jobs that are due."""
        while self.runner.step():
            pass

    def get(self, path: str, key: str = "") -> Any:
        return self.http.get(f"/v1{path}", headers=bearer(key)).get_json()

    def post(self, path: str, body: Any = None, key: str = "") -> Any:
        return self.http.post(f"/v1{path}", json=body, headers=bearer(key))

    def create(self, *lines: Any, key: str = "", endpoint: str = CHATS, **options: Any) -> Any:
        """A new batch of these lines."""
        content = "\n".join(map(json.dumps, lines)).encode()
        file = upload(self.http, content, key=key).json["id"]
        body = {"input_file_id": file, "endpoint": endpoint, "completion_window": "24h", **options}
        response = self.post("/batches", body, key)
        assert response.status_code == 200, response.get_json()
        return response.get_json()

    def results(self, file_id: str, key: str = "") -> dict[str, Any]:
        """The lines of a result file by their custom ids."""
        content = self.http.get(f"/v1/files/{file_id}/content", headers=bearer(key)).data
        lines = list(map(json.loads, content.splitlines()))
        by_id = {line["custom_id"]: line for line in lines}
        assert len(by_id) == len(lines)
        return by_id


@pytest.fixture
def proxy(world: World) -> Proxy:
    world.employ(Scripted("Hello."))
    return Proxy(world)


def line(custom_id: str = "a", url: str = CHATS, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"I am {custom_id}."}]
    body = {"model": "test/model", "messages": messages, "max_tokens": 16, **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def test_a_batch_is_run_from_its_file_to_its_results(proxy: Proxy) -> None:
    lines = line("a"), line("b"), line("c", model="nobody-has-this")
    batch = proxy.create(*lines, metadata={"x": "y"})
    assert (batch["object"], batch["status"]) == ("batch", "validating")
    assert batch["metadata"] == {"x": "y"}
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert (batch["status"], batch["errors"]) == ("completed", None)
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    output = proxy.results(batch["output_file_id"])
    assert set(output) == {"a", "b"}
    response = output["a"]["response"]
    assert (response["status_code"], output["a"]["error"]) == (200, None)
    assert response["body"]["choices"][0]["message"]["content"] == "Hello."
    assert response["request_id"]
    usage = response["body"]["usage"]
    assert batch["usage"]["input_tokens"] == 2 * usage["prompt_tokens"]
    assert batch["usage"]["output_tokens"] == 2 * usage["completion_tokens"]
    errors = proxy.results(batch["error_file_id"])
    assert errors["c"]["response"]["status_code"] == 404
    assert errors["c"]["response"]["body"]["error"]["code"] == "model_not_found"
    purposes = {file["id"]: file["purpose"] for file in proxy.get("/files")["data"]}
    assert purposes[batch["output_file_id"]] == "batch_output"
    assert proxy.get("/batches")["data"] == [batch]


def test_a_batch_whose_lines_all_failed_is_completed(proxy: Proxy) -> None:
    batch = proxy.create(line("a", model="nobody-has-this"))
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    assert batch["error_file_id"] is not None


def test_a_batch_without_failures_has_no_error_file(proxy: Proxy) -> None:
    batch = proxy.create(line("a"))
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["output_file_id"] is not None
    assert batch["error_file_id"] is None


def test_a_wrong_input_fails_before_anything_runs(proxy: Proxy) -> None:
    batch = proxy.create(line("a"), line("a"))
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert (batch["status"], batch["output_file_id"]) == ("failed", None)
    [fault] = batch["errors"]["data"]
    assert (fault["code"], fault["line"]) == ("duplicate_custom_id", 2)


BODIES: Mapping[str, dict[str, Any]] = {
    "/v1/completions": {"model": "test/model", "prompt": "Hi", "max_tokens": 16},
    "/v1/responses": {"model": "test/model", "input": "Hi"},
}


@pytest.mark.parametrize("endpoint", list(BODIES))
def test_every_endpoint_has_batches(proxy: Proxy, endpoint: str) -> None:
    request = {
        "custom_id": "a",
        "method": "POST",
        "url": endpoint,
        "body": BODIES[endpoint],
    }
    batch = proxy.create(request, endpoint=endpoint)
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    assert batch["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/embeddings", {"input": "Hi"}),
        ("/v1/images/generations", {"prompt": "a fox"}),
        (CHATS, {"messages": [{"role": "user", "content": "Hi"}]}),
    ],
)
def test_lines_go_to_the_servers_that_have_their_models(
    world: World, endpoint: str, body: dict[str, Any]
) -> None:
    server = FileServer(has_files=False)
    answer = {"data": [], "choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 5}}
    server.app.add_url_rule(endpoint, endpoint, lambda: answer, methods=["POST"])
    beside_horde(world, server)
    proxy = Proxy(world)
    request = {"custom_id": "a", "method": "POST", "url": endpoint}
    batch = proxy.create({**request, "body": {"model": "served", **body}}, endpoint=endpoint)
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    assert proxy.results(batch["output_file_id"])["a"]["response"]["body"] == answer
    assert batch["usage"]["input_tokens"] == 5


def test_a_servers_fault_is_tried_five_times(world: World) -> None:
    server, calls = FileServer(has_files=False), []

    def fail() -> tuple[str, int]:
        calls.append(1)
        return "<html>", 500

    server.app.add_url_rule("/v1/embeddings", "embeddings", fail, methods=["POST"])
    beside_horde(world, server)
    proxy = Proxy(world)
    body = {"model": "served", "input": "Hi"}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}
    batch = proxy.create(request, endpoint="/v1/embeddings")
    for _ in range(8):
        proxy.work()
        world.clock.seconds += 300
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
    assert len(calls) == 5


def test_many_embeddings_are_one_answer(world: World) -> None:
    server = FileServer(has_files=False)
    vector = {"embedding": [0.5] * 300_000}
    answer = {"data": [vector]}
    server.app.add_url_rule("/v1/embeddings", "embeddings", lambda: answer, methods=["POST"])
    beside_horde(world, server)
    proxy = Proxy(world)
    body = {"model": "served", "input": ["Hi"] * 100}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}
    batch = proxy.create(request, endpoint="/v1/embeddings")
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


def test_a_line_is_tried_again_however_often_the_database_fails(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = proxy.create(line("a"))
    assert proxy.runner.step() == 1
    failures = iter([DatabaseError("locked")] * 10)
    end_line = BatchStore.end_line

    def fail(store: BatchStore, *args: Any) -> bool:
        for failure in failures:
            raise Unavailable("It cannot be stored now.") from failure
        return end_line(store, *args)

    monkeypatch.setattr(BatchStore, "end_line", fail)
    for _ in range(12):
        proxy.work()
        proxy.world.clock.seconds += 60
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


def test_embeddings_fail_line_by_line_where_nobody_makes_them(proxy: Proxy) -> None:
    request = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "test/model", "input": "Hi"},
    }
    batch = proxy.create(request, endpoint="/v1/embeddings")
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
    assert proxy.results(batch["error_file_id"])["a"]["response"]["status_code"] == 404


def test_a_cancelled_batch_keeps_its_results(proxy: Proxy) -> None:
    batch = proxy.create(line("a"), line("b"))
    for _ in range(2):
        assert proxy.runner.step() == 1
    cancelled = proxy.post(f"/batches/{batch['id']}/cancel")
    assert (cancelled.status_code, cancelled.get_json()["status"]) == (200, "cancelling")
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["status"] == "cancelled"
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert set(proxy.results(batch["output_file_id"])) == {"a"}
    unanswered = proxy.results(batch["error_file_id"])["b"]
    assert (unanswered["response"], unanswered["error"]["code"]) == (None, "batch_cancelled")
    again = proxy.post(f"/batches/{batch['id']}/cancel")
    assert (again.status_code, again.get_json()) == (200, batch)


def test_a_completed_batch_cannot_be_cancelled(proxy: Proxy) -> None:
    batch = proxy.create(line("a"))
    proxy.work()
    refused = proxy.post(f"/batches/{batch['id']}/cancel")
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (400, "batch_has_ended")


def test_what_has_not_run_within_a_day_expires(proxy: Proxy) -> None:
    batch = proxy.create(line("a"), line("b"))
    for _ in range(2):
        assert proxy.runner.step() == 1
    proxy.world.clock.seconds += 86_400
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["status"] == "expired"
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert set(proxy.results(batch["output_file_id"])) == {"a"}
    assert proxy.results(batch["error_file_id"])["b"]["error"]["code"] == "batch_expired"


def test_a_line_that_is_refused_for_now_is_tried_again(world: World) -> None:
    proxy = Proxy(world)
    batch = proxy.create(line("a"))
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": 1, "completed": 0, "failed": 0}
    world.employ(Scripted("Hello."))
    world.clock.seconds += 10
    proxy.work()
    assert proxy.get(f"/batches/{batch['id']}")["status"] == "completed"


def test_lines_wait_while_their_only_endpoint_is_paused(proxy: Proxy) -> None:
    pauses = composition_of(proxy.app).assembly.pauses
    batch = proxy.create(line("a"), line("b"))
    assert proxy.runner.step() == 1
    pauses.pause("horde", proxy.world.clock())
    for _ in range(12):
        proxy.work()
        proxy.world.clock.seconds += 600
    counts = proxy.get(f"/batches/{batch['id']}")["request_counts"]
    assert counts == {"total": 2, "completed": 0, "failed": 0}
    pauses.resume("horde")
    proxy.world.employ(Scripted("Hello."))
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


def test_lines_wait_for_the_end_of_a_horde_s_penalty(world: World) -> None:
    horde = refusing(world, TIMEOUT)
    proxy = Proxy(world)
    batch = proxy.create(line("a"), line("b"))
    proxy.work()
    horde.refusal = None
    # It lasts for 3593 seconds.
    for _ in range(5):
        world.clock.seconds += 600
        proxy.work()
        counts = proxy.get(f"/batches/{batch['id']}")["request_counts"]
        assert counts == {"total": 2, "completed": 0, "failed": 0}
    assert horde.submits == 1
    world.clock.seconds += 600
    world.employ(Scripted("Hello."))
    world.clock.seconds += 1
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


def test_the_limits_of_a_key_are_those_of_its_batches(world: World) -> None:
    world.employ(Scripted("Hello."))
    limited = ClientKey("ann", requests_per_minute=2)
    proxy = Proxy(world.configure(**known(ann=limited)))
    key = "key-of-ann-longer"
    batch = proxy.create(*(line(str(number)) for number in range(4)), key=key)
    proxy.work()
    counts = proxy.get(f"/batches/{batch['id']}", key)["request_counts"]
    assert counts == {"total": 4, "completed": 2, "failed": 0}
    world.clock.seconds += 61
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}", key)
    assert batch["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
    used = proxy.get("/usage", key)["data"]
    total = sum(row["completion_tokens"] for row in used)
    assert total == batch["usage"]["output_tokens"] > 0


def test_lines_fail_once_their_key_is_revoked(world: World) -> None:
    world.employ(Scripted("Hello."))
    proxy = Proxy(world.configure(**known(ann=ClientKey("ann"), ben=ClientKey("ben"))))
    batch = proxy.create(line("a"), key="key-of-ann-longer")
    del world.settings["access"]["keys"]["ann"]
    reconfigure(proxy.app, world.config())
    proxy.work()
    store = proxy.context().store.batches
    assert store is not None
    facts = store.get("ann", batch["id"])
    assert (facts.status, facts.succeeded, facts.failed) == ("completed", 0, 1)


def test_in_passthrough_the_lines_are_paid_by_their_client(world: World) -> None:
    world.employ(Scripted("Hello."))
    proxy = Proxy(world.configure(access={"mode": "passthrough"}))
    cable, keys = world.cable(), set()
    send = cable.send

    def noting(request: PreparedRequest, *args: Any, **options: Any) -> Response:
        if request.path_url.endswith("/generate/text/async"):
            keys.add(request.headers["apikey"])
        return send(request, *args, **options)

    cable.send = noting  # type: ignore[method-assign]
    batch = proxy.create(line("a"), key=CLIENT_KEY)
    proxy.work()
    assert proxy.get(f"/batches/{batch['id']}", CLIENT_KEY)["status"] == "completed"
    assert keys == {CLIENT_KEY}
    assert (
        proxy.http.get(f"/v1/batches/{batch['id']}", headers=bearer(OWNER_KEY)).status_code == 404
    )


def test_keys_do_not_see_each_others_batches(world: World) -> None:
    proxy = Proxy(world.configure(**known(ann=ClientKey("ann"), ben=ClientKey("ben"))))
    ann, ben = "key-of-ann-longer", "key-of-ben-longer"
    batch = proxy.create(line("a"), key=ann)
    for response in (
        proxy.http.get(f"/v1/batches/{batch['id']}", headers=bearer(ben)),
        proxy.post(f"/batches/{batch['id']}/cancel", key=ben),
    ):
        assert response.status_code == 404
        assert response.get_json()["error"] == {
            "message": f"No batch found with id '{batch['id']}'.",
            "type": "invalid_request_error",
            "param": "batch_id",
            "code": None,
        }
    assert proxy.get("/batches", ben)["data"] == []
    body = {"input_file_id": batch["input_file_id"], "endpoint": CHATS, "completion_window": "24h"}
    refused = proxy.post("/batches", body, ben)
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (404, "id")


def test_another_purpose_than_batch_is_refused(proxy: Proxy) -> None:
    file = upload(proxy.http, fields={"purpose": "user_data"}).json["id"]
    refused = proxy.post("/batches", {"input_file_id": file, "endpoint": CHATS})
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (400, "input_file_id")


@pytest.mark.parametrize("body", [{}, [], {"input_file_id": 7}, {"input_file_id": "x"}])
def test_a_wrong_batch_is_refused(proxy: Proxy, body: Any) -> None:
    assert proxy.post("/batches", body).status_code == 400


def test_pages_of_batches_follow_each_other(proxy: Proxy) -> None:
    ids = [proxy.create(line("a"))["id"] for _ in range(3)]
    first = proxy.get("/batches?limit=2")
    rest = proxy.get(f"/batches?limit=2&after={first['last_id']}")
    assert {batch["id"] for batch in first["data"] + rest["data"]} == set(ids)
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert proxy.http.get("/v1/batches?limit=101").status_code == 400


def test_without_a_horde_a_servers_batches_are_used(world: World) -> None:
    server = FileServer(has_files=True)
    for path in ("/v1/batches", "/v1/batches/<path:rest>"):
        server.app.add_url_rule(path, path, server.answer, methods=["GET", "POST"])
    http = alone(world, server)
    assert http.get("/v1/batches").get_json()["server"] is True
    assert http.get("/v1/batches/batch_x").get_json()["server"] is True
    body = {"input_file_id": "file-of-server", "endpoint": CHATS}
    assert http.post("/v1/batches", json=body).get_json()["server"] is True
    assert http.post("/v1/batches/batch_x/cancel").get_json()["server"] is True


def test_beside_a_horde_a_servers_file_is_the_servers_batch(world: World) -> None:
    server = FileServer(has_files=True)
    server.app.add_url_rule("/v1/batches", "batches", server.answer, methods=["GET", "POST"])
    http = beside_horde(world, server)
    assert http.get("/v1/batches").get_json()["data"] == []
    body = {"input_file_id": "file-of-server", "endpoint": CHATS}
    assert http.post("/v1/batches", json=body).get_json()["server"] is True
    file = upload(http).json["id"]
    own = http.post("/v1/batches", json={"input_file_id": file, "endpoint": CHATS}).get_json()
    assert own["object"] == "batch"


def test_with_days_of_zero_there_are_no_batches(world: World) -> None:
    http = world.configure(store={"days": 0}).http()
    for refused in (http.get("/v1/batches"), http.post("/v1/batches", json={})):
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (
            404,
            "unsupported_endpoint",
        )


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a fault of the proxy")


def work_until_given_up(proxy: Proxy) -> None:
    """Do what is due, again and again, until a faulty job has had all of its tries."""
    for _ in range(10):
        proxy.work()
        proxy.world.clock.sleep(60)


def test_a_line_that_the_proxy_fails_on_is_given_up(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_jobs.BatchLineWork, "_answer", fail)
    batch = proxy.create(line("a"), line("b"))
    work_until_given_up(proxy)
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    errors = proxy.results(batch["error_file_id"])
    assert {custom_id: result["error"]["code"] for custom_id, result in errors.items()} == {
        "a": "server_error",
        "b": "server_error",
    }


def test_a_batch_whose_input_the_proxy_fails_on_has_failed(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_jobs._BatchParts, "check_input", fail)
    batch = proxy.create(line("a"))
    work_until_given_up(proxy)
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["status"] == "failed"
    assert [fault["code"] for fault in batch["errors"]["data"]] == ["server_error"]


def test_a_batch_that_the_proxy_cannot_go_on_with_has_the_results_that_there_are(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = proxy.create(line("a"))
    monkeypatch.setattr(batch_jobs._BatchParts, "expire", fail)
    assert proxy.runner.step()
    proxy.world.clock.sleep(25 * 3600)
    work_until_given_up(proxy)
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
