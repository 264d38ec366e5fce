"""What a server's error means: whose fault it is, and whether another server may do better.

    answer_start -> the error in a body -> its status and words -> a ProxyError, or None

The same rules hold for an error with its own status and for one that a 200 hides. Which server is
tried next, and for how long this one is left alone, is the router's matter.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from horde_proxy.aihorde.rest import retry_after
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
from horde_proxy.upstreams.base import REFUSED_PAUSE
from horde_proxy.upstreams.openai.answer_start import (
    NO_ANSWERS,
    PAGE,
    error_at_start,
    error_in,
    is_compressed,
)
from horde_proxy.upstreams.openai.error_signs import (
    MODERATION,
    NO_MODEL,
    NO_PATH,
    NO_PROVIDER,
    OVERFLOW,
    OVERFLOW_STATUSES,
    REQUESTS_FAULT,
    SERVERS_STATE,
    STATUSES,
    USED_UP,
    WRONG_KEY,
    WRONG_MODEL,
)
from horde_proxy.upstreams.proxying import ProxyResponse

# Anything like a key. OpenAI "sk-proj-...", "sk-ab***yz"; OpenRouter "sk-or-v1-..."; Groq
# "gsk_..."; Hugging Face "hf_..."; xAI "xai-..."; Google "AIza...";
# Nvidia "nvapi-..."; ours "hp-...".
_KEY = re.compile(
    r"(?<![\w-])(?:(?:sk|gsk|hf|xai|nvapi|pplx|csk|hp)[-_]|AIza)[\w*-]{12,}"
    r"|(?<=Bearer )[^\s\"']{8,}"
)
# The headers that hold a key: Authorization, X-Api-Key, api-key, X-Auth-Token, Cookie.
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)
# An error in the middle of a stream: "error": {...}, "error": "text" or "event: error". Not the
# "error": null that some servers put into each chunk.
_ERROR_EVENT = re.compile(rb'"error"\s*:\s*[{"]|\bevent:\s*error')
_SHORTEST_SECRET = 8
"""Characters. Shorter ones, and the usual "none", are no secrets but words of a message."""
_LONGEST_REFUSAL = 10_000
"""Bytes of an error that are read: an error is short, and the whole body would be waited for."""
_LONGEST_MESSAGE = 500
"""Characters of a message that are passed on: some servers put a whole traceback there."""
_DEEPEST = 4
"""Objects within objects in which a message is looked for: {"error": {"message": {"detail": [..."""
# The fields that hold a message, the best first.
_MESSAGES = ("message", "msg", "error", "detail", "errors", "description", "title")
# The fields that say what an error is. Others may repeat the request.
_KINDS = ("code", "type", "status", "error_type", "http_status_code")


def server_error(
    response: ProxyResponse,
    *,
    is_listed: bool = True,
    reads_body: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> ProxyError | None:
    """The error that a response is; None for an answer, and for a refusal with a true status.

    - UpstreamContextExceeded: the chat is too long for the model.
    - InvalidRequest: the request is at fault, although the status is a success's.
    - UpstreamFailed, RateLimited, Unavailable: another server may do better.

    `is_listed`: the server lists the requested model. `reads_body`: a body with a success's status
    is looked at too. The keys in a refusal's body, and in later events that are errors, are
    replaced by asterisks; a 200 for a path that the server does not know becomes a 404.
    """
    pause = retry_after(response.header("retry-after"), time.time())
    if response.status >= 400:
        error = _refusal(response)
        return _explained(response.status, error, pause, response.secrets, is_listed=is_listed)
    # A redirect and an empty 204 have no body to judge.
    error = error_at_start(response, clock) if reads_body and response.status == 200 else None
    if error is None:
        _hide_keys_in_events(response)
        return None
    if error in NO_ANSWERS:
        return UpstreamUnfit(error) if error == PAGE else UpstreamFailed(error)
    if NO_PATH.search(_signs_of(error)):
        response.status = 404
        return None
    hidden = _status_of(error)
    explained = _explained(hidden, error, pause, response.secrets, is_listed=is_listed)
    return explained or InvalidRequest(message_of(error, response.secrets))


def refusal_of(response: ProxyResponse) -> str:
    """The message of a response with an error's status."""
    return message_of(_refusal(response), response.secrets)


def message_of(error: Any, secrets: Iterable[str] = ()) -> str:
    """The message of an error of any shape, without keys."""
    return _words(error, secrets) or "no reason given"


def without_keys(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with asterisks, as many, instead of the secrets and of anything like a key."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "*" * len(secret))
    return _KEY.sub(lambda key: "*" * len(key[0]), text)


def secrets_in(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The keys in an upstream's own headers: the longest value first, and each of its words."""
    values = [value for name, value in headers.items() if _SECRET_HEADER.search(name)]
    words = [word for value in values for word in value.split()]
    return tuple(sorted({*values, *words}, key=len, reverse=True))


def read_refusal(response: ProxyResponse) -> None:
    """Wait for what is looked at of the body of an error's status."""
    if not is_compressed(response):
        response.head(_LONGEST_REFUSAL)


def _refusal(response: ProxyResponse) -> Any:
    """The error in the body of an error's status: an object, a text, or None."""
    if is_compressed(response):
        return None
    read_refusal(response)
    # Latin-1 maps each byte to one character and back, so that the length stays the same.
    hidden = without_keys(response.arrived().decode("latin-1"), response.secrets)
    response.replace_arrived(hidden.encode("latin-1"))
    text = response.arrived()[:_LONGEST_REFUSAL].decode("utf-8", "replace")
    try:
        return error_in(json.loads(text), is_failure=True)
    except (ValueError, RecursionError):
        return text or None


def _hide_keys_in_events(response: ProxyResponse) -> None:
    """Replace the keys in what is still to come of a stream, where it is an error."""
    kind = response.header("content-type").lower()
    if not response.secrets or not kind.startswith("text/event-stream"):
        return

    def hide(piece: bytes) -> bytes:
        if b"error" not in piece or not _ERROR_EVENT.search(piece):
            return piece
        return without_keys(piece.decode("latin-1"), response.secrets).encode("latin-1")

    response.wrap_rest(partial(map, hide))


def _explained(
    status: int | None, error: Any, pause: int | None, secrets: Iterable[str], *, is_listed: bool
) -> ProxyError | None:
    """The ProxyError for an error, whose status may be unknown; None for the request's fault."""
    signs, words = _signs_of(error), _words(error, secrets)
    if status in OVERFLOW_STATUSES and OVERFLOW.search(signs):
        return UpstreamContextExceeded(words)
    if NO_PROVIDER.search(signs):
        return Unavailable("no peer serves the model now", code="no_provider")
    owners_fault = _owners_fault(status, signs, words)
    if owners_fault is not None:
        return owners_fault
    no_model = NO_MODEL if status == 404 else WRONG_MODEL if status == 400 else None
    if is_listed and no_model and no_model.search(signs):
        text = _said("it lists the model, but does not have it", words)
        return UpstreamUnfit(f"{text}. The owner of this proxy should install it there")
    if status == 429:
        return RateLimited(_said("it allows no more requests now", words), retry_after=pause)
    if status is None:
        return UpstreamFailed(_said("it answered with an error", words))
    if status in SERVERS_STATE or (status >= 500 and status not in REQUESTS_FAULT):
        return UpstreamFailed(_said(f"it answered with status {status}", words), retry_after=pause)
    return None


def _owners_fault(status: int | None, signs: str, words: str) -> ProxyError | None:
    """The error for what only the proxy's owner can mend: a key, an account; or None."""
    reason, advice, pause = "", "look at the endpoint's account", None
    if status == 401 or (status in (400, 403) and WRONG_KEY.search(signs)):
        reason, advice = "it refuses the api_key that is configured for it", "set a valid api_key"
        pause = REFUSED_PAUSE
    elif USED_UP.search(signs):
        reason, pause = "its account is used up", REFUSED_PAUSE
    # These may be about one request or model, and get the usual short cooldown.
    elif status == 402:
        reason = "it wants to be paid"
    elif status == 403 and not MODERATION.search(signs):
        reason = "it denies its account the access"
    if not reason:
        return None
    text = _said(f"{reason} (status {status})" if status else reason, words)
    return UpstreamRefused(f"{text}. The owner of this proxy should {advice}", retry_after=pause)


def _said(reason: str, words: str) -> str:
    """The reason, with the server's own words where it has some."""
    return f"{reason}: {words.rstrip('.')}" if words else reason


def _status_of(error: Any) -> int | None:
    """The status that an error with a 200 tells; None where it tells none."""
    if not isinstance(error, dict):
        return None
    kinds = [str(error.get(name) or "").casefold() for name in _KINDS]
    numbers = [int(kind) for kind in kinds if re.fullmatch("[45][0-9][0-9]", kind)]
    names = [STATUSES[kind] for kind in kinds if kind in STATUSES]
    return next(iter(numbers or names), None)


def _signs_of(error: Any) -> str:
    """The words by which an error is classified: kinds and message, no copies of the request."""
    kinds = [error.get(name) for name in _KINDS] if isinstance(error, dict) else []
    inner = error.get("error") if isinstance(error, dict) else None
    if isinstance(inner, dict):
        kinds += [inner.get(name) for name in _KINDS]
    return " ".join([*(str(kind) for kind in kinds if kind), _text(error, _DEEPEST)])


def _words(error: Any, secrets: Iterable[str]) -> str:
    """The message of an error on one line, without keys; "" without one, and for a page."""
    text = " ".join(_text(error, _DEEPEST).split())
    return "" if text.startswith("<") else without_keys(text, secrets)[:_LONGEST_MESSAGE]


def _text(error: Any, depth: int) -> str:
    """The message of an error: text, object, or list of them."""
    if isinstance(error, str):
        return error
    if depth == 0 or not error:
        return ""
    if isinstance(error, list):
        texts = [_text(entry, depth - 1) for entry in error[:3]]
        return "; ".join(text for text in texts if text)
    if not isinstance(error, dict):
        return ""
    texts = [_text(error.get(name), depth - 1) for name in _MESSAGES]
    message = next((text for text in texts if text), "")
    # OpenRouter: {"message": "Provider returned error", "metadata": {"raw": the provider's words}}
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return f"{message}: {raw}" if isinstance(raw, str) and raw else message
