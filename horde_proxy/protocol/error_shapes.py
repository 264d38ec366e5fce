"""How each API writes an error: one function makes each shape. Pure.

Clients read their own API's shape only: Ollama's JavaScript client shows "[object Object]" for
OpenAI's, and the AI SDK for Anthropic shows "Not Found" instead of the message.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from horde_proxy.errors import ContextLengthExceeded, ProxyError, ToolCallFailed, error_envelope


class ErrorFacts(NamedTuple):
    """What an error says, in any shape. `type`, `param` and `code` are OpenAI's.

    `lengths` of a prompt that is too long are the tokens that it needs, and those that there are.
    `request_id` is written where the shape has a place for it.
    """

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    lengths: tuple[int, int] | None = None
    request_id: str | None = None


Shape = Callable[[ErrorFacts], dict[str, Any]]
"""Makes the JSON object of an error."""

# https://docs.anthropic.com/en/api/errors. What is not listed is an api_error from 500 on, and an
# invalid_request_error below.
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def facts_of(error: ProxyError) -> ErrorFacts:
    """What one of our own errors says."""
    lengths = error.lengths if isinstance(error, ContextLengthExceeded) else None
    return ErrorFacts(
        error.status, error.message, error.type, error.param, error.code, lengths=lengths
    )


def status_in(shape: Shape, error: ErrorFacts) -> int:
    """The status of an error in the API of a shape, where that has one of its own for it.

    Anthropic has 529 for what is overloaded and 402 for an account that is used up. Claude Code
    takes a 403 for a wrong login. It sends a request again after a 400, and does not after a 502
    with `x-should-retry: false`: a call that no model made has cost several generations.
    """
    if shape is not anthropic:
        return error.status
    if error.code == ToolCallFailed.code:
        return 502
    if error.status == 403 and error.code == "insufficient_quota":
        return 402
    return 529 if error.status == 503 else error.status


def openai(error: ErrorFacts) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}, also Azure's."""
    return error_envelope(error.message, error.type, param=error.param, code=error.code)


def anthropic(error: ErrorFacts) -> dict[str, Any]:
    """{"type": "error", "error": {"type", "message"}, "request_id"}; the last where it is known."""
    status = status_in(anthropic, error)
    default = "api_error" if status >= 500 else "invalid_request_error"
    kind = _ANTHROPIC_TYPES.get(status, default)
    body = {"type": "error", "error": {"type": kind, "message": _anthropic_message(error)}}
    return {**body, "request_id": error.request_id} if error.request_id else body


def _anthropic_message(error: ErrorFacts) -> str:
    """The message; for a prompt that is too long with Anthropic's words for it.

    Claude Code looks for "prompt is too long", and then compacts the chat instead of failing.
    """
    if error.lengths:
        needed, limit = error.lengths
        return f"prompt is too long: {needed} tokens > {limit} maximum"
    is_overflow = error.code == ContextLengthExceeded.code
    if is_overflow and "prompt is too long" not in error.message.lower():
        return f"prompt is too long: {error.message}"
    return error.message


def ollama(error: ErrorFacts) -> dict[str, Any]:
    """{"error": "message"}; an object instead of the text breaks Ollama's own clients.

    Ollama's word for a missing key and a wrong one is "unauthorized".
    """
    return {"error": "unauthorized" if error.status == 401 else error.message}


def horde(error: ErrorFacts) -> dict[str, Any]:
    """AI-Horde's {"message", "rc"}, with rc in its style: "NotFound" for a 404."""
    return {"message": error.message, "rc": _phrase(error.status).replace(" ", "")}


def kobold(error: ErrorFacts) -> dict[str, Any]:
    """KoboldAI's {"detail": {"msg", "type"}}, with a type as "not_found" for a 404."""
    kind = _phrase(error.status).lower().replace(" ", "_")
    return {"detail": {"msg": error.message, "type": kind}}


def google(error: ErrorFacts) -> dict[str, Any]:
    """Google's {"error": {"code", "message", "status"}}, with a status as "NOT_FOUND" for a 404."""
    status = _phrase(error.status).upper().replace(" ", "_")
    return {"error": {"code": error.status, "message": error.message, "status": status}}


def _phrase(status: int) -> str:
    """The status in words, "Not Found" for 404."""
    return HTTPStatus(status).phrase
