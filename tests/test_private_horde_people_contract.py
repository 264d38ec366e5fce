"""The routes of people against recorded answers of a real AI-Horde: each capture is replayed.

As in test_private_horde_contract, whose shapes are compared here: the same status, fields, types.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from horde_proxy.private_horde import AccessRules, PrivateHorde, blueprint
from tests.support import HordeCalls
from tests.test_private_horde_contract import sentence_of, unlike

CAPTURES = Path(__file__).parent / "data" / "captures" / "people"
NAMES = sorted(path.stem for path in CAPTURES.glob("*.json"))

# The lab's users, by number: key, alias, kudos, roles.
USERS = (
    ("<moderator-apikey>", "mod", 100_000.0, ("admin", "trusted")),
    ("<alice-apikey>", "alice", 50_000.0, ()),
    ("<trusted-apikey>", "trusted", 20_000.0, ("trusted",)),
    ("<poor-apikey>", "poor", 50.0, ()),
    ("<text-worker-owner-apikey>", "wtext", 5_000.0, ("trusted",)),
    ("<sixth-apikey>", "sixth", 0.0, ()),
    ("<seventh-apikey>", "seventh", 0.0, ()),
    ("<untrusted-apikey>", "untrusted", 0.0, ()),
    ("<service-apikey>", "svc", 90_000.0, ("trusted", "service")),
    ("<leaver-apikey>", "leaver", 0.0, ()),
)
MOD, ALICE, TRUSTED, POOR, WTEXT, _, _, _, SERVICE, LEAVER = (user[0] for user in USERS)


class Lab(HordeCalls):
    """A private horde with the lab's users behind a test client."""

    def __init__(self) -> None:
        self.now = 1_795_900_000.0
        access = AccessRules(registration="invitation")
        self.horde = PrivateHorde(clock=lambda: self.now, rate_limits=False, access=access)
        for key, alias, kudos, roles in USERS:
            self.horde.add_account(key, alias, kudos=kudos, roles=roles)
        app = Flask("people-contract")
        app.register_blueprint(blueprint(self.horde))
        self.client = app.test_client()

    def shared_key(self, key: str = ALICE, **fields: Any) -> str:
        return str(self.must("PUT", "sharedkeys", key, fields)["id"])

    def submit(self, key: str, **body: Any) -> str:
        return str(self.must("POST", "generate/text/async", key, {"prompt": "x", **body})["id"])


Setup = Callable[[Lab], Any]


def nothing(lab: Lab) -> None:
    """The capture needs nothing beside the users."""


def active(lab: Lab) -> None:
    lab.submit(ALICE)


def busy(lab: Lab) -> None:
    lab.submit(ALICE)
    lab.shared_key()


def worker_owner(lab: Lab) -> None:
    pop = {"name": "w", "models": ["a model"]}
    lab.must("POST", "generate/text/pop", WTEXT, pop)


def after_transfers(lab: Lab) -> None:
    lab.must("PUT", "users/4", POOR, {"contact": "poor@example.invalid"})
    lab.submit(POOR)


def limited_key(lab: Lab) -> str:
    limits: Any = {"max_image_pixels": 262144, "max_image_steps": 20, "max_text_tokens": 100}
    return lab.shared_key(name="family", kudos=500, expiry=3, **limits)


def deleted_key(lab: Lab) -> str:
    key = lab.shared_key()
    lab.must("DELETE", f"sharedkeys/{key}", ALICE)
    return key


def key_with(**fields: Any) -> Setup:
    return lambda lab: lab.shared_key(**fields)


def left(lab: Lab) -> None:
    lab.must("DELETE", "users/10", LEAVER)


def sent_by_alice(lab: Lab) -> None:
    lab.must("POST", "kudos/transfer", ALICE, {"username": "poor#4", "amount": 10})


def sent_with_a_token(lab: Lab) -> None:
    body = {"username": "poor#4", "amount": 5}
    lab.call("POST", "kudos/transfer", ALICE, body, **{"Idempotency-Key": "k-1"})


SETUPS: dict[str, Setup] = {
    "find_user_own": active,
    "find_user_sharedkey": key_with(name="proxy key"),
    "find_user_worker_owner": worker_owner,
    "kudos_transfer_idempotent_2": sent_with_a_token,
    "kudos_transfer_untrusted_young": sent_by_alice,
    "err_403_SharedKeyEmpty": key_with(kudos=0),
    "err_403_SharedKeyInsufficientKudos": key_with(kudos=1),
    "sharedkey_delete": key_with(),
    "sharedkey_delete_not_owner": key_with(),
    "sharedkey_deleted_used": deleted_key,
    "sharedkey_find_user": limited_key,
    "sharedkey_get": limited_key,
    "sharedkey_get_1": limited_key,
    "sharedkey_patch": limited_key,
    "sharedkey_patch_not_owner": limited_key,
    "sharedkey_patch_nothing": limited_key,
    "text_async_sharedkey_202": limited_key,
    "text_async_sharedkey_empty_downgrade": key_with(kudos=0),
    "text_async_sharedkey_over_limit": limited_key,
    "user_after_transfers": after_transfers,
    "user_as_moderator": active,
    "user_deleted_again": left,
    "user_deleted_generates": left,
    "user_own": busy,
    "user_undelete": left,
}

