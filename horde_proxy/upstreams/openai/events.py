"""The body of a server's answer as events: the JSON objects that it consists of.

The body is an event stream, or one JSON document from a server that does not stream. Its first
character decides, because servers give either of them any Content-Type. This module reads bytes;
what an event means is the matter of tidy.py.
Source of the rules for lines and fields: the HTML standard, section 9.2.6.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from horde_proxy.errors import UpstreamFailed
from horde_proxy.upstreams.openai.answer_start import error_in
from horde_proxy.upstreams.openai.errors import message_of

Event = dict[str, Any]
ERROR_EVENT = "it broke the answer off: "
"""What comes before a server's own words."""

# "a\r\nb", "a\nb" and "a\rb" are two lines each. str.splitlines() would also split at U+2028.
_LINE_END = re.compile(r"\r\n|\n|\r")
_DONE = "[DONE]"
_LARGEST_EVENT = 16 * 2**20
"""Characters of one event or document. A call that writes a large file has about a million."""
_LARGEST_ANSWER = 256 * 2**20
"""Bytes of one answer. 128k tokens take 45 MB where each has an event of 350 bytes (OpenRouter)."""
_MOST_LINES = 1_000
"""Lines of data in one event. All of them are parsed again whenever the last one ends with "}"."""


def events(pieces: Iterable[bytes], secrets: Iterable[str] = ()) -> Iterator[Event | None]:
    """The events of a body; None once it says that it is complete, by [DONE] or as a document.

    Raises UpstreamFailed for an error event, for what is not JSON, for an event that is cut off,
    and for sizes beyond all measure. No message has one of the `secrets` in it.
    """
    texts = _texts(pieces)
    start = ""
    for text in texts:
        start = (start + text).lstrip()
        if start:
            break
    if start.startswith(("{", "[")):
        yield _checked(_document(chain([start], texts)), "", secrets)
        yield None
        return
    for name, event in _server_sent(_lines(chain([start], texts))):
        if event == _DONE:
            yield None
            return
        yield _checked(event, name, secrets)


def line_events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """The events of a body that has one JSON object in each line, as Ollama's own API writes it.

    Raises UpstreamFailed as `events` does.
    """
    for line in _lines(_texts(pieces)):
        if text := line.strip():
            is_whole, event = _parsed(text)
            if not is_whole:
                raise UpstreamFailed("it sent a line that is not JSON, or broke it off")
            yield _checked(event, "", ())


def _texts(pieces: Iterable[bytes]) -> Iterator[str]:
    """The decoded pieces, without a byte order mark. Bytes that are not UTF-8 become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > _LARGEST_ANSWER:
            raise UpstreamFailed("its answer is too large")
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Whole lines of texts that come in pieces of any length; the last one may lack its end."""
    line: list[str] = []
    size, held = 0, ""
    for text in texts:
        text = held + text
        # A carriage return at the end may be the first half of "\r\n".
        held = "\r" if text.endswith("\r") else ""
        first, *others = _LINE_END.split(text.removesuffix("\r"))
        line.append(first)
        size += len(first)
        if size > _LARGEST_EVENT:
            raise _too_large()
        for other in others:
            yield "".join(line)
            line, size = [other], len(other)
    yield "".join(line)


def _server_sent(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The names and values of the events in a stream's lines; "[DONE]" is a value too.

    An event comes as soon as its data are a JSON value: some servers leave out the blank line
    after it, and the last line's end. Only the fields `event` and `data` are read.
    """
    data: list[str] = []
    size, name = 0, ""
    for line in lines:
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data" and (value.strip() or data):
            data.append(value)
            size += len(value)
            text = "\n".join(data).strip()
            is_whole, event = (True, _DONE) if text == _DONE else _parsed(text)
            if is_whole:
                yield name, event
                data, size, name = [], 0, ""
            elif size > _LARGEST_EVENT:
                raise _too_large()
        if data and (not line or len(data) > _MOST_LINES):
            raise UpstreamFailed("it sent an event that is not JSON")
    if data:
        raise UpstreamFailed("it broke the answer off in the middle of an event")


def _document(texts: Iterable[str]) -> Any:
    """The one JSON document that the texts are. Raises UpstreamFailed."""
    parts: list[str] = []
    size = 0
    for text in texts:
        parts.append(text)
        size += len(text)
        if size > _LARGEST_EVENT:
            raise _too_large()
    is_whole, document = _parsed("".join(parts).strip())
    if not is_whole:
        raise UpstreamFailed("its answer is not JSON, or is cut off")
    return document


def _parsed(text: str) -> tuple[bool, Any]:
    """(whether a text is a whole JSON value, the value). NaN and Infinity become null."""
    if not text.endswith(("}", "]")):
        return False, None
    try:
        # Not strict: some servers write tabs and the like into strings as they are.
        return True, json.loads(text, strict=False, parse_constant=lambda constant: None)
    except ValueError:
        return False, None
    except RecursionError as exc:
        raise UpstreamFailed("it sent an event that is nested too deeply") from exc


def _checked(event: Any, name: str, secrets: Iterable[str]) -> Event:
    """The event, whose name is "" where it has none. Raises UpstreamFailed for an error."""
    error = error_in(event, is_failure=name == "error")
    if error is not None:
        raise UpstreamFailed(ERROR_EVENT + message_of(error, secrets))
    if not isinstance(event, dict):
        raise UpstreamFailed("it sent an event that is not a JSON object")
    return event


def _too_large() -> UpstreamFailed:
    return UpstreamFailed("it sent an event that is too large")
