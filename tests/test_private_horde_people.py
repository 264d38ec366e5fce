"""The people of a private horde: joining, keys, rights, kudos, shared keys, blocks, deletion."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from horde_proxy.key_digest import key_digest
from horde_proxy.private_horde import AccessRules, PrivateHorde, blueprint
from horde_proxy.private_horde.errors import HordeError
from horde_proxy.private_horde.membership import month_after
from horde_proxy.private_horde.records import (
    AccountKey,
    HordeAccount,
    HordeRequest,
    HordeSharedKey,
    Invitation,
    LedgerEntry,
)
from horde_proxy.private_horde.store.base import Store
from horde_proxy.private_horde.store.memory import MemoryStore
from horde_proxy.private_horde.store.opening import open_store
from tests.support import HordeCalls

ADMIN, MOD, ANN, BEN = "<admin-key>", "<mod-key>", "<ann-key>", "<ben-key>"
ANONYMOUS = "0000000000"
DAY = 86_400.0
SUBMIT = "generate/text/async"
# 2026-11-29 12:00:00 UTC
START = 1_795_953_600.0


class Village(HordeCalls):
    """A horde with an administrator, a moderator and two members, behind a test client."""

    def __init__(self, store: Store, **rules: Any) -> None:
        self.now = START
        access = AccessRules(**{"registration": "invitation", **rules})
        self.horde = PrivateHorde(
            store=store, clock=lambda: self.now, rate_limits=False, access=access
        )
        for key, name, kudos, roles in (
            (ADMIN, "admin", 0.0, ("admin",)),
            (MOD, "mod", 0.0, ("moderator",)),
            (ANN, "ann", 1000.0, ()),
            (BEN, "ben", 0.0, ()),
        ):
            self.horde.add_account(key, name, kudos=kudos, roles=roles)
        app = Flask("people")
        app.register_blueprint(blueprint(self.horde))
        self.client = app.test_client()

    def rc(self, method: str, path: str, key: str | None = None, body: Any = None) -> Any:
        """(status, rc) of a refusal."""
        response = self.call(method, path, key, body)
        return response.status_code, (response.json or {}).get("rc")

    def user(self, key: str) -> Any:
        return self.must("GET", "find_user", key)

    def kudos(self, *keys: str) -> list[float]:
        return [self.user(key)["kudos"] for key in keys]

    def invitation(self, key: str = MOD, **fields: Any) -> str:
        return str(self.must("POST", "invitations", key, fields)["invitation"])

    def join(self, name: str, token: str | None = None) -> Any:
        body = {"username": name} if token is None else {"username": name, "invitation": token}
        return self.must("POST", "register", None, body)

    def submit(self, key: str, max_length: int = 80, **fields: Any) -> str:
        body = {"prompt": "x", "params": {"max_length": max_length}, **fields}
        return str(self.must("POST", SUBMIT, key, body)["id"])

    def work(self, owner: str = BEN) -> None:
        """Pop a job and deliver it."""
        pop = {"name": f"worker of {owner}", "models": ["koboldcpp/one-8B"], "max_length": 512}
        job = self.must("POST", "generate/text/pop", owner, {**pop, "max_context_length": 9000})
        result = {"id": job["id"], "generation": "hello " * 40}
        self.must("POST", "generate/text/submit", owner, result)

    def shared_key(self, key: str = ANN, **fields: Any) -> str:
        return str(self.must("PUT", "sharedkeys", key, fields)["id"])

    def sums_up(self) -> bool:
        """Whether each account has what its entries in the ledger say."""
        with self.horde.store.snapshot() as tx:
            for account in tx.page(HordeAccount, "id", descending=False, offset=0, limit=99):
                entries = tx.find(LedgerEntry, account_id=account.id)
                if abs(sum(entry.amount for entry in entries) - account.kudos) > 1e-6:
                    return False
        return True


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = MemoryStore() if request.param == "memory" else open_store(f"sqlite:///{tmp_path}/h.db")
    yield made
    made.close()


@pytest.fixture
def village() -> Village:
    return Village(MemoryStore())


# Joining


def test_an_invitation_lets_so_many_people_in(store: Store) -> None:
    village = Village(store)
    token = village.invitation(uses=2, note="family")
    cleo, dan = village.join("cleo", token), village.join("cleo", token)
    assert (cleo["username"], dan["username"]) == ("cleo#5", "cleo#6")
    assert village.user(cleo["api_key"])["kudos"] == 25.0
    refused = village.rc("POST", "register", None, {"username": "eve", "invitation": token})
    assert refused == (403, "InvalidInvitation")
    assert village.must("GET", "invitations", MOD) == []


def test_keys_have_the_length_that_horde_sdk_takes(village: Village) -> None:
    keys = [village.join("x", village.invitation())["api_key"] for _ in range(5)]
    assert {len(key) for key in keys} == {22}
    assert all(key.replace("-", "").replace("_", "").isalnum() for key in keys)


def test_an_invitation_ends(village: Village) -> None:
    token = village.invitation(days=1)
    endless = village.invitation(days=0)
    village.now += DAY
    body = {"username": "eve", "invitation": token}
    assert village.rc("POST", "register", None, body) == (403, "InvalidInvitation")
    assert village.join("eve", endless)["id"] == 5


def test_an_invitation_can_be_withdrawn(village: Village) -> None:
    token = village.invitation()
    [listed] = village.must("GET", "invitations", MOD)
    assert "invitation" not in listed
    assert village.must("DELETE", f"invitations/{listed['id']}", MOD) == {"message": "OK"}
    body = {"username": "eve", "invitation": token}
    assert village.rc("POST", "register", None, body) == (403, "InvalidInvitation")
    again = village.rc("DELETE", f"invitations/{listed['id']}", MOD)
    assert again == (404, "InvitationNotFound")
    assert village.rc("DELETE", "invitations/x", MOD) == (404, "InvitationNotFound")


@pytest.mark.parametrize(
    ("registration", "expected"),
    [("open", 201), ("invitation", (403, "InvitationRequired")), ("closed", None)],
)
def test_who_may_join_is_a_setting(registration: str, expected: Any) -> None:
    village = Village(MemoryStore(), registration=registration)
    response = village.call("POST", "register", None, {"username": "eve"})
    if expected == 201:
        assert response.status_code == 201
    elif expected is not None:
        assert (response.status_code, (response.json or {})["rc"]) == expected
    else:
        token = village.invitation()
        body = {"username": "eve", "invitation": token}
        assert village.rc("POST", "register", None, body) == (403, "RegistrationClosed")


def test_only_administrators_give_kudos_with_an_invitation(village: Village) -> None:
    assert village.rc("POST", "invitations", MOD, {"kudos": 5}) == (403, "NotAdmin")
    joined = village.join("eve", village.invitation(ADMIN, kudos=75))
    assert village.kudos(joined["api_key"]) == [100.0]
    assert village.rc("POST", "invitations", ANN, {}) == (403, "NotModerator")


@pytest.mark.parametrize("name", ["", " ", "a#1", "a\nb", "x" * 31])
def test_names_are_short_and_visible(village: Village, name: str) -> None:
    token = village.invitation()
    response = village.call("POST", "register", None, {"username": name, "invitation": token})
    assert response.status_code == 400
    # The invitation is not used up by a mistake.
    assert village.join("eve", token)["id"] == 5


def test_joining_is_slowed_also_without_rate_limits(village: Village) -> None:
    bodies = [{"username": "x", "invitation": f"guess {n}"} for n in range(12)]
    statuses = [village.call("POST", "register", None, body).status_code for body in bodies]
    assert statuses == [403] * 10 + [429] * 2


def test_the_store_has_no_key_and_no_token(store: Store) -> None:
    village = Village(store)
    token = village.invitation(uses=2)
    key = village.join("cleo", token)["api_key"]
    with store.snapshot() as tx:
        [invitation] = tx.find(Invitation, digest=key_digest(token))
        [kept] = tx.find(AccountKey, account_id=5)
        assert kept.digest == key_digest(key)
        assert not any(secret in f"{vars(kept)}{vars(invitation)}" for secret in (key, token))
        assert not any(part in repr([kept, invitation]) for part in (kept.digest, token))


# Keys


def test_an_account_has_several_keys_and_replaces_them(store: Store) -> None:
    village = Village(store)
    village.now += 1
    phone = village.must("POST", "users/3/keys", ANN, {"name": "phone"})
    assert village.user(phone["api_key"])["username"] == "ann#3"
    first, second = village.must("GET", "users/3/keys", ANN)
    assert (first["name"], second["name"]) == ("", "phone")
    village.now += 1
    body = {"name": "phone", "replace": second["fingerprint"]}
    new = village.must("POST", "users/3/keys", ANN, body)["api_key"]
    assert village.rc("GET", "find_user", phone["api_key"]) == (404, "UserNotFound")
    assert village.user(new)["username"] == "ann#3"
    village.must("DELETE", f"users/3/keys/{first['fingerprint']}", new)
    assert village.rc("GET", "find_user", ANN) == (404, "UserNotFound")
    assert [key["name"] for key in village.must("GET", "users/3/keys", new)] == ["phone"]


def test_an_account_has_ten_keys_at_most(village: Village) -> None:
    for _ in range(9):
        village.must("POST", "users/3/keys", ANN, {})
    assert village.rc("POST", "users/3/keys", ANN, {}) == (403, "Forbidden")
    assert village.rc("DELETE", "users/3/keys/abc", ANN) == (404, "KeyNotFound")


def test_the_key_of_the_settings_is_changed_there(village: Village) -> None:
    owner: Any = {"kudos": 1, "concurrency": 5, "is_from_settings": True}
    village.horde.ensure_owner("<owner-key>", **owner)
    [key] = village.must("GET", "users/5/keys", "<owner-key>")
    assert key["origin"] == "settings"
    path = f"users/5/keys/{key['fingerprint']}"
    assert village.rc("DELETE", path, "<owner-key>") == (403, "Forbidden")


def test_a_moderator_cannot_take_the_rights_of_others(village: Village) -> None:
    assert village.rc("POST", "users/1/keys", MOD, {}) == (403, "NotAdmin")
    assert village.rc("GET", "users/2/keys", ANN) == (403, "NotModerator")
    assert village.call("POST", "users/3/keys", MOD, {}).status_code == 201
    assert village.call("POST", "users/2/keys", ADMIN, {}).status_code == 201
    assert village.rc("POST", "users/0/keys", ADMIN, {}) == (403, "AnonForbidden")


# Rights and changes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"username": "anna"}, ("ann", "mod", "admin")),
        ({"contact": "x@example.invalid"}, ("ann", "mod", "admin")),
        ({"trusted": True}, ("mod", "admin")),
        ({"blocked": True}, ("mod", "admin")),
        ({"concurrency": 7}, ("mod", "admin")),
        ({"kudos": 5}, ("admin",)),
        ({"moderator": True}, ("admin",)),
        ({"usage_multiplier": 2}, ("admin",)),
        ({"contact": "x", "kudos": 5}, ("admin",)),
    ],
)
def test_who_may_change_an_account(change: Any, expected: tuple[str, ...]) -> None:
    allowed = []
    for name, key in (("ann", ANN), ("ben", BEN), ("mod", MOD), ("admin", ADMIN)):
        village = Village(MemoryStore())
        status, rc = village.rc("PUT", "users/3", key, change)
        assert (status, rc) in ((200, None), (403, "NotAdmin"), (403, "NotModerator"))
        if status == 200:
            allowed.append(name)
    assert tuple(allowed) == expected


def test_a_refused_change_changes_nothing(store: Store) -> None:
    village = Village(store)
    body = {"contact": "x", "username": "y" * 31}
    assert village.rc("PUT", "users/3", ANN, body) == (400, "TooLongUserName")
    assert "contact" not in village.user(ANN)


def test_moderators_leave_each_other_alone(village: Village) -> None:
    assert village.rc("PUT", "users/1", MOD, {"blocked": True}) == (403, "NotAdmin")
    assert village.must("PUT", "users/2", ADMIN, {"blocked": True}) == {"blocked": True}
    assert village.rc("POST", "invitations", MOD, {}) == (403, "BlockedUser")


def test_the_anonymous_account_cannot_become_a_moderator(village: Village) -> None:
    refused = village.rc("PUT", "users/0", ADMIN, {"moderator": True})
    assert refused == (403, "AnonForbidden")
    assert village.rc("PUT", "users/0", ANONYMOUS, {"username": "x"}) == (403, "NotModerator")


def test_education_brings_places_and_loses_them(village: Village) -> None:
    changed = village.must("PUT", "users/3", MOD, {"education": True})
    assert changed == {"concurrency": 200, "education": True}
    changed = village.must("PUT", "users/3", MOD, {"education": False})
    assert changed == {"concurrency": 30, "education": False}


def test_a_usage_multiplier_makes_requests_dearer(store: Store) -> None:
    village = Village(store)
    village.must("PUT", "users/3", ADMIN, {"usage_multiplier": 2})
    village.submit(ANN)
    assert village.kudos(ANN) == [998.0]
    assert village.sums_up()


def test_the_kudos_of_flagged_accounts_count_a_thousandth(village: Village) -> None:
    village.must("PUT", "users/3", MOD, {"flagged": True})
    village.must("PUT", "users/4", ADMIN, {"kudos": 2})
    flagged, other = village.submit(ANN), village.submit(BEN)
    paths = [f"generate/text/status/{request}" for request in (other, flagged)]
    assert [village.must("GET", path)["queue_position"] for path in paths] == [1, 2]


def test_vips_need_no_kudos_upfront(village: Village) -> None:
    village.horde.upfront_kudos = True
    body = {"prompt": "x", "params": {"max_length": 2000}}
    assert village.rc("POST", SUBMIT, BEN, body) == (403, "KudosUpfront")
    village.must("PUT", "users/4", MOD, {"special": True})
    assert village.call("POST", SUBMIT, BEN, body).status_code == 202


def test_the_list_of_users_has_pages_and_two_orders(store: Store) -> None:
    village = Village(store, registration="open")
    for number in range(24):
        village.horde.administration.add(f"u{number}")
    names = [user["username"] for user in village.must("GET", "users")]
    assert (len(names), names[0]) == (25, "ann#3")
    rest = village.must("GET", "users?page=2")
    assert [user["username"] for user in rest][-1] == "Anonymous#0"
    assert len(rest) == 4
    by_age = village.must("GET", "users?sort=age")
    assert [user["id"] for user in by_age[:3]] == [0, 1, 2]
    assert village.must("GET", "users?page=99999999999999999999") == []
    assert village.call("GET", "users?page=x").status_code == 400


def test_what_others_see_of_an_account(village: Village) -> None:
    village.must("PUT", "users/3", ANN, {"contact": "ann@example.invalid"})
    village.must("PUT", "users/3", MOD, {"admin_comment": "nice"})
    seen = {
        name: village.must("GET", "users/3", key)
        for name, key in (("nobody", None), ("ben", BEN), ("ann", ANN), ("mod", MOD))
    }
    assert [name for name, user in seen.items() if "contact" in user] == ["ann", "mod"]
    assert [name for name, user in seen.items() if "sharedkey_ids" in user] == ["ann", "mod"]
    assert [name for name, user in seen.items() if "admin_comment" in user] == ["mod"]


def test_moderators_do_not_see_shared_keys_of_other_moderators(village: Village) -> None:
    village.horde.add_account("<mod2-key>", "mod2", roles=("moderator",))
    key, secret = village.shared_key(MOD), village.shared_key(ADMIN)
    seen = {
        (number, name): village.must("GET", f"users/{number}", sent).get("sharedkey_ids")
        for number in (1, 2)
        for name, sent in (("ann", ANN), ("mod2", "<mod2-key>"), ("mod", MOD), ("admin", ADMIN))
    }
    assert {who: ids for who, ids in seen.items() if ids is not None} == {
        (1, "admin"): [secret],
        (2, "mod"): [key],
        (2, "admin"): [key],
    }


@pytest.mark.parametrize("number", ["٣", "-1", "1e3", "9" * 30, "ann%233"])
def test_other_numbers_are_nobody(village: Village, number: str) -> None:
    assert village.rc("GET", f"users/{number}") == (404, "UserNotFound")


# Blocks and deletion


def test_a_blocked_account_may_only_look(store: Store) -> None:
    village = Village(store)
    key = village.shared_key()
    village.must("PUT", "users/3", MOD, {"blocked": True})
    pop = {"name": "w", "models": ["one"]}
    for path, sent, body in (
        (SUBMIT, ANN, {"prompt": "x"}),
        (SUBMIT, key, {"prompt": "x"}),
        ("generate/text/pop", ANN, pop),
        ("kudos/transfer", ANN, {"username": "ben#4", "amount": 1}),
        ("users/3/keys", ANN, {}),
    ):
        assert village.rc("POST", path, sent, body) == (403, "BlockedUser")
    assert village.user(ANN)["blocked"] is True
    village.must("PUT", "users/3", MOD, {"blocked": False})
    village.submit(ANN)


def test_a_blocked_moderator_moderates_nobody(village: Village) -> None:
    village.must("PUT", "users/3", ANN, {"contact": "ann@example.invalid"})
    village.submit(ANN)
    village.work(BEN)
    village.submit(ANN)
    [worker] = village.must("GET", "workers")
    own = village.submit(MOD)
    village.must("PUT", "users/2", ADMIN, {"blocked": True})
    assert village.rc("DELETE", "users/3", MOD) == (403, "BlockedUser")
    assert not {"contact", "sharedkey_ids"} & set(village.must("GET", "users/3", MOD))
    assert "ipaddr" not in village.must("GET", f"workers/{worker['id']}", MOD)
    assert "ipaddr" in village.must("GET", f"workers/{worker['id']}", ADMIN)
    assert [entry["id"] for entry in village.horde.queue(MOD)["requests"]] == [own]
    assert village.horde.people.caller(MOD)["moderator"] is False
    assert village.user(MOD)["moderator"] is True


def test_a_deleted_account_is_restored_or_wiped(store: Store) -> None:
    village = Village(store)
    village.must("DELETE", "users/3", ANN)
    assert village.rc("POST", SUBMIT, ANN, {"prompt": "x"}) == (403, "DeletedUser")
    transfer = {"username": "ann#3", "amount": 1}
    assert village.rc("POST", "kudos/transfer", BEN, transfer) == (400, "InvalidTargetUsername")
    assert village.rc("DELETE", "users/3", ANN) == (403, "CannotWipeActiveUser")
    village.must("PUT", "users/3", MOD, {"undelete": True})
    village.submit(ANN)
    key = village.shared_key()
    village.must("DELETE", "users/3", ANN)
    village.now += 30 * DAY
    village.must("DELETE", "users/3", ANN)
    assert village.rc("GET", "find_user", ANN) == (404, "UserNotFound")
    assert village.rc("GET", f"sharedkeys/{key}") == (401, "InvalidAPIKey")
    wiped = village.must("GET", "users/3")
    assert (wiped["username"], wiped["kudos"], wiped["deleted"]) == ("deleted#3", 0.0, True)
    assert village.sums_up()


# Kudos


def test_a_transfer_moves_kudos_and_is_counted_at_both(store: Store) -> None:
    village = Village(store)
    village.must("POST", "kudos/transfer", ANN, {"username": "ben#4", "amount": 40})
    ann, ben = village.user(ANN), village.user(BEN)
    assert (ann["kudos"], ann["kudos_details"]["gifted"]) == (960.0, -40.0)
    assert (ben["kudos"], ben["kudos_details"]["received"]) == (40.0, 40.0)
    with store.snapshot() as tx:
        [entry] = tx.find(LedgerEntry, account_id=4)
    assert (entry.amount, entry.reason, entry.partner_id) == (40.0, "received", 3)
    assert village.sums_up()


def test_kudos_go_back_after_a_minute(village: Village) -> None:
    village.must("POST", "kudos/transfer", ANN, {"username": "ben#4", "amount": 40})
    back = {"username": "ann#3", "amount": 10}
    assert village.rc("POST", "kudos/transfer", BEN, back) == (400, "TooFastKudosTransfers")
    village.now += 60
    assert village.must("POST", "kudos/transfer", BEN, back) == {"transferred": 10.0}


@pytest.mark.parametrize("amount", [0.5, 10.5, 0])
def test_kudos_are_sent_whole(village: Village, amount: float) -> None:
    body = {"username": "ben#4", "amount": amount}
    assert village.rc("POST", "kudos/transfer", ANN, body) == (400, "InvalidKudosTransferAmount")


def test_what_is_reserved_for_a_request_cannot_be_sent(village: Village) -> None:
    village.horde.upfront_kudos = True
    village.submit(ANN, 2000, models=["koboldcpp/one-8B"])
    held = 2000 / 21
    body: Any = {"username": "ben#4", "amount": 999 - int(held)}
    assert village.rc("POST", "kudos/transfer", ANN, body) == (400, "KudosTransferNotEnough")
    body["amount"] -= 1
    assert village.call("POST", "kudos/transfer", ANN, body).status_code == 200


def test_an_idempotency_key_is_known_for_a_day(store: Store) -> None:
    village = Village(store)
    for hours, expected in ((0, 990.0), (1, 990.0), (25, 980.0)):
        village.now = START + hours * 3600
        body = {"username": "ben#4", "amount": 10}
        headers = {"Idempotency-Key": "k-1"}
        response = village.call("POST", "kudos/transfer", ANN, body, **headers)
        assert response.json == {"transferred": 10.0}
        assert village.kudos(ANN) == [expected]


def test_transfers_at_the_same_time_lose_no_kudos(store: Store) -> None:
    village = Village(store)
    people = village.horde.people
    ring = ((ANN, "ben#4"), (BEN, "mod#2"), (MOD, "ann#3"))
    for name in ("ben#4", "mod#2"):
        village.must("POST", "kudos/award", ADMIN, {"username": name, "amount": 1000})
    before = village.kudos(ANN, BEN, MOD)

    def send(number: int) -> None:
        key, username = ring[number % 3]
        people.transfer(key, {"username": username, "amount": 1 + number % 3})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(send, range(30)))
    assert before == [1000.0, 1000.0, 1000.0]
    # Each sent ten times 1, 2 or 3, and got ten times what the one before sent.
    assert village.kudos(ANN, BEN, MOD) == [1020.0, 990.0, 990.0]
    assert village.sums_up()


def test_requests_at_the_same_time_spend_no_more_than_a_shared_key_has(store: Store) -> None:
    village = Village(store)
    key = village.shared_key(kudos=100, max_requests=2)

    def send(_: int) -> str:
        try:
            body = {"prompt": "x", "params": {"max_length": 80}}
            return str(village.horde.submit(key, body)["kudos"])
        except HordeError as error:
            return str(error.rc)

    with ThreadPoolExecutor(6) as pool:
        outcomes = sorted(pool.map(send, range(6)))
    assert outcomes == ["0.0", "0.0", *["SharedKeyLimitExceeded"] * 4]


def test_an_invitation_is_used_once_by_people_who_join_at_the_same_time(store: Store) -> None:
    village = Village(store)
    token = village.invitation()

    def join(number: int) -> str:
        try:
            body = {"username": f"u{number}", "invitation": token}
            return str(village.horde.people.register(body)["username"])[0]
        except HordeError as error:
            return str(error.rc)

    with ThreadPoolExecutor(6) as pool:
        outcomes = sorted(pool.map(join, range(6)))
    assert outcomes == [*["InvalidInvitation"] * 5, "u"]


def test_awards_are_given_by_administrators(village: Village) -> None:
    body = {"username": "ben#4", "amount": 3}
    assert village.rc("POST", "kudos/award", MOD, body) == (403, "NotAllowedAwards")
    assert village.must("POST", "kudos/award", ADMIN, body) == {"awarded": 3.0}
    assert village.user(BEN)["kudos_details"]["awarded"] == 3.0


def test_monthly_kudos_are_paid_at_once_and_each_month(store: Store) -> None:
    village = Village(store)
    village.must("PUT", "users/4", ADMIN, {"monthly_kudos": 100})
    paid = []
    # Also for months in which nobody called the horde.
    for days in (0, 20, 11, 70):
        village.now += days * DAY
        for _ in range(4):
            village.kudos(BEN)
        paid += village.kudos(BEN)
    assert paid == [100.0, 100.0, 200.0, 400.0]
    assert village.user(BEN)["kudos_details"]["recurring"] == 400.0
    village.must("PUT", "users/4", ADMIN, {"monthly_kudos": -100})
    village.now += 365 * DAY
    assert village.kudos(BEN) == [400.0]
    assert village.sums_up()


def test_a_clock_that_goes_back_pays_no_month_early(village: Village) -> None:
    village.must("PUT", "users/4", ADMIN, {"monthly_kudos": 100})
    village.now -= 400 * DAY
    village.kudos(BEN)
    village.now += 29 * DAY
    assert village.kudos(BEN, BEN) == [100.0, 100.0]


def test_months_end_on_the_twenty_eighth_at_most() -> None:
    january = START + 63 * DAY
    assert [month_after(START), month_after(january)] == [
        # 2026-12-28 and, of 2027-01-31, 2027-02-28.
        START + 29 * DAY,
        january + 28 * DAY,
    ]


# Shared keys


def test_the_owner_pays_for_a_shared_key(store: Store) -> None:
    village = Village(store)
    key = village.shared_key(kudos=100, name="family")
    village.submit(key)
    village.work()
    spent = 1000 - village.kudos(ANN)[0]
    shown = village.must("GET", f"sharedkeys/{key}")
    assert spent > 2
    assert (shown["kudos"], shown["utilized"]) == (int(100 - spent), round(spent))
    with store.snapshot() as tx:
        record = tx.get(HordeSharedKey, key)
    assert record is not None
    assert record.held == pytest.approx(0)
    assert record.utilized == pytest.approx(spent)
    assert village.sums_up()


def test_what_is_reserved_at_a_shared_key_is_not_spent_twice(village: Village) -> None:
    key = village.shared_key(kudos=100)
    first = village.submit(key, 80)
    refused = village.rc("POST", SUBMIT, key, {"prompt": "x", "params": {"max_length": 200}})
    assert refused == (403, "SharedKeyInsufficientKudos")
    village.must("DELETE", f"generate/text/status/{first}")
    village.submit(key, 200)


def test_charges_that_come_later_are_counted_at_the_key(village: Village) -> None:
    village.horde.settle_every = 3
    key = village.shared_key(kudos=100)
    village.submit(key)
    assert village.must("GET", f"sharedkeys/{key}")["utilized"] == 0
    village.now += 3
    village.kudos(ANN)
    assert village.must("GET", f"sharedkeys/{key}")["utilized"] == 1


def test_a_shared_key_sends_so_many_requests(village: Village) -> None:
    key = village.shared_key(max_requests=2)
    village.submit(key)
    village.submit(key)
    response = village.call("POST", SUBMIT, key, {"prompt": "x"})
    assert (response.status_code, response.json) == (
        403,
        {
            "message": "This shared key has sent all of its 2 requests.",
            "rc": "SharedKeyLimitExceeded",
        },
    )
    shown = village.must("GET", f"sharedkeys/{key}")
    assert (shown["max_requests"], shown["requests"]) == (2, 2)
    # A change is from now on.
    village.must("PATCH", f"sharedkeys/{key}", ANN, {"max_requests": 1})
    village.submit(key)
    assert village.rc("POST", SUBMIT, key, {"prompt": "x"})[0] == 403


def test_a_shared_key_expires(village: Village) -> None:
    key = village.shared_key(expiry=2)
    village.submit(key)
    village.now += 2 * DAY
    assert village.rc("POST", SUBMIT, key, {"prompt": "x"}) == (403, "SharedKeyExpired")
    village.must("PATCH", f"sharedkeys/{key}", ANN, {"expiry": -1})
    village.submit(key)


def test_kudos_sent_to_a_shared_key_may_be_spent_with_it(village: Village) -> None:
    key = village.shared_key(BEN, kudos=0)
    village.must("POST", "kudos/transfer", ANN, {"username": key, "amount": 50})
    assert village.must("GET", f"sharedkeys/{key}")["kudos"] == 50
    assert village.kudos(BEN) == [50.0]
    village.submit(key)


def test_an_empty_key_is_anonymous_only_where_that_is_allowed() -> None:
    village = Village(MemoryStore(), anonymous=False)
    key = village.shared_key(kudos=0)
    body = {"prompt": "x", "allow_downgrade": True}
    assert village.rc("POST", SUBMIT, key, body) == (403, "SharedKeyEmpty")


@pytest.mark.parametrize(("role", "most"), [(None, 3), ("trusted", 10)])
def test_how_many_shared_keys_an_account_has(village: Village, role: str | None, most: int) -> None:
    if role:
        village.must("PUT", "users/3", MOD, {role: True})
    for _ in range(most):
        village.shared_key()
    assert village.rc("PUT", "sharedkeys", ANN, {}) == (403, "Forbidden")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "generate/text/pop", {"name": "w", "models": ["one"]}),
        ("POST", "kudos/transfer", {"username": "ben#4", "amount": 1}),
        ("PUT", "sharedkeys", {}),
        ("PUT", "users/3", {"contact": "x"}),
        ("POST", "users/3/keys", {}),
        ("GET", "users/3", None),
    ],
)
def test_a_shared_key_is_for_requests_only(
    village: Village, method: str, path: str, body: Any
) -> None:
    key = village.shared_key()
    assert village.rc(method, path, key, body) == (401, "InvalidAPIKey")


def test_a_key_deleted_while_its_request_waits_lets_it_finish(store: Store) -> None:
    village = Village(store)
    key = village.shared_key()
    request = village.submit(key)
    village.must("DELETE", f"sharedkeys/{key}", ANN)
    village.work()
    assert village.must("GET", f"generate/text/status/{request}")["done"] is True
    assert village.sums_up()


# Anonymous use


def test_anonymous_requests_have_limits_of_their_own() -> None:
    village = Village(MemoryStore(), anonymous_concurrency=2, anonymous_max_length=100)
    long = {"prompt": "x", "params": {"max_length": 101}}
    response = village.call("POST", SUBMIT, ANONYMOUS, long)
    assert (response.status_code, response.json) == (
        403,
        {
            "message": "Anonymous requests may have at most 100 tokens here. Use a key of your "
            "own.",
            "rc": "KudosUpfront",
        },
    )
    cut = village.must("POST", SUBMIT, ANONYMOUS, {**long, "allow_downgrade": True})["id"]
    with village.horde.store.snapshot() as tx:
        request = tx.get(HordeRequest, cut)
    assert request is not None and request.max_length == 100
    village.submit(ANONYMOUS)
    assert village.rc("POST", SUBMIT, ANONYMOUS, {"prompt": "x"}) == (429, "TooManyPrompts")
    village.submit(BEN, 101)


def test_anonymous_limits_are_those_of_the_newest_settings(store: Store) -> None:
    Village(store, anonymous_concurrency=2).user(ANONYMOUS)
    rules = AccessRules(anonymous_concurrency=9)
    horde = PrivateHorde(store=store, clock=lambda: START, access=rules)
    assert horde.people.find_user(ANONYMOUS)["concurrency"] == 9
