"""Requests that a proxy without keys refuses before it looks at anything else in them."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import TestResponse

from horde_proxy.api.request_guard import FORWARDED
from tests.support import Scripted, World

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
KEY = "sk-a-key-of-a-client-0123"
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0"}


def world(mode: str | None = None, **server: Any) -> World:
    keys = {"keys": {"laptop": KEY}} if mode == "keys" else {}
    made = World(access={"mode": mode, **keys} if mode else {}, server=server)
    made.employ(Scripted("Hello"))
    return made


def chatted(made: World, **arguments: Any) -> TestResponse:
    return made.http().post("/v1/chat/completions", json=CHAT, **arguments)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Proto": "https"},
        {"X-Real-IP": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"Via": "1.1 proxy.example.org"},
        {"x-forwarded": "for=203.0.113.9"},
        {"X-Client-IP": "203.0.113.9"},
        {"CF-Connecting-IP": "203.0.113.9"},
        {"True-Client-IP": "203.0.113.9"},
        {"X-Original-Forwarded-For": "203.0.113.9"},
        {"X-Envoy-External-Address": "203.0.113.9"},
        {"Tailscale-User-Login": "ann@example.org"},
        {"X-Amzn-Trace-Id": "Root=1-67891233-abcdef012345678912345678"},
    ],
)
def test_what_came_through_a_reverse_proxy_needs_an_access_mode(headers: dict[str, str]) -> None:
    response = chatted(world(), headers=headers)
    assert response.status_code == 403
    assert response.get_json()["error"] == {
        "message": FORWARDED,
        "type": "invalid_request_error",
        "param": None,
        "code": "access_mode_required",
    }
    assert "access.mode" in FORWARDED
    for mode in ("open", "passthrough"):
        assert chatted(world(mode), headers=headers).status_code == 200


def test_a_reverse_proxy_that_adds_no_header_is_known_by_its_protocol() -> None:
    old = {"SERVER_PROTOCOL": "HTTP/1.0"}
    assert chatted(world(), environ_overrides=old).status_code == 403
    assert chatted(world("open"), environ_overrides=old).status_code == 200


def test_a_client_of_this_machine_may_come_through_a_trusted_proxy() -> None:
    made = world(trusted_proxies=["127.0.0.1"])
    assert chatted(made, headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 200
    assert chatted(made, headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:8080", 200),
        ("ai.localhost", 200),
        ("127.0.0.1:8080", 200),
        ("127.0.0.2", 200),
        ("[::1]:8080", 200),
        ("[::ffff:127.0.0.1]:8080", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.168.1.5:8080", 403),
        ("ai.example.org", 403),
    ],
)
def test_without_a_mode_only_names_of_this_machine_are_served(host: str, status: int) -> None:
    assert chatted(world(), headers={"Host": host}).status_code == status


def test_listed_names_are_served_without_a_mode() -> None:
    named = {"Host": "ai.example.org:8080"}
    assert chatted(world(hosts=["AI.example.org"]), headers=named).status_code == 200
    assert chatted(world(public_url="http://ai.example.org"), headers=named).status_code == 200


def test_a_unix_socket_has_no_name() -> None:
    """curl --unix-socket PATH http://anything/v1/models."""
    unix = {"REMOTE_ADDR": ""}
    host = {"Host": "anything.example"}
    assert chatted(world(), headers=host, environ_overrides=unix).status_code == 200


@pytest.mark.parametrize("mode", [None, "open"])
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:8080", 200),
        ("http://[::1]:3000", 200),
        ("app://obsidian.md", 200),
        ("tauri://localhost", 200),
        ("https://chat.example.org", 200),
    ],
)
def test_pages_of_other_origins_get_no_answer(mode: str | None, origin: str, status: int) -> None:
    made = world(mode, origins=["https://chat.example.org"])
    response = chatted(made, headers={**BROWSER, "Origin": origin})
    assert response.status_code == status
    allowed = response.headers.get("Access-Control-Allow-Origin")
    assert allowed == ("*" if status == 200 else None)


