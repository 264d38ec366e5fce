"""The private horde's pages: who may see and do what, and what they never show."""

# Rows of the table are lines of a page, which may be longer than those of code.
# ruff: noqa: E501

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from horde_proxy import create_app
from horde_proxy.app.runtime import open_horde_store
from horde_proxy.key_digest import key_digest
from horde_proxy.web import horde_pages
from horde_proxy.web.horde_actions import ACTIONS
from horde_proxy.web.horde_pages import PAGES
from tests.support import World, known

OWNER = "owner-key-of-a-private-horde"
DOCS = Path(__file__).parent.parent / "docs" / "security.md"
HOSTILE = "<script>alert(1)</script>'\"&"
BASE = "/page/horde"

# In order: what ends something comes last. "own": it shows or changes what is the visitor's own.
TABLE = """
| | nobody | a member | a moderator | an administrator |
|---|---|---|---|---|
| GET / | yes | yes | yes | yes |
| GET /join | yes | yes | yes | yes |
| GET /account | 401 | own | own | own |
| GET /queue | 401 | own | yes | yes |
| GET /workers | 401 | own | yes | yes |
| GET /teams | 401 | yes | yes | yes |
| GET /messages | 401 | own | yes | yes |
| GET /news | yes | yes | yes | yes |
| GET /people | 401 | 403 | yes | yes |
| GET /person | 401 | 403 | yes | yes |
| GET /invitations | 401 | 403 | yes | yes |
| GET /filters | 401 | 403 | yes | yes |
| GET /timeouts | 401 | 403 | yes | yes |
| GET /rules | 401 | 403 | yes | yes |
| POST /make-key | 401 | own | own | own |
| POST /delete-key | 401 | own | own | own |
| POST /make-shared-key | 401 | own | own | own |
| POST /change-shared-key | 401 | own | own | own |
| POST /delete-shared-key | 401 | own | own | own |
| POST /send-kudos | 401 | own | own | own |
| POST /change-account | 401 | own | own | own |
| POST /found-team | 401 | 403 | yes | yes |
| POST /change-team | 401 | 403 | yes | yes |
| POST /join-team | 401 | 403 | yes | yes |
| POST /leave-team | 401 | 403 | yes | yes |
| POST /delete-team | 401 | 403 | yes | yes |
| POST /send-message | 401 | 403 | yes | yes |
| POST /delete-message | 401 | 403 | yes | yes |
| POST /publish-news | 401 | 403 | 403 | yes |
| POST /delete-news | 401 | 403 | 403 | yes |
| POST /add-filter | 401 | 403 | yes | yes |
| POST /change-filter | 401 | 403 | yes | yes |
| POST /try-prompt | 401 | 403 | yes | yes |
| POST /delete-filter | 401 | 403 | yes | yes |
| POST /add-timeout | 401 | 403 | yes | yes |
| POST /delete-timeout | 401 | 403 | yes | yes |
| POST /block-worker | 401 | 403 | yes | yes |
| POST /rest-worker | 401 | 403 | yes | yes |
| POST /change-worker | 401 | 403 | yes | yes |
| POST /pause-worker | 401 | 403 | yes | yes |
| POST /delete-worker | 401 | 403 | yes | yes |
| POST /cancel | 401 | yes | yes | yes |
| POST /invite | 401 | 403 | yes | yes |
| POST /withdraw | 401 | 403 | yes | yes |
| POST /set-mode | 401 | 403 | 403 | yes |
| POST /change-person | 401 | 403 | yes | yes |
| POST /give-kudos | 401 | 403 | 403 | yes |
| POST /make-persons-key | 401 | 403 | yes | yes |
| POST /block | 401 | 403 | yes | yes |
| POST /delete-person | 401 | 403 | yes | yes |
| POST /restore-person | 401 | 403 | yes | yes |
| POST /delete-account | 401 | own | 403 | 403 |
"""


class Home:
    """A private horde with an administrator, a moderator, a member, another one, and their things."""

    def __init__(self, **settings: Any) -> None:
        world = World(private_horde={"enabled": True, "api_key": OWNER, **settings})
        world.configure(access={"mode": "open"})
        self.app = world.app()
        self.api = self.app.test_client()
        token = self.must("POST", "invitations", OWNER, uses=9, kudos=100)["invitation"]
        self.people = {
            name: self.must("POST", "register", None, username=name, invitation=token)
            for name in ("moderator", "member", "other")
        }
        self.keys = {name: made["api_key"] for name, made in self.people.items()}
        self.keys["administrator"] = OWNER
        self.must("PUT", f"users/{self.people['moderator']['id']}", OWNER, moderator=True)

    def must(
        self, method: str, path: str, key: str | None, address: str = "127.0.0.1", **body: Any
    ) -> Any:
        response = self.api.open(
            f"/api/v2/{path}",
            method=method,
            json=body,
            headers={"apikey": key} if key else {},
            environ_overrides={"REMOTE_ADDR": address},
        )
        assert response.status_code < 300, response.text
        return response.json

    def pop(self, name: str = "worker-1", owner: str = "other", **fields: Any) -> Any:
        body = {"name": name, "models": ["a model"], "max_length": 80, **fields}
        return self.must("POST", "generate/text/pop", self.keys[owner], **body)

    def submit(self, who: str = "other", **fields: Any) -> str:
        body = {"prompt": "my own secret", "models": ["a model"], **fields}
        answer = self.must("POST", "generate/text/async", self.keys[who], **body)
        return str(answer["id"])

    def worker(self, name: str = "worker-1") -> str:
        return str(self.must("GET", f"workers/name/{name}", None)["id"])

    def browser(self, who: str | None) -> Browser:
        browser = Browser(self.app.test_client())
        if who is not None:
            assert browser.sign_in(self.keys[who]).status_code == 303
        return browser


