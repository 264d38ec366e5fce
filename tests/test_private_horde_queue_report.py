"""What a private horde says about its queue: who waits, and what keeps each worker from it."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.key_digest import key_digest
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.accounts import SignedIn
from horde_proxy.private_horde.errors import HordeError
from horde_proxy.private_horde.queue_report import MOST_SHOWN
from tests.support import Clock

OWNER, CLIENT, ADMIN = "owner-key-0123456789", "client-key-0123456789", "admin-key-0123456789"


@pytest.fixture
def horde() -> PrivateHorde:
    horde = PrivateHorde(clock=Clock(), rate_limits=False)
    horde.add_account(OWNER, "owner")
    horde.add_account(CLIENT, "client", kudos=1000, concurrency=1000)
    horde.add_account(ADMIN, "admin", roles=("admin",))
    return horde


def pop(horde: PrivateHorde, name: str, **fields: Any) -> None:
    horde.pop(OWNER, {"name": name, "models": ["a model"], "max_length": 80, **fields})


def submit(horde: PrivateHorde, key: str = CLIENT, **fields: Any) -> str:
    body = {"prompt": "tell me a secret", "models": ["a model"], **fields}
    return str(horde.submit(key, body)["id"])


def reasons(horde: PrivateHorde) -> list[str]:
    [entry] = horde.queue(CLIENT)["requests"]
    return list(entry["reasons"])


def test_without_workers_it_says_so(horde: PrivateHorde) -> None:
    submit(horde)
    assert reasons(horde) == ["No worker is online."]


@pytest.mark.parametrize(
    ("worker", "request_", "sentence"),
    [
        ({"models": ["other"]}, {}, "w serves none of its `models`."),
        (
            {},
            {"params": {"max_length": 100}},
            "w makes at most 80 tokens, and its `max_length` is 100.",
        ),
        (
            {"max_context_length": 1024},
            {"params": {"max_context_length": 2048}},
            "w reads at most 1024 tokens, and its `max_context_length` is 2048.",
        ),
        (
            {},
            {"validated_backends": True},
            "w runs software that is not validated: "
            "the request needs `validated_backends` = false.",
        ),
        (
            {},
            {"trusted_workers": True},
            "w is not trusted: the request needs `trusted_workers` = false.",
        ),
        (
            {},
            {"slow_workers": False},
            "w is slow, or has not been measured yet: the request needs `slow_workers` = true.",
        ),
    ],
)
def test_it_names_what_keeps_a_worker_from_a_request(
    horde: PrivateHorde, worker: dict[str, Any], request_: dict[str, Any], sentence: str
) -> None:
    pop(horde, "w", **worker)
    submit(horde, **request_)
    assert reasons(horde) == [sentence]


def test_a_submit_that_no_worker_may_take_is_answered_with_the_fields_that_exclude_them(
    horde: PrivateHorde,
) -> None:
    pop(horde, "mine")
    body = {"prompt": "x", "models": ["a model"], "validated_backends": True}
    assert horde.submit(CLIENT, body)["message"] == (
        "Warning: No available workers can fulfill this request. It will expire in 20 minutes. "
        "Consider reducing the amount of tokens to generate. mine runs software that is not "
        "validated: the request needs `validated_backends` = false."
    )


def test_it_names_workers_that_rest_exclude_or_are_excluded(horde: PrivateHorde) -> None:
    pop(horde, "paused")
    pop(horde, "excluded")
    pop(horde, "prude", blacklist=["Secret"])
    ids = {worker["name"]: worker["id"] for worker in horde.fleet.workers()}
    horde.fleet.change_worker(ADMIN, ids["paused"], {"paused": True})
    submit(horde, workers=[ids["excluded"]], worker_blacklist=True)
    assert reasons(horde) == [
        "paused takes no jobs of others now.",
        "excluded is excluded by the request's list of `workers`.",
        "prude refuses a word of the prompt (its `blacklist`).",
    ]


def test_a_request_that_a_worker_may_take_waits_for_its_turn(horde: PrivateHorde) -> None:
    for number in range(5):
        pop(horde, f"w{number}")
    for number in range(5):
        pop(horde, f"x{number}", models=["other"])
    submit(horde)
    assert reasons(horde) == [
        "It waits for its turn with w0, w1, w2 and 2 more.",
        "x0 serves none of its `models`.",
        "x1 serves none of its `models`.",
        "x2 serves none of its `models`.",
        "The same holds for 2 more.",
    ]


def test_what_is_in_work_comes_first_and_then_the_queue_in_its_order(horde: PrivateHorde) -> None:
    ids = [submit(horde) for _ in range(3)]
    pop(horde, "w")
    entries = horde.queue(CLIENT)["requests"]
    assert [entry["id"] for entry in entries] == ids
    assert [(entry["processing"], entry["position"]) for entry in entries] == [
        (1, 0),
        (0, 1),
        (0, 2),
    ]
    assert [entry["reasons"] for entry in entries] == [
        [],
        ["It waits for its turn with w."],
        ["It waits for its turn with w."],
    ]


def test_a_caller_sees_its_own_requests_and_a_moderator_all(horde: PrivateHorde) -> None:
    mine, other = submit(horde), submit(horde, OWNER)
    seen = {
        key: {entry["id"] for entry in horde.queue(key)["requests"]}
        for key in (CLIENT, OWNER, ADMIN)
    }
    assert seen == {CLIENT: {mine}, OWNER: {other}, ADMIN: {mine, other}}
    with pytest.raises(HordeError) as refused:
        horde.queue("0000000000")
    assert refused.value.rc == "AnonForbidden"


def test_a_long_queue_is_cut_and_its_rest_counted(horde: PrivateHorde) -> None:
    for _ in range(MOST_SHOWN + 3):
        submit(horde)
    report = horde.queue(ADMIN)
    assert (len(report["requests"]), report["more"]) == (MOST_SHOWN, 3)


def test_a_digest_is_a_key_only_for_those_who_signed_in(horde: PrivateHorde) -> None:
    digest = key_digest(CLIENT)
    assert horde.people.caller(SignedIn(digest))["username"] == "client#2"
    with pytest.raises(HordeError) as refused:
        horde.people.caller(digest)
    assert refused.value.rc == "InvalidAPIKey"


def test_kudos_have_a_history(horde: PrivateHorde) -> None:
    horde.people.transfer(CLIENT, {"username": "owner#1", "amount": 5})
    newest, oldest = horde.people.kudos_history(CLIENT)
    assert (newest["amount"], newest["reason"], newest["partner"]) == (-5.0, "gift", "owner#1")
    assert (oldest["amount"], oldest["reason"], oldest["partner"]) == (1000.0, "opening", None)
    assert len(horde.people.kudos_history(CLIENT, limit=1)) == 1
