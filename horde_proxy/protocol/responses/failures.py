"""What a failure is in the Responses API: the code of a failed response, and the HTTP status. Pure.

Codex 0.171 sends a request again 30 times within 26 s after a 5xx, 6 times after a response that
failed with server_error, and once after a 400, or after the codes invalid_prompt,
context_length_exceeded and insufficient_quota. The AI SDK takes codes with "invalid" for a 400.
Each further request may be paid at a horde. So only what may go well within that time has a status
or a code that is repeated. Source: both clients, run against a stub.
"""

from __future__ import annotations

from horde_proxy.errors import (
    ContextLengthExceeded,
    InsufficientKudos,
    InvalidRequest,
    ProxyError,
    RateLimited,
    TimedOut,
)

_REPEATED_FOR = 26
"""Seconds for which Codex repeats a request after a 5xx."""


class NotWorthRepeating(InvalidRequest):
    """A failure that the same request would meet again, as a 400, with its own code and words."""

    should_retry = False


def as_refusal(error: ProxyError) -> ProxyError:
    """The error with which a request is refused before the first byte of its answer."""
    param = "input" if (error.param or "").startswith("messages") else error.param
    if isinstance(error, InsufficientKudos) or _is_lasting(error):
        return NotWorthRepeating(_words(error), param=param, code=error.code)
    error.param = param
    return error


def failure(error: ProxyError, *, is_background: bool = False) -> dict[str, str]:
    """The `error` of a failed response: a code of OpenAI's list, or one that clients know."""
    message = error.message if is_background else _words(error)
    if _code(error) == RateLimited.code and error.retry_after:
        # Codex reads from these words of OpenAI's how long to wait.
        message += f" Please try again in {error.retry_after}s."
    return {"code": _code(error), "message": message}


def _words(error: ProxyError) -> str:
    """The message, with what may still be done where the time was too short."""
    if isinstance(error, TimedOut):
        return f"{error.message} A response with `background: true` may take longer."
    return error.message


def _code(error: ProxyError) -> str:
    if isinstance(error, ContextLengthExceeded):
        # model_too_small stays: nobody shall compact a chat that cannot get short enough.
        return (
            "context_length_exceeded"
            if error.code == ContextLengthExceeded.code
            else "invalid_prompt"
        )
    if isinstance(error, InsufficientKudos):
        return "insufficient_quota"
    if isinstance(error, RateLimited):
        return "rate_limit_exceeded" if error.should_retry is None else "insufficient_quota"
    if error.status < 500 or _is_lasting(error):
        return "invalid_prompt"
    return "server_error"


def _is_lasting(error: ProxyError) -> bool:
    """Whether a 5xx would still be one after all of Codex's tries."""
    if error.status < 500:
        return False
    return error.should_retry is False or (error.retry_after or 0) > _REPEATED_FOR
