"""Behaviour of the private horde over Flask's test client, with a clock that stands still."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from itertools import count
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from horde_proxy.private_horde import OpenRequest, PrivateHorde, balances, blueprint, upkeep
from horde_proxy.private_horde.queue_statistics import QueueStatistics
from horde_proxy.private_horde.records import (
    AccountKey,
    Charge,
    HordeAccount,
    HordeRequest,
    Job,
    LedgerEntry,
    Payload,
    StoredGeneration,
    Worker,
)
from horde_proxy.private_horde.store.memory import MemoryTx
from tests.support import Clock

ANONYMOUS = "0000000000"
ALICE = "<alice-apikey>"
BOB = "<poorbob-apikey>"
OWNER = "<worker-owner-apikey>"
SERVICE = "<svcproxy-apikey>"
NOVA = "koboldcpp/Llama-3.1-SuperNova-Lite"
MARX = "koboldcpp/Marx-3B-V3"
CUSTOM = "koboldcpp/FakeLlama-8B-Instruct"
AGENT = "AI Horde Worker:1:https://example.invalid/x"
ASYNC = "/api/v2/generate/text/async"
STATUS = "/api/v2/generate/text/status/"
POP = "/api/v2/generate/text/pop"
SUBMIT = "/api/v2/generate/text/submit"


class World:
    """A private horde with four accounts behind a test client, and what clients and workers do."""

    def __init__(self, **settings: Any) -> None:
        self.now = 1000.0
        numbers = count(1)
        self.horde = PrivateHorde(
            clock=lambda: self.now,
            wall_clock=lambda: 1_795_225_000.0,
            new_id=lambda: f"00000000-0000-4000-8000-{next(numbers):012x}",
            **{"rate_limits": False, "model_sizes": {NOVA: 8.0, MARX: 3.0}, **settings},
        )
        self.horde.add_account(OWNER, "owner", kudos=0.0, trusted=True)
        self.horde.add_account(ALICE, "alice", kudos=100_000.0, trusted=True)
        self.horde.add_account(BOB, "poorbob")
        self.horde.add_account(SERVICE, "svcproxy", service=True)
        app = Flask("private-horde-tests")
        app.register_blueprint(blueprint(self.horde))
        self.client = app.test_client()

    def post(
        self, path: str, key: str | None, body: Any, address: str = "127.0.0.1"
    ) -> TestResponse:
        headers = {} if key is None else {"apikey": key}
        environ = {"REMOTE_ADDR": address}
        return self.client.post(path, json=body, headers=headers, environ_overrides=environ)

    def get(self, path: str, **headers: Any) -> TestResponse:
        return self.client.get(f"/api/v2/{path}", headers=headers)

    def submit(
        self,
        key: str | None = ALICE,
        *,
        n: int = 1,
        max_length: int = 80,
        max_context_length: int = 2048,
        **fields: Any,
    ) -> str:
        params = {"n": n, "max_length": max_length, "max_context_length": max_context_length}
        body = {"prompt": "Say hi.", "models": [NOVA], "params": params, **fields}
        response = self.post(ASYNC, key, body)
        assert response.status_code == 202, response.json
        return str(response.get_json()["id"])

    def try_pop(
        self, name: str = "manual-text-1", key: str | None = OWNER, **offer: Any
    ) -> TestResponse:
        offer = {
            "name": name,
            "models": [NOVA],
            "max_length": 512,
            "max_context_length": 4096,
            "bridge_agent": AGENT,
            **offer,
        }
        return self.post(POP, key, offer)

    def pop(self, name: str = "manual-text-1", key: str | None = OWNER, **offer: Any) -> list[str]:
        response = self.try_pop(name, key, **offer)
        assert response.status_code == 200, response.json
        return list(response.get_json()["ids"])

    def popped(self, **offer: Any) -> Any:
        """Pop one job and return the request that it is of, None when there is none."""
        response = self.try_pop(**offer)
        assert response.status_code == 200, response.json
        return response.get_json()["payload"].get("prompt")

    def try_deliver(
        self, job_id: str, text: str = "hi", key: str | None = OWNER, **result: Any
    ) -> TestResponse:
        return self.post(SUBMIT, key, {"id": job_id, "generation": text, **result})

    def deliver(
        self, job_id: str, text: str = "hi", key: str | None = OWNER, **result: Any
    ) -> float:
        response = self.try_deliver(job_id, text, key, **result)
        assert response.status_code == 200, response.json
        return float(response.get_json()["reward"])

    def fault(self, times: int = 1, **offer: Any) -> None:
        for _ in range(times):
            (job_id,) = self.pop(**offer)
            self.deliver(job_id, state="faulted")

    def status(self, request_id: str) -> Any:
        response = self.client.get(STATUS + request_id)
        assert response.status_code == 200, response.json
        return response.json

    def cancel(self, request_id: str) -> TestResponse:
        return self.client.delete(STATUS + request_id)

    def counts(self, request_id: str) -> dict[str, int]:
        status = self.status(request_id)
        return {name: status[name] for name in ("finished", "processing", "restarted", "waiting")}

    def user(self, key: str | None = ALICE) -> Any:
        return self.get("find_user", apikey=key).json

    def performance(self) -> Any:
        return self.get("status/performance").json

    def worker(self, name: str = "manual-text-1") -> Any:
        return self.get(f"workers/name/{name}").json


@pytest.fixture
def world() -> World:
    return World()


def refused(response: Any) -> tuple[int, str | None]:
    return response.status_code, response.json.get("rc")


# Reading of bodies


@pytest.mark.parametrize(
    ("params", "errors"),
    [
        ({"max_length": 15}, {"params.max_length": "15 is less than the minimum of 16"}),
        ({"max_length": 4097}, {"params.max_length": "4097 is greater than the maximum of 4096"}),
        ({"max_length": 80.0}, {"params.max_length": "80.0 is not of type 'integer'"}),
        ({"max_length": True}, {"params.max_length": "True is not of type 'integer'"}),
        ({"max_length": None}, {"params.max_length": "None is not of type 'integer'"}),
        ({"temperature": "1"}, {"params.temperature": "'1' is not of type 'number'"}),
        ({"top_p": 0}, {"params.top_p": "0 is less than the minimum of 0.001"}),
        ({"singleline": 1}, {"params.singleline": "1 is not of type 'boolean'"}),
        ({"stop_sequence": "###"}, {"params.stop_sequence": "'###' is not of type 'array'"}),
        ({"stop_sequence": [1]}, {"params.stop_sequence.0": "1 is not of type 'string'"}),
        (
            {"n": 0, "max_context_length": 79, "top_k": 201},
            {
                "params.n": "0 is less than the minimum of 1",
                "params.max_context_length": "79 is less than the minimum of 80",
                "params.top_k": "201 is greater than the maximum of 200",
            },
        ),
    ],
)
def test_a_value_out_of_its_table_is_named_with_its_path(
    world: World, params: Any, errors: dict[str, Any]
) -> None:
    response = world.post(ASYNC, ALICE, {"prompt": "x", "params": params})
    assert (response.status_code, response.json) == (
        400,
        {"errors": errors, "message": "Input payload validation failed"},
    )


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ([], {"": "[] is not of type 'object'"}),
        ({"prompt": 5}, {"prompt": "5 is not of type 'string'"}),
        ({"prompt": "x", "params": []}, {"params": "[] is not of type 'object'"}),
        ({"prompt": "x", "style": "ab"}, {"style": "'ab' is too short"}),
        ({"prompt": "x", "models": "m"}, {"models": "'m' is not of type 'array'"}),
    ],
)
def test_a_top_level_field_of_the_wrong_type_is_named(
    world: World, body: Any, errors: dict[str, Any]
) -> None:
    assert world.post(ASYNC, ALICE, body).get_json()["errors"] == errors


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [(POP, {}, "name"), (SUBMIT, {"generation": "x"}, "id"), (SUBMIT, {"id": "x"}, "generation")],
)
def test_a_missing_field_of_a_worker_is_named(
    world: World, path: str, body: Any, field: str
) -> None:
    response = world.post(path, OWNER, body)
    assert response.status_code == 400
    assert list(response.get_json()["errors"]) == [field]
    assert response.get_json()["errors"][field].endswith(
        "Missing required parameter in the JSON body"
    )


@pytest.mark.parametrize(
    ("path", "body"), [(ASYNC, {"prompt": "x"}), (POP, {"name": "w"}), (SUBMIT, {"id": "x"})]
)
def test_a_body_without_a_key_is_refused_for_its_missing_apikey(
    world: World, path: str, body: Any
) -> None:
    response = world.post(path, None, body)
    assert (response.status_code, list(response.get_json()["errors"])) == (400, ["apikey"])


@pytest.mark.parametrize(
    ("key", "path", "expected"),
    [
        (None, ASYNC, (400, None)),
        (None, POP, (400, None)),
        (None, SUBMIT, (400, None)),
        ("wrong", ASYNC, (401, "InvalidAPIKey")),
        ("wrong", POP, (401, "InvalidAPIKey")),
        ("wrong", SUBMIT, (401, "InvalidAPIKey")),
        (ANONYMOUS, POP, (403, "AnonForbiddenWorker")),
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_the_key_is_checked_before_the_body_is_read(
    world: World, key: str | None, path: str, expected: Any, content_type: str
) -> None:
    class Unread(BytesIO):
        def read(self, *_: Any) -> bytes:
            raise AssertionError("the body was read")

        readinto = readline = read  # type: ignore[assignment]

    response = world.client.post(
        path,
        input_stream=Unread(b"{}"),
        content_length=8_000_000,
        content_type=content_type,
        headers={} if key is None else {"apikey": key},
    )
    assert refused(response) == expected


def test_a_wrong_key_cannot_change_a_worker_whatever_the_body_is(world: World) -> None:
    [job] = world.pop() or [""]
    assert job == ""
    path = f"/api/v2/workers/{world.worker()['id']}"
    response = world.client.put(path, data=b"{", headers={"apikey": "wrong"})
    assert refused(response) == (401, "InvalidAPIKey")


def test_five_faults_of_a_body_are_named_and_each_in_a_line(world: World) -> None:
    models = [1] * 10_000
    errors = world.post(POP, OWNER, {"name": "w", "models": models}).get_json()["errors"]
    assert errors == {f"models.{index}": "1 is not of type 'string'" for index in range(5)}
    errors = world.post(ASYNC, BOB, {"prompt": ["x" * 100_000]}).get_json()["errors"]
    assert list(errors) == ["prompt"]
    assert len(errors["prompt"]) == 500


@pytest.mark.parametrize(
    ("path", "body", "rc"),
    [
        (ASYNC, {"prompt": "x", "workers": ["w" * 100_000]}, "WorkerNotFound"),
        (SUBMIT, {"id": "j" * 100_000, "generation": "x"}, "InvalidJobID"),
    ],
)
def test_a_refusal_repeats_a_line_of_the_body_at_most(
    world: World, path: str, body: Any, rc: str
) -> None:
    response = world.post(path, BOB, body)
    assert refused(response) == (404, rc)
    assert len(response.get_json()["message"]) == 500


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", None),
        (b"\xff", None),
        (b'{"prompt": NaN}', None),
        (b"[" * 100_000, None),
        (b"[" * 200 + b"]" * 200, None),
        (b'{"prompt": "x", "params": {"temperature": 1e999}}', "Input payload validation failed"),
    ],
)
def test_a_body_that_is_no_json_is_not_understood(world: World, raw: Any, message: str) -> None:
    response = world.client.post(
        ASYNC, data=raw, content_type="application/json", headers={"apikey": ALICE}
    )
    unreadable = "The browser (or proxy) sent a request that this server could not understand."
    assert (response.status_code, response.get_json()["message"]) == (400, message or unreadable)


@pytest.mark.parametrize(
    "body",
    [{"prompt": "a\0b"}, {"prompt": "x", "models": ["a\0"]}, {"prompt": "x", "other": {"a\0": 1}}],
)
def test_a_nul_byte_anywhere_is_refused(world: World, body: Any) -> None:
    assert refused(world.post(ASYNC, ALICE, body)) == (400, "NulByteInPayload")


@pytest.mark.parametrize(
    ("fields", "rc"),
    [
        ({"params": {"stop_sequence": ["x"] * 129}}, "TooManyStopSequences"),
        ({"params": {"stop_sequence": ["x" * 1000] * 2}}, None),
        ({"params": {"stop_sequence": ["x" * 1000, "y" * 1001]}}, "ExcessiveStopSequence"),
        ({"params": {"sampler_order": [6, 0, 1, 3, 4, 2, 5]}}, None),
        ({"params": {"sampler_order": [0, 0, 1, 2, 3, 4, 5]}}, "MissingFullSamplerOrder"),
        ({"params": {"max_length": 512, "max_context_length": 512}}, None),
        ({"params": {"max_length": 512, "max_context_length": 511}}, "TokenOverflow"),
        ({"params": {"n": 2}, "disable_batching": True}, "RequiresTrust"),
        ({"params": {"n": 1}, "disable_batching": True}, None),
        ({"webhook": "https://example.invalid/"}, None),
        ({"workers": ["00000000-0000-4000-8000-0000000000ff"]}, "WorkerNotFound"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    world: World, fields: dict[str, Any], rc: str
) -> None:
    response = world.post(ASYNC, BOB, {"prompt": "x", **fields})
    assert response.get_json().get("rc") == rc
    assert (response.status_code == 202) == (rc is None)


# What a worker gets


def test_the_worker_sees_known_settings_and_defaults_but_nothing_unknown(world: World) -> None:
    params = {"max_length": 40, "temperature": 0.5, "stop_sequence": ["a"], "mirostat": 2, "n": 2}
    world.post(ASYNC, ALICE, {"prompt": "p", "params": params, "softprompt": "s", "extra": 1})
    assert world.try_pop().get_json()["payload"] == {
        "prompt": "p",
        "n": 1,
        "max_context_length": 2048,
        "max_length": 40,
        "temperature": 0.5,
        "stop_sequence": ["a"],
        "min_p": 0.0,
        "smoothing_factor": 0.0,
        "dynatemp_range": 0.0,
        "dynatemp_exponent": 1.0,
    }


def test_n_results_are_n_jobs(world: World) -> None:
    request_id = world.submit(n=3)
    first = world.pop(amount=2)
    assert len(first) == 2
    expected = {"finished": 0, "processing": 2, "restarted": 0, "waiting": 1}
    assert world.counts(request_id) == expected
    assert len(world.pop(amount=20)) == 1
    assert world.pop() == []


def test_amount_takes_jobs_of_one_request_only(world: World) -> None:
    world.submit(n=2)
    world.submit(n=2)
    assert len(world.pop(amount=4)) == 2


MATCHES = [
    ("the same model", {}, {}, True),
    ("another model", {"models": [MARX]}, {}, False),
    ("one of several models", {"models": [MARX, NOVA]}, {}, True),
    ("any model", {"models": []}, {}, True),
    ("as long as it goes", {"max_length": 512}, {}, True),
    ("too long", {"max_length": 513}, {}, False),
    ("as much context as it has", {"max_context_length": 4096}, {}, True),
    ("too much context", {"max_context_length": 4097}, {}, False),
    ("trusted workers only", {"trusted_workers": True}, {}, True),
    ("trusted only, by an untrusted owner", {"trusted_workers": True}, {"key": BOB}, False),
    ("validated backends only", {"validated_backends": True}, {}, True),
    (
        "validated only, of KoboldCpp",
        {"validated_backends": True},
        {"bridge_agent": "KoboldCppEmbedWorker:2.1:https://example.invalid"},
        True,
    ),
    (
        "validated only, of an unknown backend",
        {"validated_backends": True},
        {"bridge_agent": "MyBackend:1:https://example.invalid"},
        False,
    ),
    (
        "validated only, with a version nobody can read",
        {"validated_backends": True},
        {"bridge_agent": "AI Horde Worker:new:https://example.invalid"},
        False,
    ),
    ("an unknown backend otherwise", {}, {"bridge_agent": "MyBackend:1:x"}, True),
    ("no slow workers, nothing known yet", {"slow_workers": False}, {}, False),
]


@pytest.mark.parametrize(
    ("fields", "offer", "matches"), [m[1:] for m in MATCHES], ids=[m[0] for m in MATCHES]
)
def test_a_job_goes_to_a_worker_that_fits(
    world: World, fields: dict[str, Any], offer: dict[str, Any], matches: bool
) -> None:
    world.pop(**offer)
    request_id = world.submit(**fields)
    assert world.status(request_id)["is_possible"] is matches
    assert (len(world.pop(**offer)) == 1) is matches


@pytest.mark.parametrize(
    ("seconds", "length", "matches"), [(1, 5, True), (4, 5, True), (5, 5, False), (20, 5, False)]
)
def test_slow_workers_are_those_below_five_tokens_a_second(
    world: World, seconds: float, length: int, matches: bool
) -> None:
    world.submit()
    (job_id,) = world.pop()
    world.now += seconds
    world.deliver(job_id, "x" * length)  # counts as 20 tokens, the least
    world.submit(slow_workers=False)
    assert (len(world.pop()) == 1) is matches


@pytest.mark.parametrize(
    ("size", "speed", "matches"),
    [
        (70.0, 3.0, True),
        (70.0, 2.9, False),
        (20.0, 4.0, True),
        (20.0, 3.9, False),
        (19.0, 5.0, True),
        (19.0, 4.9, False),
    ],
)
def test_bigger_models_may_be_slower(size: int, speed: float, matches: bool) -> None:
    world = World(model_sizes={NOVA: size})
    world.submit()
    (job_id,) = world.pop()
    world.now += 20 / speed
    world.deliver(job_id)
    world.submit(slow_workers=False)
    assert (len(world.pop()) == 1) is matches


@pytest.mark.parametrize(
    ("named", "blacklist", "taker"),
    [("first", False, "first"), ("first", True, "second")],
)
def test_workers_named_in_a_request_are_its_allow_or_deny_list(
    world: World, named: Any, blacklist: bool, taker: Any
) -> None:
    for name in ("first", "second"):
        world.pop(name)
    worker_id = world.worker(named)["id"].upper()
    world.submit(workers=[worker_id], worker_blacklist=blacklist)
    assert {name for name in ("first", "second") if world.pop(name)} == {taker}


def test_the_requests_model_is_used_before_the_workers_first(world: World) -> None:
    world.submit(models=["other/model", NOVA])
    assert world.try_pop(models=[MARX, NOVA]).get_json()["model"] == NOVA
    world.submit(models=[])
    assert world.try_pop(models=[MARX, NOVA]).get_json()["model"] == MARX


# The order of the queue


def test_more_kudos_go_first_and_then_the_older_request(world: World) -> None:
    world.submit(BOB, prompt="poor")
    world.submit(ANONYMOUS, prompt="anonymous")
    world.submit(BOB, prompt="poor, later")
    world.submit(ALICE, prompt="rich")
    order = [world.popped() for _ in range(5)]
    assert order == ["rich", "poor", "poor, later", "anonymous", None]


@pytest.mark.parametrize(("seconds", "first"), [(40, "richer"), (60, "waited")])
def test_fifty_kudos_are_made_up_for_by_ten_seconds_of_waiting(
    world: World, seconds: float, first: Any
) -> None:
    world.horde.add_account("<k250>", "richer", kudos=250.0)
    world.submit(BOB, prompt="waited")
    world.now += seconds
    world.submit("<k250>", prompt="richer")
    assert world.popped() == first


def test_a_worker_gets_its_owners_requests_first(world: World) -> None:
    world.submit(ALICE, prompt="rich")
    world.submit(OWNER, prompt="own")
    assert world.popped() == "own"


def test_a_worker_may_name_accounts_with_priority(world: World) -> None:
    username = world.user(BOB)["username"]
    world.submit(ALICE, prompt="rich")
    world.submit(BOB, prompt="friend")
    assert world.popped(priority_usernames=["nobody#99", username]) == "friend"


def test_only_the_first_25_accounts_with_priority_count(world: World) -> None:
    username = world.user(BOB)["username"]
    world.submit(ALICE, prompt="rich")
    world.submit(BOB, prompt="friend")
    assert world.popped(priority_usernames=["nobody#99"] * 25 + [username]) == "rich"
    assert world.popped(priority_usernames=["nobody#99"] * 24 + [username]) == "friend"


def test_a_request_names_at_most_a_thousand_models(world: World) -> None:
    models = [f"model-{number}" for number in range(1001)]
    refusal = world.post(ASYNC, ALICE, {"prompt": "x", "models": models})
    assert refusal.status_code == 400
    assert list(refusal.get_json()["errors"]) == ["models"]
    assert world.submit(models=models[:1000])


def test_an_account_has_at_most_a_thousand_workers(world: World) -> None:
    world.pop("first")
    with world.horde.store.transaction() as tx:
        [first] = tx.find(Worker, name="first")
        for number in range(999):
            tx.add(replace(first, id=f"id-{number}", name=f"worker-{number}"))
    refusal = world.try_pop("one too many")
    assert refused(refusal) == (403, "Forbidden")
    assert refusal.get_json()["message"] == (
        "An account may have 1,000 workers. Use the name of one of them, or delete some."
    )
    assert world.try_pop("worker-998").status_code == 200
    assert world.try_pop("of another", key=ALICE).status_code == 200


def test_queue_positions_follow_the_order_of_all_models(world: World) -> None:
    anonymous = world.submit(ANONYMOUS, models=[MARX])
    rich = world.submit(ALICE, n=2)
    poor = world.submit(BOB)
    positions = [
        world.status(request_id)["queue_position"] for request_id in (rich, poor, anonymous)
    ]
    assert positions == [1, 2, 3]
    world.pop()
    assert world.status(rich)["queue_position"] == 1
    world.pop()
    positions = [
        world.status(request_id)["queue_position"] for request_id in (rich, poor, anonymous)
    ]
    assert positions == [0, 1, 2]


# Results


def test_results_appear_when_delivered_and_keep_their_order(world: World) -> None:
    request_id = world.submit(n=3)
    jobs = world.pop(amount=3)
    for job_id, text in ((jobs[2], "c"), (jobs[0], "a"), (jobs[1], "b")):
        assert world.status(request_id)["done"] is False
        world.deliver(job_id, text)
    status = world.status(request_id)
    assert [generation["text"] for generation in status["generations"]] == ["c", "a", "b"]
    assert (status["done"], status["faulted"], status["finished"]) == (True, False, 3)


def test_a_result_keeps_the_workers_seed_state_and_metadata(world: World) -> None:
    request_id = world.submit()
    (job_id,) = world.pop()
    metadata = [{"type": "censorship", "value": "csam", "mine": 1}]
    world.deliver(job_id, "", state="csam", seed=7, gen_metadata=metadata)
    worker = world.worker()
    assert world.status(request_id)["generations"] == [
        {
            "text": "",
            "seed": 7,
            "gen_metadata": [{"type": "censorship", "value": "csam"}],
            "worker_id": worker["id"],
            "worker_name": "manual-text-1",
            "model": NOVA,
            "state": "csam",
        }
    ]


def test_a_job_is_delivered_once(world: World) -> None:
    request_id = world.submit()
    (job_id,) = world.pop()
    world.deliver(job_id, "first")
    assert refused(world.try_deliver(job_id, "second")) == (400, "DuplicateGen")
    assert [g["text"] for g in world.status(request_id)["generations"]] == ["first"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (ALICE, (403, "WrongCredentials")),
        (ANONYMOUS, (403, "WrongCredentials")),
        ("nope", (401, "InvalidAPIKey")),
    ],
)
def test_only_the_worker_that_popped_may_deliver(
    world: World, key: str | None, expected: Any
) -> None:
    world.submit()
    (job_id,) = world.pop()
    assert refused(world.try_deliver(job_id, key=key)) == expected
    assert world.deliver(job_id) == 1.55


def test_more_than_fifty_metadata_are_refused(world: World) -> None:
    world.submit()
    (job_id,) = world.pop()
    response = world.try_deliver(job_id, gen_metadata=[{}] * 51)
    assert (response.status_code, list(response.get_json()["errors"])) == (400, ["gen_metadata"])


# What goes wrong


def test_a_faulted_job_waits_again(world: World) -> None:
    request_id = world.submit()
    world.fault()
    expected = {"finished": 0, "processing": 0, "restarted": 1, "waiting": 1}
    assert world.counts(request_id) == expected
    assert len(world.pop()) == 1


def test_three_faults_end_a_request(world: World) -> None:
    request_id = world.submit(n=2)
    world.fault(3)
    status = world.status(request_id)
    assert (status["faulted"], status["done"], status["queue_position"]) == (True, True, 0)
    assert world.pop() == []
    assert world.performance()["queued_text_requests"] == 0


def test_a_job_in_flight_still_counts_for_a_faulted_request(world: World) -> None:
    request_id = world.submit(n=2)
    (kept,) = world.pop()
    world.fault(3)
    world.deliver(kept, "late")
    status = world.status(request_id)
    assert (status["finished"], status["waiting"], status["faulted"]) == (1, 1, True)


def test_after_two_restarts_done_is_true_while_the_third_attempt_runs(world: World) -> None:
    request_id = world.submit()
    world.fault(2)
    (job_id,) = world.pop()
    status = world.status(request_id)
    assert (status["done"], status["faulted"], status["processing"]) == (True, False, 1)
    assert status["generations"] == []
    assert [request.state for request in world.horde.open_requests()] == ["processing"]
    world.deliver(job_id, "finally")
    status = world.status(request_id)
    assert (status["done"], status["finished"], status["processing"]) == (True, 1, 0)


@pytest.mark.parametrize(("seconds", "restarted"), [(149.9, 0), (150, 1)])
def test_a_job_has_150_seconds(world: World, seconds: float, restarted: int) -> None:
    request_id = world.submit()
    (job_id,) = world.pop()
    world.now += seconds
    assert world.counts(request_id)["restarted"] == restarted
    response = world.try_deliver(job_id)
    assert refused(response) == ((400, "AbortedGen") if restarted else (200, None))


def test_a_worker_that_keeps_jobs_has_them_counted(world: World) -> None:
    world.submit(n=2)
    world.fault()
    world.pop()
    world.now += 150
    assert world.worker()["uncompleted_jobs"] == 2


@pytest.mark.parametrize(("seconds", "status"), [(1199.9, 200), (1200, 404)])
def test_a_request_that_no_worker_pops_expires_after_twenty_minutes(
    world: World, seconds: float, status: int
) -> None:
    request_id = world.submit()
    world.now += seconds
    assert world.client.get(STATUS + request_id).status_code == status


def test_a_pop_and_a_delivery_give_twenty_minutes_more(world: World) -> None:
    request_id = world.submit()
    world.now += 1000
    (job_id,) = world.pop()
    world.now += 100
    world.deliver(job_id)
    world.now += 1199
    assert world.status(request_id)["finished"] == 1
    world.now += 1
    assert refused(world.client.get(STATUS + request_id)) == (404, "RequestNotFound")


def test_the_times_can_be_set() -> None:
    world = World(job_ttl=10.0, expiry=60.0, offline_after=20.0, max_faults=1)
    request_id = world.submit()
    assert world.try_pop().get_json()["ttl"] == 10
    world.now += 10
    assert world.status(request_id)["faulted"] is True
    world.now += 10
    assert world.get("workers").json == []
    world.now += 50
    assert refused(world.client.get(STATUS + request_id)) == (404, "RequestNotFound")


# Cancelling


def test_a_cancelled_request_disappears(world: World) -> None:
    request_id = world.submit(n=2)
    assert world.horde.open_requests() == [OpenRequest(request_id, NOVA, "waiting")]
    response = world.cancel(request_id)
    assert (response.status_code, response.get_json()["waiting"]) == (200, 2)
    assert world.horde.open_requests() == []
    assert refused(world.client.get(STATUS + request_id)) == (404, "RequestNotFound")
    assert refused(world.cancel(request_id)) == (404, "RequestNotFound")
    assert world.pop() == []


def test_a_cancelled_request_disappears_while_a_worker_is_at_it(world: World) -> None:
    request_id = world.submit(n=2)
    (job_id,) = world.pop()
    assert world.cancel(request_id).get_json()["processing"] == 1
    assert world.horde.open_requests() == []
    assert world.pop() == []
    assert world.deliver(job_id) == 1.55
    assert refused(world.client.get(STATUS + request_id)) == (404, "RequestNotFound")
    assert world.user(OWNER)["kudos"] == 1.55


def test_a_job_of_a_cancelled_request_that_faults_does_not_come_back(world: World) -> None:
    request_id = world.submit()
    (job_id,) = world.pop()
    world.cancel(request_id)
    assert world.deliver(job_id, state="faulted") == 0.0
    assert world.pop() == []


# Who may


@pytest.mark.parametrize(
    ("key", "n", "expected"),
    [
        (ALICE, 30, (202, None)),
        (BOB, 31, (429, "TooManyPrompts")),
        (ANONYMOUS, 500, (202, None)),
        (ANONYMOUS, 501, (429, "TooManyPrompts")),
    ],
)
def test_only_so_many_results_may_wait(
    world: World, key: str | None, n: int, expected: Any
) -> None:
    for _ in range(n - 1):
        world.submit(key)
    response = world.post(ASYNC, key, {"prompt": "x", "models": [NOVA]})
    assert refused(response) == expected


def test_a_processing_job_does_not_count_as_waiting(world: World) -> None:
    world.submit(BOB, n=20)
    world.pop(amount=20)
    assert world.submit(BOB, n=20)


def test_anonymous_requests_for_other_models_do_not_count(world: World) -> None:
    for _ in range(25):
        world.submit(ANONYMOUS, n=20)
    assert world.submit(ANONYMOUS, models=[MARX])
    for models in ([NOVA, MARX], []):
        body = {"prompt": "x", "models": models}
        assert refused(world.post(ASYNC, ANONYMOUS, body)) == (429, "TooManyPrompts")


def test_maintenance_of_the_horde_refuses_new_requests_only(world: World) -> None:
    request_id = world.submit()
    world.horde.maintenance = True
    response = world.post(ASYNC, ALICE, {"prompt": "x"})
    assert refused(response) == (400, "MaintenanceMode")
    assert world.get("status/modes").get_json()["maintenance_mode"] is True
    (job_id,) = world.pop()
    world.deliver(job_id)
    assert world.status(request_id)["done"] is True


def test_a_worker_in_maintenance_gets_its_owners_jobs_only(world: World) -> None:
    world.pop()
    worker_id = world.worker()["id"]
    path = f"/api/v2/workers/{worker_id}"
    for key, expected in ((ALICE, 403), (OWNER, 200)):
        body = {"maintenance": True}
        response = world.client.put(path, json=body, headers={"apikey": key})
        assert response.status_code == expected
    request_id = world.submit(ALICE)
    assert world.status(request_id)["is_possible"] is False
    assert refused(world.try_pop()) == (403, "WorkerMaintenance")
    world.submit(OWNER, prompt="own")
    assert world.popped() == "own"
    world.client.put(path, json={"maintenance": False}, headers={"apikey": OWNER})
    assert len(world.pop()) == 1


def test_a_change_of_a_worker_that_changes_nothing_is_refused(world: World) -> None:
    world.pop()
    path = f"/api/v2/workers/{world.worker()['id']}"
    response = world.client.put(path, json={"color": "x"}, headers={"apikey": OWNER})
    assert refused(response) == (400, "NoWorkerModSelected")


def test_a_second_account_cannot_take_a_workers_name(world: World) -> None:
    world.pop()
    assert refused(world.try_pop(key=ALICE)) == (403, "WrongCredentials")


@pytest.mark.parametrize("models", [[], [f"model-{number}" for number in range(201)]])
def test_a_worker_serves_one_to_two_hundred_models(world: World, models: Any) -> None:
    assert refused(world.try_pop(models=models)) == (400, "BadRequest")


def test_an_empty_or_taken_key_cannot_be_registered(world: World) -> None:
    for key in ("", ALICE, ANONYMOUS):
        with pytest.raises(ValueError, match="'carol'"):
            world.horde.add_account(key, "carol")


def test_no_key_and_no_prompt_shows_in_a_repr(world: World) -> None:
    request_id = world.submit(prompt="a secret")
    (job_id,) = world.pop()
    world.deliver(job_id, "a confession")
    shown = repr(vars(world.horde))
    with world.horde.store.snapshot() as tx:
        for kind, field, value in (
            (HordeRequest, "account_id", 2),
            (Job, "request_id", request_id),
            (StoredGeneration, "request_id", request_id),
            (AccountKey, "account_id", 2),
        ):
            [record] = tx.find(kind, **{field: value})
            shown += repr(record)
        shown += repr(tx.get(Payload, request_id))
    assert shown.count(request_id) == 4
    assert not any(word in shown for word in ("a secret", "a confession"))
    assert not any(key in shown for key in (ALICE, BOB, OWNER))


def test_a_wrong_key_is_answered_with_where_to_get_one(world: World) -> None:
    assert world.post(ASYNC, "wrong", {"prompt": "x"}).get_json()["message"] == (
        "No user matching sent API Key. Use the key that you got when you joined this horde."
    )


def test_a_blocked_account_may_be_deleted_by_itself(world: World) -> None:
    number = world.user(BOB)["id"]
    with world.horde.store.transaction() as tx:
        bob = tx.lock(HordeAccount, number)
        assert bob is not None
        bob.blocked = True
        tx.save(bob)
    assert refused(world.post(ASYNC, BOB, {"prompt": "x"})) == (403, "BlockedUser")
    deleted = world.client.delete(f"/api/v2/users/{number}", headers={"apikey": BOB})
    assert deleted.status_code == 200
    assert refused(world.post(ASYNC, BOB, {"prompt": "x"})) == (403, "DeletedUser")


def test_a_wrong_key_is_not_repeated(world: World) -> None:
    response = world.get("find_user", apikey="<wrong-apikey>")
    assert refused(response) == (404, "UserNotFound")
    assert "<wrong-apikey>" not in response.text


# Kudos


def test_a_request_costs_one_kudos_and_then_one_more_than_each_reward(world: World) -> None:
    request_id = world.submit(n=2)
    assert (world.user()["kudos"], world.status(request_id)["kudos"]) == (99_999.0, 1.0)
    jobs = world.pop(amount=2)
    assert world.deliver(jobs[0]) == 1.55
    assert (world.user()["kudos"], world.status(request_id)["kudos"]) == (99_996.45, 3.55)
    assert world.deliver(jobs[1], state="csam") == 1.55
    assert (world.user()["kudos"], world.status(request_id)["kudos"]) == (99_995.45, 4.55)
    assert world.user(OWNER)["kudos"] == 3.1
    assert world.worker()["kudos_rewards"] == 3.1


@pytest.mark.parametrize(
    ("models", "offer", "text", "reward"),
    [
        ([NOVA], {}, "x", 1.55),
        ([NOVA], {}, "x" * 320, 6.2),
        ([NOVA], {}, "x" * 9999, 6.2),
        ([NOVA], {"bridge_agent": "MyBackend:1:x"}, "x", 0.47),
        ([CUSTOM], {}, "x", 0.65),
        ([CUSTOM], {"key": BOB}, "x", 1.21),
    ],
)
def test_rewards_follow_tokens_model_backend_and_trust(
    world: World, models: Any, offer: dict[str, Any], text: str, reward: float
) -> None:
    world.submit(models=models)
    (job_id,) = world.pop(models=models, **offer)
    assert world.deliver(job_id, text, offer.get("key", OWNER)) == reward


def test_a_faulted_job_costs_and_earns_nothing(world: World) -> None:
    request_id = world.submit()
    world.fault()
    assert (world.status(request_id)["kudos"], world.user(OWNER)["kudos"]) == (1.0, 0.0)


def test_the_anonymous_stay_at_their_floor(world: World) -> None:
    world.submit(ANONYMOUS)
    assert world.user(ANONYMOUS)["kudos"] == -50.0
    assert world.user(ANONYMOUS)["kudos_details"]["accumulated"] == -1.0


@pytest.mark.parametrize(
    ("upfront", "key", "max_length", "fields", "expected"),
    [
        (False, ANONYMOUS, 1024, {}, (202, None)),
        (False, ANONYMOUS, 80, {"slow_workers": False}, (202, None)),
        (True, ANONYMOUS, 512, {}, (202, None)),
        (True, ANONYMOUS, 513, {}, (403, "KudosUpfront")),
        (True, ANONYMOUS, 80, {"slow_workers": False}, (403, "KudosUpfront")),
        (True, BOB, 513, {}, (403, "KudosUpfront")),
        (True, ALICE, 1024, {}, (202, None)),
    ],
)
def test_above_the_free_limit_kudos_are_wanted_beforehand(
    upfront: Any, key: str | None, max_length: int, fields: dict[str, Any], expected: Any
) -> None:
    params = {"max_length": max_length}
    body = {"prompt": "x", "params": params, **fields}
    assert refused(World(upfront_kudos=upfront).post(ASYNC, key, body)) == expected


def test_the_free_limit_shrinks_with_the_queue_down_to_256() -> None:
    world = World(upfront_kudos=True)
    for _ in range(25):
        world.submit(ANONYMOUS, n=20)
    params = {"max_length": 257}
    body = {"prompt": "x", "models": [MARX], "params": params}
    assert refused(world.post(ASYNC, ANONYMOUS, body)) == (403, "KudosUpfront")
    params["max_length"] = 256
    assert refused(world.post(ASYNC, ANONYMOUS, body)) == (202, None)


def test_kudos_are_held_until_the_request_is_over() -> None:
    world = World(upfront_kudos=True)
    world.horde.add_account("<k45>", "carol", kudos=45.0)
    body = {"prompt": "x", "params": {"max_length": 1024}}
    accepted = [world.post(ASYNC, "<k45>", body).status_code for _ in range(3)]
    assert accepted == [202, 202, 403]
    world.cancel(world.user("<k45>")["active_generations"]["text"][0])
    assert world.post(ASYNC, "<k45>", body).status_code == 202


def test_a_downgrade_cuts_the_length_and_the_priority() -> None:
    world = World(upfront_kudos=True)
    fields = {"max_length": 1024, "allow_downgrade": True, "slow_workers": False}
    world.submit(BOB, prompt="cut", **fields)
    world.submit(BOB, prompt="whole")
    assert world.popped() == "whole"
    assert world.try_pop().get_json()["payload"]["max_length"] == 512


# Statistics


def test_workers_are_online_for_300_seconds_after_a_pop(world: World) -> None:
    request_id = world.submit(models=[MARX, NOVA])
    world.pop(models=[NOVA], max_context_length=1024)
    assert world.status(request_id)["is_possible"] is False
    world.pop()
    world.now += 299.9
    assert [worker["name"] for worker in world.get("workers").get_json()] == ["manual-text-1"]
    world.now += 0.1
    assert world.get("workers").json == []
    assert world.worker()["online"] is False
    assert world.performance()["text_worker_count"] == 0


def test_a_request_becomes_possible_and_impossible_with_its_workers(world: World) -> None:
    request_id = world.submit(max_context_length=4097)
    possible = [world.status(request_id)["is_possible"]]
    world.pop()
    possible.append(world.status(request_id)["is_possible"])
    world.pop(max_context_length=8192, name="bigger", models=[NOVA], max_length=16)
    possible.append(world.status(request_id)["is_possible"])
    world.pop(max_context_length=8192, name="bigger", models=[NOVA], priority_usernames=[])
    possible.append(world.status(request_id)["is_possible"])
    world.now += 300
    possible.append(world.status(request_id)["is_possible"])
    assert possible == [False, False, False, True, False]


def test_workers_can_be_filtered_by_type_and_name(world: World) -> None:
    world.pop("first")
    world.pop("second")

    def names(query: str) -> Any:
        return [worker["name"] for worker in world.get(f"workers{query}").get_json()]

    assert names("") == names("?type=text") == ["first", "second"]
    assert names("?name=second") == ["second"]
    assert names("?type=image") == names("?type=interrogation") == []
    assert refused(world.get("workers/nope")) == (404, "WorkerNotFound")
    assert refused(world.get("workers/name/nope")) == (404, "WorkerNotFound")
    # Workers may be called after their models.
    world.pop(name="koboldcpp/Tiny")
    assert world.get("workers/name/koboldcpp/Tiny").get_json()["name"] == "koboldcpp/Tiny"


def test_models_are_those_served_with_what_waits_for_them(world: World) -> None:
    world.pop("first", threads=2)
    world.pop("second", models=[NOVA, CUSTOM])
    world.submit(n=3, max_length=100, models=[NOVA, MARX])
    (job_id,) = world.pop("second", models=[NOVA, CUSTOM])
    world.now += 2
    world.deliver(job_id, "x" * 400)
    assert world.get("status/models?type=text").json == [
        {
            "performance": 50.0,
            "queued": 100.0,
            "jobs": 2.0,
            "eta": 0,
            "type": "text",
            "name": NOVA,
            "count": 3,
        },
        {
            "performance": 0.0,
            "queued": 0.0,
            "jobs": 0.0,
            "eta": 0,
            "type": "text",
            "name": CUSTOM,
            "count": 1,
        },
    ]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", []),
        ("?type=image", []),
        ("?type=text", [NOVA, CUSTOM]),
        ("?type=text&model_state=known", [NOVA]),
        ("?type=text&model_state=custom", [CUSTOM]),
        ("?type=text&min_count=2", [NOVA]),
        ("?type=text&max_count=1", [CUSTOM]),
    ],
)
def test_models_can_be_filtered_by_type_state_and_count(
    world: World, query: str, names: list[str]
) -> None:
    world.pop("first")
    world.pop("second", models=[NOVA, CUSTOM])
    assert [model["name"] for model in world.get(f"status/models{query}").get_json()] == names


@pytest.mark.parametrize("text", ["many", "--5", "9" * 5000])
def test_a_min_count_that_is_not_a_number_is_refused_by_name(world: World, text: str) -> None:
    response = world.get(f"status/models?min_count={text}")
    assert (response.status_code, list(response.get_json()["errors"])) == (400, ["min_count"])


@pytest.mark.parametrize(("name", "status"), [("%252F", 200), ("%2F", 404), ("/", 404)])
def test_a_slash_in_a_models_name_is_encoded_twice(world: World, name: str, status: int) -> None:
    world.pop()
    response = world.get("status/models/" + NOVA.replace("/", name))
    assert response.status_code == status
    assert isinstance(response.get_json(), list) == (status == 200)


def test_performance_counts_jobs_and_tokens_that_wait(world: World) -> None:
    world.pop(threads=3)
    world.submit(n=2, max_length=100)
    world.submit(max_length=50)
    world.deliver(*world.pop())
    performance = world.performance()
    expected = {
        "queued_text_requests": 2,
        "queued_tokens": 150.0,
        "text_worker_count": 1,
        "text_thread_count": 1,
        "past_minute_tokens": 100.0,
    }
    assert {name: performance[name] for name in expected} == expected


def test_totals_forget_by_minute_hour_day_and_month(world: World) -> None:
    world.submit(n=2)
    first, second = world.pop(amount=2)
    world.deliver(first)
    world.now += 61
    world.deliver(second)

    def requests() -> Any:
        totals = world.get("stats/text/totals").get_json()
        return [totals[window]["requests"] for window in totals]

    seen = [requests()]
    for seconds in (61, 3600, 24 * 3600, 30 * 24 * 3600):
        world.now += seconds
        seen.append(requests())
    assert seen == [
        [1, 2, 2, 2, 2],
        [0, 2, 2, 2, 2],
        [0, 0, 2, 2, 2],
        [0, 0, 0, 2, 2],
        [0, 0, 0, 0, 2],
    ]
    assert world.get("stats/text/models").json == {"day": {}, "month": {}, "total": {NOVA: 2}}


def test_an_account_knows_its_requests_and_workers(world: World) -> None:
    request_id = world.submit(n=2)
    world.deliver(*world.pop())
    alice, owner = world.user(ALICE), world.user(OWNER)
    assert alice["active_generations"] == {"text": [request_id]}
    assert alice["records"]["usage"]["tokens"] == 160
    assert alice["records"]["request"]["text"] == 1
    assert (owner["worker_count"], owner["worker_ids"]) == (1, [world.worker()["id"]])
    assert owner["records"]["fulfillment"]["text"] == 1
    assert owner["records"]["contribution"]["tokens"] == 20
    world.deliver(*world.pop())
    assert world.user(ALICE)["active_generations"] == {"text": []}


def test_the_wait_is_estimated_by_model_from_the_tokens_ahead(world: World) -> None:
    for name, model in (("first", NOVA), ("second", MARX)):
        world.submit(OWNER, models=[model])
        (job_id,) = world.pop(name, models=[model])
        world.now += 2
        world.deliver(job_id)  # 10 tokens a second
    requests = [world.submit(models=[model]) for model in (NOVA, NOVA, MARX, CUSTOM)]
    assert [world.status(request_id)["wait_time"] for request_id in requests] == [8, 16, 8, 0]
    world.pop("first")
    world.now += 5
    assert [world.status(request_id)["wait_time"] for request_id in requests] == [3, 8, 8, 0]


def test_a_request_that_is_newer_than_the_forecast_waits_behind_all_in_it(world: World) -> None:
    world.pop()
    first = world.submit()
    assert world.status(first)["wait_time"] == 8
    world.now += 0.5
    second = world.submit()
    assert [world.status(request_id)["wait_time"] for request_id in (first, second)] == [8, 16]


# Rates and headers


@pytest.fixture
def strict() -> World:
    return World(rate_limits=True)


def test_submits_are_limited_by_address_to_two_a_second(strict: World) -> None:
    def submit(address: str) -> int:
        return strict.post(ASYNC, ANONYMOUS, {"prompt": "x"}, address).status_code

    assert [submit("10.0.0.1") for _ in range(3)] == [202, 202, 429]
    assert submit("10.0.0.2") == 202
    strict.now += 0.9
    assert submit("10.0.0.1") == 429
    strict.now += 0.1
    assert submit("10.0.0.1") == 202


def test_submits_are_limited_by_address_to_ninety_a_minute(strict: World) -> None:
    def submit() -> TestResponse:
        strict.now += 0.5
        return strict.post(ASYNC, ANONYMOUS, {"prompt": "x"})

    answers = [submit() for _ in range(91)]
    assert [answer.status_code for answer in answers] == [202] * 90 + [429]
    assert answers[-1].json == {"message": "90 per 1 minute"}
    assert answers[-1].headers["Retry-After"] == "15"


def test_submits_are_limited_by_key_to_two_a_second(strict: World) -> None:
    statuses = [
        strict.post(ASYNC, BOB, {"prompt": "x"}, f"10.0.0.{number}").status_code
        for number in range(3)
    ]
    assert statuses == [202, 202, 429]


def test_a_limit_that_is_exceeded_counts_more_than_one_that_is_just_used_up(strict: World) -> None:
    for key, address in ((BOB, "10.0.0.1"), (BOB, "10.0.0.1"), (ANONYMOUS, "10.0.0.2")):
        assert strict.post(ASYNC, key, {"prompt": "x"}, address).status_code == 202
    assert strict.post(ASYNC, BOB, {"prompt": "x"}, "10.0.0.2").status_code == 429


def test_an_address_that_a_trusted_account_used_may_submit_ten_a_second(strict: World) -> None:
    strict.post(ASYNC, ALICE, {"prompt": "x"})
    statuses = [strict.post(ASYNC, ANONYMOUS, {"prompt": "x"}).status_code for _ in range(11)]
    assert statuses == [202] * 10 + [429]


def test_a_status_may_be_polled_sixty_times_a_minute(strict: World) -> None:
    first = strict.submit(ANONYMOUS)
    second = strict.submit(ANONYMOUS)
    statuses = [strict.client.get(STATUS + first).status_code for _ in range(61)]
    assert statuses == [200] * 60 + [429]
    assert strict.client.get(STATUS + second).status_code == 200
    assert strict.cancel(first).status_code == 200


def test_a_worker_may_pop_sixty_times_a_second(strict: World) -> None:
    statuses = [strict.try_pop().status_code for _ in range(61)]
    assert statuses == [200] * 60 + [429]


def test_without_rate_limits_the_headers_stay(world: World) -> None:
    request_id = world.submit()
    answers = [world.client.get(STATUS + request_id) for _ in range(61)]
    assert {answer.status_code for answer in answers} == {200}
    names = ("Retry-After", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset")
    assert [answers[-1].headers[name] for name in names] == ["60", "60", "0", "1795225060"]


def test_a_browser_may_ask_first(world: World) -> None:
    headers = {"Access-Control-Request-Headers": "apikey,client-agent"}
    response = world.client.options(ASYNC, headers=headers)
    assert (response.status_code, response.headers["Allow"]) == (200, "OPTIONS, POST")
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["Access-Control-Allow-Headers"] == "apikey,client-agent"
    assert "DELETE" in response.headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("username", {"username": "alice#2"}),
        ("{username,id}", {"username": "alice#2", "id": 2}),
        (
            "kudos_details{gifted, accumulated},nope",
            {"kudos_details": {"gifted": 0, "accumulated": 0.0}, "nope": None},
        ),
    ],
)
def test_a_mask_picks_fields(world: World, mask: str, expected: Any) -> None:
    assert world.get("find_user", apikey=ALICE, **{"X-Fields": mask}).json == expected


def test_a_star_in_a_mask_means_all_other_fields(world: World) -> None:
    body = world.get("status/modes", **{"X-Fields": "*"}).json
    assert body == {"maintenance_mode": False, "invite_only_mode": False}


@pytest.mark.parametrize(
    "mask", ["a,", "{a", "a}", "a{b", ",", "a b", "a{}", "a;b", "{", "a{" * 99]
)
def test_a_mask_that_cannot_be_read_is_refused(world: World, mask: str) -> None:
    assert world.get("status/modes", **{"X-Fields": mask}).status_code == 400


def test_an_unexpected_failure_is_a_500_of_the_real_shape(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(statistics: QueueStatistics) -> None:
        raise KeyError

    monkeypatch.setattr(QueueStatistics, "performance", broken)
    response = world.get("status/performance")
    assert (response.status_code, response.json) == (500, {"message": "Internal Server Error"})


def test_many_threads_lose_nothing() -> None:
    world = World()
    requests = [world.submit(ANONYMOUS) for _ in range(100)]
    got = []

    def work(name: str) -> None:
        while jobs := world.horde.pop(OWNER, {"name": name, "models": [NOVA]})["ids"]:
            for job_id in jobs:
                world.horde.submit_generation(OWNER, {"id": job_id, "generation": job_id})
                got.append(job_id)

    threads = [threading.Thread(target=work, args=(f"worker-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = [world.status(request_id)["generations"][0]["text"] for request_id in requests]
    assert sorted(texts) == sorted(got)
    assert len(set(got)) == 100


def test_a_mask_has_2000_characters_at_most(world: World) -> None:
    mask = "a" * 1994 + ",count"
    assert world.get("status/heartbeat", **{"X-Fields": mask}).status_code == 200
    assert world.get("status/heartbeat", **{"X-Fields": f"{mask}s"}).status_code == 400


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, */*;q=0.1"])
@pytest.mark.parametrize("path", ["", "nope", "generate/nothing"])
def test_an_unknown_path_is_answered_in_json(world: World, path: str, accept: str | None) -> None:
    answer = world.get(path, **({"Accept": accept} if accept else {}))
    assert (answer.status_code, answer.content_type) == (404, "application/json; charset=utf-8")
    assert answer.json == {"message": "There is no such route here."}


def test_a_browser_gets_the_real_hordes_page_for_an_unknown_path(world: World) -> None:
    accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    answer = world.get("nope", Accept=accept)
    assert (answer.status_code, answer.content_type) == (404, "text/html; charset=utf-8")
    assert answer.text.startswith("<!doctype html>")


def test_kudos_are_charged_every_few_seconds_where_they_settle_late() -> None:
    clock = Clock()
    horde = PrivateHorde(clock=clock)
    horde.settle_every = 3
    horde.add_account(ALICE, "alice", kudos=100)
    body = {"prompt": "x", "models": ["m"], "params": {"max_length": 80}}
    request_id = horde.submit(ALICE, body)["id"]
    assert horde.status(request_id)["kudos"] == 0.0
    clock.seconds += 3
    assert horde.status(request_id)["kudos"] == 1.0
    assert horde.people.find_user(ALICE)["kudos"] == 99.0


# The ledger


def entries(world: World, account_id: int) -> list[tuple[str, float]]:
    with world.horde.store.snapshot() as tx:
        found = tx.find(LedgerEntry, account_id=account_id)
        return [(entry.reason, round(entry.amount, 2)) for entry in found]


def test_every_movement_of_kudos_is_an_entry_of_the_ledger(world: World) -> None:
    world.submit(ALICE)
    world.deliver(*world.pop())
    assert entries(world, 2) == [("opening", 100_000.0), ("tax", -1.0), ("job", -2.55)]
    assert entries(world, 1) == [("reward", 1.55)]


def test_what_lifts_a_balance_to_its_floor_is_an_entry_as_well(world: World) -> None:
    world.submit(ANONYMOUS)
    assert entries(world, 0) == [("opening", -50.0), ("tax", -1.0), ("floor", 1.0)]
    world.submit(BOB)
    assert entries(world, 3) == [("tax", -1.0), ("floor", 1.0)]


def test_a_refused_call_changes_nothing(world: World) -> None:
    world.pop()
    worker = world.worker()
    assert refused(world.try_pop(key=ALICE)) == (403, "WrongCredentials")
    assert refused(world.post(ASYNC, ALICE, {"prompt": ""})) == (400, "MissingPrompt")
    assert world.worker() == worker
    assert entries(world, 2) == [("opening", 100_000.0)]


# A clock that jumps


def test_a_clock_that_is_put_back_does_not_change_the_order(world: World) -> None:
    world.now = 100_000.0
    for prompt in ("first", "second"):
        world.submit(BOB, prompt=prompt)
    world.now -= 50_000
    for prompt in ("third", "fourth"):
        world.submit(BOB, prompt=prompt)
    assert [world.popped() for _ in range(5)] == ["first", "second", "third", "fourth", None]


def test_a_clock_that_is_put_back_makes_no_negative_times(world: World) -> None:
    world.now = 100_000.0
    world.horde.add_account("<new-apikey>", "newcomer")
    request_id = world.submit()
    (job_id,) = world.pop()
    world.now += 10
    world.pop()
    assert world.worker()["uptime"] == 10
    world.now -= 50_000
    assert world.status(request_id)["wait_time"] == 8
    world.deliver(job_id)
    world.pop()
    assert world.worker()["uptime"] == 10
    assert world.user("<new-apikey>")["account_age"] == 0
    world.now += 10
    world.pop()
    assert world.worker()["uptime"] == 20


def test_after_a_clock_was_put_back_jobs_and_requests_end_in_their_time(world: World) -> None:
    world.now = 100_000.0
    request_id = world.submit(n=2)
    world.pop()
    world.now -= 50_000
    assert world.counts(request_id)["processing"] == 1
    world.now += 150
    assert world.counts(request_id)["restarted"] == 1
    world.now += 1049.9
    assert world.status(request_id)["waiting"] == 2
    world.now += 0.1
    assert refused(world.client.get(STATUS + request_id)) == (404, "RequestNotFound")


def test_workers_of_before_a_clock_was_put_back_are_offline_until_they_pop(world: World) -> None:
    world.now = 100_000.0
    world.pop()
    world.now -= 50_000
    assert world.get("workers").json == []
    world.pop()
    assert len(world.get("workers").get_json()) == 1


def committed_requests(world: World) -> list[list[str]]:
    """The requests of each commit from now on."""
    commits: list[list[str]] = []

    def note(records: Sequence[Any]) -> None:
        if ids := [record.id[-1] for record in records if isinstance(record, HordeRequest)]:
            commits.append(ids)

    world.horde.store.observe(note)
    return commits


def test_each_overdue_job_and_request_has_a_transaction_of_its_own(world: World) -> None:
    for key in (ALICE, BOB, ANONYMOUS):
        world.submit(key)
    assert len([world.pop() for _ in range(3)]) == 3
    commits = committed_requests(world)
    world.now += 151.0
    world.performance()
    assert sorted(commits) == [["1"], ["2"], ["3"]]
    commits.clear()
    world.now += 1200.0
    world.performance()
    assert sorted(commits) == [["1"], ["2"], ["3"]]


def test_times_after_a_clock_was_put_back_are_changed_one_by_one(world: World) -> None:
    world.submit(ALICE)
    world.submit(BOB)
    commits = committed_requests(world)
    world.now -= 5000.0
    world.performance()
    assert sorted(commits) == [["1"], ["2"]]


def test_what_others_hold_does_not_keep_a_call_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        world.submit()
    monkeypatch.setattr(upkeep, "_BATCH", 2)
    world.now += 1200.0
    with monkeypatch.context() as others:
        others.setattr(MemoryTx, "try_lock", lambda *_: None)
        assert len(world.horde.open_requests()) == 4
    assert world.horde.open_requests() == []


def test_a_job_that_got_more_time_meanwhile_goes_on(world: World) -> None:
    request_id = world.submit()
    (job_id,) = world.pop()
    with world.horde.store.transaction() as tx:
        job = tx.get(Job, job_id)
        assert job is not None
    with world.horde._begin(world.now) as op:
        upkeep._abort(op, job)
    assert world.counts(request_id)["processing"] == 1


def test_a_charge_is_billed_once(world: World) -> None:
    world.horde.settle_every = 3.0
    world.submit()
    with world.horde.store.transaction() as tx:
        [charge] = tx.due(Charge, 2000.0, 9)
    before = world.user()["kudos"]
    for _ in range(2):
        with world.horde._begin(2000.0) as op:
            balances.settle(op, charge)
    assert before - world.user()["kudos"] == 1.0


def test_a_clock_that_is_put_forward_gives_jobs_back(world: World) -> None:
    request_id = world.submit()
    world.pop()
    world.now += 1000
    assert world.counts(request_id)["restarted"] == 1
    assert len(world.pop()) == 1
