"""The private horde against recorded answers of a real AI-Horde server: each capture is replayed.

A capture is {"request", "response", "note"?}. What it needs beforehand (a popped job, three faults)
is made by its entry in SETUPS; where the private horde means to differ, DIFFERS says how.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_private_horde import ANONYMOUS, ASYNC, BOB, CUSTOM, MARX, NOVA, SERVICE, World

CAPTURES = Path(__file__).parent / "data" / "captures"
Setup = Callable[[World], Any]

GONE = (404, "RequestNotFound")


def load(name: str) -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text())


def workers_online(world: World) -> None:
    world.pop()
    world.pop("fake-text-0", models=[CUSTOM])


def submitted(n: int = 1, **fields: Any) -> Setup:
    def setup(world: World) -> str:
        world.pop()
        return world.submit(n=n, **fields)

    return setup


def submitted_by(key: str) -> Setup:
    return lambda world: world.submit(key)


def impossible(world: World) -> str:
    return world.submit(models=["zz/none"])


def two_waiting(world: World) -> None:
    world.submit(n=2)


def popped(n: int = 1, amount: int = 1) -> Setup:
    """Submit a request of n results, pop some of it and give the request's id."""

    def setup(world: World) -> str:
        request_id = world.submit(n=n)
        world.pop(amount=amount)
        return request_id

    return setup


def partly_delivered(n: int, delivered: int, popped: int | None = None) -> Setup:
    def setup(world: World) -> str:
        request_id = world.submit(n=n)
        for job_id in world.pop(amount=popped or delivered)[:delivered]:
            world.deliver(job_id)
        return request_id

    return setup


def finished(world: World) -> str:
    request_id = world.submit(n=2)
    first, second = world.pop(amount=2)
    metadata = [{"type": "censorship", "value": "csam"}]
    world.deliver(first, " Hi there!\n### Instruction:", seed=4242)
    world.deliver(second, "", state="csam", gen_metadata=metadata)
    return request_id


def faulted(times: int) -> Setup:
    def setup(world: World) -> str:
        request_id = world.submit()
        world.fault(times)
        return request_id

    return setup


def done_but_processing(world: World) -> Any:
    request_id = world.submit(n=2)
    world.fault(2)
    world.deliver(world.pop(amount=2)[0])
    return request_id


def done_empty_while_processing(world: World) -> Any:
    request_id = faulted(2)(world)
    world.pop()
    return request_id


def done_after_that(world: World) -> Any:
    request_id = faulted(2)(world)
    world.deliver(*world.pop())
    return request_id


def stale_job(world: World) -> Any:
    request_id = popped()(world)
    world.now += 151
    return request_id


def cancelled(setup: Setup) -> Setup:
    def setup_and_cancel(world: World) -> Any:
        request_id = setup(world)
        world.cancel(request_id)
        return request_id

    return setup_and_cancel


def job(world: World) -> str:
    world.submit(prompt="### Instruction:\nSay hi.\n### Response:\n")
    return world.pop()[0]


def delivered_job(world: World) -> Any:
    job_id = job(world)
    world.deliver(job_id)
    return job_id


def aborted_job(world: World) -> Any:
    job_id = job(world)
    world.now += 151
    return job_id


def job_of_cancelled_request(world: World) -> Any:
    request_id = world.submit()
    (job_id,) = world.pop()
    world.cancel(request_id)
    return job_id


def captured_request(name: str) -> Setup:
    """Submit what another capture submitted, so that this one's worker can pop it."""

    def setup(world: World) -> None:
        body = load(name)["request"]["body"]
        assert world.post(ASYNC, BOB, body).status_code == 202

    return setup


def waiting_for(prompt: str, **fields: Any) -> Setup:
    def setup(world: World) -> None:
        body = {"prompt": prompt, **fields}
        assert world.post(ASYNC, BOB, body).status_code == 202

    return setup


def validated_and_not(world: World) -> None:
    for prompt, validated in (("edge-true", {"validated_backends": True}), ("edge-default", {})):
        params = {"max_length": 40}
        waiting_for(prompt, models=[MARX], params=params, **validated)(world)


def worker(world: World) -> Any:
    world.pop()
    return world.worker()["id"]


def worker_in_maintenance(world: World) -> None:
    worker_id = worker(world)
    path = f"/api/v2/workers/{worker_id}"
    key = "<worker-owner-apikey>"
    world.client.put(path, json={"maintenance": True}, headers={"apikey": key})