class Browser:
    """A browser at the pages, without scripts. It sends the token of the last form that it got."""

    def __init__(self, http: FlaskClient) -> None:
        self.http, self.token = http, ""

    def get(self, path: str, **arguments: Any) -> TestResponse:
        return self._keep(self.http.get(f"{BASE}/{path}", **arguments))

    def post(self, path: str, **fields: str) -> TestResponse:
        data = {"token": self.token, **fields}
        return self._keep(self.http.post(f"{BASE}/{path}", data=data))

    def post_from_elsewhere(self, path: str, **fields: str) -> TestResponse:
        """As a form of another site would, if it knew the token."""
        data, headers = {"token": self.token, **fields}, {"Sec-Fetch-Site": "cross-site"}
        return self.http.post(f"{BASE}/{path}", data=data, headers=headers)

    def sign_in(self, key: str) -> TestResponse:
        self.get("")
        response = self.post("sign-in", key=key)
        if response.status_code == 303:
            self.get("account")
        return response

    def _keep(self, response: TestResponse) -> TestResponse:
        match = re.search(r'name="token" value="([^"]+)"', response.text)
        self.token = match[1] if match else self.token
        return response


@pytest.fixture
def home() -> Home:
    return Home()


def secret_in(response: TestResponse) -> str:
    match = re.search(r'id="secret" tabindex="0">([^<]+)<', response.text)
    assert match, response.text
    return match[1]


def rows() -> dict[str, dict[str, str]]:
    lines = [line.strip("|").split("|") for line in TABLE.strip().splitlines()]
    head, _, *body = [[cell.strip() for cell in line] for line in lines]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


def fields_of(home: Home, browser: Browser) -> dict[str, dict[str, str]]:
    """What a form needs to be accepted, by its action."""
    home.pop(address="203.0.113.9")
    other, worker = str(home.people["other"]["id"]), home.worker()
    invitation = home.must("POST", "invitations", OWNER)["id"]
    key = browser.post("make-key", name="second")
    shared = browser.post("make-shared-key", name="family")
    page = browser.get("account").text if key.status_code == 200 == shared.status_code else ""
    keys = re.findall(r"second</bdi>.*?(\w{12}) · made", page, re.DOTALL)
    shared_keys = re.findall(r'action="delete-shared-key".*?value="(\w{12})"', page, re.DOTALL)
    person = {"id": other}
    made = {
        "team": home.must("POST", "teams", OWNER, name="Owls"),
        "message": home.must("POST", "workers/messages", OWNER, message="Hi"),
        "news": home.must("POST", "status/news", OWNER, title="t", newspiece="n"),
        "filter": home.must("PUT", "filters", OWNER, regex="bomb", filter_type=10),
    }
    ids = {name: {"id": str(thing["id"])} for name, thing in made.items()}
    return {
        "found-team": {"name": "Larks"},
        "change-team": {**ids["team"], "name": "Night owls", "info": "At night."},
        "join-team": {**ids["team"], "worker": worker},
        "leave-team": {"worker": worker},
        "delete-team": ids["team"],
        "send-message": {"worker_id": worker, "message": "Hi", "expiry": "1"},
        "delete-message": ids["message"],
        "publish-news": {"title": "t", "newspiece": "n"},
        "delete-news": ids["news"],
        "add-filter": {"regex": "word"},
        "change-filter": {**ids["filter"], "regex": "bombs"},
        "try-prompt": {"prompt": "a bomb"},
        "delete-filter": ids["filter"],
        "add-timeout": {"ipaddr": "198.51.100.7", "hours": "2"},
        "delete-timeout": {"ipaddr": "198.51.100.7"},
        "block-worker": {"id": worker, "days": "1"},
        "delete-key": {"fingerprint": "".join(keys)},
        "change-shared-key": {"fingerprint": "".join(shared_keys), "kudos": "10"},
        "delete-shared-key": {"fingerprint": "".join(shared_keys)},
        "send-kudos": {"username": home.people["other"]["username"], "amount": "2"},
        "cancel": {"id": home.submit()},
        **{name: {"id": worker, "on": "1"} for name in ("rest-worker", "pause-worker")},
        "change-worker": {"id": worker, "info": "new"},
        "delete-worker": {"id": worker},
        "withdraw": {"id": str(invitation)},
        "change-person": {**person, "trusted": "on"},
        "give-kudos": {**person, "kudos": "5"},
        **dict.fromkeys(("make-persons-key", "delete-person", "restore-person"), person),
        "block": {**person, "on": "1"},
        "set-mode": {"mode": "invite_only_mode", "on": "1"},
    }


