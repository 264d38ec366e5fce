"""JSON as models write it, read in the strictest way that succeeds, with bounds on size and depth.

Guessing (json-repair) is off unless `repair` is set: it may lose whitespace at a string's end, and
so a line of a file that a call writes. Pure.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import json_repair

MOST_CHARACTERS = 1_000_000
"""Longer texts are not read at all."""
MOST_REPAIRED = 100_000
"""Longer texts are not guessed at: json-repair is pure Python, and slow."""
DEEPEST = 100
"""Brackets within each other. Python's own readers recurse, and stop at 1,000 frames."""

_CLOSERS = {"{": "}", "[": "]", "(": ")"}
# A bracket or a string, whole or open at the text's end: { "a \" b" 'c' """d""" '''e''' "f
# Models write Python's quotes as well. The quantifiers are possessive (*+), so that a text with
# many quotes is not read again and again.
_TOKEN = re.compile(
    r'''[{}\[\]()]
    |"""(?:[^\\"]++|\\.|"(?!""))*+"""
    |\'\'\'(?:[^\\\']++|\\.|\'(?!\'\'))*+\'\'\'
    |"(?:[^"\\]++|\\(?:.|\Z))*+(?:"|\Z)
    |'(?:[^'\\]++|\\(?:.|\Z))*+(?:'|\Z)''',
    re.DOTALL | re.VERBOSE,
)
# A backslash and what it escapes: \n, and \d, which is no escape
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PYTHON_ESCAPES = "\\'\"abfnrtvxuUN\n"
_FAULTS = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Span:
    """How far a bracketed text goes: `end` is behind the last character that was looked at.

    closed: it is whole. broken: a bracket does not fit or the nesting is too deep. open and
    quoted: the text ends before it, outside of a string or in one; `missing` would close it.
    """

    end: int
    state: Literal["closed", "broken", "open", "quoted"]
    missing: str = ""


def span(text: str, start: int = 0) -> Span:
    """The extent of the bracket at `start`; quotes of both kinds hide what is in them."""
    waiting: list[str] = []
    for match in _TOKEN.finditer(text, start):
        token = match.group()
        if token in _CLOSERS:
            waiting.append(_CLOSERS[token])
            if len(waiting) > DEEPEST:
                return Span(match.end(), "broken")
        elif token in _CLOSERS.values():
            if not waiting or waiting.pop() != token:
                return Span(match.end(), "broken")
            if not waiting:
                return Span(match.end(), "closed")
        elif match.end() == len(text) and _is_open(token):
            return Span(len(text), "quoted", "".join(reversed(waiting)))
    return Span(len(text), "open", "".join(reversed(waiting)))


def _is_open(quoted: str) -> bool:
    """Whether a string at the end of a text lacks its closing quote."""
    body = quoted[1:]
    if not body.endswith(quoted[0]):
        return True
    before = body[:-1]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def loads(text: str, *, repair: bool = False) -> Any:
    """The value that a text begins with; anything may follow it. Raises ValueError.

    Tried in this order: JSON; with raw line breaks in strings; with trailing text; a Python
    literal; and, with `repair`, brackets added at the end, then a guess. Only JSON's own types
    come back.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError("the text is too long")
    steps: list[Callable[[str], Any]] = [_strictly, _with_raw_breaks, _leading, _python]
    if repair:
        steps += [_completed, _guessed]
    for step in steps:
        try:
            return _json_value(step(text), DEEPEST)
        except _FAULTS:
            continue
    raise ValueError("the text holds no readable JSON")


def dumps(value: Any) -> str:
    """Compact JSON text that UTF-8 can carry. Raises ValueError for NaN and the infinities."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: only an escape can hold it
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_STRICT = json.JSONDecoder(parse_constant=_refused)
_LENIENT = json.JSONDecoder(parse_constant=_refused, strict=False)


def _strictly(text: str) -> Any:
    return _STRICT.decode(text)


def _with_raw_breaks(text: str) -> Any:
    """JSON with line breaks in strings, the commonest fault where a call writes a file."""
    return _LENIENT.decode(text)


def _leading(text: str) -> Any:
    """The object or array that the text begins with."""
    bare = text.lstrip()
    if not bare.startswith(("{", "[")):
        raise ValueError("neither an object nor an array")
    return _LENIENT.raw_decode(bare)[0]


def _python(text: str) -> Any:
    """A Python literal: {'name': 'bash', 'arguments': {'all': True}}."""
    bare = text.strip()
    if bare.startswith(("{", "[")):
        extent = span(bare)
        if extent.state != "closed":
            raise ValueError("not closed")
        bare = bare[: extent.end]
    return ast.literal_eval(python_source(bare))


def python_source(text: str) -> str:
    """The text with each backslash doubled that begins no escape: Python would warn about "\\d"."""
    return _ESCAPE.sub(
        lambda match: match[0] if match[1] in _PYTHON_ESCAPES else "\\" + match[0], text
    )


def _completed(text: str) -> Any:
    """The value with the brackets that are missing at its end."""
    bare = text.strip()
    extent = span(bare)
    if extent.state != "open" or not bare.startswith(("{", "[")):
        raise ValueError("more brackets would not help")
    return loads(bare.rstrip(",") + extent.missing)


def _guessed(text: str) -> Any:
    """What json-repair makes of the text. It recurses, so the depth is bounded before."""
    bare = text.strip()
    if len(bare) > MOST_REPAIRED or not bare.startswith(("{", "[")) or _nesting(bare) > DEEPEST:
        raise ValueError("too long or too deep for a guess")
    value = json_repair.repair_json(bare, return_objects=True, skip_json_loads=True)
    if not isinstance(value, dict | list) or not value:
        raise ValueError("nothing found")
    return value


def _nesting(text: str) -> int:
    """The deepest nesting that is possible if no bracket is in a string."""
    deepest = depth = 0
    for bracket in re.finditer(r"[{}\[\]]", text):
        depth = depth + 1 if bracket.group() in "{[" else max(depth - 1, 0)
        deepest = max(deepest, depth)
    return deepest


def _json_value(value: Any, depth: int) -> Any:
    """The value with tuples as lists. Raises ValueError for types that JSON does not have."""
    if depth < 0:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is not a string")
        return {key: _json_value(part, depth - 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(part, depth - 1) for part in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        raise ValueError("not a finite number")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError("not a JSON type")
