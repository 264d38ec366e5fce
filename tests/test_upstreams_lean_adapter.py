"""The adapter that keeps its pools."""

from __future__ import annotations

from typing import Any

import requests
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPResponse

from horde_proxy.upstreams.lean_adapter import LeanAdapter, prepared


def request(url: str) -> requests.PreparedRequest:
    return prepared("GET", url, CaseInsensitiveDict())


def pool(adapter: LeanAdapter, url: str, verify: Any = True) -> Any:
    return adapter.get_connection_with_tls_context(request(url), verify)


def test_all_paths_of_an_origin_share_a_pool() -> None:
    adapter = LeanAdapter()
    one = pool(adapter, "http://horde.invalid/api/v2/a")
    assert pool(adapter, "http://horde.invalid/api/v2/b?x=1") is one
    assert pool(adapter, "http://horde.invalid:81/api/v2/a") is not one
    assert pool(adapter, "https://horde.invalid/api/v2/a") is not one


def test_certificates_are_verified() -> None:
    adapter = LeanAdapter()
    verified = pool(adapter, "https://horde.invalid/")
    assert verified.cert_reqs == "CERT_REQUIRED"
    # Before requests 2.32.4 the CAs are in an SSL context that is loaded once for all pools.
    context = verified.conn_kw.get("ssl_context")
    assert verified.ca_certs or (context and context.get_ca_certs())
    unverified = pool(adapter, "https://horde.invalid/", verify=False)
    assert unverified is not verified
    assert unverified.cert_reqs == "CERT_NONE"


def test_an_environments_proxy_is_used() -> None:
    adapter = LeanAdapter()
    direct = pool(adapter, "http://horde.invalid/")
    proxies = {"http": "http://proxy.invalid:3128"}
    proxied = adapter.get_connection_with_tls_context(
        request("http://horde.invalid/"), True, proxies
    )
    assert proxied is not direct
    assert proxied.host == "proxy.invalid"


def test_a_closed_adapter_makes_new_pools() -> None:
    adapter = LeanAdapter()
    closed = pool(adapter, "http://horde.invalid/")
    adapter.close()
    assert pool(adapter, "http://horde.invalid/") is not closed


def test_a_response_has_status_headers_and_body() -> None:
    raw = HTTPResponse(
        body=b'{"a": 1}',
        status=429,
        reason="Too Many Requests",
        headers={"Retry-After": "7"},
        preload_content=False,
    )
    response = LeanAdapter().build_response(request("http://horde.invalid/x"), raw)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.url == "http://horde.invalid/x"


def test_a_server_gets_the_path_and_an_http_proxy_the_whole_url() -> None:
    adapter, asked = LeanAdapter(), request("http://horde.invalid/api/v2/a?x=1")
    assert adapter.request_url(asked, None) == "/api/v2/a?x=1"
    proxies = {"http": "http://proxy.invalid:3128"}
    assert adapter.request_url(asked, proxies) == "http://horde.invalid/api/v2/a?x=1"