@pytest.mark.parametrize("column", ["nobody", "a member", "a moderator", "an administrator"])
def test_everybody_may_do_what_the_table_says(home: Home, column: str) -> None:
    browser = home.browser(None if column == "nobody" else column.split()[1])
    fields = fields_of(home, browser)
    tried = {}
    for row, cells in rows().items():
        method, path = row.split()
        if method == "GET":
            response = browser.get(path[1:], query_string={"id": home.people["other"]["id"]})
        else:
            response = browser.post(path[1:], **fields.get(path[1:], {}))
        expected, status = cells[column], response.status_code
        tried[row] = expected if status < 400 and not expected.isdigit() else str(status)
    assert tried == {row: cells[column] for row, cells in rows().items()}


def test_every_page_and_action_has_a_row_and_the_docs_have_the_table() -> None:
    names = {row.split()[1][1:] for row in rows()}
    assert names == {"", "join", *PAGES, *ACTIONS}
    assert TABLE.strip() in DOCS.read_text(encoding="utf-8")


def test_no_action_is_taken_for_another_site(home: Home) -> None:
    browser = home.browser("administrator")
    tried = {
        name: (
            browser.post(name, token="").status_code,
            browser.post(name, token="ü" * 43).status_code,
            browser.post_from_elsewhere(name).status_code,
            browser.get(name).status_code,
        )
        for name in (*ACTIONS, "sign-out")
    }
    assert tried == dict.fromkeys((*ACTIONS, "sign-out"), (400, 400, 400, 404))
    assert "sent from another site" in browser.post_from_elsewhere("invite").text


def test_signing_in_and_joining_need_their_forms_token(home: Home) -> None:
    browser = Browser(home.app.test_client())
    for path in ("sign-in", "join"):
        assert browser.post(path, key=OWNER, token="x" * 43).status_code == 400
        browser.get("")
        foreign = browser.post_from_elsewhere(path, key=OWNER)
        assert foreign.status_code == 400
    assert browser.get("account").status_code == 401


@pytest.mark.parametrize("key", ["", "wrong-key-0123456789", "0000000000", "shared", "digest"])
def test_only_an_accounts_key_signs_in(home: Home, key: str) -> None:
    if key == "shared":
        key = home.must("PUT", "sharedkeys", home.keys["member"], name="x")["id"]
    if key == "digest":
        key = key_digest(OWNER)
    response = Browser(home.app.test_client()).sign_in(key)
    assert (response.status_code, "horde_page" in str(response.headers)) == (401, False)
    assert key not in response.text or not key


