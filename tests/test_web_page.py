"""The page: what it shows to whom, who gets in, and what it never shows."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from importlib import resources
from typing import Any

import pytest
from flask.testing import FlaskClient
from requests import ConnectionError
from requests.adapters import BaseAdapter
from werkzeug.test import TestResponse

from horde_proxy import create_app, reconfigure
from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.shared_answer import RequestInfo
from horde_proxy.api.slots import Slots
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.key_digest import key_digest
from horde_proxy.ledger import ClientKey, KeyRing
from horde_proxy.upstreams.base import Accepted, StreamItem, Waiting
from horde_proxy.web.charts import charts
from horde_proxy.web.history import BUCKET_SECONDS, BUCKETS, History
from horde_proxy.web.page_state import PageState
from horde_proxy.web.tables import endpoints, hours, models, number, running, seconds
from tests.support import HORDE_URL, Clock, Scripted, World, known, with_page

HTML = {"Accept": "text/html,application/xhtml+xml"}
ADMIN, GUEST, NARROW = "admin-key-0123456789", "guest-key-0123456789", "key-of-narrow-longer"
HOSTILE = "<script>alert(1)</script>'\"&"
BODY = {"model": "test/model", "messages": [{"role": "user", "content": "my own secret"}]}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Gone(BaseAdapter):
    """A horde that nobody reaches."""

    def send(self, *_: Any, **__: Any) -> Any:
        raise ConnectionError("no route to the horde")

    def close(self) -> None:
        pass


def guarded(world: World, **sections: Any) -> World:
    """A world with an admin, a guest, and a key that may use nothing that there is."""
    narrow = ClientKey("narrow", models=("none/*",), endpoints=("horde",))
    world.configure(endpoints=[{"type": "horde", "name": "home"}])
    world.configure(**known(admin=ADMIN, guest=GUEST, narrow=narrow))
    return world.configure(access={"admins": ["admin"]}, **sections)


def token_in(response: TestResponse) -> str:
    match = re.search(r'name="token" value="([^"]+)"', response.text)
    assert match
    return match[1]


def log_in(client: FlaskClient, key: str, **arguments: Any) -> TestResponse:
    token = token_in(client.get("/", headers=HTML))
    return client.post("/page/login", data={"key": key, "token": token}, **arguments)


def state(client: FlaskClient, **headers: str) -> dict[str, Any]:
    response = client.get("/page/state.json", headers=headers)
    assert response.status_code == 200
    assert response.json is not None
    return dict(response.json)


def texts(table: dict[str, Any]) -> list[list[str]]:
    return [[cell["text"] for cell in row["cells"]] for row in table["rows"]]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# What is shown, and with which headers.


@pytest.mark.parametrize("path", ["/", "/page/state.json", "/page/static/page.js", "/page/nothing"])
def test_every_answer_of_the_page_has_security_headers(world: World, path: str) -> None:
    response = world.http().get(path, headers=HTML)
    if path == "/page/nothing":
        assert response.status_code == 404
        return
    response.close()
    assert response.status_code == 200
    assert response.headers["Content-Security-Policy"] == CSP
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in response.headers


def test_the_page_has_no_inline_script_or_style(world: World) -> None:
    world.employ(Scripted("Hello."))
    text = world.http().get("/", headers=HTML).text
    assert re.findall(r"<script[^>]*>", text) == [
        '<script src="page/static/page.js" type="module">'
    ]
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://(?!www\.w3)", text)


def test_the_page_can_be_read_without_a_script(world: World) -> None:
    world.employ(Scripted("Hello."))
    response = world.http().get("/", headers=HTML)
    assert response.mimetype == "text/html"
    assert response.headers["Cache-Control"] == "no-store"
    for word in (
        "test/model",
        "8,192",
        "No requests are running or waiting.",
        "client#",
        "<desc id=",
    ):
        assert word in response.text


def test_a_client_that_accepts_json_gets_paths(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horde_proxy.app.factory.VERSION", "1.2.3")
    response = world.http().get("/", headers={"Accept": "application/json"})
    assert response.json == {
        "object": "horde-proxy",
        "version": "1.2.3",
        "see": ["/v1/models", "/v1/endpoints", "/v1/usage", "/health/ready"],
    }
    assert response.headers["Vary"] == "Accept, Cookie"


@pytest.mark.parametrize("headers", [{}, {"Accept": "*/*"}, {"Accept": "text/plain"}])
def test_a_client_that_looks_for_an_ollama_finds_one(world: World, headers: dict[str, str]) -> None:
    response = world.http().get("/", headers=headers)
    assert (response.status_code, response.text) == (200, "Ollama is running")
    assert response.content_type == "text/plain; charset=utf-8"


def test_head_is_answered(world: World) -> None:
    response = world.http().head("/", headers=HTML)
    assert (response.status_code, response.data) == (200, b"")


def test_a_hostile_name_of_a_model_stays_a_text(world: World) -> None:
    world.employ(Scripted("Hello.", name=HOSTILE))
    client = world.http()
    text = client.get("/", headers=HTML).text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#39;&#34;&amp;" in text
    live = client.get("/page/live")
    assert live.mimetype == "application/json"
    assert live.json is not None
    assert live.json["rows"]["rows-models"]["keys"] == [HOSTILE]
    assert "<script>alert" not in "".join(live.json["rows"]["rows-models"]["changed"])
    assert state(client)["models"]["rows"][0]["key"] == HOSTILE


def test_half_a_surrogate_pair_in_a_name_does_not_break_the_page(world: World) -> None:
    history = History()
    history.add(
        RequestLog(
            "x", "POST", "/v1/chat/completions", "c", 404, requested="a\ud800b", account="anybody"
        )
    )
    app = with_page(world.app(), PageState(history=history))
    response = app.test_client().get("/", headers=HTML)
    assert response.status_code == 200
    assert "<td>a?b</td>" in response.text


def test_a_static_file_is_not_sent_twice(world: World) -> None:
    client = world.http()
    first = client.get("/page/static/page.css")
    first.close()
    assert first.headers["Cache-Control"] == "no-cache"
    again = client.get("/page/static/page.css", headers={"If-None-Match": first.headers["ETag"]})
    again.close()
    assert again.status_code == 304
    assert client.get("/page/static/..%2fpage.py").status_code == 404


def test_the_copy_of_markdown_it_is_unchanged_and_has_its_licences() -> None:
    folder = resources.files("horde_proxy.web") / "static"
    digest = sha256((folder / "markdown-it.js").read_bytes()).hexdigest()
    licences = (folder / "markdown-it.LICENSE.txt").read_text()
    assert digest == "d5432491790141da046b1197353705db03264f40b5727f3b4b591f5aba193e30"
    assert f"(sha256 {digest})" in licences
    packages = ("markdown-it", "mdurl", "uc.micro", "entities", "linkify-it", "punycode.js")
    assert all(f"==== {name} ====" in licences for name in packages)


def test_no_script_of_ours_makes_markup_of_a_text() -> None:
    """No innerHTML and the like; live.js parses what the server's own templates made."""
    folder = resources.files("horde_proxy.web") / "static"
    scripts = {file.name: file.read_text() for file in folder.iterdir() if ".js" in file.name}
    del scripts["markdown-it.js"]
    makes = r"innerHTML *=|outerHTML *=|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert [name for name, text in scripts.items() if re.search(makes, text)] == []
    assert [name for name, text in scripts.items() if "DOMParser" in text] == ["live.js"]


