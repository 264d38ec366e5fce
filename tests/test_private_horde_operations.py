"""Time-outs of addresses, documents and styles, also against answers of a real AI-Horde."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.address_timeouts import AddressTimeout, canonical
from horde_proxy.private_horde.errors import HordeError
from horde_proxy.private_horde.store.opening import open_store
from tests.support import World as ProxyWorld
from tests.test_private_horde import ALICE, ASYNC, OWNER, POP, World
from tests.test_private_horde_contract import unlike

CAPTURES = Path(__file__).parent / "data" / "captures_operations"
MODERATOR, POOR = "<moderator-apikey>", "<poor-apikey>"
ALICES = "<alice-apikey>"
ADDRESS, NETWORK = "203.0.113.9", "198.51.100.0/24"
REQUEST = {"prompt": "hi"}
OFFER = {"name": "w", "models": ["a-model"], "bridge_agent": "a:1:x"}


def load(name: str) -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text())


@pytest.fixture
def world() -> World:
    return with_people(World())


def with_people(world: World) -> World:
    world.horde.add_account(MODERATOR, "mod", roles=("moderator",))
    world.horde.add_account(POOR, "poor")
    if ALICES != ALICE:
        world.horde.add_account(ALICES, "alice")
    return world


def call(
    world: World, method: str, path: str, body: Any = None, key: str = MODERATOR
) -> TestResponse:
    url = f"/api/v2/operations/{path}"
    return world.client.open(url, method=method, json=body, headers={"apikey": key})


def time_out(world: World, address: str = ADDRESS, hours: int = 1) -> None:
    response = call(world, "POST", "ipaddr", {"ipaddr": address, "hours": hours})
    assert response.json == {"message": "OK"}


def nothing(world: World) -> str:
    return "127.0.0.1"


def one(world: World) -> str:
    time_out(world)
    return ADDRESS


def network(world: World) -> str:
    time_out(world, NETWORK)
    return "198.51.100.7"


def worker(world: World) -> str:
    world.post(POP, OWNER, OFFER, ADDRESS)
    return nothing(world)


SETUPS: dict[str, Callable[[World], str]] = {
    "operations_bad_ip": nothing,
    "operations_block_worker": worker,
    "operations_unblock_worker": worker,
    "operations_ip_add": nothing,
    "operations_ip_add_cidr": nothing,
    "operations_ip_delete": one,
    "operations_ip_in_cidr": network,
    "operations_ip_list": network,
    "operations_ip_one": one,
    "documents_bad_format": nothing,
    "documents_privacy_html": nothing,
    "documents_sponsors": nothing,
    "documents_terms": nothing,
    "generate_text_timeout_cidr": network,
    "generate_text_timeout_ip": one,
}
"""What each capture needs beforehand; returns the address that the call comes from."""


@pytest.mark.parametrize("name", sorted(SETUPS))
def test_the_answer_is_the_real_hordes(world: World, name: str) -> None:
    request, expected = load(name)["request"], load(name)["response"]
    address = SETUPS[name](world)
    path = request["path"]
    if "block_worker" in name:
        path = path.rpartition("/")[0] + "/" + world.get("workers").get_json()[0]["id"]
    actual = world.client.open(
        path,
        method=request["method"],
        json=request.get("body"),
        headers={k: v for k, v in request["headers"].items() if k != "Content-Type"},
        environ_overrides={"REMOTE_ADDR": address},
    )
    assert actual.status_code == expected["status"]
    assert unlike(expected["body"], actual.json) == []
    body: Any = actual.json
    if expected["status"] >= 400:
        assert body["rc"] == expected["body"]["rc"]
    if name.startswith("operations"):
        assert [item["ipaddr"] for item in body if "ipaddr" in item] == [
            item["ipaddr"] for item in expected["body"] if "ipaddr" in item
        ]
    assert actual.headers["X-Ratelimit-Limit"] == expected["headers"]["X-Ratelimit-Limit"]


def test_every_capture_has_a_replay() -> None:
    assert {path.stem for path in CAPTURES.glob("*.json")} == {*SETUPS, "operations_not_mod"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        # The real horde has an empty list for everybody (capture operations_not_mod).
        ("GET", "ipaddr", None),
        ("GET", f"ipaddr/{ADDRESS}", None),
        ("POST", "ipaddr", {"ipaddr": ADDRESS, "hours": 1}),
        ("DELETE", "ipaddr", {"ipaddr": ADDRESS}),
        ("PUT", "block_worker_ipaddr/x", {"days": 1}),
        ("DELETE", "block_worker_ipaddr/x", None),
    ],
)
def test_only_moderators_see_and_change_time_outs(
    world: World, method: str, path: str, body: Any
) -> None:
    response = call(world, method, path, body, POOR)
    assert (response.status_code, response.get_json()["rc"]) == (403, "NotModerator")


def statuses(world: World, address: str) -> list[int]:
    """Of a submit and of a pop that come from an address."""
    submit = world.post(ASYNC, ALICE, REQUEST, address)
    return [submit.status_code, world.post(POP, OWNER, OFFER, address).status_code]


@pytest.mark.parametrize(
    ("blocked", "inside", "outside"),
    [
        (ADDRESS, [ADDRESS, f"::ffff:{ADDRESS}"], ["203.0.113.8", "", "unix"]),
        (NETWORK, ["198.51.100.0", "198.51.100.255"], ["198.51.101.0"]),
        # A home has a /64 of IPv6, in which it chooses its addresses.
        ("2001:db8::7", ["2001:db8::7", "2001:db8::ffff:1"], ["2001:db8:0:1::7"]),
        ("2001:db8::/32", ["2001:db8:ffff::1"], ["2001:db9::1"]),
        ("0.0.0.0/0", ["8.8.8.8"], ["127.0.0.1", "::1", "2001:db8::7"]),
    ],
)
def test_a_time_out_refuses_submits_and_pops_of_its_network(
    world: World, blocked: str, inside: list[str], outside: list[str]
) -> None:
    time_out(world, blocked)
    assert [statuses(world, address) for address in inside] == [[403, 403]] * len(inside)
    assert [statuses(world, address) for address in outside] == [[202, 200]] * len(outside)
    refused: Any = world.post(ASYNC, ALICE, REQUEST, inside[0]).json
    assert (refused["rc"], "for 3600 more seconds" in refused["message"]) == ("TimeoutIP", True)


def test_one_of_many_time_outs_holds_as_one_of_few_does(world: World) -> None:
    for number in range(40):
        time_out(world, f"192.0.2.{number}", hours=100 + number)
    time_out(world, NETWORK)
    time_out(world, "2001:db8::1")
    time_out(world, "198.51.100.7", hours=3)
    inside = ["192.0.2.0", "192.0.2.39", "198.51.100.9", "2001:db8::2"]
    assert [statuses(world, address) for address in inside] == [[403, 403]] * 4
    assert [statuses(world, address) for address in ("192.0.2.40", "2001:db9::1")] == [
        [202, 200]
    ] * 2
    assert call(world, "GET", "ipaddr/198.51.100.7").json == [
        {"ipaddr": "198.51.100.7", "seconds": 10_800},
        {"ipaddr": NETWORK, "seconds": 3600},
    ]
    world.now += 3600
    assert statuses(world, "198.51.100.9") == [202, 200]


def test_an_expired_time_out_is_gone(world: World) -> None:
    time_out(world)
    world.now += 3599
    assert statuses(world, ADDRESS) == [403, 403]
    assert call(world, "GET", "ipaddr").json == [{"ipaddr": ADDRESS, "seconds": 1}]
    world.now += 1
    assert statuses(world, ADDRESS) == [202, 200]
    assert call(world, "GET", "ipaddr").json == []
    with world.horde.store.snapshot() as tx:
        assert tx.get(AddressTimeout, ADDRESS) is None


def test_a_second_time_out_replaces_the_first(world: World) -> None:
    time_out(world, hours=9)
    time_out(world, f"{ADDRESS}/32", hours=2)
    assert call(world, "GET", "ipaddr").json == [{"ipaddr": ADDRESS, "seconds": 7200}]


def test_what_is_deleted_may_come_again(world: World) -> None:
    time_out(world)
    assert call(world, "DELETE", "ipaddr", {"ipaddr": ADDRESS}).status_code == 200
    assert statuses(world, ADDRESS) == [202, 200]


def test_an_address_within_a_network_is_not_deleted_alone(world: World) -> None:
    time_out(world, NETWORK)
    response = call(world, "DELETE", "ipaddr", {"ipaddr": "198.51.100.7"})
    assert (response.status_code, response.get_json()["message"]) == (
        400,
        "198.51.100.7 is in the network 198.51.100.0/24: delete the time-out of that.",
    )
    assert call(world, "GET", f"ipaddr/{NETWORK}").json == [{"ipaddr": NETWORK, "seconds": 3600}]


def test_a_worker_is_stopped_by_its_last_address(world: World) -> None:
    world.post(POP, OWNER, OFFER, ADDRESS)
    path = f"block_worker_ipaddr/{world.get('workers').get_json()[0]['id']}"
    assert call(world, "PUT", path, {"days": 2}).json == {"message": "OK"}
    assert call(world, "GET", "ipaddr").json == [{"ipaddr": ADDRESS, "seconds": 172_800}]
    assert statuses(world, ADDRESS) == [403, 403]
    assert call(world, "DELETE", path).json == {"message": "OK"}
    assert statuses(world, ADDRESS) == [202, 200]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("ipaddr", {"ipaddr": "nowhere", "hours": 1}, 400, "Invalid IP Address"),
        ("ipaddr", {"ipaddr": "1.2.3.4/33", "hours": 1}, 400, "Invalid IP Address"),
        ("ipaddr", {"ipaddr": "1.2.3.4", "hours": 0}, 400, "Input payload validation failed"),
        ("ipaddr", {"ipaddr": "1.2.3.4"}, 400, "Input payload validation failed"),
        ("ipaddr", {"ipaddr": "127.0.0.1", "hours": 1}, 400, "the horde's own machine"),
        ("ipaddr", {"ipaddr": "::1", "hours": 1}, 400, "the horde's own machine"),
    ],
)
def test_a_wrong_time_out_is_explained(
    world: World, path: str, body: Any, status: int, said: str
) -> None:
    response = call(world, "POST", path, body)
    assert (response.status_code, said in response.get_json()["message"]) == (status, True)


@pytest.mark.parametrize(
    ("body", "rc"), [({"days": 1}, "WorkerNotFound"), ({}, None), ({"days": 400}, None)]
)
def test_a_wrong_time_out_of_a_worker_is_explained(world: World, body: Any, rc: str | None) -> None:
    response = call(world, "PUT", "block_worker_ipaddr/00000000-0000-4000-8000-0", body)
    assert (response.status_code, response.get_json().get("rc")) == (404 if rc else 400, rc)


def test_a_worker_without_an_address_cannot_be_stopped_by_it(world: World) -> None:
    world.post(POP, OWNER, OFFER, "")
    path = f"block_worker_ipaddr/{world.get('workers').get_json()[0]['id']}"
    response = call(world, "PUT", path, {"days": 2})
    assert response.get_json()["message"] == "No IP address of this worker is known."


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (" 203.0.113.9 ", "203.0.113.9"),
        ("198.51.100.7/24", "198.51.100.0/24"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:DB8::1/128", "2001:db8::/64"),
        ("::/0", "::/0"),
    ],
)
def test_an_address_has_one_form(text: str, form: str) -> None:
    assert canonical(text) == canonical(form) == form


def test_time_outs_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horde_proxy.private_horde.address_timeouts.MOST_TIMEOUTS", 2)
    time_out(world, "203.0.113.1")
    time_out(world, "203.0.113.2")
    response = call(world, "POST", "ipaddr", {"ipaddr": "203.0.113.3", "hours": 1})
    assert response.get_json()["message"] == "There are 2 time-outs. Delete some."
    time_out(world, "203.0.113.2")


def test_a_time_out_outlives_a_restart_and_holds_in_every_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/horde.db"
    first, second = PrivateHorde(store=open_store(url)), PrivateHorde(store=open_store(url))
    first.add_account(MODERATOR, "mod", roles=("moderator",))
    first.operations.add_timeout(MODERATOR, {"ipaddr": ADDRESS, "hours": 1})
    for horde in (second, PrivateHorde(store=open_store(url))):
        with pytest.raises(HordeError) as refused:
            horde.submit(MODERATOR, REQUEST, ADDRESS)
        assert refused.value.rc == "TimeoutIP"
        horde.store.close()
    first.store.close()


def test_the_address_is_that_of_a_trusted_proxys_client() -> None:
    world = ProxyWorld(
        access={"mode": "open"},
        server={"trusted_proxies": ["10.0.0.1"]},
        private_horde={"enabled": True, "api_key": "o" * 22},
    )
    http = world.http()
    headers = {"apikey": "o" * 22, "X-Forwarded-For": ADDRESS}
    environ = {"REMOTE_ADDR": "10.0.0.1"}
    body = {"ipaddr": ADDRESS, "hours": 1}
    http.post("/api/v2/operations/ipaddr", json=body, headers={"apikey": "o" * 22})
    refused = http.post(
        "/api/v2/generate/text/async", json=REQUEST, headers=headers, environ_overrides=environ
    )
    assert refused.get_json()["rc"] == "TimeoutIP"


def test_a_document_is_the_operators_own_where_there_is_one() -> None:
    world = ProxyWorld(private_horde={"enabled": True, "terms": "# Rules\n\nBe nice & <kind>."})
    http = world.http()
    path = "/api/v2/documents/terms"
    assert http.get(path).json == {"html": "<h1>Rules</h1>\n<p>Be nice &amp; &lt;kind&gt;.</p>"}
    assert http.get(f"{path}?format=markdown").json == {"markdown": "# Rules\n\nBe nice & <kind>."}
    assert http.get("/api/v2/documents/sponsors").json == {
        "html": "<h1>Sponsors</h1>\n<p>This horde has no sponsors.</p>"
    }


def test_a_list_of_a_document_is_a_list_in_html(world: World) -> None:
    html: Any = world.get("documents/privacy").json
    assert "<ul><li>prompts and results, until" in html["html"]
    assert html["html"].count("<li>") == 2


@pytest.mark.parametrize("path", ["styles/text", "styles/image", "collections"])
def test_lists_of_styles_are_empty(world: World, path: str) -> None:
    response = world.get(path)
    assert (response.status_code, response.json) == (200, [])
    missing = world.get(f"{path}/x").get_json()["rc"]
    assert missing == ("CollectionNotFound" if path == "collections" else "StyleNotFound")


@pytest.mark.parametrize(
    ("path", "rc"),
    [
        ("styles/text_by_name/a%231::style::b", "StyleNotFound"),
        ("styles/image_by_name/a%231::style::b", "StyleNotFound"),
        ("collection_by_name/collection::a%231::style::b", "CollectionNotFound"),
    ],
)
def test_a_style_by_name_is_not_found(world: World, path: str, rc: str) -> None:
    response = world.get(path)
    assert (response.status_code, response.get_json()["rc"]) == (404, rc)
