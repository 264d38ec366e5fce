"""The errors' envelopes and headers, and the words that make clients retry."""

from __future__ import annotations

import inspect

import pytest

from horde_proxy import errors
from horde_proxy.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    ModelTooSmall,
    ProxyError,
    RateLimited,
    TimedOut,
    UpstreamFailed,
    harmless_number,
    without_retry_triggers,
)
from tests.support import growth


def test_an_envelope_has_openais_four_keys() -> None:
    assert InvalidRequest("No.", param="n", code="c").envelope() == {
        "error": {"message": "No.", "type": "invalid_request_error", "param": "n", "code": "c"}
    }


@pytest.mark.parametrize(
    ("message", "freed"),
    [
        ("Use at most 1500 tokens.", "Use at most … tokens."),
        ("From 1,500 to 2.500, not 5039.", "From … to …, not …."),
        ("Error 429: slow down", "Error …: slow down"),
        ("status=502", "status=…"),
        ("Rate limit reached", "… reached"),
        ("rate-limit", "…"),
        ("rate_limit_exceeded", "…_exceeded"),
        ("Too many requests", "…"),
        ("It is overloaded.", "It is …."),
        ("HTTP/1.1 Internal Server Error", "HTTP/1.1 …"),
        ("Please try again later.", "Please … later."),
        ("The request timed out after its timeout.", "The request … after its …."),
        ("The model's timeout isn't yours.", "The model's … isn't yours."),
        ("connection refused at http://h/500", "… at http://h/500"),
        ("temporarily unavailable", "… …"),
        ("Provider returned error", "…"),
        ("Unterminated string starting at: line 1", "… string starting at: line 1"),
        ("fetch failed: getaddrinfo ENOTFOUND host", "…: … … host"),
        ("socket hang up, connection lost", "…, …"),
        ("Please try your request again.", "Please … again."),
        ("The model is at capacity: RESOURCE_EXHAUSTED", "The model is …: …"),
        ("upstream connect error or reset before headers", "… error or …"),
        ("A read time out", "A read …"),
    ],
)
def test_numbers_and_words_that_make_clients_retry_are_left_out(message: str, freed: str) -> None:
    assert without_retry_triggers(message) == freed
    assert without_retry_triggers(freed) == freed


@pytest.mark.parametrize(
    "message",
    [
        "It must be at most 20, not 300.",
        "SmolLM2-135M has no such tool.",
        "No worker has SmolLM2-1500M or model-502b.",
        "Ask aphrodite/timeout-model or koboldcpp/Server-Error for it.",
        "Invalid URL (POST /v1/models/500)",
        "The model `foo-1500b` does not exist.",
        "No tool named 'try again' is available.",
        'The argument "timeout" is missing; write "500".',
    ],
)
def test_names_numbers_in_words_and_quotations_stay(message: str) -> None:
    assert without_retry_triggers(message) == message


@pytest.mark.thorough
@pytest.mark.parametrize("scrap", ["a.", "'", "1,", "-", "'a", "`", "5"])
def test_the_cost_of_a_message_grows_with_its_length_only(scrap: str) -> None:
    assert growth(lambda size: without_retry_triggers(scrap * size), 100_000) < 1.5


def test_a_missing_model_keeps_its_name() -> None:
    assert ModelNotFound("foo-1500b").envelope()["error"]["message"] == (
        "The model `foo-1500b` does not exist or you do not have access to it."
    )


def test_an_error_that_no_retry_mends_has_no_retry_triggers() -> None:
    assert InvalidRequest("At most 500, try again.").message == "At most …, …."


def test_an_error_that_a_retry_may_mend_keeps_its_words() -> None:
    assert UpstreamFailed("status 502").message == "status 502"


def test_a_context_error_keeps_its_numbers() -> None:
    assert ContextLengthExceeded(5000, 5024).message == (
        "This model's maximum context length is 5000 tokens. However, your messages resulted in "
        "5024 tokens. Please reduce the length of the messages."
    )


@pytest.mark.parametrize(
    ("number", "harmless"),
    [
        (429, 430),
        (500, 501),
        (502, 505),
        (524, 525),
        (1_500, 1_501),
        (1_429, 1_430),
        (5_024, 5_024),
        (8_192, 8_192),
        (50_000, 50_000),
        (502_000, 505_000),
    ],
)
def test_numbers_that_look_like_a_status_are_changed_by_one(number: int, harmless: int) -> None:
    assert harmless_number(number) == harmless
    assert without_retry_triggers(f"{harmless:,}") == f"{harmless:,}"


def test_the_figures_of_a_model_too_small_add_up_without_a_status() -> None:
    needs = {"system prompt": 1_500, "tools and formats": 0, "last message": 3_340}
    assert ModelTooSmall(4_500, needs, 160).message == (
        "The model is too small for this request, also without its older messages: system prompt "
        "1,501 tokens, last message 3,340 tokens and answer 160 tokens are 5,001 tokens, and the "
        "model has room for 4,499. Use a model with more room, or fewer tools."
    )


def test_a_missing_model_names_near_ones() -> None:
    assert ModelNotFound("a", ["ab", "ac"]).message.endswith(" Available: `ab`, `ac`.")


def test_a_rate_limit_says_when_to_come_back() -> None:
    assert RateLimited("Wait.", retry_after=7).headers() == {"Retry-After": "7"}


def test_a_timeout_asks_not_to_be_repeated() -> None:
    assert TimedOut("Late.").headers() == {"x-should-retry": "false"}


def test_every_error_stands_in_the_tree() -> None:
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, ProxyError) and kind is not ProxyError:
            assert name in (errors.__doc__ or "")


STATUSES = {
    "InvalidRequest": 400,
    "InvalidApiKey": 401,
    "Refused": 403,
    "ModelNotFound": 404,
    "RateLimited": 429,
    "ServerBug": 500,
    "UpstreamFailed": 502,
    "Unavailable": 503,
    "InMaintenance": 503,
    "ShuttingDown": 503,
    "TimedOut": 504,
}


@pytest.mark.parametrize("name", STATUSES)
def test_a_kind_of_error_has_its_status(name: str) -> None:
    assert getattr(errors, name).status == STATUSES[name]