def test_the_page_answers_while_the_horde_does_not(world: World) -> None:
    world.session.mount(HORDE_URL, Gone())
    response = world.http().get("/", headers=HTML)
    assert response.status_code == 200
    for words in ("No models are available right now.", "Not available right now.", ">down<"):
        assert words in response.text


def test_the_requests_of_an_open_page_are_not_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.requests")
    client = world.http()
    for path in ("/page/live", "/page/state.json", "/page/events", "/page/static/page.css"):
        client.get(path).close()
    assert caplog.records == []
    client.get("/", headers=HTML).close()
    assert len(caplog.records) == 1


def test_the_whole_proxy_has_the_page() -> None:
    client = create_app(load(environ={}, flags={"private_horde": {"enabled": True}})).test_client()
    response = client.get("/", headers=HTML)
    assert response.status_code == 200
    assert "owner#" in response.text


def test_new_settings_keep_the_history_and_the_sessions() -> None:
    private = {"private_horde": {"enabled": True, "api_key": "k" * 20}}
    app = create_app(load(environ={}, flags=private))
    before = app.extensions["horde_proxy"].live.page
    reconfigure(app, load(environ={}, flags=private))
    assert app.extensions["horde_proxy"].live.page is before


# Who gets in.


def test_without_a_session_there_is_only_the_form_to_log_in(world: World) -> None:
    guarded(world).employ(Scripted("Hello."))
    client = world.http()
    response = client.get("/", headers=HTML)
    assert response.status_code == 200
    assert 'type="password"' in response.text
    assert "test/model" not in response.text
    for path in ("/page/live", "/page/state.json", "/page/events"):
        assert client.get(path).status_code == 401


