"""The errors' envelopes and headers, and the words that make clients retry."""

from __future__ import annotations

import inspect

import pytest

from horde_proxy import errors
from horde_proxy.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    ProxyError,
    RateLimited,
    TimedOut,
    UpstreamFailed,
    calm,
)


def test_an_envelope_has_openais_four_keys() -> None:
    assert InvalidRequest("No.", param="n", code="c").envelope() == {
        "error": {"message": "No.", "type": "invalid_request_error", "param": "n", "code": "c"}
    }


@pytest.mark.parametrize(
    "message",
    [
        "at most 1500 tokens",
        "error 429",
        "Rate limit reached",
        "rate-limit",
        "Too many requests",
        "overloaded",
        "Internal Server Error",
        "please try again later",
        "request timed out",
        "timeout",
        "connection refused",
        "model-502b",
    ],
)
def test_what_alarms_clients_is_taken_out(message: str) -> None:
    calmed = calm(message)
    assert calmed != message
    assert calm(calmed) == calmed


def test_ordinary_words_and_numbers_stay() -> None:
    assert calm("must be at most 20, not 300") == "must be at most 20, not 300"


def test_an_error_that_no_retry_mends_is_calm() -> None:
    assert ModelNotFound("foo-1500b").envelope()["error"]["message"] == (
        "The model `foo-1…b` does not exist or you do not have access to it."
    )


def test_an_error_that_a_retry_may_mend_says_everything() -> None:
    assert UpstreamFailed("status 502").message == "status 502"


def test_a_context_error_keeps_its_numbers() -> None:
    assert ContextLengthExceeded(5000, 5024).message == (
        "This model's maximum context length is 5000 tokens. However, your messages resulted in "
        "5024 tokens. Please reduce the length of the messages."
    )


def test_a_missing_model_names_near_ones() -> None:
    assert ModelNotFound("a", ["ab", "ac"]).message.endswith(" On offer are: `ab`, `ac`.")


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
