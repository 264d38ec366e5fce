"""The admin's pages: who gets in, and the keys."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.key_digest import key_digest
from horde_proxy.ledger import ClientKey, Usage
from tests.admin_world import (
    ADMIN,
    BASE,
    GUEST,
    HTML,
    AdminWorld,
    FiledWorld,
    Operator,
    shown_once,
    words,
)
from tests.support import CLIENT_KEY, Scripted, World

CHAT = {"model": "test/model", "messages": [{"role": "user", "content": "my own secret"}]}
RIGHTS = {
    "requests_per_minute": "20",
    "concurrent": "2",
    "tokens_per_day": "100000",
    "kudos_per_day": "500.5",
    "images_per_day": "9",
    "weight": "2",
    "models": "*llama*, qwen?",
    "endpoints": "horde",
    "place-home": "on",
    "place-crowd": "on",
    "horde_key": "a-horde-key",
}


@pytest.fixture
def house(tmp_path: Path) -> AdminWorld:
    return AdminWorld(tmp_path)


def keys_in(house: AdminWorld) -> dict[str, ClientKey]:
    return {key.name: key for key in house.open_ledger().valid_keys().values()}


def status_of(app: Any, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return int(app.test_client().get("/v1/models", headers=headers).status_code)


def test_only_an_administrator_gets_in(house: AdminWorld) -> None:
    app = house.app()
    assert Operator(app).get("keys").status_code == 200
    refused = Operator(app, GUEST).get("keys")
    assert refused.status_code == 403
    assert words(refused) == (
        "This is for administrators: log in with the key of one (`horde-proxy keys add NAME "
        "--admin`). Back to the page"
    )
    stranger = Operator(app, None).get("keys")
    assert (stranger.status_code, 'action="../../page/login"' in stranger.text) == (401, True)


@pytest.mark.parametrize("key", [GUEST, None])
@pytest.mark.parametrize("action", ["make-key", "change-key", "revoke-key"])
def test_nobody_else_changes_anything(house: AdminWorld, action: str, key: str | None) -> None:
    app = house.app()
    Operator(app).send("make-key", name="ann")
    before = keys_in(house)
    visitor = Operator(app, key)
    response = visitor.http.post(f"{BASE}/{action}", data={"name": "ann", "admin": "on"})
    assert response.status_code == (401 if key is None else 403)
    assert keys_in(house) == before


def test_a_form_without_its_token_changes_nothing(house: AdminWorld) -> None:
    admin = Operator(house.app())
    response = admin.http.post(f"{BASE}/make-key", data={"name": "ann", "token": "guessed"})
    assert (response.status_code, keys_in(house)) == (403, {})
    assert "This form has expired, or was sent from another site" in words(response)
    foreign = admin.http.post(
        f"{BASE}/make-key", data={"name": "ann"}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert (foreign.status_code, keys_in(house)) == (403, {})


def test_without_keys_this_machine_is_the_operator_and_needs_the_forms_token() -> None:
    app = World(access={"mode": "open"}).app()
    here = Operator(app, None)
    assert "Keys are not used" in here.text("keys")
    assert '<a href="../first-run?step=access">' in here.get("keys").text
    elsewhere = app.test_client().get(
        f"{BASE}/keys", environ_base={"REMOTE_ADDR": "203.0.113.9"}, headers=HTML
    )
    assert elsewhere.status_code == 403
    assert "Without keys, only this machine may administer the proxy." in words(elsewhere)
    assert here.http.post(f"{BASE}/make-key", data={"name": "ann"}).status_code == 403
    refused = here.send("make-key", name="ann")
    assert (refused.status_code, words(refused).partition(".")[0]) == (
        400,
        "Keys are used with access",
    )


def test_the_pages_let_nothing_foreign_in(house: AdminWorld) -> None:
    headers = Operator(house.app()).get("keys").headers
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers


def test_a_made_key_is_shown_once_and_works_at_once(
    house: AdminWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.web.admin_pages")
    app = house.app()
    admin = Operator(app)
    made = admin.send("make-key", name="ann", **RIGHTS)
    plain = shown_once(made)
    assert (made.status_code, plain[:3], len(plain)) == (200, "hp-", 46)
    assert status_of(app, plain) == 200
    assert keys_in(house) == {
        "ann": ClientKey(
            "ann",
            models=("*llama*", "qwen?"),
            endpoints=("horde",),
            requests_per_minute=20,
            concurrent=2,
            tokens_per_day=100_000,
            kudos_per_day=500.5,
            images_per_day=9,
            weight=2.0,
            horde_key="a-horde-key",
            places=("home", "crowd"),
            created=int(house.world.clock()),
        )
    }
    assert plain not in admin.get("keys").text + admin.get("key?name=ann").text
    assert "a-horde-key" not in admin.get("key?name=ann").text
    assert [record.message for record in caplog.records] == [
        "changed by the key admin: made the key ann (20 requests a minute; 2 at a time; "
        "100000 tokens a day; 500.5 kudos a day; 9 images a day; models *llama*, qwen?; "
        "endpoints horde; places home, crowd; weight 2; a horde key of its own)"
    ]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": ""}, "Please correct: a key's name has up to 64 letters"),
        ({"name": "two words"}, "Please correct: a key's name has up to 64 letters"),
        ({"name": "anybody"}, "requests without a key are counted for 'anybody'"),
        ({"name": "guest"}, "The settings have a key 'guest': choose another name."),
        ({"name": "bob"}, "The name `bob` is in use. Choose another, or revoke that key first."),
        ({"tokens_per_day": "many"}, "Please correct: tokens a day: write a whole number."),
        ({"tokens_per_day": "1.5"}, "Please correct: tokens a day: write a whole number."),
        ({"concurrent": "0"}, "Please correct: a limit of 0 at a time is not above 0"),
        ({"kudos_per_day": "nan"}, "Please correct: a limit of nan kudos a day is not above 0"),
        ({"weight": "0"}, "Please correct: a weight is from 0.01 to 100."),
        ({"endpoints": "nowhere"}, "There is no endpoint 'nowhere'."),
        ({"horde_key": "x\ny"}, "the horde key has characters not allowed in an HTTP header"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_lost(
    house: AdminWorld, fields: dict[str, str], problem: str
) -> None:
    admin = Operator(house.app())
    admin.send("make-key", name="bob")
    sent = {"form": "make-key", "name": "ann", "models": "my-model", **fields}
    refused = admin.send("make-key", **sent)
    assert refused.status_code in (400, 409)
    assert problem in words(refused)
    assert 'value="my-model"' in refused.text
    assert list(keys_in(house)) == ["bob"]


def test_changed_limits_hold_in_every_process(house: AdminWorld) -> None:
    one, two = house.app(), house.app()
    admin = Operator(one)
    plain = shown_once(admin.send("make-key", name="ann", **{**RIGHTS, "horde_key": CLIENT_KEY}))
    house.world.clock.sleep(6)
    assert status_of(two, plain) == 200
    changed = admin.send("change-key", name="ann", requests_per_minute="1", weight="1")
    assert (changed.status_code, changed.headers["Location"]) == (
        303,
        "key?done=change-key&name=ann",
    )
    assert "The key was changed." in admin.text("key?done=change-key&name=ann")
    [key] = keys_in(house).values()
    assert (key.requests_per_minute, key.models, key.horde_key) == (1, (), CLIENT_KEY)
    house.world.employ(Scripted("Hello."))
    house.world.clock.sleep(6)
    headers = {"Authorization": f"Bearer {plain}"}
    http = two.test_client()
    statuses = [
        http.post("/v1/chat/completions", json=CHAT, headers=headers).status_code for _ in "ab"
    ]
    assert statuses == [200, 429]
    admin.send("change-key", name="ann", **{"no-horde-key": "on"})
    assert keys_in(house)["ann"].horde_key is None


def test_a_revoked_key_is_refused_by_every_process(house: AdminWorld) -> None:
    one, two = house.app(), house.app()
    admin = Operator(one)
    plain = shown_once(admin.send("make-key", name="ann"))
    house.world.clock.sleep(6)
    assert (status_of(one, plain), status_of(two, plain)) == (200, 200)
    revoked = admin.send("revoke-key", name="ann")
    assert (revoked.status_code, revoked.headers["Location"]) == (303, "keys?done=revoke-key")
    assert status_of(one, plain) == 401
    house.world.clock.sleep(6)
    assert status_of(two, plain) == 401
    assert "key?name=ann" not in admin.get("keys").text
    assert "ann revoked" in admin.text("keys?state=revoked")
    again = admin.send("make-key", name="ann")
    assert "The name `ann` belonged to a revoked key, whose usage is kept." in words(again)


def test_nobody_revokes_the_key_that_they_use_nor_takes_its_rights(house: AdminWorld) -> None:
    app = house.app()
    plain = shown_once(Operator(app).send("make-key", name="root", admin="on"))
    root = Operator(app, plain)
    assert "You are using this key." in words(root.send("revoke-key", name="root"))
    assert "This is your own key" in words(root.send("change-key", name="root"))
    assert keys_in(house)["root"].admin is True


def test_keys_of_the_settings_are_shown_as_such_and_cannot_be_changed(house: AdminWorld) -> None:
    admin = Operator(house.app())
    assert "guest of the settings file no limits Nothing today" in admin.text("keys")
    page = admin.text("key?name=guest")
    assert "This key is in the settings file, under [access.keys]. Change it there" in page
    assert "Revoke" not in page
    for action in ("change-key", "revoke-key"):
        refused = admin.send(action, name="guest")
        assert (refused.status_code, "This key cannot be" in words(refused)) == (400, True)
    assert admin.get("key?name=nobody").status_code == 404


def test_the_list_shows_the_usage_of_today_and_of_the_week(house: AdminWorld) -> None:
    app = house.app()
    admin = Operator(app)
    admin.send("make-key", name="ann", requests_per_minute="20")
    ledger = house.open_ledger()
    # The world's clock begins in 1970.
    ledger.add_usage(
        [
            Usage("1970-01-01", "ann", "m", "horde", 3, 1, 1000, 234, 5.5, 2),
            Usage("1969-12-28", "ann", "m", "horde", 1, 0, 10, 0, 0.0, 0),
            Usage("1969-12-01", "old", "m", "horde", 1),
        ]
    )
    fingerprint = key_digest("key-of-admin-longer")[:12]
    text = admin.text("keys")
    assert (
        "ann 20 requests a minute Today 3 requests (1 failed), 1,234 tokens, 5.5 kudos, 2 images "
        "· 7 days 4 requests (1 failed), 1,244 tokens, 5.5 kudos, 2 images"
    ) in text
    assert "last used 1970-01-01" in text
    assert f"{fingerprint} never used" in text
    one = admin.text("key?name=ann")
    assert "Last 7 days Requests 4 (1 failed) Tokens 1,244 Kudos 5.5 Images 2" in one
    assert "By model and endpoint m at horde 4 requests · 1,244 tokens" in one


def test_three_hundred_keys_are_paged_and_searched(house: AdminWorld) -> None:
    ledger = house.open_ledger()
    for number in range(300):
        ledger.add_key(f"digest-{number}", ClientKey(f"phone-{number:03}", created=1))
    admin = Operator(house.app())
    first = admin.get("keys")
    assert first.text.count('href="key?name=') == 50
    assert "302 keys" in words(first)
    assert "phone-299" in admin.text("keys?page=7")
    found = admin.get("keys?q=PHONE-12")
    assert found.text.count('href="key?name=') == 10
    assert "10 keys" in words(found)


def test_a_database_that_fails_is_a_503_without_its_name(
    house: AdminWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from horde_proxy.database.errors import DatabaseError
    from horde_proxy.ledger.database import LedgerDatabase

    admin = Operator(house.app())

    def fail(*_: object) -> None:
        raise DatabaseError("postgresql://user@secret-host failed")

    monkeypatch.setattr(LedgerDatabase, "all_keys", fail)
    response = admin.get("keys")
    assert response.status_code == 503
    assert words(response) == (
        "The database does not answer. Try again in some seconds. Back to the page"
    )


def test_an_unknown_page_or_action_is_a_404(house: AdminWorld) -> None:
    admin = Operator(house.app())
    assert (admin.get("nothing").status_code, admin.send("nothing").status_code) == (404, 404)
    assert admin.http.get(BASE).headers["Location"] == "admin/"
    assert admin.get("").headers["Location"] == "keys"
    assert ADMIN not in admin.get("keys").text


def test_the_page_leads_its_operator_here_and_nobody_else(house: AdminWorld) -> None:
    app = house.app()
    link = '<a href="page/admin/">Admin</a>'
    assert link in Operator(app).http.get("/", headers=HTML).text
    assert link not in Operator(app, GUEST).http.get("/", headers=HTML).text


def test_the_page_leads_to_the_first_run_only_its_operator_where_there_are_settings(
    house: AdminWorld, tmp_path: Path
) -> None:
    link = '<a href="page/first-run">First start</a>'
    filed = FiledWorld(tmp_path).app()
    assert link in Operator(filed).http.get("/", headers=HTML).text
    assert link not in Operator(filed, GUEST).http.get("/", headers=HTML).text


def test_numbers_that_no_database_holds_are_refused(tmp_path: Path) -> None:
    operator = Operator(AdminWorld(tmp_path).app())
    for field, number, reason in (
        ("requests_per_minute", "99999999999999999999", "requests a minute: write a whole number"),
        ("requests_per_minute", "9" * 400, "requests a minute: write a whole number"),
        ("tokens_per_day", str(2 * 10**15), "a limit is 1,000,000,000,000,000 "),
        ("kudos_per_day", "1e300", "a limit is 1,000,000,000,000,000 "),
        ("weight", "9" * 400, "a weight is from 0.01 to 100"),
    ):
        response = operator.send("make-key", name="bob", **{field: number})
        assert response.status_code == 400, field
        assert f"Please correct: {reason}" in words(response)