def test_a_known_key_opens_the_page(world: World) -> None:
    guarded(world).employ(Scripted("Hello."))
    client = world.http()
    response = log_in(client, f" {GUEST} ")
    assert (response.status_code, response.headers["Location"]) == (303, "../")
    [cookie] = [
        header
        for header in response.headers.getlist("Set-Cookie")
        if header.startswith("horde_proxy_page=")
    ]
    assert cookie.endswith("; HttpOnly; Path=/; SameSite=Strict")
    assert "Max-Age=43200" in cookie
    assert GUEST not in cookie
    text = client.get("/", headers=HTML).text
    assert "test/model" in text
    assert GUEST not in text
    assert state(client)["name"] == "guest"


@pytest.mark.parametrize(
    ("peer", "told", "is_secure"),
    [
        ("127.0.0.1", "https", True),
        ("127.0.0.1", "http", False),
        ("10.9.9.9", "https", False),
    ],
)
def test_a_cookie_is_secure_where_the_client_came_by_https(
    world: World, peer: str, told: str, is_secure: bool
) -> None:
    guarded(world, server={"trusted_proxies": ["127.0.0.1"]})
    response = log_in(
        world.http(),
        GUEST,
        headers={"X-Forwarded-Proto": told},
        environ_base={"REMOTE_ADDR": peer},
    )
    cookie = next(
        header
        for header in response.headers.getlist("Set-Cookie")
        if header.startswith("horde_proxy_page=")
    )
    assert ("Secure" in cookie) is is_secure


def test_a_wrong_key_does_not_open_the_page(world: World) -> None:
    client = guarded(world).http()
    response = log_in(client, "wrong-key-0123456789")
    assert response.status_code == 401
    assert "This key is not known." in response.text
    assert "wrong-key" not in response.text
    assert client.get("/page/state.json").status_code == 401


@pytest.mark.parametrize(
    ("token", "headers"),
    [
        ("", {}),
        ("another", {}),
        (None, {"Sec-Fetch-Site": "cross-site"}),
    ],
)
def test_a_login_from_another_site_is_refused(
    world: World, token: str | None, headers: dict[str, str]
) -> None:
    client = guarded(world).http()
    own = token_in(client.get("/", headers=HTML))
    response = client.post(
        "/page/login",
        data={"key": GUEST, "token": own if token is None else token},
        headers=headers,
    )
    assert response.status_code == 400
    assert client.get("/page/state.json").status_code == 401


