"""How each API writes an error: one function makes each shape. Pure.

Clients read their own API's shape only: Ollama's JavaScript client shows "[object Object]" for
OpenAI's, and the AI SDK for Anthropic shows "Not Found" instead of the message.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from horde_proxy.errors import error_envelope


class ErrorFacts(NamedTuple):
    """What an error says, in any shape. `type`, `param` and `code` are OpenAI's."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None


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


def openai(error: ErrorFacts) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}, also Azure's."""
    return error_envelope(error.message, error.type, param=error.param, code=error.code)


def anthropic(error: ErrorFacts) -> dict[str, Any]:
    """{"type": "error", "error": {"type", "message"}}."""
    default = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = _ANTHROPIC_TYPES.get(error.status, default)
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def ollama(error: ErrorFacts) -> dict[str, Any]:
    """{"error": "message"}; an object instead of the text breaks Ollama's own clients."""
    return {"error": error.message}


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
