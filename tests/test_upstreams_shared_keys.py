"""Shared keys: their limits keep requests small, and explain the refusals that remain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests
import responses

from horde_proxy.aihorde.rest import api_url
from horde_proxy.caching.background import inline
from horde_proxy.commands import check
from horde_proxy.config import load
from horde_proxy.errors import UpstreamFailed
from horde_proxy.upstreams.horde.accounts import Account, Accounts
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.shared_keys import (
    SharedKey,
    SharedKeyLimit,
    is_shared_key,
    read_shared_key,
)
from horde_proxy.web import tables
from tests.support import HORDE_URL, Clock, World

DATA = Path(__file__).parent / "data"
KEY = "7edd2c33-4c68-42f9-af9b-d85a7e138d3b"
BASE = api_url(HORDE_URL)
SUBMIT = f"{BASE}/generate/text/async"
SHARED_KEY = f"{BASE}/sharedkeys/{KEY}"
FAMILY = SharedKey(
    name="family",
    kudos=500,
    expires=1796189748.0,
    max_text_tokens=100,
    max_image_pixels=262144,
    max_image_steps=20,
)
CHAT = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 400}


def recorded(name: str) -> dict[str, Any]:
    [path] = DATA.glob(f"*/{name}.json")
    answer = json.loads(path.read_text())["response"]
    return {"status": answer["status"], "json": answer["body"]}


def horde_of_a_shared_key(**limits: Any) -> Any:
    """The recorded answers of a horde to calls with a shared key. The call for its limits."""
    document = recorded("sharedkey_get_1")
    document["json"].update(limits)
    responses.get(f"{BASE}/find_user", **recorded("sharedkey_find_user"))
    responses.get(f"{BASE}/status/heartbeat", json={"message": "OK"})
    responses.get(f"{BASE}/status/performance", json={})
    responses.get(f"{BASE}/status/models", json=[{"name": "test/model", "count": 1}])
    responses.get(f"{BASE}/workers", json=[])
    return responses.get(SHARED_KEY, **document)


def world(key: str = KEY) -> World:
    """A world without the private horde, so that the horde is what `responses` gives."""
    found = World(horde={"api_key": key})
    del found.session.adapters[HORDE_URL]
    return found


def accounts() -> Accounts:
    client = HordeClient(HORDE_URL, requests.Session(), contact="c", timeout=(1, 1))
    return Accounts(client, timer=Clock(), run=inline)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (KEY, True),
        (KEY.upper(), True),
        ("0000000000", False),
        ("", False),
        ("Zz3o2u5pLUbPNVZ0uaSSow", False),
        (KEY + "\n", False),
    ],
)
def test_a_shared_key_is_a_uuid(key: str, expected: bool) -> None:
    assert is_shared_key(key) is expected


def test_a_recorded_shared_key_is_read() -> None:
    assert read_shared_key(recorded("sharedkey_get_1")["json"]) == FAMILY
    assert FAMILY.end == "2026-12-02 05:35 UTC"


def test_a_shared_key_may_have_no_token_limit_and_no_end() -> None:
    assert read_shared_key(recorded("sharedkey_put_bad_expiry")["json"]) == SharedKey(kudos=5000)


@pytest.mark.parametrize("value", [None, "x", [], {}, True, float("nan"), -2, 10**400])
def test_unreadable_limits_of_a_shared_key_are_ignored(value: Any) -> None:
    names = ("name", "kudos", "utilized", "expiry", "max_text_tokens", "max_image_pixels")
    found = read_shared_key(dict.fromkeys(names, value))
    assert (found.kudos, found.utilized, found.expires) == (None, 0.0, None)
    assert (found.max_text_tokens, found.max_image_pixels) == (None, None)


@responses.activate
def test_jobs_are_as_long_as_the_shared_key_allows() -> None:
    horde_of_a_shared_key()
    assert accounts().max_length(KEY, 8.0, 1) == 100


@responses.activate
def test_the_kudos_of_a_shared_key_pay_and_not_those_of_its_owner() -> None:
    horde_of_a_shared_key(kudos=60, max_text_tokens=-1)
    # The owner's 49,194 would pay for 6,000 tokens; 60 do not suffice for more than free ones.
    assert accounts().max_length(KEY, 13.0, 1) == 512
    assert not accounts().fast_only_affordable(KEY, 512, 13.0, 1)


@responses.activate
def test_a_shared_key_whose_limits_cannot_be_read_is_used_without() -> None:
    responses.get(f"{BASE}/find_user", **recorded("sharedkey_find_user"))
    responses.get(f"{BASE}/status/performance", json={})
    responses.get(SHARED_KEY, status=500)
    known = accounts()
    assert known.of(KEY).name == "alice#2 (Shared Key: family 2)"
    assert known.of(KEY).shared_key is None
    assert known.max_length(KEY, 8.0, 1) > 512


@responses.activate
def test_an_own_key_costs_no_further_call() -> None:
    responses.get(f"{BASE}/find_user", json={"username": "ann#1", "kudos": 50.0})
    assert accounts().of("Zz3o2u5pLUbPNVZ0uaSSow") == Account("ann#1", 50.0, 30, False, 0)
    assert len(responses.calls) == 1


@responses.activate
def test_a_chat_with_a_shared_key_asks_for_no_more_than_it_allows() -> None:
    horde_of_a_shared_key()
    submit = responses.post(SUBMIT, status=403, json={"rc": "SharedKeyExpired"})
    response = world().http().post("/v1/chat/completions", json=CHAT)
    assert json.loads(submit.calls[0].request.body or "{}")["params"]["max_length"] == 100
    assert response.json is not None
    assert response.json["error"]["message"] == "The shared key has expired."


@responses.activate
@pytest.mark.parametrize(("is_stream", "first"), [(False, 300), (True, 128)])
def test_a_500_that_a_limit_explains_names_the_limit(is_stream: bool, first: int) -> None:
    horde = horde_of_a_shared_key(max_text_tokens=300)
    responses.post(SUBMIT, **recorded("text_async_sharedkey_over_limit"))
    http = world("0000000000").configure(access={"mode": "passthrough"}).http()
    headers = {"Authorization": f"Bearer {KEY}"}
    http.get("/v1/horde/account", headers=headers)
    # Its owner has lowered the limit since.
    responses.replace(responses.GET, SHARED_KEY, **recorded("sharedkey_get_1"))
    assert horde.call_count == 1
    body = {**CHAT, "stream": is_stream}
    response = http.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 403
    assert response.json is not None
    assert response.json["error"]["message"] == (
        "The shared key allows at most 100 tokens (max_text_tokens) for each request, and this one "
        f"needs {first}. Ask for less, or ask its owner for more."
    )
    # The next request is made for the new limit.
    http.post("/v1/chat/completions", json=body, headers=headers)
    sent = [call.request.body for call in responses.calls if call.request.url == SUBMIT]
    lengths = [json.loads(body or "{}")["params"]["max_length"] for body in sent]
    assert lengths == [first, 100]


@responses.activate
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"max_text_tokens": 100},
            "The shared key allows at most 100 tokens (max_text_tokens) for each request, and this "
            "one needs 300. Ask for less, or ask its owner for more.",
        ),
        (
            {"max_text_tokens": -1, "max_requests": 5, "requests": 5},
            "The request is beyond a limit of the shared key.",
        ),
    ],
)
def test_a_private_horde_refuses_what_is_beyond_a_limit(limits: Any, message: str) -> None:
    horde_of_a_shared_key(max_text_tokens=300)
    refusal = {"message": "x", "rc": "SharedKeyLimitExceeded"}
    responses.post(SUBMIT, status=403, json=refusal)
    http = world("0000000000").configure(access={"mode": "passthrough"}).http()
    headers = {"Authorization": f"Bearer {KEY}"}
    http.get("/v1/horde/account", headers=headers)
    document = recorded("sharedkey_get_1")
    document["json"].update(limits)
    responses.replace(responses.GET, SHARED_KEY, **document)
    response = http.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert response.status_code == 403
    assert response.json is not None
    assert response.json["error"]["message"] == message


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"max_requests": 5, "requests": 2}, 3),
        ({"max_requests": 5, "requests": 7}, 0),
        ({"max_requests": 5}, 5),
        ({"max_requests": -1, "requests": 2}, None),
        ({"max_requests": "x", "requests": "y"}, None),
        ({}, None),
    ],
)
def test_the_requests_that_a_shared_key_has_left(document: Any, expected: int | None) -> None:
    assert read_shared_key(document).requests_left == expected


@responses.activate
def test_a_500_that_no_limit_explains_stays_a_fault_of_the_horde() -> None:
    horde_of_a_shared_key()
    failure = UpstreamFailed("The horde failed on this request.")
    known = accounts()
    assert known.explained(failure, KEY, {"params": {"max_length": 100}}) is failure
    assert known.explained(failure, "own-key", {"params": {"max_length": 900}}) is failure
    responses.replace(responses.GET, SHARED_KEY, **recorded("sharedkey_get_404"))
    assert known.explained(failure, KEY, {"params": {"max_length": 900}}) is failure


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"max_length": 101}, "100 tokens (max_text_tokens)"),
        ({"width": 768, "height": 768, "steps": 15}, "262144 pixels (max_image_pixels)"),
        ({"width": 512, "height": 512, "steps": 30}, "20 steps (max_image_steps)"),
        ({"max_length": 100}, None),
        ({"width": 512, "height": 512, "steps": 20}, None),
        (None, None),
    ],
)
def test_the_limit_that_a_submit_exceeds(params: Any, expected: str | None) -> None:
    refusal = FAMILY.refusal({"params": params})
    if expected is None:
        assert refusal is None
    else:
        assert isinstance(refusal, SharedKeyLimit)
        assert f"The shared key allows at most {expected} for each request" in refusal.message


@responses.activate
def test_the_account_shows_the_shared_key_without_the_key() -> None:
    horde_of_a_shared_key()
    response = world().http().get("/v1/horde/account")
    assert response.json is not None
    assert response.json["shared_key"] == {
        "name": "family",
        "kudos": 500,
        "utilized": 0.0,
        "expires": 1796189748.0,
        "max_text_tokens": 100,
        "max_image_pixels": 262144,
        "max_image_steps": 20,
        "requests_left": None,
    }
    assert KEY not in response.text


def test_the_page_shows_kudos_limit_and_end_of_a_shared_key() -> None:
    found = tables.account(Account("alice#2 (Shared Key: family)", 49194.0, shared_key=FAMILY))
    assert found[1:5] == [
        ["Kudos", "49,194"],
        ["Kudos of the shared key", "500"],
        ["Tokens a request", "at most 100"],
        ["Shared key ends", "2026-12-02 05:35 UTC"],
    ]
    unlimited = tables.account(Account("a#1", 1.0, shared_key=SharedKey()))
    assert unlimited[2] == ["Kudos of the shared key", "unlimited"]
    assert unlimited[3][0] == "Concurrent jobs"


@responses.activate
@pytest.mark.parametrize(
    ("limits", "now", "what", "fix"),
    [
        ({}, 1.0, "500 left, at most 100 tokens a request, until 2026-12-02 05:35 UTC", ""),
        (
            {"kudos": 0, "max_text_tokens": -1, "expiry": None},
            1.0,
            "0 left",
            "ask the owner of the shared key to renew it",
        ),
        (
            {"kudos": -1},
            1796189748.0,
            "unlimited, at most 100 tokens a request, until 2026-12-02 05:35 UTC",
            "ask the owner of the shared key to renew it",
        ),
    ],
)
def test_check_says_what_is_left_of_a_shared_key(
    limits: dict[str, Any], now: float, what: str, fix: str
) -> None:
    horde_of_a_shared_key(**limits)
    settings = load(environ={"AI_HORDE_API_KEY": KEY}, flags={"horde": {"url": HORDE_URL}})
    findings = list(check.check_horde(settings, requests.Session(), now=lambda: now))
    [found] = [finding for finding in findings if finding.what.startswith("key:")]
    assert found.what == (
        f"key: alice#2 (Shared Key: family 2) with 49194.0 kudos; of the shared key {what}"
    )
    assert found.fix == fix
    assert KEY not in str(findings)