# The real horde answers a request beyond a key's tokens with a plain 500.
DIFFERS: dict[str, tuple[int, Any]] = {
    "text_async_sharedkey_over_limit": (
        403,
        {
            "message": "This shared key allows at most 100 tokens for each request, and this one "
            "needs 200.",
            "rc": "SharedKeyLimitExceeded",
        },
    ),
}
SAME = [name for name in NAMES if name not in DIFFERS]
EXACT = [name for name in SAME if name.startswith(("kudos_", "user_put_", "user_delete_"))]


def load(name: str) -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text())


@cache
def replay(name: str) -> TestResponse:
    """The horde's response to a capture's request, with the real shared key put in."""
    lab = Lab()
    request = load(name)["request"]
    key = SETUPS.get(name, nothing)(lab)
    path, headers = request["path"], dict(request["headers"])
    if key is not None:
        head, _, last = path.rpartition("/sharedkeys/")
        path = f"{head}/sharedkeys/{key}" if last and head else path
        sent = headers.get("apikey", "")
        if sent.count("-") == 4 or sent.startswith("<sharedkey-"):
            headers["apikey"] = key
    body = request.get("body")
    raw = None if body is None else json.dumps(body)
    return lab.client.open(path, method=request["method"], data=raw, headers=headers)


def expected_of(name: str) -> Any:
    """The recorded response, without what this horde has no part of: images, styles, warnings."""
    response = load(name)["response"]
    body = response["body"]
    if isinstance(body, dict):
        body.get("active_generations", {}).pop("image", None)
        body["styles"] = [] if "styles" in body else None
        if body["styles"] is None:
            del body["styles"]
        if body.get("active_generations") == {}:
            body["active_generations"] = {"text": ["one"]}
    return response


def test_every_setup_has_a_capture() -> None:
    assert len(NAMES) > 80
    assert {*SETUPS, *DIFFERS} <= {*NAMES}


@pytest.mark.parametrize("name", SAME)
def test_the_status_and_the_shape_are_those_of_the_real_horde(name: str) -> None:
    expected = expected_of(name)
    actual = replay(name)
    body = actual.json
    if isinstance(body, dict) and name.startswith("text_async"):
        # No worker is online, so the horde adds a message.
        body = {**body}
        body.pop("message", None)
    assert (actual.status_code, body and body.get("rc") if isinstance(body, dict) else None) == (
        expected["status"],
        expected["body"].get("rc") if isinstance(expected["body"], dict) else None,
    )
    assert unlike(expected["body"], body) == []


@pytest.mark.parametrize("name", SAME)
def test_the_headers_are_those_of_the_real_horde(name: str) -> None:
    expected = load(name)["response"]["headers"]
    actual = replay(name).headers
    assert [header for header in expected if header not in actual] == []
    exact = ["Access-Control-Allow-Origin", "Content-Type"]
    if not load(name)["request"]["path"].endswith("/async"):
        exact.append("X-Ratelimit-Limit")
    assert {name: actual[name] for name in exact} == {name: expected[name] for name in exact}


@pytest.mark.parametrize("name", [name for name in SAME if load(name)["response"]["status"] >= 400])
def test_refusals_say_what_the_real_horde_says(name: str) -> None:
    expected, actual = load(name)["response"]["body"], replay(name).json
    assert actual is not None
    assert actual.get("errors") == expected.get("errors")
    said = sentence_of(expected)
    if "sharedkey" in name.lower() or name == "user_deleted_again":
        # They name a key, a price or a time of the lab.
        assert actual["message"][:11] == said[:11]
        return
    assert actual["message"] == said


@pytest.mark.parametrize("name", [name for name in EXACT if "new_kudos" not in str(load(name))])
def test_changes_are_answered_as_by_the_real_horde(name: str) -> None:
    expected, actual = load(name)["response"], replay(name)
    if expected["status"] == 200:
        assert actual.json == expected["body"]


@pytest.mark.parametrize("name", sorted(DIFFERS))
def test_where_the_private_horde_differs_it_means_to(name: str) -> None:
    response = replay(name)
    assert (response.status_code, response.json) == DIFFERS[name]