def seasoned_workers(world: World) -> Any:
    """Four workers that have delivered, two for each model; a request waits."""
    for name, models in (
        ("manual-text-1", [NOVA]),
        ("manual-text-9", [NOVA, MARX]),
        ("fake-text-0", [CUSTOM]),
        ("fake-text-1", [CUSTOM, MARX]),
    ):
        world.submit(models=models[:1])
        world.deliver(*world.pop(name, models=models))
        world.now += 1
    world.submit(n=2, max_length=16)
    return world.worker()["id"]


def twenty_waiting(world: World) -> None:
    world.submit(BOB, n=20, max_length=16, models=["zz/none"])


def in_maintenance(world: World) -> None:
    world.horde.maintenance = True


def over_the_rate_of_an_address(world: World) -> None:
    world.horde.rate_limits = True
    for key in (ANONYMOUS, BOB):
        world.submit(key)


def over_the_rate_of_a_key(world: World) -> None:
    world.horde.rate_limits = True
    for address in ("203.0.113.20", "203.0.113.21"):
        world.post(ASYNC, BOB, {"prompt": "x"}, address)


def over_the_rate_of_a_status(world: World) -> Any:
    request_id = world.submit()
    world.horde.rate_limits = True
    for _ in range(60):
        world.status(request_id)
    return request_id


def nothing(world: World) -> Any:
    return None


SETUPS = {
    "err_400_MaintenanceMode": in_maintenance,
    "err_403_KudosUpfront": two_waiting,
    "err_429_TooManyPrompts": twenty_waiting,
    "err_429_ratelimit_apikey": over_the_rate_of_a_key,
    "err_429_ratelimit_async": over_the_rate_of_an_address,
    "err_429_ratelimit_status": over_the_rate_of_a_status,
    "find_user": submitted(),
    "find_user_anon": cancelled(submitted_by(ANONYMOUS)),
    "text_async_202": workers_online,
    "text_async_202_service_proxied": workers_online,
    "text_delete_processing": partly_delivered(3, delivered=1, popped=3),
    "text_delete_waiting": impossible,
    "text_pop_403_WorkerMaintenance": worker_in_maintenance,
    "text_pop_403_WrongCredentials": worker,
    "text_pop_amount4_n3": waiting_for("batch", params={"n": 3, "max_length": 40}),
    "text_pop_defaults": waiting_for("defaults"),
    "text_pop_job": captured_request("text_async_202"),
    "text_pop_job_too_big": waiting_for("x", params={"max_context_length": 8192}),
    "text_pop_softprompt_ignored": waiting_for(
        "unval", params={"max_length": 40}, softprompt="sp.zip"
    ),
    "text_pop_unvalidated_backend": validated_and_not,
    "text_status_after_3_faults": faulted(3),
    "text_status_after_delete": cancelled(impossible),
    "text_status_after_delete_all_done": cancelled(partly_delivered(3, delivered=3)),
    "text_status_after_delete_processing": cancelled(popped(3, 2)),
    "text_status_after_stale_job": stale_job,
    "text_status_done_after_that": done_after_that,
    "text_status_done_but_processing": done_but_processing,
    "text_status_done_empty_while_processing": done_empty_while_processing,
    "text_status_faulted": faulted(3),
    "text_status_finished": finished,
    "text_status_impossible_ctx": submitted(max_context_length=8192),
    "text_status_partial": partly_delivered(2, delivered=1),
    "text_status_processing": popped(2),
    "text_status_queued": submitted(2),
    "text_status_restarted": faulted(1),
    "text_status_waiting_impossible": impossible,
    "text_submit": job,
    "text_submit_403_WrongCredentials": job,
    "text_submit_aborted_400": aborted_job,
    "text_submit_after_delete": job_of_cancelled_request,
    "text_submit_censored": job,
    "text_submit_duplicate_400": delivered_job,
    "text_submit_faulted": job,
    "worker_put_maintenance": worker,
    **dict.fromkeys(
        (
            "get_stats_text_models",
            "get_stats_text_totals",
            "get_status_models__type-text",
            "get_status_models__type-text_min_count-2",
            "get_status_models__type-text_model_state-custom",
            "get_status_models__type-text_model_state-known",
            "get_status_models_name_custom",
            "get_status_models_name_dblenc",
            "get_status_models_name_known",
            "get_status_models_name_slash",
            "get_status_performance",
            "get_worker_by_name",
            "get_worker_single",
            "get_workers",
            "get_workers__type-text",
            "xfields_status_models",
        ),
        seasoned_workers,
    ),
    **dict.fromkeys(
        (
            "err_400_ExcessiveStopSequence",
            "err_400_MissingFullSamplerOrder",
            "err_400_NulByteInPayload",
            "err_400_OnlyServiceAccountProxy",
            "err_400_TokenOverflow",
            "err_400_empty_prompt_rc",
            "err_400_extra_source_images_text",
            "err_400_malformed_json",
            "err_400_missing_apikey",
            "err_400_no_prompt",
            "err_400_validation_max_length",
            "err_400_validation_type",
            "err_400_webhook_http",
            "err_401_invalid_apikey",
            "err_401_unknown_sharedkey",
            "err_403_KudosUpfront_slow_workers",
            "err_404_StyleNotFound",
            "err_404_WorkerNotFound",
            "err_404_nonuuid_id",
            "err_404_unknown_id",
            "err_404_unknown_route",
            "err_405",
            "err_no_content_type",
            "find_user_401_nokey",
            "find_user_404",
            "get_stats_img_models",
            "get_stats_img_totals",
            "get_status_heartbeat",
            "get_status_models__type-bogus",
            "get_status_models__type-image",
            "get_status_models__type-text_model_state-bogus",
            "get_status_modes",
            "get_workers__type-image",
            "get_workers__type-interrogation",
            "text_async_202_allow_downgrade",
            "text_async_202_no_workers",
            "text_dry_run",
            "text_dry_run_no_model",
            "text_dry_run_unknown_model_500",
            "text_pop_400_no_models",
            "text_pop_403_AnonForbiddenWorker",
            "text_pop_no_job",
            "text_submit_404",
            "xfields_find_user",
        ),
        nothing,
    ),
}

