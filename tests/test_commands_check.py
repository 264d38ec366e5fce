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
from horde_proxy.commands.cli import main
from horde_proxy.config import load
from tests.support import World

HORDE = "https://horde.invalid/api/v2"
URL = "https://ai.home.invalid"
SETTINGS = load(
    environ={"AI_HORDE_API_KEY": "my-own-key"}, flags={"horde": {"url": "https://horde.invalid"}}
)


def horde(now: float = 1000.0) -> list[check.Finding]:
    return list(check.check_horde(SETTINGS, requests.Session(), now=lambda: now))


def healthy_horde(**user: Any) -> None:
    responses.get(
        f"{HORDE}/status/heartbeat",
        json={"message": "OK"},
        headers={"Date": formatdate(1000.0, usegmt=True)},
    )
    responses.get(f"{HORDE}/find_user", **(user or {"json": {"username": "ann#1", "kudos": 50.0}}))
    responses.get(f"{HORDE}/status/models", json=[{"name": "a/b"}])


def failed(findings: list[check.Finding]) -> list[str]:
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
    assert findings[0].what == "endpoint box: 1 models"
    assert findings[1].what == "endpoint other: lists no models, so any model may be requested"
    assert findings[3].what.startswith("endpoint guild: ")


@responses.activate
def test_models_of_a_horde_that_the_settings_exclude_are_counted() -> None:
    base = "http://guild.invalid/api/v2"
    worker = {"id": "w", "online": True, "models": ["b"], "bridge_agent": "horde-proxy:1:x"}
    responses.get(f"{base}/status/models", json=[{"name": "a", "count": 1}])
    responses.get(f"{base}/workers", json=[worker])
    guild = {"url": "http://guild.invalid", "name": "guild", "type": "horde"}
    [finding] = check.check_endpoints(load(environ={}, flags={"endpoints": [guild]}))
    assert finding.what == "endpoint guild: 2 models, 1 of them without a worker that may answer"


def through_url(**answers: Any) -> list[check.Finding]:
    """The findings of a proxy of which only some answers are wrong."""
    model = {"id": "a/b"}
    responses.get(f"{URL}/v1/models", **answers.get("models", {"json": {"data": [model]}}))
    responses.get(f"{URL}/v1/models/a%2Fb", **answers.get("name", {"json": model}))
    responses.post(f"{URL}/v1/chat/completions", **answers.get("body", {"status": 400}))
    responses.get(f"{URL}/health/probe", **answers.get("probe", {"body": "data: {}\n\n" * 5}))
    return list(check.check_url(f"{URL}/v1/", "k", requests.Session()))


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


@responses.activate
def test_a_slash_is_tried_with_the_full_id_of_a_model_that_has_a_short_one() -> None:
    short = {"id": "b", "full_id": "a/b"}
    findings = through_url(models={"json": {"data": [short]}}, name={"status": 404})
    assert "names" in failed(findings)


@responses.activate
def test_settings_that_could_not_be_reloaded_are_found() -> None:
    responses.get(f"{URL}/v1/models", json={"data": []})
    status = {"loaded_at": 1, "problem": "the new settings have no access.mode"}
    responses.get(f"{URL}/v1/endpoints", json={"data": [], "settings": status})
    findings = check.check_url(URL, "k", requests.Session(), silence=False)
    assert check.Finding(
        "settings: the newest ones are not in use", "the new settings have no access.mode"
    ) in list(findings)


@responses.activate
def test_the_command_says_that_it_waits() -> None:
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


def delivery() -> check.Finding:
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
    assert delivery() == check.Finding(
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
