"""Facts of AI-Horde's API: kudos, limits, return codes, headers, software of workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.aihorde import kudos, limits, refusals
from horde_proxy.aihorde.agents import is_validated, software
from horde_proxy.aihorde.rest import api_url, client_agent, json_object, retry_after
from horde_proxy.numbers import finite
from horde_proxy.upstreams.horde import client
from horde_proxy.version import VERSION

CAPTURES = Path(__file__).parent / "data" / "captures"


def capture(name: str) -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text())["response"]


# Kudos


@pytest.mark.parametrize(
    ("threads", "queued", "length"),
    [
        (1, 0, 512),
        (0, 0, 512),
        (10, 100, 472),
        (10, 1000, 256),
        (0, 17, 497),
    ],
)
def test_the_free_length_shrinks_with_the_queue(threads: int, queued: int, length: int) -> None:
    assert kudos.free_length(threads, queued) == length


def test_the_kudos_needed_upfront_and_the_length_that_they_buy() -> None:
    assert kudos.upfront(1024, 8.0) == 390.1
    assert kudos.affordable_length(390.1 + 25, 8.0) == 1024
    assert kudos.affordable_length(10.0, 8.0) == 0


def test_the_price_is_that_of_a_dry_run() -> None:
    assert kudos.price(512, 2048, 8.0) == pytest.approx(141.26, abs=0.01)
    assert kudos.price(512, 2048, 8.0, n=2) == pytest.approx(281.52, abs=0.01)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("koboldcpp/L3-8B-Stheno-v3.2", 8.0),
        ("koboldcpp/SmolLM2-135M-Instruct", 0.135),
        ("koboldcpp/mini-magnum", 13.0),
    ],
)
def test_the_size_is_read_from_the_name(model: str, size: float) -> None:
    assert kudos.assumed_size(model) == size


@pytest.mark.parametrize(
    ("size", "speed"), [(0.1, 5.0), (19.9, 5.0), (20, 4.0), (69, 4.0), (70, 3.0), (405, 3.0)]
)
def test_a_large_model_may_be_slower(size: float, speed: float) -> None:
    assert limits.least_speed(size) == speed


def test_the_ranges_of_sampling_are_those_of_numbers() -> None:
    assert limits.SAMPLING["top_p"] == (0.001, 1.0)
    assert limits.SAMPLING["top_k"] == (0, 200)
    assert not {"n", "max_length", "max_context_length", "sampler_order"} & set(limits.SAMPLING)


def test_the_longest_generation_is_the_one_that_the_schema_allows() -> None:
    assert limits.TEXT_PARAMETERS["max_length"].most == limits.MOST_TOKENS


# Return codes


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("err_*.json")), ids=lambda path: path.stem)
def test_a_return_code_has_the_status_that_was_captured(path: Path) -> None:
    answer = capture(path.stem)
    code = answer["body"].get("rc") if isinstance(answer["body"], dict) else None
    assert code is None or refusals.STATUS[code] == answer["status"]


def test_the_client_knows_no_return_code_that_the_horde_does_not_have() -> None:
    assert {*client._FORBIDDEN, *client._BAD_REQUESTS} <= set(refusals.STATUS)


# Headers and bodies


@pytest.mark.parametrize(
    "url",
    ["http://a", "http://a/", "http://a/api", "http://a/api/", "http://a/api/v2"],
)
def test_the_base_of_the_api_is_found_from_any_form_of_the_url(url: str) -> None:
    assert api_url(url) == "http://a/api/v2"


def test_the_client_agent_has_name_version_and_contact() -> None:
    assert client_agent("https://a.example") == f"horde-proxy:{VERSION}:https://a.example"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("7", 7),
        ("120.5", 121),
        ("0", 1),
        ("99999999999", 3600),
        ("\xb2", None),
        ("Sat, 21 Nov 2026 10:00:30 GMT", 30),
        ("Sat, 21 Nov 2026 09:00:00 GMT", 1),
        ("soon", None),
    ],
)
def test_the_time_of_the_next_try_is_a_number_or_a_date(value: str, seconds: int | None) -> None:
    assert retry_after(value, 1795255200.0) == seconds


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"{}", {}),
        (b"[1]", {}),
        (b"<html>", {}),
        (b"", {}),
        (b"\xff\xfe\x00", {}),
        (b"[" * 100_000, {}),
        (b"9" * 5000, {}),
        (b'{"a": [' + b"1," * 250_000 + b"1]}", {}),
    ],
)
def test_a_body_that_is_no_object_counts_as_empty(body: bytes, expected: dict[str, Any]) -> None:
    assert json_object(body) == expected


# Software of workers


@pytest.mark.parametrize(
    ("agent", "validated"),
    [
        ("KoboldCppEmbedWorker:2:https://a", True),
        ("AI Horde Worker~aphrodite~oai:1.5.2:https://a", True),
        ("TabbyAPI:main:https://a", False),
        ("TabbyAPI", False),
        ("horde-proxy:0.1.0:https://a", False),
        ("", False),
    ],
)
def test_known_software_with_a_version_is_trusted(agent: str, validated: bool) -> None:
    assert is_validated(agent) is validated


def test_software_is_what_comes_before_the_version() -> None:
    assert software("KoboldCppEmbedWorker:2:https://a") == "KoboldCppEmbedWorker"


# Numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (1.5, 1.5),
        (10**15, 10**15),
        (10**16, None),
        (-1, None),
        (True, None),
        (float("nan"), None),
        (float("inf"), None),
        ("3", None),
        (None, None),
    ],
)
def test_a_number_is_usable_when_it_can_be_added_up(value: object, expected: float | None) -> None:
    assert finite(value) == expected
