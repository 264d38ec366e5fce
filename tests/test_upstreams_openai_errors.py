"""What servers' errors mean: whose fault they are, in the bodies that thirteen servers send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from horde_proxy.errors import (
    InvalidRequest,
    ProxyError,
    RateLimited,
    Unavailable,
    UpstreamContextExceeded,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamUnfit,
)
from horde_proxy.upstreams.openai.errors import message_of, server_error, without_keys
from horde_proxy.upstreams.proxying import ProxyResponse
from tests.support import Clock

JSON, EVENTS = "application/json", "text/event-stream"


def response(
    body: Any, status: int = 200, kind: str = JSON, secrets: tuple[str, ...] = ()
) -> ProxyResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = ProxyResponse(status, [("Content-Type", kind)], iter([content]))
    made.secrets = secrets
    return made


def pieces(*parts: bytes, kind: str = EVENTS) -> ProxyResponse:
    return ProxyResponse(200, [("Content-Type", kind)], iter(parts))


def openai(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **fields}}


def flat(message: str, **fields: Any) -> dict[str, Any]:
    return {"object": "error", "message": message, "param": None, **fields}


TOO_LONG: dict[str, tuple[int, Any]] = {
    "OpenAI": (
        400,
        openai(
            "This model's maximum context length is 8192 tokens. However, your messages resulted "
            "in 9001 tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        ),
    ),
    "OpenAI's Responses": (
        400,
        openai("Your input exceeds the context window of this model. Please adjust your input."),
    ),
    "llama.cpp": (
        400,
        {
            "error": {
                "code": 400,
                "message": "request (9001 tokens) exceeds the available context size (4096 tokens)",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 9001,
                "n_ctx": 4096,
            }
        },
    ),
    "llama.cpp of old": (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size. try increasing the "
                "context size or enable context shift",
                "type": "invalid_request_error",
            }
        },
    ),
    "vLLM": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 4096 tokens. However, you "
                "requested 5000 tokens (4000 in the messages, 1000 in the completion).",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            }
        },
    ),
    "vLLM of old": (
        400,
        flat(
            "This model's maximum context length is 4096 tokens. However, your messages resulted "
            "in 9001 tokens. Please reduce the length of the messages.",
            type="BadRequestError",
            code=400,
        ),
    ),
    "vLLM's decoder": (
        400,
        flat(
            "The decoder prompt (length 9001) is longer than the maximum model length of 4096.",
            type="BadRequestError",
            code=400,
        ),
    ),
    "Mistral": (
        400,
        flat(
            "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 "
            "maximum context length",
            type="invalid_request_invalid_args",
            code="3051",
        ),
    ),
    "SGLang": (
        400,
        flat(
            "The input (9001 tokens) is longer than the model's context length (4096 tokens).",
            type="BadRequestError",
            code=400,
        ),
    ),
    "LM Studio": (
        400,
        {
            "error": "Trying to keep the first 9001 tokens when context the overflows. However, "
            "the model is loaded with context length of only 4096 tokens, which is not enough."
        },
    ),
    "TGI": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
            "Given: 4000 `inputs` tokens and 1000 `max_new_tokens`",
            "error_type": "validation",
        },
    ),
    "Anthropic": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "prompt is too long: 210000 tokens > 200000 maximum",
            },
        },
    ),
    "Google": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (1200000) exceeds the maximum number of "
                    "tokens allowed (1048576).",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    "TabbyAPI": (
        400,
        {"error": {"message": "Prompt length 9001 is greater than max_seq_len 4096", "trace": ""}},
    ),
    "TabbyAPI of old": (
        400,
        {"detail": "Prompt length 9001 is greater than max_seq_len 4096"},
    ),
    "Ollama": (
        400,
        openai("the input length exceeds the context length"),
    ),
    "Ollama's cloud": (
        500,
        {"error": "prompt too long; exceeded max context length by 12 tokens"},
    ),
    "Aphrodite": (
        400,
        flat(
            "This model's maximum context length is 4096 tokens. However, you requested 5000.",
            type="BadRequestError",
            code=400,
        ),
    ),
    "LiteLLM": (
        400,
        {
            "error": {
                "message": "litellm.ContextWindowExceededError: litellm.BadRequestError: "
                "OpenAIException - This model's maximum context length is 8192 tokens.",
                "type": None,
                "param": None,
                "code": "400",
            }
        },
    ),
    "text-generation-webui": (
        400,
        {
            "error": {
                "message": "This model maximum context length is 2048 tokens. However, your "
                "messages resulted in over 3000 tokens.",
                "code": 400,
                "type": "InvalidRequestError",
                "param": "messages",
            }
        },
    ),
    "OpenRouter": (
        400,
        {
            "error": {
                "message": "This endpoint's maximum context length is 32768 tokens. However, you "
                "requested about 40000 tokens (39000 of text input, 1000 in the output).",
                "code": 400,
            }
        },
    ),
    "OpenRouter's provider": (
        400,
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {
                    "raw": '{"type":"error","error":{"type":"invalid_request_error","message":'
                    '"prompt is too long: 210000 tokens > 200000 maximum"}}',
                    "provider_name": "Anthropic",
                },
            }
        },
    ),
    "llama-cpp-python": (
        500,
        {
            "error": {
                "message": "Requested tokens (9001) exceed context window of 2048",
                "code": None,
            }
        },
    ),
}
"""The literal bodies of a chat that is too long, with their statuses."""


@pytest.mark.parametrize("server", TOO_LONG)
def test_every_servers_error_for_a_chat_that_is_too_long_is_recognised(server: str) -> None:
    status, body = TOO_LONG[server]
    assert isinstance(server_error(response(body, status)), UpstreamContextExceeded)


@pytest.mark.parametrize("server", TOO_LONG)
def test_a_chat_that_is_too_long_is_recognised_in_a_200(server: str) -> None:
    _, body = TOO_LONG[server]
    event = b"data: " + json.dumps(body).encode() + b"\n\n"
    assert isinstance(server_error(response(body)), UpstreamContextExceeded)
    assert isinstance(server_error(pieces(event)), UpstreamContextExceeded)


@pytest.mark.parametrize(
    "body",
    [
        openai("Invalid 'tools[0].function.name': string too long. Expected a string with maximum "
               "length 64, but got a string with length 70 instead."),
        openai("maximum length of name is 64"),
        openai("max_tokens is too large: 8192. This model supports at most 4096 completion tokens"),
        {"error": {"message": "no"}, "echo": "maximum context length"},
        {"error": {"message": "no", "input": "prompt is too long"}},
        {"detail": [{"msg": "field required", "input": "context_length_exceeded"}]},
    ],
)  # fmt: skip
def test_other_refusals_are_not_taken_for_a_chat_that_is_too_long(body: Any) -> None:
    assert server_error(response(body, 400)) is None


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, openai("Incorrect API key provided"), UpstreamRefused),
        (400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API "
                          "key.", "status": "INVALID_ARGUMENT"}}], UpstreamRefused),
        (429, openai("You exceeded your current quota, please check your plan and billing "
                     "details.", type="insufficient_quota", code="insufficient_quota"),
         UpstreamRefused),
        (400, openai("Your credit balance is too low to access the Anthropic API."),
         UpstreamRefused),
        (402, {"error": {"message": "Insufficient Balance"}}, UpstreamRefused),
        (403, openai("Country, region, or territory not supported"), UpstreamRefused),
        (404, openai("model 'm' not found, try pulling it first"), UpstreamUnfit),
        (404, flat("The model `m` does not exist.", type="NotFoundError", code=404),
         UpstreamUnfit),
        (400, {"error": {"message": "Model Not Exist"}}, UpstreamUnfit),
        (408, {"error": "Request timed out"}, UpstreamFailed),
        (429, openai("Rate limit reached"), RateLimited),
        (500, b"<html>", UpstreamFailed),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
         UpstreamFailed),
        (400, {"detail": "No models are currently loaded."}, UpstreamUnfit),
        (404, openai("No models loaded. Please load a model in the developer page."),
         UpstreamUnfit),
        (404, {"type": "error", "error": {"type": "not_found_error", "message": "model: m"}},
         UpstreamUnfit),
        (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this "
                         "resource does not exist."}}, UpstreamUnfit),
        (400, flat("Invalid model: m", type="invalid_model", code="1500"), UpstreamUnfit),
        (424, {"error": "Request failed during generation", "error_type": "generation"},
         UpstreamFailed),
        (498, openai("Flex tier capacity exceeded"), UpstreamFailed),
        (404, {"error": "No provider found for the requested service."}, Unavailable),
    ],
)  # fmt: skip
def test_what_a_server_does_not_owe_to_the_request_is_a_failure_of_the_server(
    status: int, body: Any, kind: type[ProxyError]
) -> None:
    assert type(server_error(response(body, status))) is kind


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai("Unknown role")),
        (403, {"error": {"message": "Your chosen model requires moderation and your input was "
                         "flagged", "code": 403, "metadata": {"reasons": ["violence"]}}}),
        (404, {"detail": "Not Found"}),
        (404, b"404 page not found"),
        (404, openai("Previous response with id 'resp_1' not found.")),
        (405, {"detail": "Method Not Allowed"}),
        (413, openai("Request too large")),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "not a number", "type": "int"}]}),
        (501, openai("Not implemented")),
    ],
)  # fmt: skip
def test_what_the_request_is_to_blame_for_stays_its_fault(status: int, body: Any) -> None:
    assert server_error(response(body, status)) is None


def test_a_404_of_a_model_that_the_server_does_not_list_is_the_clients() -> None:
    found = response(openai("The model `x` does not exist."), 404)
    assert server_error(found, is_listed=False) is None


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"", JSON, "it sent an empty answer"),
        (b"", EVENTS, "it sent an empty answer"),
        (b": ping\n\n", EVENTS, "it sent an empty answer"),
        (
            b"data: [DONE]\n\n",
            EVENTS,
            "it ended the stream without an answer",
        ),
        (
            b"<!DOCTYPE html><title>Log in</title>",
            "text/html",
            "it sent a web page instead of an answer",
        ),
        (
            b"<html><body>Bad Gateway</body></html>",
            JSON,
            "it sent a web page instead of an answer",
        ),
        (b'{"error": {"message": "CUDA"}}', JSON, "it answered with an error: CUDA"),
        (b'{"error": "CUDA"}', JSON, "it answered with an error: CUDA"),
        (b'{"error": {"message": "CUDA"}}', EVENTS, "it answered with an error: CUDA"),
        (b'data: {"error": {"message": "CUDA"}}\n\n', EVENTS, "it answered with an error: CUDA"),
        (
            b': hi\r\n\r\nevent: error\r\ndata: {"message": "CUDA"}\r\n\r\n',
            EVENTS,
            "it answered with an error: CUDA",
        ),
        (b'error: {"code": 500, "message": "CUDA"}\n\n', EVENTS,
         "it answered with status 500: CUDA"),
        (b'data: {\ndata: "error": "CUDA"\ndata: }\n\n', EVENTS,
         "it answered with an error: CUDA"),
        (b'data: {"error": {"message": "CUDA", "http_status_code": 424}}\n\n', EVENTS,
         "it answered with status 424: CUDA"),
        (b"event: error\ndata: CUDA\n\n", EVENTS, "it answered with an error: CUDA"),
        (
            b'data: {"error": {"message": "No GPU", "code": 503}}\n\n',
            EVENTS,
            "it answered with status 503: No GPU",
        ),
        (
            b'data: {"error": {"message": "Slow", "type": "rate_limit_error"}}\n\n',
            EVENTS,
            "it allows no more requests now: Slow",
        ),
        (b"ERROR: failed to dial\n peer", "text/plain",
         "it answered with an error: failed to dial peer"),
        (b'{"detail": "Backend is down"}', JSON, "it answered with an error: Backend is down"),
        (
            b'data: {"choices": [{"delta": {"content": ""}}], "error": {"message": "Gone"}}\n\n',
            EVENTS,
            "it answered with an error: Gone",
        ),
    ],
)  # fmt: skip
def test_an_error_with_status_200_is_a_failure(body: bytes, kind: str, message: str) -> None:
    assert str(server_error(response(body, kind=kind))) == message


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"choices": [], "error": null}', JSON),
        (b'{"choices": [{"message": {"content": "error"}}], "error": {"message": "w"}}', JSON),
        (b'{"choices": [{"message": {"tool_calls": [{}]}}], "error": {"message": "w"}}', JSON),
        (b'{"id": "resp_1", "output": [{}], "error": null}', JSON),
        (b'{"text": "An error"}', JSON),
        (b"[1, 2]", JSON),
        (b"not JSON", JSON),
        (b"ERRORS: are no error", "text/plain"),
        (b"ERR", "text/plain"),
        (b"", "audio/mpeg"),
        (b'{"error": "x"}', "application/octet-stream"),
        (b'data: {"choices": [{"delta": {}}], "error": null}\n\n', EVENTS),
        (b'data: {"choices": [{"delta": {}}]}\n\ndata: {"error": "late"}\n\n', EVENTS),
        (b"event: ping\ndata: {}\n\n", EVENTS),
        (b'data: {"type": "response.created", "response": {"error": null}}\n\n', EVENTS),
        (b"data: not JSON\n\n", EVENTS),
    ],
)
def test_an_answer_is_an_answer_and_passes_as_it_came(body: bytes, kind: str) -> None:
    found = response(body, kind=kind)
    assert (server_error(found), b"".join(found)) == (None, body)


def test_an_empty_body_is_passed_on_without_an_empty_piece() -> None:
    found = ProxyResponse(503, [], iter([]))
    assert isinstance(server_error(found), UpstreamFailed)
    assert list(found) == []


def test_an_unknown_path_with_status_200_is_a_404() -> None:
    body = b'{"error":"Unexpected endpoint or method. (POST /v1/responses). Returning 200 anyway"}'
    found = response(body)
    assert (server_error(found), found.status, b"".join(found)) == (None, 404, body)


@pytest.mark.parametrize("status", [200, 400])
def test_a_compressed_body_is_passed_on_unread(status: int) -> None:
    headers = [("Content-Type", JSON), ("Content-Encoding", "gzip")]
    found = ProxyResponse(status, headers, iter([b'{"error": "sk-0123456789abcdef"}']))
    assert (server_error(found), found.arrived()) == (None, b"")


def test_an_error_of_the_request_in_a_200_is_a_400() -> None:
    error = server_error(pieces(b'data: {"error": {"message": "No such role", "code": 400}}\n\n'))
    assert (type(error), str(error)) == (InvalidRequest, "No such role")


def test_a_stream_is_read_up_to_its_first_event_and_no_further() -> None:
    def parts() -> Iterator[bytes]:
        yield b": wait\n\nda"
        yield b'ta: {"choices": []}\n'
        raise AssertionError("more was waited for")

    found = ProxyResponse(200, [("Content-Type", EVENTS)], parts())
    assert server_error(found) is None
    assert found.arrived() == b': wait\n\ndata: {"choices": []}\n'


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b': x\r\n\r\nevent: error\r\ndata: {"message": "No"}\r\n\r\n', EVENTS,
         "it answered with an error: No"),
        (b"\xef\xbb\xbfdata: [DONE]\n\n", EVENTS, "it ended the stream without an answer"),
        (b'data: {"choices": [{"delta": {}}]}\n\ndata: {"error": "late"}\n\n', EVENTS, "None"),
        (b'\n {"error": "No"}', JSON, "it answered with an error: No"),
        (b'[ {"error": {"message": "No"}} ]', JSON, "it answered with an error: No"),
        (b'{"choices": [{"message": {"content": "Hi"}}]}', JSON, "None"),
        (b"ERROR: No", "text/plain", "it answered with an error: No"),
        (b"ERRORS", "text/plain", "None"),
        (b"<html></html>", "text/html", "it sent a web page instead of an answer"),
    ],
)  # fmt: skip
def test_it_does_not_matter_in_which_pieces_a_body_comes(
    body: bytes, kind: str, message: str
) -> None:
    for size in (1, 2, 3, 7, len(body)):
        parts = [body[start : start + size] for start in range(0, len(body), size)]
        found = pieces(*parts, kind=kind)
        assert (str(server_error(found)), b"".join(found)) == (message, body)


@pytest.mark.parametrize(("kind", "beat"), [(EVENTS, b": wait\n\n"), (JSON, b"\n")])
def test_keep_alives_without_an_event_are_held_for_ten_seconds(kind: str, beat: bytes) -> None:
    clock = Clock()

    def parts() -> Iterator[bytes]:
        while True:
            clock.seconds += 3
            yield beat

    found = ProxyResponse(200, [("Content-Type", kind)], parts())
    assert server_error(found, clock=clock) is None
    assert found.arrived() == beat * 4


@pytest.mark.parametrize(
    ("kind", "begin", "most"),
    [
        (EVENTS, b"data: ", 70_000),
        (EVENTS, b":", 70_000),
        (JSON, b'{"data": "', 10_000),
        (JSON, b'[{"error": "', 10_000),
    ],
)
def test_a_start_without_an_end_is_not_buffered_without_bound(
    kind: str, begin: bytes, most: int
) -> None:
    def parts() -> Iterator[bytes]:
        yield begin
        while True:
            yield b"x" * 1000

    found = ProxyResponse(200, [("Content-Type", kind)], parts())
    assert server_error(found) is None
    assert len(found.arrived()) < most


SECRET = "secret-of-the-cloud"


@pytest.mark.parametrize("status", [400, 401, 402, 429, 500])
def test_a_message_never_shows_the_endpoints_key(status: int) -> None:
    words = f"Wrong key: {SECRET}, also known as sk-proj-0123456789abcdef and Bearer {SECRET}"
    found = response(openai(words), status, secrets=(SECRET,))
    error = server_error(found)
    shown = str(error) + b"".join(found).decode()
    assert SECRET not in shown
    assert "0123456789" not in shown
    assert "Wrong key: *******************, also known as ***" in shown


def test_a_later_error_event_never_shows_the_endpoints_key_and_texts_stay() -> None:
    chunk = (
        b'data: {"choices": [{"delta": {"content": "%s"}}], "error": null}\n\n' % SECRET.encode()
    )
    late = b'data: {"error": {"message": "Wrong key: %s"}}\n\n'
    found = pieces(chunk, chunk, late % SECRET.encode())
    found.secrets = (SECRET,)
    assert server_error(found) is None
    assert list(found) == [chunk, chunk, late % b"*******************"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sk-or-v1-0123456789abcdef is wrong", "************************* is wrong"),
        ("provided: sk-abcde************wxyz.", "provided: ************************."),
        ("AIzaSyA0123456789abcdef", "***********************"),
        ("Bearer 0123456789", "Bearer **********"),
        ("The key none is wrong", "The key none is wrong"),
        ("task-0123456789abcdef", "task-0123456789abcdef"),
    ],
)
def test_whatever_looks_like_a_key_is_hidden(text: str, shown: str) -> None:
    assert without_keys(text, ("none",)) == shown


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("text", "text"),
        ({"message": "text"}, "text"),
        ({"message": {"detail": [{"msg": "one"}, {"msg": "two"}]}}, "one; two"),
        ({"error": {"message": {"message": "text"}}}, "text"),
        ({"detail": [{"loc": ["body"], "msg": "field required", "input": {}}]}, "field required"),
        ({"errors": ["a", "b"]}, "a; b"),
        ("two\n  lines", "two lines"),
        ("<html><title>x</title>", "no reason given"),
        (None, "no reason given"),
        ({"message": None, "code": 5}, "no reason given"),
        ("x" * 1000, "x" * 500),
    ],
)
def test_a_message_is_found_in_every_shape(error: Any, message: str) -> None:
    assert message_of(error) == message


def test_an_error_that_is_nested_without_end_has_no_message() -> None:
    endless: dict[str, Any] = {}
    endless["error"] = endless
    assert message_of(endless) == "no reason given"
