"""The start of a body that came with a success's status: an answer, or an error all the same.

Servers send errors with a 200: as the first event of a stream, whose status is out already, as a
JSON object, as a login page, or as nothing at all. Only the start is read: up to the first event,
or up to the length of an error. What the error means is errors.py's matter.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any, Final

from horde_proxy.upstreams.proxying import UNREAD, ProxyResponse

_UNDECIDED: Final = object()
"""More of the body is needed."""
_LONGEST_ERROR = 8192
"""Bytes of a JSON error, at most. A whole answer that is longer is not parsed here."""
_LONGEST_EVENT = 65_536
"""Bytes before and in a first event that are waited for: the Responses API repeats all tools."""
_LONGEST_HOLD = 10.0
"""Seconds that comments or blank lines alone are held back. OpenRouter sends comments while a
request queues, and DeepSeek empty lines; nginx gives up after 60 s without a byte."""
_LONGEST_LINE = 500
"""Bytes of a plain text's failure that are read: one line says what happened."""
_FAILED = b"ERROR: "
"""What the body of an OCF node begins with when its peer failed; the status is 200."""
_BOM = b"\xef\xbb\xbf"
# The fields that hold an answer: chats, embeddings and images, responses, rerank.
_ANSWERS = ("data", "output", "results")
# "<!DOCTYPE html>", "<html lang=...", "<head>", "<?xml": the page of a login or of a wrong port.
_PAGE = re.compile(rb"<(?:!doctype|html|head|body|\?xml|title)\b", re.IGNORECASE)
# Google's OpenAI-compatible API wraps its errors in a list: [{"error": {"code": 400, ...}}].
_ERROR_LIST = re.compile(rb'\[\s*\{\s*"error"\s*:')

NOTHING = "it sent an empty answer"
NOTHING_BUT_DONE = "it ended the stream without an answer"
PAGE = "it sent a web page instead of an answer"
NO_ANSWERS = (NOTHING, NOTHING_BUT_DONE, PAGE)
"""The errors for bodies that hold no message."""


def error_at_start(
    response: ProxyResponse, clock: Callable[[], float] = time.monotonic
) -> Any | None:
    """The error that a body begins with: an error object or a text; None for an answer.

    Waits for the first event of a stream, but not longer than `_LONGEST_HOLD` while only comments
    come. Bodies of other types than JSON, events and text are not read. A second call waits for
    nothing: the response keeps what the first one found.
    """
    if response.error_at_start is UNREAD:
        response.error_at_start = _read_start(response, clock)
    return response.error_at_start


def _read_start(response: ProxyResponse, clock: Callable[[], float]) -> Any | None:
    look = _look_for(response)
    if look is None:
        return None
    began = clock()
    while (error := look(response.arrived(), False)) is _UNDECIDED:
        if not response.read_on():
            error = look(response.arrived(), True)
            break
        # A keep-alive has just come, so the server is at work. The client needs it too.
        if clock() - began > _LONGEST_HOLD:
            return None
    return error


def error_in(document: Any, *, is_failure: bool = False) -> Any | None:
    """The error in a JSON document, of any server's shape; None without one.

    {"error": {...}}            OpenAI and most others
    {"error": "text", ...}      TGI, LM Studio, Ollama's own API: the whole document
    {"object": "error", ...}    Mistral, vLLM until 0.9, SGLang: the whole document
    {"type": "error", ...}      an event of the Responses API: the whole document
    [{"error": {...}}]          Google
    {"detail": ...}             FastAPI; a {"message": ...} only with `is_failure`
    """
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    if not isinstance(document, dict):
        return document if is_failure else None
    error = document.get("error")
    if error and not _has_answer(document):
        return document if isinstance(error, str) else error
    is_flat = "error" in (document.get("object"), document.get("type"))
    return document if is_flat or is_failure or set(document) == {"detail"} else None


def is_compressed(response: ProxyResponse) -> bool:
    """Whether a server compresses although we ask it not to: such a body is passed on unread."""
    return response.header("content-encoding") not in ("", "identity")