def test_an_address_may_try_ten_wrong_keys_a_minute_and_the_right_one_always(world: World) -> None:
    client = guarded(world).http()
    began = world.clock.seconds
    for guess in range(10):
        assert log_in(client, f"wrong-key-012345678{guess}").status_code == 401
    assert world.clock.seconds - began == 7 * 0.25
    response = log_in(client, "wrong-key-of-the-eleventh")
    assert (response.status_code, response.headers["Retry-After"]) == (429, "59")
    assert "Too many wrong API keys came from this address. Wait 59 s" in response.text
    assert "reverse proxy" not in response.text
    elsewhere = log_in(client, "wrong-key", environ_base={"REMOTE_ADDR": "10.1.2.3"})
    assert elsewhere.status_code == 401
    assert log_in(client, GUEST).status_code == 303


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"])
def test_behind_an_undeclared_proxy_the_login_says_so_and_lets_right_keys_in(
    world: World, header: str
) -> None:
    client = guarded(world).http()
    for guess in range(10):
        log_in(client, f"wrong-key-012345678{guess}", headers={header: f"10.0.0.{guess}"})
    response = log_in(client, "wrong-key-of-the-eleventh", headers={header: "10.0.0.99"})
    assert response.status_code == 429
    assert "because server.trusted_proxies does not name that proxy." in response.text
    assert log_in(client, GUEST, headers={header: "10.0.0.98"}).status_code == 303


def test_a_login_form_has_16_kilobytes_at_most(world: World) -> None:
    client = guarded(world).http()
    token = token_in(client.get("/", headers=HTML))
    form = {"token": token, "key": "x" * 16_384}
    assert client.post("/page/login", data=form).status_code == 413


def test_a_session_ends_after_twelve_hours(world: World) -> None:
    clock = world.clock
    guarded(world)
    client = world.http()
    log_in(client, GUEST)
    clock.seconds += 12 * 3600 - 1
    assert client.get("/page/state.json").status_code == 200
    clock.seconds += 1
    assert client.get("/page/state.json").status_code == 401


def test_logging_out_ends_the_session(world: World) -> None:
    client = guarded(world).http()
    log_in(client, GUEST)
    assert client.get("/page/logout").status_code == 405
    assert client.post("/page/logout", data={"token": "another"}).status_code == 403
    assert client.get("/page/state.json").status_code == 200
    token = token_in(client.get("/", headers=HTML))
    assert client.post("/page/logout", data={"token": token}).status_code == 303
    assert client.get("/page/state.json").status_code == 401


def test_revoking_a_key_ends_its_session(world: World) -> None:
    guarded(world)
    app = world.app()
    client = app.test_client()
    log_in(client, GUEST)
    world.settings["access"] = {}
    reconfigure(app, world.configure(**known(admin=ADMIN)).config())
    assert client.get("/page/state.json").status_code == 401


def test_a_key_in_a_header_opens_the_page(world: World) -> None:
    client = guarded(world).http()
    assert state(client, **bearer(ADMIN))["admin"] is True
    assert client.get("/page/state.json", headers=bearer("wrong" * 5)).status_code == 401


def test_the_cookie_opens_nothing_but_the_page(world: World) -> None:
    client = guarded(world).http()
    log_in(client, GUEST)
    assert client.get("/v1/models").status_code == 401
    assert client.post("/v1/chat/completions", json=BODY).status_code == 401


def test_no_login_is_needed_where_no_key_is_required(world: World) -> None:
    client = world.http()
    assert client.post("/page/login", data={"key": "x"}).status_code == 303
    assert state(client)["mode"] == "open"


# The chat.


def test_a_chat_by_cookie_is_counted_for_its_key(world: World) -> None:
    guarded(world).employ(Scripted("Hello."))
    client = world.http()
    log_in(client, GUEST)
    token = state(client)["token"]
    response = client.post("/page/chat", json=BODY, headers={"X-Page-Token": token})
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["choices"][0]["message"]["content"] == "Hello."
    response.close()
    assert [
        view["charts"][0]["desc"]
        for view in (
            state(client),
            state(client, **bearer(GUEST)),
            state(client, **bearer(NARROW)),
        )
    ] == [
        f"{count} in the last 24 hours, 0 of them failed."
        for count in ("1 request", "1 request", "0 requests")
    ]


@pytest.mark.parametrize("headers", [{}, {"X-Page-Token": "another"}])
def test_a_chat_without_the_token_is_refused(world: World, headers: dict[str, str]) -> None:
    guarded(world).employ(Scripted("Hello."))
    client = world.http()
    assert client.post("/page/chat", json=BODY).status_code == 401
    log_in(client, GUEST)
    assert client.post("/page/chat", json=BODY, headers=headers).status_code == 403


