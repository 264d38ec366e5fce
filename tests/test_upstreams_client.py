"""The horde's client: what it sends, and which error each refusal becomes."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import responses
from requests.exceptions import ConnectTimeout, ReadTimeout

from horde_proxy.aihorde.rest import api_url
from horde_proxy.errors import ProxyError, UpstreamFailed
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.text import TEXT
from horde_proxy.version import VERSION

DATA = Path(__file__).parent / "data"
BASE = "http://horde.invalid/api/v2"
KEY = "my-secret-key"
SUBMIT = f"{BASE}/generate/text/async"


@pytest.fixture
def client() -> HordeClient:
    return HordeClient(
        "http://horde.invalid", requests.Session(), contact="http://home.invalid", timeout=(1, 2)
    )


def recorded(name: str) -> dict[str, Any]:
    [path] = DATA.glob(f"*/{name}.json")
    found: dict[str, Any] = json.loads(path.read_text())["response"]
    return found


def refused(client: HordeClient) -> ProxyError:
    with pytest.raises(ProxyError) as raised:
        client.submit(TEXT, {"prompt": "x"}, KEY)
    return raised.value


@pytest.mark.parametrize(
    "url",
    [
        "https://aihorde.net",
        "https://aihorde.net/",
        "https://aihorde.net/api",
        "https://aihorde.net/api/",
        "https://aihorde.net/api/v2",
        "https://aihorde.net/api/v2/",
    ],
)
def test_a_horde_may_be_given_as_host_or_api(url: str) -> None:
    assert api_url(url) == "https://aihorde.net/api/v2"


@responses.activate
def test_a_submit_carries_key_and_agent(client: HordeClient) -> None:
    responses.post(SUBMIT, status=202, json={"id": "1", "kudos": 0.0})
    assert client.submit(TEXT, {"prompt": "x"}, KEY) == "1"
    sent = responses.calls[0].request
    assert sent.headers["apikey"] == KEY
    assert sent.headers["Client-Agent"] == f"horde-proxy:{VERSION}:http://home.invalid"
    assert json.loads(sent.body or "") == {"prompt": "x"}


@responses.activate
def test_a_status_carries_no_key(client: HordeClient) -> None:
    responses.get(f"{BASE}/generate/text/status/1", json={"done": False})
    client.status(TEXT, "1")
    assert "apikey" not in responses.calls[0].request.headers


@responses.activate
def test_the_list_of_models_includes_custom_ones(client: HordeClient) -> None:
    responses.get(f"{BASE}/status/models", json=[])
    client.models()
    sent = parse_qs(urlsplit(responses.calls[0].request.url or "").query)
    assert sent == {"type": ["text"], "model_state": ["all"]}


RECORDED = {
    "err_400_MaintenanceMode": (503, "maintenance"),
    "err_400_NulByteInPayload": (400, "invalid_value"),
    "err_400_MissingFullSamplerOrder": (400, "invalid_value"),
    "err_400_ExcessiveStopSequence": (400, "invalid_value"),
    "err_400_empty_prompt_rc": (400, "invalid_value"),
    "err_400_validation_max_length": (400, "invalid_value"),
    "err_400_validation_type": (400, "invalid_value"),
    "err_400_TokenOverflow": (400, None),
    "err_400_malformed_json": (400, None),
    "err_400_webhook_http": (400, None),
    "err_401_invalid_apikey": (401, "invalid_api_key"),
    "err_401_unknown_sharedkey": (401, "invalid_api_key"),
    "err_403_KudosUpfront": (403, "insufficient_quota"),
    "err_403_KudosUpfront_slow_workers": (403, "insufficient_quota"),
    "err_403_SharedKeyEmpty": (403, "insufficient_quota"),
    "err_403_SharedKeyInsufficientKudos": (403, "insufficient_quota"),
    "err_404_unknown_id": (502, "upstream_error"),
    "err_404_WorkerNotFound": (400, "invalid_value"),
    "err_404_StyleNotFound": (400, None),
    "err_404_unknown_route": (502, "upstream_error"),
    "err_405": (400, None),
    "err_429_TooManyPrompts": (429, "rate_limit_exceeded"),
    "err_429_ratelimit_async": (429, "rate_limit_exceeded"),
    "find_user_404": (401, "invalid_api_key"),
    "text_async_sharedkey_over_limit": (502, "upstream_error"),
}


@pytest.mark.parametrize("name", RECORDED)
@responses.activate
def test_a_recorded_refusal_becomes_openais_error(client: HordeClient, name: str) -> None:
    answer = recorded(name)
    body = answer["body"]
    responses.post(
        SUBMIT,
        status=answer["status"],
        body=body if isinstance(body, str) else json.dumps(body),
        headers={key: value for key, value in answer["headers"].items() if key == "Retry-After"},
    )
    error = refused(client)
    assert (error.status, error.code) == RECORDED[name]


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("TimeoutIP", 403, (403, "forbidden")),
        ("BannedClientAgent", 403, (403, "forbidden")),
        ("DeletedUser", 403, (403, "forbidden")),
        ("Forbidden", 403, (403, "forbidden")),
        ("SharedKeyExpired", 403, (403, "insufficient_quota")),
        ("CorruptPrompt", 400, (400, "content_policy_violation")),
        ("TooManyStopSequences", 400, (400, "invalid_value")),
        ("RequiresTrust", 400, (400, None)),
        ("SomethingNew", 418, (502, "upstream_error")),
    ],
)
@responses.activate
def test_a_return_code_becomes_openais_error(
    client: HordeClient, code: str, status: int, expected: tuple[int, str | None]
) -> None:
    responses.post(SUBMIT, status=status, json={"message": "words", "rc": code})
    error = refused(client)
    assert (error.status, error.code) == expected


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("0", 1), ("9999", 120), ("soon", 5)])
@responses.activate
def test_retry_after_is_kept_within_bounds(client: HordeClient, value: str, seconds: int) -> None:
    responses.post(
        SUBMIT, status=429, json={"message": "2 per 1 second"}, headers={"Retry-After": value}
    )
    assert refused(client).retry_after == seconds


@responses.activate
def test_retry_after_on_another_refusal_is_not_passed_on(client: HordeClient) -> None:
    responses.post(
        SUBMIT, status=400, json={"message": "m", "rc": "BadRequest"}, headers={"Retry-After": "1"}
    )
    assert refused(client).retry_after is None


@responses.activate
def test_an_error_message_contains_no_key(client: HordeClient) -> None:
    responses.post(SUBMIT, status=400, json={"message": f"bad {KEY}", "rc": "BadRequest"})
    assert KEY not in str(refused(client).envelope())


@pytest.mark.parametrize(
    "failure",
    [
        requests.ConnectionError("refused"),
        ConnectTimeout("slow"),
        ReadTimeout("slow"),
        requests.exceptions.ChunkedEncodingError("cut"),
        requests.exceptions.ContentDecodingError("?"),
    ],
)
@responses.activate
def test_a_failing_connection_is_a_failing_upstream(
    client: HordeClient, failure: Exception
) -> None:
    responses.post(SUBMIT, body=failure)
    assert refused(client).status == 502


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "<html>"),
        (200, "[1]"),
        (200, ""),
        (502, "<html>"),
        (500, '{"message":"Internal"}'),
        (302, ""),
    ],
)
@responses.activate
def test_an_answer_that_makes_no_sense_is_a_failing_upstream(
    client: HordeClient, status: int, body: str
) -> None:
    responses.post(SUBMIT, status=status, body=body, headers={"Location": "http://x.invalid"})
    assert refused(client).status == 502


# What a hostile horde answers


def _answers(client: HordeClient, body: bytes, **headers: str) -> None:
    responses.get(f"{BASE}/generate/text/status/1", body=body, headers=headers)
    client.status(TEXT, "1")


@responses.activate
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"[" * 100_000, {}),
        (b'{"generations": [' + b"1," * 250_000 + b"1]}", {}),
        (b"9" * 5000, {}),
        (b"{}", {"Content-Encoding": "gzip"}),
        (b"{}", {"Content-Encoding": "br"}),
        (gzip.compress(b'{"kudos": 1}', mtime=0)[:-9], {"Content-Encoding": "gzip"}),
    ],
)
def test_an_answer_that_cannot_be_read_is_a_failure_of_the_horde(
    client: HordeClient, body: bytes, headers: dict[str, str]
) -> None:
    with pytest.raises(UpstreamFailed):
        _answers(client, body, **headers)


@responses.activate
def test_an_answer_of_eight_megabytes_is_read_and_no_longer_one(client: HordeClient) -> None:
    _answers(client, b"{" + b" " * 7_999_998 + b"}")
    responses.replace(responses.GET, f"{BASE}/generate/text/status/1", b"{" + b" " * 8_000_000)
    with pytest.raises(UpstreamFailed, match="The horde sent an answer of more than 8 MB"):
        client.status(TEXT, "1")


@responses.activate
def test_a_compressed_answer_is_not_decoded_beyond_its_bound(client: HordeClient) -> None:
    bomb = gzip.compress(b"{" + b" " * 100_000_000, 9)
    tracemalloc.start()
    try:
        with pytest.raises(UpstreamFailed, match="The horde sent an answer of more than 8 MB"):
            _answers(client, bomb, **{"Content-Encoding": "gzip"})
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


@responses.activate
def test_a_compressed_answer_is_decoded(client: HordeClient) -> None:
    body = gzip.compress(b'{"kudos": 1}')
    responses.get(f"{BASE}/generate/text/status/1", body=body, headers={"Content-Encoding": "gzip"})
    assert client.status(TEXT, "1") == {"kudos": 1}


@responses.activate
@pytest.mark.parametrize("request_id", ["", "a/b", "a\nb", "\ud800", "x" * 101, 7, None, ["1"]])
def test_a_horde_that_sends_an_unusable_id_has_failed(client: HordeClient, request_id: Any) -> None:
    responses.post(SUBMIT, status=202, json={"id": request_id})
    with pytest.raises(UpstreamFailed, match="without a usable id"):
        client.submit(TEXT, {"prompt": "x"}, KEY)
