"""What sessions for outgoing calls take from the environment, and which proxy they use."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from requests.adapters import BaseAdapter

from horde_proxy.app.assembly import Assembly, build
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.config.errors import ConfigError
from horde_proxy.errors import ProxyError
from horde_proxy.shutdown import Shutdown
from horde_proxy.upstreams.sessions import (
    ignored_proxies,
    new_session,
    trusted_certificates,
    with_proxy,
)

PROXY = "http://user:password@proxy.invalid:3128"


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with a login for every host, and a proxy."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password netrc-secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://environment.invalid:1")


@pytest.mark.usefixtures("hostile")
@responses.activate
def test_no_login_of_netrc_and_no_proxy_of_the_environment_is_used() -> None:
    responses.get("http://horde.invalid/x", json={})
    plain = requests.Session().prepare_request(requests.Request("GET", "http://horde.invalid/x"))
    assert plain.headers["Authorization"].startswith("Basic ")
    session = new_session()
    assert "Authorization" not in session.get("http://horde.invalid/x").request.headers
    found = session.merge_environment_settings("http://horde.invalid/x", {}, None, None, None)
    assert found["proxies"] == {}


class Recording(BaseAdapter):
    """Keeps what is sent through it, and answers with an empty list."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[requests.PreparedRequest, Any]] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> Any:
        self.sent.append((request, dict(options.get("proxies") or {})))
        raise requests.ConnectionError("nobody is there")

    def close(self) -> None:
        """Nothing is open."""


def calls(endpoint: dict[str, Any], **server: Any) -> list[tuple[requests.PreparedRequest, Any]]:
    """What an endpoint sends to list its models."""
    settings = load(environ={}, flags={"endpoints": [endpoint], "server": server})
    adapter = Recording()
    runtime = Runtime(new_session=lambda _: new_session(adapter), run=inline)
    services = Assembly(runtime, Shutdown(lambda seconds: None)).services(settings)
    upstream = build(settings.endpoints[0], services)
    with pytest.raises(ProxyError):
        upstream.models()
    assert adapter.sent
    return adapter.sent


FAR = "https://far.example/v1"
HOME = "http://192.168.1.5:8000/v1"
BOTH = {"http": PROXY, "https": PROXY}


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("kind", ["openai", "ocf", "horde"])
@pytest.mark.parametrize(
    ("endpoint", "server", "proxies"),
    [
        ({"url": FAR}, {}, {}),
        ({"url": FAR}, {"proxy_url": PROXY}, BOTH),
        ({"url": HOME}, {"proxy_url": PROXY}, {}),
        ({"url": FAR, "proxy_url": "direct"}, {"proxy_url": PROXY}, {}),
        ({"url": HOME, "proxy_url": PROXY}, {}, BOTH),
    ],
)
def test_every_kind_of_endpoint_calls_through_the_proxy_of_the_settings_only(
    kind: str, endpoint: dict[str, Any], server: dict[str, Any], proxies: dict[str, str]
) -> None:
    for request, used in calls({"type": kind, "api_key": "k", **endpoint}, **server):
        assert used == proxies
        assert "netrc" not in str(request.headers)
        assert not request.headers.get("Authorization", "").startswith("Basic")


@pytest.mark.parametrize("url", ["proxy:3128", "socks5://proxy:1080", "http://"])
def test_a_proxy_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.proxy_url"):
        load(environ={}, flags={"server": {"proxy_url": url}})


def test_a_session_without_a_proxy_calls_directly() -> None:
    assert with_proxy(new_session(), None).proxies == {}
    assert with_proxy(new_session(), "direct").proxies == {}


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_certificates_of_the_environment_are_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(other, raising=False)
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("")
    monkeypatch.setenv(name, str(bundle))
    assert new_session().verify == str(bundle)
    used = new_session().merge_environment_settings(FAR, {}, True, None, None)
    assert used["verify"] == str(bundle)


def test_a_missing_ssl_cert_file_is_ignored_as_by_openssl() -> None:
    assert trusted_certificates({"SSL_CERT_FILE": "/nowhere.pem"}, ()) == (None, "certifi")


def test_the_systems_certificates_are_trusted_and_else_those_of_certifi(tmp_path: Path) -> None:
    """An authority of the home network is installed there: update-ca-certificates."""
    file = tmp_path / "ca-certificates.crt"
    assert trusted_certificates({}, (str(file),)) == (None, "certifi")
    file.write_text("")
    assert trusted_certificates({}, ("/nowhere", str(file))) == (str(file), "this system")
    named = {"REQUESTS_CA_BUNDLE": "/mine.pem"}
    assert trusted_certificates(named, (str(file),)) == ("/mine.pem", "REQUESTS_CA_BUNDLE")


def test_ignored_proxies_are_named() -> None:
    assert ignored_proxies({"https_proxy": "http://x", "HTTP_PROXY": "", "ALL_PROXY": "y"}) == [
        "https_proxy",
        "ALL_PROXY",
    ]


def test_no_other_module_makes_sessions_of_requests() -> None:
    """Theirs would read ~/.netrc."""
    package = Path(__file__).parent.parent / "horde_proxy"
    makers = {"Session", "get", "post", "put", "delete", "head", "request"}
    found = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        if path.name != "sessions.py" or path.parent.name != "web"
        # To parse a module takes long, and most name neither.
        if "Session" in (text := path.read_text()) or "requests" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and _is_maker(node.func, makers)
    ]
    assert [place.partition(":")[0] for place in found] == ["upstreams/sessions.py"]


def _is_maker(function: ast.expr, makers: set[str]) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "Session"
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "requests"
        and function.attr in makers
    )