def test_a_preflight_of_another_origin_is_refused() -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for mode, status in ((None, 403), ("open", 403), ("passthrough", 204)):
        response = world(mode).http().options("/v1/chat/completions", headers=asked)
        assert response.status_code == status
        assert ("Access-Control-Allow-Origin" in response.headers) == (status == 204)


def test_all_pages_may_call_where_the_settings_say_so() -> None:
    headers = {"Origin": "https://evil.example"}
    assert chatted(world("open", origins=["*"]), headers=headers).status_code == 200


def test_with_keys_the_key_decides() -> None:
    headers = {
        **BROWSER,
        "Origin": "https://evil.example",
        "Host": "ai.example.org",
        "Authorization": f"Bearer {KEY}",
    }
    assert chatted(world("keys"), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("192.168.1.5:8080", 200),
        ("server:8080", 200),
        ("server.local:8080", 200),
        ("server.home.arpa", 200),
        ("evil.example:8080", 403),
    ],
)
def test_a_page_that_became_our_own_by_dns_gets_no_answer(host: str, status: int) -> None:
    """DNS rebinding: the browser takes evil.example, now at our address, for the page's origin."""
    posted = {**BROWSER, "Host": host, "Origin": f"http://{host}"}
    assert chatted(world("open"), headers=posted).status_code == status
    fetched = world("open").http().get("/v1/models", headers={**BROWSER, "Host": host})
    assert fetched.status_code == status
    program = world("open").http().get("/v1/models", headers={"Host": host})
    assert program.status_code == 200


def test_a_page_of_another_name_for_the_same_machine_is_another_origin() -> None:
    headers = {"Host": "192.168.1.5:8080", "Origin": "http://192.168.1.5:3000"}
    assert chatted(world("open"), headers=headers).status_code == 200
    headers["Origin"] = "http://192.168.1.6:3000"
    assert chatted(world("open"), headers=headers).status_code == 403


def test_the_page_is_refused_as_well() -> None:
    assert world().http().get("/", headers={"Host": "evil.example"}).status_code == 403
    assert world().http().get("/", headers={"Host": "localhost"}).status_code == 200


def test_probes_and_pushed_results_are_not_refused() -> None:
    http, headers = world().http(), {"X-Forwarded-For": "203.0.113.9", "Host": "ai.example.org"}
    assert http.get("/health/live", headers=headers).status_code == 200
    assert http.post("/horde/webhook/x", json={}, headers=headers).status_code == 404
    # A picture's name is a secret, too, and pages show it.
    picture = f"/v1/files/images/{'A' * 32}.png"
    assert http.get(picture, headers={"Origin": "https://a.example"}).status_code == 404


def private(mode: str | None = None) -> World:
    horde = {"enabled": True, "api_key": "an-owners-key-0123"}
    return World(private_horde=horde, access={"mode": mode} if mode else {})