def test_guessed_keys_are_refused_like_those_of_calls(home: Home) -> None:
    browser = Browser(home.app.test_client())
    statuses = [browser.sign_in(f"wrong-key-{n:010}").status_code for n in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert browser.sign_in(OWNER).status_code == 303


def test_cookies_and_headers_keep_the_page_to_itself(home: Home) -> None:
    http = home.app.test_client()
    form = http.get(f"{BASE}/")
    assert "HttpOnly" in form.headers["Set-Cookie"]
    assert "SameSite=Strict" in form.headers["Set-Cookie"]
    assert form.headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    assert form.headers["Referrer-Policy"] == "same-origin"
    assert form.headers["Cache-Control"] == "no-store"
    assert "<script" not in form.text
    with http.get(f"{BASE}/static/forms.css") as style:
        assert (style.status_code, style.mimetype) == (200, "text/css")
    assert http.get(f"{BASE}/static/page.js").status_code == 404
    assert http.get(BASE).headers["Location"] == "horde/"


def test_whoever_has_the_link_joins_and_sees_the_key_once(home: Home) -> None:
    moderator = home.browser("moderator")
    link = secret_in(moderator.post("invite", uses="1", days="7", note="family"))
    assert link.startswith("http://localhost/page/horde/join?invitation=")
    assert link.rpartition("=")[2] not in moderator.get("invitations").text
    browser = Browser(home.app.test_client())
    browser.get(f"join?{link.rpartition('?')[2]}")
    welcome = browser.post("join", username=" ann ", invitation=link.rpartition("=")[2])
    key = secret_in(welcome)
    assert f"horde-proxy worker --horde http://localhost --api-key {key} --backend" in welcome.text
    assert "ann#" in browser.get("account").text
    assert key not in "".join(browser.get(name).text for name in PAGES)
    again = Browser(home.app.test_client())
    again.get("join")
    refused = again.post("join", username="eve", invitation=link.rpartition("=")[2])
    assert (refused.status_code, "This invitation does not work" in refused.text) == (403, True)


def test_looking_at_an_invitation_does_not_use_it(home: Home) -> None:
    token = home.must("POST", "invitations", OWNER)["invitation"]
    for _ in range(3):
        assert home.browser(None).get(f"join?invitation={token}").status_code == 200
    browser = home.browser(None)
    browser.get(f"join?invitation={token}")
    assert browser.post("join", username="ann", invitation=token).status_code == 200


def test_a_closed_horde_shows_no_form_to_join() -> None:
    world = World(private_horde={"enabled": True, "api_key": OWNER, "registration": "closed"})
    browser = Browser(world.app().test_client())
    assert "takes no new members" in browser.get("join").text
    browser.get("")
    assert browser.post("join", username="eve").status_code == 403


def test_accounts_are_not_made_in_masses() -> None:
    world = World(private_horde={"enabled": True, "api_key": OWNER, "registration": "open"})
    browser = Browser(world.app().test_client())
    statuses = []
    for number in range(12):
        browser.get("join")
        statuses.append(browser.post("join", username=f"bot {number}").status_code)
        browser.http.delete_cookie("horde_page")
    assert statuses == [200] * 10 + [429] * 2


def test_new_keys_are_shown_once_and_work(home: Home) -> None:
    browser = home.browser("member")
    key = secret_in(browser.post("make-key", name="phone"))
    shared = secret_in(browser.post("make-shared-key", name="family", kudos="50", expiry="3"))
    pages = "".join(browser.get(name).text for name in PAGES)
    assert "phone" in pages
    assert "family" in pages
    assert "50 kudos left" in pages
    assert key not in pages
    assert shared not in pages
    assert home.must("GET", "find_user", key)["username"] == home.people["member"]["username"]
    assert home.must("GET", f"sharedkeys/{shared}", None)["name"] == "family"


def test_a_session_ends_with_its_key(home: Home) -> None:
    browser = home.browser("member")
    [current] = re.findall(
        r'this session.*?action="delete-key".*?fingerprint" value="(\w+)',
        browser.get("account").text,
        re.DOTALL,
    )
    assert browser.post("delete-key", fingerprint=current).status_code == 303
    assert browser.get("account").status_code == 401


def test_signing_out_ends_the_session(home: Home) -> None:
    browser = home.browser("member")
    cookie = browser.http.get_cookie("horde_page", path="/")
    assert cookie is not None
    assert browser.post("sign-out").headers["Location"] == "./"
    browser.http.set_cookie("horde_page", cookie.value)
    assert browser.get("account").status_code == 401


def test_a_member_sees_its_own_requests_and_a_moderator_all(home: Home) -> None:
    home.submit("other")
    mine = home.submit("member")
    for who, shown in (("member", 1), ("other", 1), ("moderator", 2)):
        page = home.browser(who).get("queue").text
        assert (page.count('action="cancel"'), "my own secret" in page) == (shown, False)
    assert mine in home.browser("member").get("queue").text
    assert mine not in home.browser("other").get("queue").text


def test_the_queue_says_why_a_request_waits(home: Home) -> None:
    home.submit("member", params={"max_length": 100})
    assert "No worker is online." in home.browser("member").get("queue").text
    home.pop("small", max_length=80)
    home.pop("foreign", models=["another"])
    page = home.browser("member").get("queue").text
    assert "small makes at most 80 tokens, and its `max_length` is 100." in page
    assert "foreign serves none of its `models`." in page


def test_only_moderators_see_who_owns_a_worker_and_that_it_is_paused(home: Home) -> None:
    home.pop()
    moderator = home.browser("moderator")
    assert moderator.post("pause-worker", id=home.worker(), on="1").status_code == 303
    assert (home.people["other"]["username"] in moderator.get("workers").text) is True
    for who in ("member", "other"):
        page = home.browser(who).get("workers").text
        assert "worker-1" in page
        assert "paused" not in page
    assert home.people["other"]["username"] not in home.browser("member").get("workers").text


def test_an_owner_rests_renames_and_deletes_a_worker(home: Home) -> None:
    home.pop()
    browser, worker = home.browser("other"), home.worker()
    browser.post("rest-worker", id=worker, on="1")
    assert home.must("GET", f"workers/{worker}", None)["maintenance_mode"] is True
    browser.post("rest-worker", id=worker)
    browser.post("change-worker", id=worker, name="den", info="in the den")
    after = home.must("GET", f"workers/{worker}", None)
    assert (after["maintenance_mode"], after["name"], after["info"]) == (False, "den", "in the den")
    assert browser.post("delete-worker", id=worker).status_code == 303
    assert "You have no worker yet." in browser.get("workers").text


def test_kudos_are_sent_once_for_one_form_and_their_movements_are_shown(home: Home) -> None:
    browser, to = home.browser("member"), home.people["other"]["username"]
    for _ in range(2):
        sent = browser.post("send-kudos", username=to, amount="5", once="one form")
        assert sent.headers["Location"] == "account?done=send-kudos"
    page = browser.get("account?done=send-kudos").text
    assert "The kudos were sent." in page
    assert page.count(f"sent (<bdi>{to}</bdi>)") == 1
    assert "<b>-5</b>" in page
    assert "<b>+125</b> what the account began with" in page
    assert "<b>-5</b>" not in home.browser("moderator").get("account").text


def test_a_refusal_is_shown_on_the_page_of_its_form(home: Home) -> None:
    browser = home.browser("member")
    refused = browser.post("send-kudos", username="nobody#99", amount="5")
    assert (refused.status_code, "There is no such account." in refused.text) == (400, True)
    assert "<h2" in refused.text
    faulty = browser.post("make-shared-key", kudos="many")
    assert (faulty.status_code, "Please correct: Kudos: write a whole number." in faulty.text) == (
        400,
        True,
    )


def test_a_moderator_changes_blocks_and_restores_a_member(home: Home) -> None:
    browser, number = home.browser("moderator"), str(home.people["other"]["id"])
    changed = browser.post(
        "change-person", id=number, trusted="on", concurrency="7", worker_invited="2"
    )
    assert changed.headers["Location"] == f"person?done=change-person&id={number}"
    user = home.must("GET", f"users/{number}", None)
    assert (user["trusted"], user["concurrency"], user["moderator"]) == (True, 7, False)
    assert user["worker_invited"] == 2
    browser.post("block", id=number, on="1")
    blocked = home.browser("other").get("account").text
    assert "This account is blocked" in blocked
    assert 'action="make-key"' not in blocked
    browser.post("block", id=number)
    browser.post("delete-person", id=number)
    assert "This account is deleted" in home.browser("other").get("account").text
    browser.post("restore-person", id=number)
    key = secret_in(browser.post("make-persons-key", id=number))
    assert home.must("GET", "find_user", key)["id"] == int(number)


def test_a_moderator_appoints_nobody_and_an_administrator_does(home: Home) -> None:
    number = str(home.people["other"]["id"])
    form = {"id": number, "moderator": "on", "may-appoint": "1"}
    assert home.browser("moderator").post("change-person", **form).status_code == 403
    assert home.browser("administrator").post("change-person", **form).status_code == 303
    assert home.must("GET", f"users/{number}", None)["moderator"] is True


def test_an_administrator_switches_modes(home: Home) -> None:
    assert 'action="set-mode"' not in home.browser("moderator").get("rules").text
    browser = home.browser("administrator")
    assert browser.post("set-mode", mode="maintenance_mode", on="1").status_code == 303
    modes = home.must("GET", "status/modes", None)
    assert (modes["maintenance_mode"], modes["invite_only_mode"]) == (True, False)
    assert "New requests are refused" in browser.get("rules").text
    browser.post("set-mode", mode="maintenance_mode")
    assert home.must("GET", "status/modes", None)["maintenance_mode"] is False
    assert browser.post("set-mode", mode="nothing", on="1").status_code == 400


def test_foreign_texts_are_shown_as_texts(home: Home) -> None:
    home.pop(HOSTILE, models=[HOSTILE])
    home.submit("other", models=[HOSTILE])
    home.must("POST", "invitations", OWNER, note=HOSTILE)
    number = home.people["other"]["id"]
    home.must("PUT", f"users/{number}", home.keys["other"], username="<b>'\"", contact=HOSTILE)
    home.must("POST", f"users/{number}/keys", home.keys["other"], name=HOSTILE)
    home.must("PUT", "sharedkeys", home.keys["other"], name=HOSTILE)
    for who in ("other", "administrator"):
        browser = home.browser(who)
        pages = [browser.get(name, query_string={"id": number}).text for name in PAGES]
        assert "&lt;script&gt;" in "".join(pages)
        assert not any("<script" in page or "<b>'" in page for page in pages)
    assert "<script" not in home.browser(None).get(f"join?invitation={HOSTILE}").text


def test_an_unknown_page_person_and_form_are_errors_in_words(home: Home) -> None:
    browser = home.browser("moderator")
    assert browser.get("nothing").status_code == 404
    assert browser.post("nothing").status_code == 404
    assert browser.get("person?id=99").status_code == 404
    assert browser.get("person?id=x").status_code == 404
    assert browser.get("people?page=-1").status_code == 200
    assert browser.post("invite", note="x" * 140_000).status_code == 413
    assert browser.http.put(f"{BASE}/account").status_code == 405


def test_a_proxy_without_a_private_horde_has_no_such_pages() -> None:
    response = World().http().get(f"{BASE}/", headers={"Accept": "text/html"})
    assert response.status_code == 404


def test_the_proxys_page_and_its_login_form_lead_to_the_hordes_pages() -> None:
    html = {"Accept": "text/html"}
    private = {"enabled": True, "api_key": OWNER}
    for access in ({"mode": "open"}, known(client="client-key-0123456789")["access"]):
        for sections, is_linked in (({"private_horde": private}, True), ({}, False)):
            world = World(access=access).configure(**sections)
            page = world.http().get("/", headers=html).text
            assert ('href="page/horde/"' in page) is is_linked


def test_a_session_survives_a_restart_of_a_horde_with_a_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/horde.db"
    world = World(private_horde={"enabled": True, "api_key": OWNER, "database": url})
    runtime = replace(world.runtime, open_horde_store=open_horde_store)
    browser = Browser(create_app(world.config(), runtime).test_client())
    browser.sign_in(OWNER)
    cookie = browser.http.get_cookie("horde_page", path="/")
    assert cookie is not None
    again = Browser(create_app(world.config(), runtime).test_client())
    again.http.set_cookie("horde_page", cookie.value)
    assert "owner#1" in again.get("account").text


def test_behind_a_trusted_proxy_with_https_cookies_are_secure() -> None:
    sections: dict[str, Any] = {
        "private_horde": {"enabled": True, "api_key": OWNER},
        "access": {"mode": "open"},
    }
    world = World(**sections, server={"trusted_proxies": ["127.0.0.1"]})
    forwarded = {"X-Forwarded-Proto": "https"}
    form = world.http().get(f"{BASE}/", headers=forwarded)
    assert "Secure" in form.headers["Set-Cookie"]
    untrusting = World(**sections)
    plain = untrusting.http().get(f"{BASE}/", headers=forwarded)
    assert "Secure" not in plain.headers["Set-Cookie"]


def test_a_horde_without_kudos_says_so() -> None:
    world = World(private_horde={"enabled": True, "api_key": OWNER, "kudos": "off"})
    browser = Browser(world.app().test_client())
    browser.sign_in(OWNER)
    assert "This horde works without kudos" in browser.get("account").text


def form_in(response: TestResponse, action: str) -> str:
    """The first form of an action, with what is in it."""
    match = re.search(rf'<form method="post" action="{action}".*?</form>', response.text, re.DOTALL)
    assert match, response.text
    return match[0]


def sent(browser: Browser, page: str, action: str, **fields: str) -> TestResponse:
    """The answer to the first form of an action that a page shows, filled in as people do."""
    form = form_in(browser.get(page), action)
    hidden = dict(re.findall(r'type="hidden" name="(.+?)" value="(.*?)"', form))
    return browser.post(action, **{**hidden, **fields})


def test_a_refusal_is_beside_its_form_which_keeps_what_was_filled_in(home: Home) -> None:
    browser = home.browser("member")
    refused = sent(browser, "account", "send-kudos", username="nobody#99", amount="5")
    form = form_in(refused, "send-kudos")
    assert 'id="refused" role="alert" tabindex="-1" autofocus>There is no such account.' in form
    assert 'value="nobody#99"' in form
    assert refused.text.count("There is no such account.") == 1
    assert re.search(r"<details open>\s*<summary>Send kudos</summary>", refused.text)
    faulty = sent(browser, "account", "make-shared-key", name='"<b>', kudos="many")
    form = form_in(faulty, "make-shared-key")
    assert "Please correct: Kudos: write a whole number." in form
    assert 'value="&#34;&lt;b&gt;"' in form
    assert 'value="many"' in form
    assert "refused" not in form_in(faulty, "send-kudos")


def test_of_many_forms_of_an_action_only_the_refused_one_keeps_what_was_filled_in(
    home: Home,
) -> None:
    home.pop()
    home.pop("worker-2")
    browser = home.browser("other")
    refused = sent(browser, "workers", "change-worker", name="worker-2", info="new info")
    assert "The specified worker name &#39;worker-2&#39; is already taken!" in refused.text
    assert refused.text.count('value="new info"') == 1
    assert refused.text.count('id="refused"') == 1


def test_a_refusal_of_a_form_that_is_gone_is_above_the_page(home: Home) -> None:
    refused = home.browser("moderator").post("delete-filter", id="9", form="delete-filter 9")
    assert refused.status_code == 404
    assert 'role="alert">There is no such filter.' in refused.text


def test_pages_are_polite(home: Home) -> None:
    home.pop()
    refused = home.browser("member").post("rest-worker", id=home.worker(), on="1")
    assert "Only the worker&#39;s owner and moderators may do this." in refused.text
    assert "Sod off" not in refused.text


def test_the_form_to_join_keeps_the_name_and_takes_the_whole_link(home: Home) -> None:
    token = home.must("POST", "invitations", OWNER)["invitation"]
    browser = home.browser(None)
    browser.get("join")
    refused = browser.post("join", username="Ann", invitation="wrong")
    assert (refused.status_code, 'value="Ann"' in refused.text) == (403, True)
    link = f"http://localhost/page/horde/join?invitation={token}"
    assert browser.post("join", username="Ann", invitation=link).status_code == 200


def test_a_trusted_member_founds_a_team_and_others_join_it(home: Home) -> None:
    number = home.people["member"]["id"]
    assert "Trusted members found teams." in home.browser("member").get("teams").text
    home.must("PUT", f"users/{number}", OWNER, trusted=True)
    founder = home.browser("member")
    assert sent(founder, "teams", "found-team", name="Owls", info="At night.").status_code == 303
    assert "The team was founded." in founder.get("teams?done=found-team").text
    taken = sent(founder, "teams", "found-team", name="Owls", info="Again.")
    assert "is already taken" in form_in(taken, "found-team")
    assert 'value="Again."' in form_in(taken, "found-team")

    home.pop()
    owner = home.browser("other")
    assert "Change …" not in owner.get("teams").text
    [team] = home.must("GET", "teams", None)
    assert f'href="teams?join={team["id"]}#join">Join …' in owner.get("teams").text
    chosen = f'value="{team["id"]}" selected'
    assert chosen in form_in(owner.get(f"teams?join={team['id']}"), "join-team")
    joined = sent(owner, "teams", "join-team", id=team["id"], worker=home.worker())
    assert joined.status_code == 303
    page = owner.get("teams").text
    assert "with my worker" in page
    assert "1 worker · 0 jobs · 0 kudos" in page
    assert "team <bdi>Owls</bdi>" in owner.get("workers").text
    assert sent(owner, "teams", "leave-team", worker=home.worker()).status_code == 303
    assert "with my worker" not in owner.get("teams").text

    assert sent(founder, "teams", "change-team", name="Night owls", info="").status_code == 303
    assert "Night owls" in owner.get("teams").text
    assert sent(founder, "teams", "delete-team").status_code == 303
    assert "There is no team yet." in owner.get("teams").text


def test_owners_write_to_their_workers_and_moderators_to_all(home: Home) -> None:
    assert "You have no worker yet." in home.browser("member").get("messages").text
    home.pop()
    owner, moderator = home.browser("other"), home.browser("moderator")
    assert "all workers" not in owner.get("messages").text
    written = sent(owner, "messages", "send-message", worker_id=home.worker(), message="One\r\nTwo")
    assert written.status_code == 303
    sent(moderator, "messages", "send-message", worker_id="", message="Update", expiry="1")
    popped = home.pop()["messages"]
    assert {message["message"] for message in popped} == {"One\nTwo", "Update"}
    assert "2 messages to it" in owner.get("workers").text
    assert "Update" not in owner.get("messages").text
    page = moderator.get("messages").text
    assert "To <b><bdi>worker-1</bdi></b>" in page
    assert "To <b><bdi>all workers</bdi></b>" in page
    for browser in (owner, moderator):
        sent(browser, "messages", "delete-message")
    assert home.must("GET", "workers/messages", OWNER) == []


def test_everybody_reads_the_news_of_administrators(home: Home) -> None:
    nobody = Browser(home.app.test_client())
    assert "There is no news yet." in nobody.get("news").text
    browser = home.browser("administrator")
    published = sent(
        browser,
        "news",
        "publish-news",
        title=HOSTILE,
        newspiece="One.\r\nTwo.",
        tags="models, <b>",
        more_info_urls="https://example.invalid/a javascript:alert(1)",
    )
    assert published.status_code == 303
    [item] = home.must("GET", "status/news", None)
    assert (item["newspiece"], item["tags"]) == ("One.\nTwo.", ["models", "<b>"])
    for reader in (nobody, home.browser("member")):
        page = reader.get("news").text
        assert "&lt;script&gt;" in page
        assert 'href="https://example.invalid/a"' in page
        assert 'href="javascript' not in page
        assert "-news" not in page
    assert sent(browser, "news", "delete-news").status_code == 303
    assert home.must("GET", "status/news", None) == []


def test_a_moderator_adds_tries_changes_and_deletes_a_filter(home: Home) -> None:
    browser = home.browser("moderator")
    wrong = sent(browser, "filters", "add-filter", regex="(bomb", description="weapons")
    assert "The regex is not valid: missing ): (bomb" in form_in(wrong, "add-filter")
    assert 'value="weapons"' in form_in(wrong, "add-filter")
    assert sent(browser, "filters", "add-filter", regex=" bomb ").status_code == 303
    tried = sent(browser, "filters", "try-prompt", prompt="A bomb here\n<b>")
    assert "This prompt is refused." in tried.text
    assert "A bomb here\n&lt;b&gt;</textarea>" in tried.text
    assert "No filter finds" in sent(browser, "filters", "try-prompt", prompt="a bomber").text
    sent(browser, "filters", "change-filter", regex="bomb", replacement="flower")
    [item] = home.must("GET", "filters", OWNER)
    assert (item["regex"], item["replacement"], item["filter_type"]) == ("bomb", "flower", 10)
    replaced = sent(browser, "filters", "try-prompt", prompt="a bomber")
    assert "Words of this prompt are replaced." in replaced.text
    assert sent(browser, "filters", "delete-filter").status_code == 303
    assert "There is no filter" in browser.get("filters").text


def test_a_moderator_keeps_addresses_out(home: Home) -> None:
    home.pop(address="203.0.113.9")
    browser = home.browser("moderator")
    wrong = sent(browser, "timeouts", "add-timeout", ipaddr="nowhere", hours="3")
    form = form_in(wrong, "add-timeout")
    assert "Write an address such as 203.0.113.9, or a network, 198.51.100.0/24." in form
    assert ('value="nowhere"' in form, 'value="3"' in form) == (True, True)
    begun = sent(browser, "timeouts", "add-timeout", ipaddr="198.51.100.7/24", hours="72")
    assert begun.status_code == 303
    assert re.search(
        r"198\.51\.100\.0/24</b> <span.*?>for 3 days more", browser.get("timeouts").text
    )
    assert "from 203.0.113.9" in browser.get("workers").text
    assert "203.0.113.9" not in home.browser("other").get("workers").text
    assert sent(browser, "workers", "block-worker", days="1").status_code == 303
    for _ in range(2):
        assert sent(browser, "timeouts", "delete-timeout").status_code == 303
    assert "There is none." in browser.get("timeouts").text


def test_a_request_that_no_worker_takes_says_so(home: Home) -> None:
    home.submit("member", models=["unknown"])
    home.submit("member")
    home.pop("another", models=["another"])
    assert home.browser("member").get("queue").text.count("no worker fits") == 2
    home.pop("a")
    home.submit("member")
    page = home.browser("member").get("queue").text
    assert page.count("no worker fits") == 1
    assert "It waits for its turn with a." in page


def test_a_chat_is_named_so_and_waits_for_a_worker_that_takes_chats(home: Home) -> None:
    home.pop()
    chat = {"messages": [{"role": "user", "content": "my own secret"}]}
    home.submit("member", chat=chat, prompt="")
    browser = home.browser("member")
    page = browser.get("queue").text
    assert 'class="state ">chat</span>' in page
    assert "no worker fits" in page
    assert "worker-1 does not offer chats with messages." in page
    assert "my own secret" not in page
    assert "prompts and chats" not in browser.get("workers").text
    home.pop("worker-2", extensions=["chat"])
    page = browser.get("queue").text
    assert ("in work" in page, "no worker fits" in page) == (True, False)
    assert "prompts and chats" in browser.get("workers").text


def test_no_name_turns_the_words_after_it_around(home: Home) -> None:
    home.pop("\u202egnorw\u2066", models=["\u202elive"])
    home.submit("member")
    for name in ("workers", "queue"):
        page = home.browser("member").get(name).text
        assert "gnorw" in page
        assert not set(page) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def test_a_moderator_finds_an_account_and_all_its_workers(home: Home) -> None:
    home.pop()
    moderator, number = home.browser("moderator"), home.people["other"]["id"]
    person = moderator.get("person", query_string={"id": home.people["other"]["username"]})
    assert f'href="workers?owner={number}"' in person.text
    page = moderator.get(f"workers?owner={number}").text
    assert "Workers of <bdi>other#" in page
    assert "worker-1" in page
    rested = sent(moderator, f"workers?owner={number}", "rest-worker")
    assert rested.headers["Location"] == f"workers?done=rest-worker&owner={number}"
    assert "Workers of" not in home.browser("member").get(f"workers?owner={number}").text


def test_a_long_list_of_workers_has_pages(home: Home) -> None:
    for number in range(51):
        home.pop(f"worker-{number}")
    browser = home.browser("member")
    first, second = browser.get("workers").text, browser.get("workers?page=2").text
    assert 'href="workers?page=2"' in first
    assert (first.count("answers up to"), second.count("answers up to")) == (50, 1)
    assert 'href="workers?page=1"' in second
    assert "There is no other worker on this page." in browser.get("workers?page=3").text
    owner = home.browser("other")
    first, second = owner.get("workers").text, owner.get("workers?own=2").text
    assert 'href="workers?own=2"' in first
    assert (first.count("answers up to"), second.count("answers up to")) == (50, 1)


def test_the_newest_filter_comes_first_and_older_ones_have_pages(home: Home) -> None:
    for number in range(101):
        home.must("PUT", "filters", OWNER, regex=f"word-{number:03}", filter_type=10)
    browser = home.browser("moderator")
    first, second = browser.get("filters").text, browser.get("filters?page=2").text
    assert ("word-100" in first, "word-000" in first) == (True, False)
    assert "word-000" in second
    changed = sent(browser, "filters?page=2", "change-filter", regex="word")
    assert changed.headers["Location"] == "filters?done=change-filter&page=2"


def luminance(colour: str) -> float:
    """The relative luminance of a colour such as #f4f6f8 (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_have_the_contrast_that_people_need(scheme: str) -> None:
    style = Path(horde_pages.__file__).parent.joinpath("static", "page.css").read_text("utf-8")
    light, dark = re.findall(r":root {(.*?)}", style, re.DOTALL)[:2]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): (#\w{6})", dark))
    texts = [
        (text, ground) for text in ("text", "quiet") for ground in ("ground", "surface", "raised")
    ]
    texts += [(tone, f"{tone}-ground") for tone in ("good", "warn", "bad")]
    texts += [
        ("accent", "surface"),
        ("on-accent", "accent"),
        ("bad", "surface"),
        ("text", "calm-ground"),
    ]
    pale = {}
    for text, ground in texts:
        low, high = sorted(luminance(colours[name]) for name in (text, ground))
        if (high + 0.05) / (low + 0.05) < 4.5:
            pale[text] = ground
    assert pale == {}
