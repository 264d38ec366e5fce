"""What `check` finds, and the fix that it names."""

from __future__ import annotations

import json
import re
from email.utils import formatdate
from typing import Any

import pytest
import requests
import responses
from click.testing import CliRunner

from horde_proxy.commands import check
from horde_proxy.commands.check_url import check_url
from horde_proxy.commands.cli import main
from horde_proxy.commands.findings import Finding
from horde_proxy.config import load
from tests.support import World

HORDE = "https://horde.invalid/api/v2"
URL = "https://ai.home.invalid"
SETTINGS = load(
    environ={"AI_HORDE_API_KEY": "my-own-key"}, flags={"horde": {"url": "https://horde.invalid"}}
)


def horde(now: float = 1000.0) -> list[Finding]:
    return list(check.check_horde(SETTINGS, requests.Session(), now=lambda: now))


def healthy_horde(**user: Any) -> None:
    responses.get(
        f"{HORDE}/status/heartbeat",
        json={"message": "OK"},
        headers={"Date": formatdate(1000.0, usegmt=True)},
    )
    responses.get(f"{HORDE}/find_user", **(user or {"json": {"username": "ann#1", "kudos": 50.0}}))
    responses.get(f"{HORDE}/status/models", json=[{"name": "a/b"}])


def failed(findings: list[Finding]) -> list[str]:
    return [finding.what.split(":")[0] for finding in findings if not finding.ok]


@responses.activate
def test_a_healthy_horde_has_nothing_to_fix() -> None:
    healthy_horde()
    findings = horde()
    assert failed(findings) == []
    assert "key: ann#1 with 50.0 kudos" in [finding.what for finding in findings]
    assert "models: 1 with workers" in [finding.what for finding in findings]


@responses.activate
def test_an_unreachable_horde_ends_the_checks() -> None:
    [finding] = horde()
    assert finding.fix == "look at the network, DNS and horde.url"


@responses.activate
def test_a_wrong_clock_is_found() -> None:
    healthy_horde()
    assert failed(horde(now=2000.0)) == ["clock"]


@responses.activate
def test_a_wrong_key_is_found_and_not_shown() -> None:
    healthy_horde(
        status=404,
        json={"message": "User with api_key 'my-own-key' not found.", "rc": "UserNotFound"},
    )
    findings = horde()
    assert failed(findings) == ["key"]
    assert "my-own-key" not in str(findings)


def test_a_private_horde_is_not_checked() -> None:
    settings = load(environ={}, flags={"private_horde": {"enabled": True}})
    [finding] = check.check_horde(settings, requests.Session())
    assert finding.ok


@responses.activate
def test_the_main_horde_is_checked_beside_a_private_one() -> None:
    flags = {"private_horde": {"enabled": True}, "endpoints": [{"type": "horde"}]}
    private, public = check.check_horde(load(environ={}, flags=flags), requests.Session())
    assert private.ok
    assert public.what == "horde: https://aihorde.net/api cannot be reached (ConnectionError)"


@responses.activate
def test_each_endpoint_is_asked_for_its_models() -> None:
    responses.get("http://box.invalid/v1/models", json={"data": [{"id": "a"}]})
    responses.get("http://other.invalid/v1/models", status=404)
    flags = {
        "endpoints": [
            {"url": "http://box.invalid", "name": "box"},
            {"url": "http://other.invalid", "name": "other"},
            {"url": "http://gone.invalid", "name": "gone"},
            {"url": "http://horde.invalid", "name": "guild", "type": "horde"},
        ]
    }
    findings = list(check.check_endpoints(load(environ={}, flags=flags)))
    assert [finding.ok for finding in findings] == [True, True, False, False]
    assert findings[0].what == "endpoint box (paid): 1 models"
    assert (
        findings[1].what == "endpoint other (paid): lists no models, so any model may be requested"
    )
    assert findings[3].what.startswith("endpoint guild: ")


@responses.activate
def test_models_of_a_horde_that_the_settings_exclude_are_counted() -> None:
    base = "http://guild.invalid/api/v2"
    worker = {"id": "w", "online": True, "models": ["b"], "bridge_agent": "horde-proxy:1:x"}
    responses.get(f"{base}/status/models", json=[{"name": "a", "count": 1}])
    responses.get(f"{base}/workers", json=[worker])
    guild = {"url": "http://guild.invalid", "name": "guild", "type": "horde"}
    [finding] = check.check_endpoints(load(environ={}, flags={"endpoints": [guild]}))
    assert finding.what == (
        "endpoint guild (crowd): 2 models, 1 of them without a worker that may answer"
    )


