"""What an OpenAI-compatible server's error says: try another server, or the chat is too long.

Which server is tried next is the router's matter.
"""

from __future__ import annotations

import json
import time
from typing import Any

from horde_proxy.aihorde.rest import retry_after
from horde_proxy.errors import ProxyError, RateLimited, UpstreamContextExceeded, UpstreamFailed
from horde_proxy.upstreams.proxying import ProxyResponse

_OVERFLOW = (
    # OpenAI's error.code
    "context_length_exceeded",
    # error.type of llama.cpp's server
    "exceed_context_size_error",
    # the message of vLLM and of what copies OpenAI: "This model's maximum context length is ..."
    "maximum context length",
)
_OVERFLOW_STATUSES = frozenset({400, 413, 422})
_LONGEST_REFUSAL = 10_000
"""Bytes of an error that are read: an error is short, and the whole body would be waited for."""
_LONGEST_MESSAGE = 500
"""Characters of a message that are passed on: some servers put a whole traceback there."""
_REQUESTS_FAULT = frozenset({501, 505})
"""Statuses from 500 that another server would give as well: unknown method, HTTP version."""


def server_error(response: ProxyResponse) -> ProxyError | None:
    """Why another server should be tried, with the seconds to leave this one alone; or None."""
    pause = retry_after(response.header("retry-after"), time.time())
    if response.status == 429:
        return RateLimited("it allows no more requests now", retry_after=pause)
    if response.status >= 500 and response.status not in _REQUESTS_FAULT:
        return UpstreamFailed(f"it answered with status {response.status}", retry_after=pause)
    return None


def context_overflow(response: ProxyResponse) -> UpstreamContextExceeded | None:
    """The error of a response that says that the chat does not fit the model's context."""
    if response.status not in _OVERFLOW_STATUSES:
        return None
    error = error_of(response)
    text = json.dumps(error)
    if not any(sign in text for sign in _OVERFLOW):
        return None
    return UpstreamContextExceeded(message_of(error))


def error_of(response: ProxyResponse) -> Any:
    """The value of "error" in a response, or its text where it is not JSON; None without either."""
    text = response.head(_LONGEST_REFUSAL).decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text or None
    return document.get("error") if isinstance(document, dict) else None


def message_of(error: Any) -> str:
    """The message of an error object, or of an error that is a plain string."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "no reason given")[:_LONGEST_MESSAGE]