@pytest.mark.parametrize("path", ["/api/v2/status/heartbeat", "/page/horde/"])
def test_the_private_horde_is_guarded_as_well(path: str) -> None:
    http = private().http()
    forwarded = http.get(path, headers={"X-Forwarded-For": "203.0.113.9"})
    assert forwarded.status_code == 403
    assert forwarded.get_json()["message"] == FORWARDED
    assert http.get(path, headers={"Host": "evil.example"}).status_code == 403
    assert http.get(path).status_code == 200
    opened = private("open").http()
    assert opened.get(path, headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 200


@pytest.mark.parametrize(("mode", "host"), [(None, "localhost:8080"), ("open", "192.168.1.5:8080")])
@pytest.mark.parametrize("path", ["/", "/page/horde/"])
def test_forms_of_our_own_pages_are_served(mode: str | None, host: str, path: str) -> None:
    """Chromium's headers; with the policy no-referrer, it would call the origin "null"."""
    http = private(mode).http()
    seen = {**BROWSER, "Host": host, "Accept": "text/html"}
    page = http.get(path, headers=seen)
    assert page.headers["Referrer-Policy"] == "same-origin"
    page.close()
    sent = {**seen, "Origin": f"http://{host}"}
    form = {"/": "/page/background/resp_1/cancel", "/page/horde/": "/page/horde/sign-in"}[path]
    answer = http.post(form, data={"key": "x"}, headers=sent)
    assert "access_mode_required" not in answer.text
    # The page refuses the form itself: there is no such answer, and the token is missing.
    assert answer.status_code == (404 if path == "/" else 400)


def test_pages_of_other_origins_use_the_private_horde_with_a_key_only() -> None:
    """KoboldAI Lite is such a page, whose visitors have keys."""
    http = private("open").http()
    headers = {"Origin": "https://lite.example"}
    assert http.get("/api/v2/status/models?type=text", headers=headers).status_code == 200
    body = {"prompt": "Hello", "params": {"max_length": 20}, "models": ["m"]}
    for key, status in (("0000000000", 403), ("an-owners-key-0123", 202)):
        headers = {"Origin": "https://lite.example", "apikey": key}
        response = http.post("/api/v2/generate/text/async", json=body, headers=headers)
        assert response.status_code == status
    assert http.options("/api/v2/generate/text/async", headers=headers).status_code == 200


# Who is the operator where no key is required: only somebody who is certainly at this machine.

OPERATORS_ROUTES = ("/metrics", "/page/admin/endpoints", "/page/first-run")


def operators_statuses(made: World, **arguments: Any) -> list[int]:
    http = made.http()
    return [http.get(path, **arguments).status_code for path in OPERATORS_ROUTES]


@pytest.mark.parametrize("mode", ["open", "passthrough"])
@pytest.mark.parametrize(
    "arguments",
    [
        # nginx before 1.29.7 adds no header; a newer one that passes the Host on; web pages.
        {"environ_overrides": {"SERVER_PROTOCOL": "HTTP/1.0"}},
        {"environ_overrides": {"SERVER_PROTOCOL": "HTTP/1.0", "REMOTE_ADDR": ""}},
        {"headers": {"Host": "ai.example.org"}},
        {"headers": {"Host": "192.168.1.5:8080"}},
        {"headers": {"Origin": "https://evil.example"}},
        {"headers": {"Origin": "null"}},
        {"headers": {"Host": "evil.example", **BROWSER}},
        {"headers": {"X-Forwarded-For": "127.0.0.1"}},
        {"environ_overrides": {"REMOTE_ADDR": "192.168.1.7"}},
    ],
)
def test_a_stranger_of_an_open_proxy_is_not_its_operator(
    mode: str, arguments: dict[str, Any]
) -> None:
    made = world(mode, public_url="https://ai.example.org", hosts=["192.168.1.5"])
    assert operators_statuses(made, **arguments) == [403, 403, 403]


@pytest.mark.parametrize("mode", ["open", "passthrough"])
def test_whoever_is_at_the_machine_of_an_open_proxy_is_its_operator(mode: str) -> None:
    made = world(mode, hosts=["workshop"])
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080", "ai.localhost", "workshop:8080"):
        assert operators_statuses(made, headers={"Host": host}) == [200, 200, 200], host
    own = {"Host": "localhost", "Origin": "http://localhost", **BROWSER}
    assert operators_statuses(made, headers=own) == [200, 200, 200]
    unix = {"REMOTE_ADDR": ""}
    assert operators_statuses(made, environ_overrides=unix) == [200, 200, 200]
    made = world(mode, trusted_proxies=["127.0.0.1"])
    named = {"X-Forwarded-For": "127.0.0.1", "Host": "ai.example.org"}
    old = {"SERVER_PROTOCOL": "HTTP/1.0"}
    statuses = operators_statuses(made, headers=named, environ_overrides=old)
    assert statuses == [200, 200, 200]