def through_url(**answers: Any) -> list[Finding]:
    """The findings of a proxy of which only some answers are wrong."""
    model = {"id": "a/b"}
    responses.get(f"{URL}/v1/models", **answers.get("models", {"json": {"data": [model]}}))
    responses.get(f"{URL}/v1/models/a%2Fb", **answers.get("name", {"json": model}))
    responses.post(f"{URL}/v1/chat/completions", **answers.get("body", {"status": 400}))
    responses.get(f"{URL}/health/probe", **answers.get("probe", {"body": "data: {}\n\n" * 5}))
    return list(check_url(f"{URL}/v1/", "k", requests.Session()))


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ({"models": {"status": 401}}, ["url"]),
        ({"models": {"status": 502, "body": "<html>"}}, ["url"]),
        ({"models": {"body": requests.ConnectionError("x")}}, ["url"]),
        ({"name": {"status": 404}}, ["names", "stream", "time-outs"]),
        ({"body": {"status": 413}}, ["body", "stream", "time-outs"]),
        ({"body": {"body": requests.ConnectionError("x")}}, ["body", "stream", "time-outs"]),
        ({"probe": {"status": 504}}, ["stream", "time-outs"]),
    ],
)
@responses.activate
def test_a_reverse_proxy_that_alters_requests_is_detected(
    answers: dict[str, Any], found: list[str]
) -> None:
    """All events of these probes come at once, as through a buffering proxy."""
    findings = through_url(**answers)
    assert failed(findings) == found
    assert all(finding.ok or finding.fix for finding in findings)


@pytest.mark.parametrize(
    ("headers", "fix"),
    [
        (
            {"Server": "nginx/1.22.1"},
            "client_max_body_size 512m; compare your configuration with systemd/nginx.conf",
        ),
        (
            {"Via": "1.1 Caddy"},
            "request_body { max_size 512MB }; compare your configuration with systemd/Caddyfile",
        ),
        (
            {"Server": "Apache/2.4.62 (Debian)"},
            "LimitRequestBody 536870912; compare your configuration with systemd/apache.conf",
        ),
    ],
)
@responses.activate
def test_the_mend_is_that_of_the_program_that_answers(headers: dict[str, str], fix: str) -> None:
    findings = through_url(models={"json": {"data": []}, "headers": headers}, body={"status": 413})
    assert [finding.fix for finding in findings if finding.what.startswith("body")] == [fix]


@responses.activate
def test_an_unknown_reverse_proxy_gets_the_mends_of_all() -> None:
    findings = through_url(body={"status": 413})
    [fix] = [finding.fix for finding in findings if finding.what.startswith("body")]
    assert fix.startswith("nginx: client_max_body_size 512m; Caddy: request_body ")
    assert "; Traefik: no buffering middleware; " in fix
    assert fix.endswith("systemd/apache.conf, systemd/traefik.toml")


@responses.activate
def test_a_slash_is_tried_with_the_full_id_of_a_model_that_has_a_short_one() -> None:
    short = {"id": "b", "full_id": "a/b"}
    findings = through_url(models={"json": {"data": [short]}}, name={"status": 404})
    assert "names" in failed(findings)


@responses.activate
def test_a_proxy_that_refuses_the_clients_of_a_url_says_what_to_set() -> None:
    error = {"code": "access_mode_required", "message": "set access.mode"}
    responses.get(f"{URL}/v1/models", status=403, json={"error": error})
    [finding] = check_url(URL, "k", requests.Session(), silence=False)
    assert finding == Finding(f"url: the proxy refuses clients of {URL}", "set access.mode")


@pytest.mark.parametrize(
    ("url", "is_found"),
    [("https://ai.example.org", True), ("http://192.168.1.5", True), ("http://localhost", False)],
)
@responses.activate
def test_a_reverse_proxy_that_opens_the_proxy_to_strangers_is_found(
    url: str, is_found: bool
) -> None:
    responses.get(f"{url}/v1/models", json={"data": []})
    status = {"loaded_at": 1, "problem": None, "local_only": True}
    responses.get(f"{url}/v1/endpoints", json={"data": [], "settings": status})
    findings = check_url(url, None, requests.Session(), silence=False)
    assert ("access" in failed(list(findings))) == is_found


@responses.activate
def test_settings_that_could_not_be_reloaded_are_found() -> None:
    responses.get(f"{URL}/v1/models", json={"data": []})
    problem = "the new settings have no access.mode"
    status = {"loaded_at": 1, "problem": problem, "local_only": False}
    responses.get(f"{URL}/v1/endpoints", json={"data": [], "settings": status})
    findings = check_url(URL, "k", requests.Session(), silence=False)
    assert Finding(
        "settings: the newest ones are not in use", "the new settings have no access.mode"
    ) in list(findings)


@responses.activate
def test_the_command_says_that_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horde_proxy.commands.doctor.certificate_end", lambda host, port: 0.0)
    responses.get(f"{URL}/v1/models", json={"data": []})
    responses.post(f"{URL}/v1/chat/completions", status=400)
    responses.get(f"{URL}/health/probe", body="data: {}\n\n")
    env = {"ENDPOINTS": f"{URL}/v1"}
    waiting = CliRunner().invoke(main, ["check", "--url", URL], env=env)
    assert "Waiting through 70 s of silence (--quick leaves this out) ..." in waiting.stderr
    assert "Waiting" not in CliRunner().invoke(main, ["check", "--url", URL, "--quick"]).output


