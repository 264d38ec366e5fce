"""Calls that no client waits for: who pays, what they are limited by, what is logged of them."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from flask import Flask, request

from horde_proxy.api.auth import authenticate, job_identity
from horde_proxy.api.internal_call import InternalAnswer, JobIdentity, call, opened
from horde_proxy.api.slots import Slots
from horde_proxy.errors import Unavailable
from horde_proxy.key_digest import key_digest
from horde_proxy.ledger import ClientKey
from horde_proxy.upstreams.base import Accepted, StreamItem
from tests.support import CLIENT_KEY, Scripted, World, known

BODY = {"model": "test/model", "messages": [{"role": "user", "content": "Say hello."}]}
PATH = "/v1/chat/completions"
LAPTOP = "key-of-laptop-longer"


def chat(app: Flask, job: JobIdentity, **fields: Any) -> InternalAnswer:
    return call(app, job, PATH, json.dumps({**BODY, **fields}).encode())


def keyed(world: World, **limits: Any) -> tuple[Flask, JobIdentity]:
    """An app with one key, and the identity of a job of that key."""
    world.configure(**known(laptop=ClientKey("laptop", **limits)))
    world.employ(Scripted("Hello there."))
    return world.app(), JobIdentity("job-1", "key x", "192.0.2.1", key_digest=key_digest(LAPTOP))


def test_a_job_is_answered_as_a_clients_request_is(world: World) -> None:
    app, job = keyed(world)
    answer = chat(app, job)
    assert answer.status == 200
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "Hello there."
    assert answer.headers["X-Endpoint"] == "horde"


def test_a_job_is_logged_and_counted_for_its_key(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    app, job = keyed(world)
    with caplog.at_level(logging.INFO, "horde_proxy.requests"):
        chat(app, job)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("POST /v1/chat/completions 200 ")
    assert "client=192.0.2.1" in line
    assert "key=laptop" in line
    headers = {"Authorization": f"Bearer {LAPTOP}"}
    usage = app.test_client().get("/v1/usage", headers=headers).json
    assert usage is not None
    assert usage["data"][0]["requests"] == 1


def test_a_job_fails_once_its_key_is_revoked(world: World) -> None:
    app, _ = keyed(world)
    answer = chat(app, JobIdentity("job-1", "key x", key_digest=key_digest("another-key")))
    assert answer.status == 401
    error = json.loads(answer.body)["error"]
    assert error["code"] == "invalid_api_key"
    assert error["message"] == "The API key that this job was begun with is not valid any more."


def test_a_job_without_a_key_fails_where_keys_have_become_required(world: World) -> None:
    app, _ = keyed(world)
    assert chat(app, JobIdentity("job-1", "address 192.0.2.1")).status == 401


def test_a_job_has_the_rights_of_its_key(world: World) -> None:
    app, job = keyed(world, models=("other/*",))
    assert chat(app, job).status == 404


def test_a_job_pays_with_its_clients_horde_key(world: World) -> None:
    world.configure(access={"mode": "passthrough"})
    world.employ(Scripted("Hello there."))
    app = world.app()
    assert chat(app, JobIdentity("job-1", "key x", horde_key=CLIENT_KEY)).status == 200
    assert chat(app, JobIdentity("job-1", "key x", horde_key="no-such-key")).status == 401


def test_no_header_makes_a_request_a_job(world: World) -> None:
    app, _ = keyed(world)
    client = app.test_client()
    for name in ("Horde-Proxy.Job", "Horde-Proxy-Job", "Http-Horde-Proxy.Job"):
        assert client.post(PATH, json=BODY, headers={name: LAPTOP}).status_code == 401


def test_a_job_that_its_client_has_begun_is_not_counted_for_the_minute_again(world: World) -> None:
    app, job = keyed(world, requests_per_minute=1)
    assert chat(app, job).status == 200
    refused = chat(app, job)
    assert refused.status == 429
    assert refused.retry_after is not None
    counted = JobIdentity("job-1", "key x", key_digest=job.key_digest, is_new=False)
    assert chat(app, counted).status == 200
    assert chat(app, counted).retry_after is None


def test_two_equal_jobs_are_two_requests(world: World) -> None:
    app, job = keyed(world)
    cable = world.cable()
    chat(app, job)
    chat(app, job)
    assert cable.calls.count("POST generate/text/async") == 2


def test_a_job_may_take_longer_than_a_client_waits(world: World) -> None:
    world.configure(server={"timeout": 30})
    world.employ(Scripted("Hello there."))
    app = world.app()
    began = world.clock()
    world.clock.every_sleep.clear()
    late = world.bridge(Scripted("Hello there."))
    world.clock.every_sleep.append(
        lambda: late.step(world.session) if world.clock() > began + 100 else None
    )
    answer = chat(app, JobIdentity("job-1", "anybody", seconds=600))
    assert answer.status == 200
    assert world.clock() > began + 100


def test_a_job_sees_each_item_of_its_answer(world: World) -> None:
    world.employ(Scripted("Hello there."))
    items: list[StreamItem] = []
    chat(world.app(), JobIdentity("job-1", "anybody", note=items.append))
    ids = [item.headers.get("X-Horde-Request-Id") for item in items if isinstance(item, Accepted)]
    assert len(ids) == 1
    assert ids[0]
    texts = [
        choice["delta"].get("content", "")
        for item in items
        if isinstance(item, dict)
        for choice in item["choices"]
    ]
    assert "".join(texts) == "Hello there."


def test_leaving_an_open_answer_cancels_it(world: World) -> None:
    world.employ(Scripted("Hello there, whoever you are."))
    app, cable = world.app(), world.cable()
    body = json.dumps({**BODY, "stream": True}).encode()
    world.clock.every_sleep.clear()
    with opened(app, JobIdentity("job-1", "anybody"), PATH, body) as (status, headers, pieces):
        assert status == 200
        assert headers["Content-Type"].startswith("text/event-stream")
        next(pieces)
    assert cable.calls[-1].startswith("DELETE generate/text/status/")


def test_the_identity_for_a_job_is_that_of_the_client(world: World) -> None:
    app, _ = keyed(world)
    with app.test_request_context(headers={"Authorization": f"Bearer {LAPTOP}"}):
        app.preprocess_request()
        authenticate()
        job = job_identity("job-7")
    assert job.key_digest == key_digest(LAPTOP)
    assert job.client == "key " + key_digest(LAPTOP)[:32]
    assert job.horde_key is None
    assert LAPTOP not in repr(job)


def test_jobs_leave_a_quarter_of_the_slots_to_people() -> None:
    slots = Slots(4)
    for _ in range(3):
        slots.acquire(for_job=True)
    with pytest.raises(Unavailable):
        slots.acquire(for_job=True)
    slots.acquire()
    with pytest.raises(Unavailable):
        slots.acquire()


def test_with_one_slot_jobs_may_take_it() -> None:
    free = Slots(1).acquire(for_job=True)
    free()


def test_a_path_outside_of_ascii_arrives_whole() -> None:
    app = Flask("any", static_folder=None)

    @app.post("/<name>")
    def name(name: str) -> str:
        return f"{name} {request.get_data(as_text=True)}"

    assert call(app, JobIdentity("1", "x"), "/ü", b"{}").body.decode() == "ü {}"