def _has_answer(document: dict[str, Any]) -> bool:
    """Whether an object holds an answer beside its error, as a warning of some gateways does."""
    choices = document.get("choices")
    parts = [
        choice.get(name)
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, dict)
        for name in ("message", "delta", "text")
    ]
    texts = [
        part.get("content") or part.get("tool_calls") if isinstance(part, dict) else part
        for part in parts
    ]
    return any(texts) or any(document.get(name) for name in _ANSWERS)


_Look = Callable[[bytes, bool], Any]
"""From the start of a body, and whether that is all of it, to an error, None or _UNDECIDED."""


def _look_for(response: ProxyResponse) -> _Look | None:
    """The function that knows a body's type; None for audio, images, files."""
    if is_compressed(response):
        return None
    kind = response.header("content-type").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return _first_event
    is_text = kind in ("", "application/json", "text/html", "text/plain") or kind.endswith("+json")
    return _document if is_text else None


def _first_event(start: bytes, is_whole: bool) -> Any:
    """The error in the first event. Comments, ids and empty data before it are no event."""
    start = start.removeprefix(_BOM)
    # Errors of a gateway before the server keep the stream's type.
    if start.lstrip()[:1] in (b"{", b"[", b"<"):
        return _document(start, is_whole)
    name = data = b""
    for line in start.splitlines(keepends=True):
        if not (is_whole or line.endswith((b"\n", b"\r"))):
            break
        field, _, value = line.strip().partition(b":")
        if field == b"event":
            name = value.strip()
        # llama.cpp of 2024 writes an error without "data:", as "error: {...}".
        elif field in (b"data", b"error") and value.strip():
            name, data = b"error" if field == b"error" else name, data + value.strip()
            # A JSON object may go on in the next line, after another "data:".
            if not data.startswith(b"{") or data.endswith(b"}"):
                return _event(name, data)
    if is_whole:
        return _event(name, data) if data else NOTHING
    return None if len(start) > _LONGEST_EVENT else _UNDECIDED


def _event(name: bytes, data: bytes) -> Any | None:
    """The error in one event. A chunk with an empty delta is the start of an answer."""
    if data == b"[DONE]":
        return NOTHING_BUT_DONE
    if name != b"error" and not _may_be_error(data):
        return None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = data.decode("utf-8", "replace")
    return error_in(document, is_failure=name == b"error")


def _document(start: bytes, is_whole: bool) -> Any:
    """The error that a JSON document, a page or a plain text is."""
    text = start.removeprefix(_BOM).lstrip()
    if not text:
        return NOTHING if is_whole else _UNDECIDED
    if text.startswith(b"<"):
        return _if_enough(PAGE if _PAGE.match(text) else None, text, is_whole, 10)
    if text.startswith(b"["):
        error = _error_in_text(text) if _ERROR_LIST.match(text) else None
        return _if_enough(error, text, is_whole, _LONGEST_ERROR if _ERROR_LIST.match(text) else 64)
    if text.startswith(b"{"):
        # Whether it is an error is known only at the end of the object.
        error = _error_in_text(text) if is_whole else None
        return _if_enough(error, text, is_whole, _LONGEST_ERROR)
    if text.startswith(_FAILED):
        words = text[len(_FAILED) : _LONGEST_LINE].decode("utf-8", "replace")
        return _if_enough(words, text, is_whole, _LONGEST_LINE)
    return None if is_whole or not _FAILED.startswith(text) else _UNDECIDED


def _if_enough(error: Any, text: bytes, is_whole: bool, least: int) -> Any:
    """The error, once so many bytes of the body have come, or all of it."""
    return error if is_whole or len(text) >= least else _UNDECIDED


def _may_be_error(text: bytes) -> bool:
    """Whether to parse a text: parsing every short answer would cost more than this look."""
    return b"error" in text or b"detail" in text


def _error_in_text(text: bytes) -> Any | None:
    if not _may_be_error(text):
        return None
    try:
        return error_in(json.loads(text))
    except (ValueError, RecursionError):
        return None