# A cancelled request is gone at once; three strikes count at once; an unknown model has a price; an
# unknown path is answered in JSON.
DIFFERS: dict[str, tuple[int, Any]] = {
    "text_status_after_delete": (404, {"rc": "RequestNotFound"}),
    "text_status_after_delete_all_done": (404, {"rc": "RequestNotFound"}),
    "text_status_after_delete_processing": (404, {"rc": "RequestNotFound"}),
    "text_status_after_3_faults": (200, {"done": True, "faulted": True, "restarted": 3}),
    "text_dry_run_unknown_model_500": (200, {"kudos": 47.0}),
    **dict.fromkeys(
        (
            "err_404_unknown_route",
            "get_status_models_name_custom",
            "get_status_models_name_known",
            "get_status_models_name_slash",
        ),
        (404, {"message": "There is no such route here."}),
    ),
    "get_status_models__type-image": (200, []),
    "get_workers__type-image": (200, []),
    "get_workers__type-interrogation": (200, []),
}
SAME = sorted(set(SETUPS) - set(DIFFERS))
# Of a status, these are rules; position and wait are estimates, kudos are rounded by the real one.
STATUS_RULES = (
    "finished",
    "processing",
    "restarted",
    "waiting",
    "done",
    "faulted",
    "is_possible",
)


def replay(world: World, name: str) -> Any:
    """Return the private horde's response to a capture's request, with the real id put in."""
    request = load(name)["request"]
    real_id = SETUPS[name](world)
    path, body = request["path"], request["body"]
    if real_id is not None and real_id.count("-") == 4:
        path = re.sub(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}", real_id, path)
        if isinstance(body, dict) and "generation" in body:
            body = {**body, "id": real_id}
    raw = body if isinstance(body, str) or body is None else json.dumps(body)
    headers = dict(request["headers"])
    return world.client.open(path, method=request["method"], data=raw, headers=headers)


@pytest.fixture
def world() -> World:
    return World(upfront_kudos=True)


def kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return repr(type(value))
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def unlike(expected: Any, actual: Any, path: str = "$") -> list[str]:
    """Return what differs in shape: fields and types all the way down, numbers alike."""
    if kind(expected) != kind(actual):
        return [f"{path}: {kind(actual)} instead of {kind(expected)}"]
    if isinstance(expected, dict):
        if set(expected) != set(actual):
            return [f"{path}: {sorted(actual)} instead of {sorted(expected)}"]
        inner = [unlike(expected[name], actual[name], f"{path}.{name}") for name in expected]
        return [line for lines in inner for line in lines]
    if isinstance(expected, list):
        return unlike_lists(expected, actual, path)
    return []