# Whose it is.


def test_a_key_sees_its_own_history_and_an_admin_all(world: World) -> None:
    guarded(world).employ(Scripted("Hello."))
    client = world.http()
    for key in (ADMIN, GUEST, GUEST):
        client.post("/v1/chat/completions", json=BODY, headers=bearer(key)).close()
    client.post("/v1/chat/completions", json={**BODY, "model": "no"}, headers=bearer(ADMIN)).close()
    guest, admin = state(client, **bearer(GUEST)), state(client, **bearer(ADMIN))
    assert guest["charts"][0]["desc"] == "2 requests in the last 24 hours, 0 of them failed."
    assert admin["charts"][0]["desc"] == "4 requests in the last 24 hours, 1 of them failed."
    assert guest["errors"]["rows"] == []
    assert texts(admin["errors"])[0][1:] == [
        "POST /v1/chat/completions",
        "no",
        "–",
        "404",
        "model_not_found",
        "admin",
    ]


def test_a_key_sees_only_what_it_may_use(world: World) -> None:
    guarded(world).employ(Scripted("Hello."))
    shown = state(world.http(), **bearer(NARROW))
    assert (shown["models"]["rows"], shown["endpoints"]["rows"]) == ([], [])


def test_a_key_sees_its_own_running_requests(world: World) -> None:
    guarded(world).bridge(Scripted("x")).step(world.session)
    client = world.http()
    chat = client.post("/v1/chat/completions", json={**BODY, "stream": True}, headers=bearer(GUEST))
    log_in(client, GUEST)
    assert texts(state(client)["running"])[0][0] == "test/model"
    assert len(state(client, **bearer(ADMIN))["running"]["rows"]) == 1
    assert state(client, **bearer(NARROW))["running"]["rows"] == []
    assert "secret" not in json.dumps(state(client, **bearer(ADMIN)))
    chat.close()


def test_in_passthrough_mode_only_public_facts_are_shown(world: World) -> None:
    world.configure(access={"mode": "passthrough"})
    world.employ(Scripted("Hello."))
    client = world.http()
    client.post("/v1/chat/completions", json=BODY, headers=bearer("horde-key-of-ann")).close()
    shown = state(client)
    assert len(shown["models"]["rows"]) == len(shown["endpoints"]["rows"]) == 1
    assert {shown[name] for name in ("running", "account", "charts", "hours", "errors")} == {None}
    assert client.get("/page/events").status_code == 403
    assert 'id="chat-key"' in client.get("/", headers=HTML).text


def test_a_daily_limit_is_shown_to_its_key(world: World) -> None:
    guarded(world)
    world.settings["access"] = {}
    world.configure(**known(guest=ClientKey("guest", tokens_per_day=1000)))
    found = state(world.http(), **bearer("key-of-guest-longer"))
    assert found["account"][-1] == ["Tokens today", "0 of 1,000"]


def test_errors_show_no_secrets(world: World) -> None:
    guarded(world)
    client = world.http()
    client.get("/v1/models", headers=bearer("wrong-key-0123456789")).close()
    path = "/v1/chat/completions?key=hidden-in-query"
    client.post(path, json=BODY, headers=bearer(GUEST)).close()
    shown = json.dumps(state(client, **bearer(ADMIN)))
    assert "invalid_api_key" in shown
    for secret in ("wrong-key", "hidden-in-query", "my own secret", GUEST, ADMIN):
        assert secret not in shown


# What runs, as it runs.


def events(text: str) -> list[list[list[str]]]:
    """The rows that each event brings, each with the texts of its cells."""
    sent = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]
    return [rows_of("".join(event["rows"]["rows-running"]["changed"])) for event in sent]


