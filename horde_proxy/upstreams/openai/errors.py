"""What a server's answer says of the server and of the request: faults, busyness, overflow."""

from __future__ import annotations

import json
import time
from typing import Any

from horde_proxy.aihorde.rest import retry_after
from horde_proxy.errors import ProxyError, RateLimited, UpstreamContextExceeded, UpstreamFailed
from horde_proxy.upstreams.proxying import ProxyResponse

_OVERFLOW = ("context_length_exceeded", "exceed_context_size_error", "maximum context length")
_LONGEST_REFUSAL = 10_000
_NOT_ITS_FAULT = frozenset({501, 505})


def fault_of(relayed: ProxyResponse) -> ProxyError | None:
    """Why another server should be asked, with the seconds to leave this one alone; or None."""
    pause = retry_after(relayed.header("retry-after"), time.time())
    if relayed.status == 429:
        return RateLimited("it allows no more requests now", retry_after=pause)
    if relayed.status >= 500 and relayed.status not in _NOT_ITS_FAULT:
        return UpstreamFailed(f"it answered with status {relayed.status}", retry_after=pause)
    return None


def overflow_of(relayed: ProxyResponse) -> UpstreamContextExceeded | None:
    """The error of an answer that says that the request does not fit the model's context."""
    if relayed.status not in (400, 413, 422):
        return None
    error = error_of(relayed)
    told = json.dumps(error)
    if not any(sign in told for sign in _OVERFLOW):
        return None
    return UpstreamContextExceeded(message_of(error))


def error_of(relayed: ProxyResponse) -> Any:
    """What an answer has under "error", or its text; None where it is neither."""
    text = relayed.head(_LONGEST_REFUSAL).decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text or None
    return document.get("error") if isinstance(document, dict) else None


def message_of(error: Any) -> str:
    """The words of an error object, or of an error that is only words."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "no reason given")[:500]