def unlike_lists(expected: Any, actual: Any, path: str) -> list[str]:
    """Each thing must have the shape of a recorded one, and some must be there if some were."""
    if bool(expected) != bool(actual):
        return [f"{path}: {len(actual)} things instead of {len(expected)}"]
    for item in actual:
        differences = [unlike(one, item, f"{path}[]") for one in expected]
        if all(differences):
            return differences[0]
    return []


def test_every_capture_has_a_replay() -> None:
    assert {path.stem for path in CAPTURES.glob("*.json")} == set(SETUPS)


@pytest.mark.parametrize("name", SAME)
def test_the_status_and_the_shape_are_those_of_the_real_horde(world: World, name: str) -> None:
    expected = load(name)["response"]
    actual = replay(world, name)
    assert actual.status_code == expected["status"]
    body = actual.json if actual.is_json else actual.text
    assert unlike(expected["body"], body) == []


@pytest.mark.parametrize("name", SAME)
def test_the_headers_are_those_of_the_real_horde(world: World, name: str) -> None:
    expected = load(name)["response"]["headers"]
    actual = replay(world, name).headers
    assert [header for header in expected if header not in actual] == []
    exact = ["Access-Control-Allow-Origin", "Allow", "Content-Type"]
    if not load(name)["request"]["path"].endswith("/async"):
        exact.append("X-Ratelimit-Limit")
    same = {header: expected[header] for header in exact if header in expected}
    assert {header: actual[header] for header in same} == same


def sentence_of(body: Any) -> str:
    """A refusal of the real horde, as the private one says it: it has members of its own."""
    return str(
        body["message"]
        .partition(" You have requested this URI")[0]
        .replace(
            "Have you remembered to register at https://stablehorde.net/register ?",
            "Use the key that you got when you joined this horde.",
        )
    )


@pytest.mark.parametrize("name", [name for name in SAME if load(name)["response"]["status"] >= 400])
def test_refusals_say_what_the_real_horde_says(world: World, name: str) -> None:
    expected = load(name)["response"]["body"]
    response = replay(world, name)
    if isinstance(expected, str):
        assert response.text == expected
        return
    actual = response.json
    assert actual.get("rc") == expected.get("rc")
    assert actual.get("errors") == expected.get("errors")
    if name != "find_user_404":
        real_id = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
        said, sentence = sentence_of(expected), actual["message"]
        assert real_id.sub("ID", said) == real_id.sub("ID", sentence)


@pytest.mark.parametrize(
    "name", [name for name in SAME if "queue_position" in load(name)["response"]["body"]]
)
def test_the_states_of_a_request_follow_the_real_rules(world: World, name: str) -> None:
    expected = load(name)["response"]["body"]
    actual = replay(world, name).json
    assert {rule: actual[rule] for rule in STATUS_RULES} == {
        rule: expected[rule] for rule in STATUS_RULES
    }


@pytest.mark.parametrize(
    "name", [name for name in SAME if "payload" in load(name)["response"]["body"]]
)
def test_the_worker_gets_the_payload_of_the_real_horde(world: World, name: str) -> None:
    expected = load(name)["response"]["body"]
    actual = replay(world, name).json
    assert list(actual) == list(expected)
    assert len(actual.pop("ids")) == len(expected.pop("ids"))
    assert (actual.pop("id") is None) == (expected.pop("id") is None)
    assert actual == expected


@pytest.mark.parametrize(
    "name",
    ["text_submit", "text_submit_censored", "text_submit_faulted", "text_submit_after_delete"],
)
def test_a_job_earns_what_it_earns_at_the_real_horde(world: World, name: str) -> None:
    assert replay(world, name).json == load(name)["response"]["body"]


@pytest.mark.parametrize("name", ["text_dry_run", "text_dry_run_no_model"])
def test_a_dry_run_tells_the_price_of_the_real_horde(world: World, name: str) -> None:
    assert replay(world, name).json == load(name)["response"]["body"]


@pytest.mark.parametrize("name", sorted(DIFFERS))
def test_where_the_private_horde_differs_it_means_to(world: World, name: str) -> None:
    status, expected = DIFFERS[name]
    response = replay(world, name)
    actual = response.json
    if isinstance(expected, dict):
        actual = {field: actual.get(field) for field in expected}
    assert (response.status_code, actual) == (status, expected)


def test_a_service_account_may_name_the_account_it_proxies(world: World) -> None:
    body = load("err_400_OnlyServiceAccountProxy")["request"]["body"]
    assert world.post(ASYNC, SERVICE, body).status_code == 202