def rows_of(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr data-name.*?</tr>", html, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return [[re.sub("<[^>]*>", "", cell) for cell in row] for row in cells]


def test_events_come_only_on_changes_and_end_after_five_minutes(
    world: World,
) -> None:
    text = world.http().get("/page/events").text
    assert text.startswith("retry: 3000\n\ndata: ")
    assert len(events(text)) == 1
    assert text.count(": no change\n\n") == 300 // 15 - 1
    assert world.clock.seconds == 1300


def test_events_show_positions_and_expected_seconds(world: World) -> None:
    app = world.app()
    register = app.extensions["horde_proxy"].live.in_flight

    def start() -> Iterator[StreamItem]:
        yield Accepted()
        while True:
            world.clock.seconds += 1
            yield Waiting("queued", 3, 20)

    with register.join("key", RequestInfo("0123456789", "ann", "m", True, 0.0), start) as reader:
        assert [reader.next(), reader.next()] == [Accepted(), Waiting("queued", 3, 20)]
        response = app.test_client().get("/page/events", buffered=False)
        _, first = next(response.response), next(response.response)  # type: ignore[call-overload]
    [[row]] = events(first.decode())
    assert row[:4] == ["m", "queued", "3", "20 s"]
    response.close()


def test_one_watcher_too_many_is_refused(world: World) -> None:
    client = with_page(world.app(), PageState(watchers=Slots(1))).test_client()
    first = client.get("/page/events", buffered=False)
    second = client.get("/page/events")
    assert (second.status_code, second.headers["Retry-After"]) == (503, "10")
    first.close()
    third = client.get("/page/events", buffered=False)
    assert third.status_code == 200
    third.close()


@pytest.mark.parametrize("change", ["revoked", "no longer an admin's"])
@pytest.mark.parametrize("by", ["session", "header"])
def test_events_end_when_their_key_is_revoked_or_has_other_rights(
    world: World, by: str, change: str
) -> None:
    app, digest = guarded(world).app(), key_digest("key-of-the-database")
    stored = {digest: ClientKey("ann", admin=True)}
    context = app.extensions["horde_proxy"]
    ring = KeyRing({}, lambda: dict(stored), clock=world.clock, run=inline)
    app.extensions["horde_proxy"] = replace(context, access=replace(context.access, keys=ring))
    client, headers = app.test_client(), bearer("key-of-the-database")
    if by == "session":
        log_in(client, "key-of-the-database")
        headers = {}

    def revoke() -> None:
        if world.clock.seconds == 1100:
            stored.clear()
            if change != "revoked":
                stored[digest] = ClientKey("ann")

    world.clock.every_sleep.append(revoke)
    assert client.get("/page/events", headers=headers).text.startswith("retry: 3000")
    assert 1100 < world.clock.seconds <= 1106


def test_events_end_with_the_session(world: World) -> None:
    app = guarded(world).app()
    page, client = app.extensions["horde_proxy"].live.page, app.test_client()
    log_in(client, GUEST)
    session = client.get_cookie("horde_proxy_page")
    assert session is not None

    def log_out() -> None:
        if world.clock.seconds > 1010:
            page.sessions.end(session.value)

    world.clock.every_sleep.append(log_out)
    assert client.get("/page/events").text.startswith("retry: 3000")
    assert 1010 < world.clock.seconds < 1015


def test_events_end_with_new_settings_and_at_a_shutdown(world: World) -> None:
    app = world.app()
    client, halt = app.test_client(), app.extensions["horde_proxy"].live.shutdown
    halt.has_begun = True
    assert events(client.get("/page/events").text) == []
    halt.has_begun = False
    other = world.app().extensions["horde_proxy"]
    world.clock.every_sleep.append(lambda: app.extensions.update(horde_proxy=other))
    assert len(events(client.get("/page/events").text)) == 1
    assert world.clock.seconds == 1001


def test_a_hostile_name_stays_a_text_in_an_event(world: World) -> None:
    app = world.app()
    app.extensions["horde_proxy"].live.in_flight.track_proxied(
        RequestInfo("abc", "ann", HOSTILE, True, 0.0)
    )
    [row], *_ = events(app.test_client().get("/page/events").text)
    assert row[0] == "&lt;script&gt;alert(1)&lt;/script&gt;&#39;&#34;&amp;"


def test_a_proxied_request_is_among_the_running_ones(world: World) -> None:
    app = world.app()
    in_flight = app.extensions["horde_proxy"].live.in_flight
    proxied = in_flight.track_proxied(RequestInfo("abc", "ann", "m", True, 0.0))
    client = app.test_client()
    assert texts(state(client)["running"])[0][:2] == ["m", "relayed"]
    in_flight.forget_proxied(proxied)
    assert state(client)["running"]["rows"] == []


# The last day.


def record(**fields: Any) -> RequestLog:
    return RequestLog(
        "id",
        "POST",
        "/v1/chat/completions",
        "127.0.0.1",
        **{
            "status": 200,
            "seconds": 2.0,
            "account": "anybody",
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "kudos": 1.5,
            **fields,
        },
    )


def test_requests_are_counted_in_ten_minutes() -> None:
    clock = Clock()
    clock.seconds = 1_000_000_200.0
    history = History(clock)
    history.add(record())
    history.add(record(error="timeout", status=504, prompt_tokens=None, kudos=None))
    clock.seconds += BUCKET_SECONDS
    history.add(record(seconds=4.0))
    buckets = history.buckets()
    assert len(buckets) == BUCKETS == 144
    assert [bucket.start for bucket in buckets[-2:]] == [999_999_600 + 600, 1_000_000_800]
    assert [(bucket.requests, bucket.errors) for bucket in buckets[-3:]] == [(0, 0), (2, 1), (1, 0)]
    assert [(b.prompt_tokens, b.completion_tokens, b.kudos) for b in buckets[-2:]] == [
        (10, 10, 1.5),
        (10, 5, 1.5),
    ]
    assert [bucket.percentile(0.5) for bucket in buckets[-3:]] == [None, 2.0, 4.0]


def test_the_history_ends_after_a_day() -> None:
    clock = Clock()
    history = History(clock)
    history.add(record(error="timeout"))
    clock.seconds += BUCKETS * BUCKET_SECONDS
    assert sum(bucket.requests for bucket in history.buckets()) == 0
    assert history.errors() == []


def test_the_last_fifty_errors_of_a_key_are_kept() -> None:
    clock = Clock()
    history = History(clock)
    history.add(record(error="first", key="ann"))
    for count in range(60):
        clock.seconds += 1
        history.add(record(error=f"e{count}", status=500, key="bob"))
    assert [error.code for error in history.errors("bob")[:2]] == ["e59", "e58"]
    assert len(history.errors("bob")) == 50
    assert [error.code for error in history.errors("ann")] == ["first"]
    assert history.errors("carl") == []


@pytest.mark.parametrize(
    ("fields", "counts", "errors"),
    [
        ({"account": None}, 0, 0),
        ({"account": None, "status": 404, "error": None}, 0, 0),
        ({"account": None, "status": 401, "error": "invalid_api_key"}, 0, 1),
        ({"account": None, "status": 500, "error": None}, 0, 1),
        ({"error": "client_closed_request"}, 1, 1),
    ],
)
def test_a_request_without_an_account_counts_only_as_an_error(
    fields: dict[str, Any], counts: int, errors: int
) -> None:
    history = History(Clock())
    history.add(record(**fields))
    assert sum(bucket.requests for bucket in history.buckets()) == counts
    assert len(history.errors()) == errors


def test_a_long_name_is_cut() -> None:
    history = History(Clock())
    history.add(record(error="x", requested="m" * 10_000))
    assert len(history.errors()[0].model) == 200


def test_charts_are_drawn_for_a_day_with_and_without_requests() -> None:
    history = History(Clock())
    assert [chart["marks"][0]["d"] for chart in charts(history.buckets())] == ["", "", "", ""]
    history.add(record())
    history.add(record(error="timeout"))
    history.add(record(prompt_tokens=0, completion_tokens=0, images=3))
    requests, latency, tokens, pictures = charts(history.buckets())
    assert [mark["d"].count("M") for mark in requests["marks"]] == [1, 1]
    assert latency["desc"] == (
        "The median of ten minutes was between 2 s and 2 s in the last 24 hours."
    )
    assert tokens["desc"] == "20 tokens read and 10 written in the last 24 hours."
    assert pictures["desc"] == "3 pictures made in the last 24 hours."
    assert [mark["d"].count("M") for mark in pictures["marks"]] == [1]


def test_the_share_of_warm_tokens_is_told_where_servers_say_it() -> None:
    history = History(Clock())
    history.add(record(prompt_tokens=100))
    assert hours(history.buckets())["rows"][0]["cells"][4]["text"] == "–"
    history.add(record(prompt_tokens=100, cached_tokens=90))
    history.add(record(prompt_tokens=100, cached_tokens=0))
    assert charts(history.buckets())[2]["desc"] == (
        "300 tokens read and 15 written in the last 24 hours. Of the tokens read, 45 % were in a "
        "server's cache, where servers say so."
    )
    shares = [row["cells"][4]["text"] for row in hours(history.buckets())["rows"]]
    assert shares[0] == "45 %"


def test_large_numbers_beside_an_axis_are_short() -> None:
    history = History(Clock())
    history.add(record(prompt_tokens=35_000))
    tokens = charts(history.buckets())[2]
    assert [tick["text"] for tick in tokens["ticks"]] == [
        "0",
        "20 k",
        "40 k",
        "−24 h",
        "−18 h",
        "−12 h",
        "−6 h",
        "now",
    ]


def test_durations_of_many_keys_together_are_bounded() -> None:
    history = History(Clock())
    for name in range(30):
        for _ in range(300):
            history.add(record(key=f"key-{name}"))
    assert history.buckets()[-1].requests == 9000
    assert len(history.buckets("key-1")[-1].seconds) == 200
    assert len(history.buckets()[-1].seconds) == 2000


# Words.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.25, "250 ms"),
        (1, "1 s"),
        (2.54, "2.5 s"),
        (42.2, "42 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (float("inf"), "–"),
    ],
)
def test_durations_are_readable(value: float | None, text: str) -> None:
    assert seconds(value) == ("0 s" if value == 0 else text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (1.25, "1.2"),
        (123.4, "123"),
        (65536, "65,536"),
        (2.5e6, "2.5 M"),
        (float("nan"), "–"),
    ],
)
def test_numbers_are_readable(value: float | None, text: str) -> None:
    assert number(value) == text