@responses.activate
def test_the_command_names_each_fix_and_fails() -> None:
    env = {"HORDE_PROXY_HORDE__URL": "http://no.invalid"}
    result = CliRunner().invoke(main, ["check"], env=env)
    assert result.exit_code == 1
    assert "ok    configuration: listens on 127.0.0.1:8080, access open, to this machine" in (
        result.output
    )
    assert "FAIL  horde: http://no.invalid cannot be reached (ConnectionError)" in result.output
    assert "      fix: look at the network, DNS and horde.url" in result.output


# The webhook

HOOKED = load(environ={}, flags={"horde": {"webhook_url": "https://home.invalid/"}})
DELIVERY = re.compile(r"https://home\.invalid/horde/webhook/[\w-]{32}")


def delivery() -> Finding:
    [finding] = check.check_webhooks(HOOKED, requests.Session())
    return finding


@responses.activate
def test_a_result_that_is_pushed_arrives_at_the_proxy(world: World) -> None:
    http = world.configure(horde={"webhook_url": "https://home.invalid"}).http()

    def proxy(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        assert isinstance(request.body, bytes)
        answer = http.post(request.path_url, json=json.loads(request.body))
        return answer.status_code, {}, answer.text

    responses.add_callback(responses.POST, DELIVERY, proxy)
    assert delivery() == Finding(
        "webhook: a result that is pushed to https://home.invalid arrives at the proxy"
    )


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ({"status": 404, "body": "<html>nginx"}, "gives 404, and not the proxy's answer"),
        ({"status": 302, "headers": {"Location": "/login"}}, "gives 302, and not the proxy's"),
        ({"status": 200, "body": "Welcome"}, "gives 200, and not the proxy's answer"),
        ({"body": requests.ConnectTimeout()}, "cannot be reached (ConnectTimeout)"),
        ({"body": requests.exceptions.SSLError()}, "cannot be reached (SSLError)"),
    ],
)
@responses.activate
def test_a_result_that_does_not_arrive_is_found(answer: dict[str, Any], what: str) -> None:
    responses.post(DELIVERY, **answer)
    finding = delivery()
    assert what in finding.what
    assert not finding.ok


def test_without_a_webhook_nothing_is_delivered() -> None:
    assert list(check.check_webhooks(SETTINGS, requests.Session())) == []


@responses.activate
def test_what_a_horde_has_forbidden_the_running_proxy_is_found() -> None:
    responses.get(f"{URL}/v1/models", json={"data": []})
    status = {"loaded_at": 1, "problem": None, "local_only": False}
    penalties = [{"code": "TimeoutIP", "message": "The horde has put it in time-out."}]
    endpoints = [{"name": "home"}, {"name": "horde", "penalties": penalties}]
    responses.get(f"{URL}/v1/endpoints", json={"data": endpoints, "settings": status})
    findings = check_url(URL, "k", requests.Session(), silence=False)
    assert Finding(
        "penalty at horde: The horde has put it in time-out.",
        "nothing is submitted there before that; if it is a mistake, write to the horde's "
        "moderators",
    ) in list(findings)


@pytest.mark.parametrize(
    ("user", "what", "is_well"),
    [
        ({}, "", True),
        ({"flagged": False, "suspicious": None}, "", True),
        ({"flagged": True}, ", flagged by its moderators", False),
        ({"suspicious": 3}, ", suspicious 3 times", False),
    ],
)
@responses.activate
def test_what_the_horde_holds_against_an_account_is_found(
    user: dict[str, Any], what: str, is_well: bool
) -> None:
    healthy_horde(json={"username": "ann#1", "kudos": 50.0, **user})
    [key] = [finding for finding in horde() if finding.what.startswith("key")]
    assert (key.what, key.ok) == (f"key: ann#1 with 50.0 kudos{what}", is_well)


@pytest.mark.parametrize(
    ("answer", "what", "fix"),
    [
        (
            {"body": requests.exceptions.SSLError()},
            f"url: {URL} cannot be reached (SSLError)",
            "give the name that its certificate is for, or trust its authority: "
            "update-ca-certificates adds it to the system's, REQUESTS_CA_BUNDLE names another file",
        ),
        (
            {"body": requests.ConnectTimeout()},
            f"url: {URL} cannot be reached (ConnectTimeout)",
            "is the proxy running, and is this its address?",
        ),
        (
            {"status": 401},
            "url: the key is refused",
            "give one of its keys with --key, or in OPENAI_API_KEY",
        ),
    ],
)
@responses.activate
def test_what_keeps_a_check_out_says_what_to_give(
    answer: dict[str, Any], what: str, fix: str
) -> None:
    responses.get(f"{URL}/v1/models", **answer)
    assert list(check_url(URL, None, requests.Session())) == [Finding(what, fix)]