def test_unusable_fields_of_another_servers_model_are_dashes() -> None:
    table = models([{"id": "m", "context_length": "many", "horde": 3, "endpoints": ["a", "b"]}])
    assert texts(table) == [["m", "–", "–", "–", "–", "–", "a, b"]]


@pytest.mark.parametrize(
    ("fields", "text", "tone"),
    [
        ({}, "up", "good"),
        ({"state": "cooling", "retry_in": 90}, "cooling, 1 min 30 s left", "bad"),
        ({"state": "probing"}, "probing", "warn"),
        ({"state": "down"}, "down", "bad"),
    ],
)
def test_the_state_of_an_endpoint_is_shown(fields: dict[str, Any], text: str, tone: str) -> None:
    told = {
        "name": "a",
        "type": "openai",
        "models": ["m"],
        "state": "up",
        "retry_in": None,
        "last_error": None,
        "running": 0,
        "waiting": 0,
        "max_concurrent": None,
        "latency": {"count": 0, "p50": None, "p95": 0.2},
        "place": "home",
        **fields,
    }
    cell = endpoints([told])["rows"][0]["cells"][2]
    assert (cell["text"], cell["tone"]) == (text, tone)


def test_a_request_whose_client_left_is_marked() -> None:
    told = {
        "id": "abcdefghij",
        "model": "m",
        "began": 100,
        "state": "generating",
        "has_text": True,
        "queue_position": None,
        "expected_seconds": None,
        "connected": False,
    }
    assert texts(running([told], 165.9)) == [
        ["m", "writing, client left", "–", "–", "1 min 5 s", "abcdefgh"],
    ]
