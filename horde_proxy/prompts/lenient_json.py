"""Reads JSON that models write, as strictly as possible, with limits on size and depth.

Only with `repair`, json-repair may guess: it may lose whitespace at the end of a string, and so a
line of a file that a call writes. Pure.
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
_MOST_REPAIRED = 50_000
"""Longer texts are not repaired: json-repair is pure Python, and takes 3 seconds for a million."""
_MOST_REPAIR_STEPS = 4_000_000
"""Length times quotes: json-repair looks from each quote up to the end of the text."""
DEEPEST = 100
"""The deepest nesting of brackets. Python's own readers recurse, and stop at 1,000 frames."""

_CLOSERS = {"{": "}", "[": "]", "(": ")"}
# A bracket or a string, complete or open at the end of the text: { "a \" b" 'c' """d""" '''e''' "f
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
# A backslash and the next character: \n, and \d, which is not an escape
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PYTHON_ESCAPES = "\\'\"abfnrtvxuUN\n"
_FAULTS = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Span:
    """The extent of a text in brackets: `end` is the index after the last character read.

    closed: the closing bracket was found. broken: a bracket does not match, or the nesting is too
    deep. open, quoted: the text ended first, outside of a string or in one; `missing` has the
    closing brackets.
    """

    end: int
    state: Literal["closed", "broken", "open", "quoted"]
    missing: str = ""


def span(text: str, start: int = 0) -> Span:
    """The extent of the bracket at `start`. Brackets in strings do not count."""
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
    """The value at the beginning of a text; other text may follow it. Raises ValueError.

    The text is tried in this order: as JSON; with raw line breaks in strings; with trailing text;
    as a Python literal; and, with `repair`, with closing brackets added, and by a guess. The value
    has only JSON's types.
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
    """Compact JSON text that UTF-8 can encode. Raises ValueError for NaN and the infinities."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: only an escape can hold it
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant)
_LENIENT = json.JSONDecoder(parse_constant=_refuse_constant, strict=False)


def _strictly(text: str) -> Any:
    return _STRICT.decode(text)


def _with_raw_breaks(text: str) -> Any:
    """JSON with line breaks in strings, the most common mistake when a call writes a file."""
    return _LENIENT.decode(text)


def _leading(text: str) -> Any:
    """The object or array at the beginning of the text."""
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
    """The text, with backslashes doubled if they escape nothing: Python would warn about "\\d"."""
    return _ESCAPE.sub(
        lambda match: match[0] if match[1] in _PYTHON_ESCAPES else "\\" + match[0], text
    )


def _completed(text: str) -> Any:
    """The value after the missing brackets were added at the end."""
    bare = text.strip()
    extent = span(bare)
    if extent.state != "open" or not bare.startswith(("{", "[")):
        raise ValueError("more brackets would not help")
    return loads(bare.rstrip(",") + extent.missing)


def _guessed(text: str) -> Any:
    """The value by json-repair. It recurses, so the depth is checked first."""
    bare = text.strip()
    quotes = bare.count('"') + bare.count("'")
    if len(bare) > _MOST_REPAIRED or len(bare) * quotes > _MOST_REPAIR_STEPS:
        raise ValueError("a guess would take too long")
    if not bare.startswith(("{", "[")) or _nesting(bare) > DEEPEST:
        raise ValueError("no bracket, or too deep for a guess")
    value = json_repair.repair_json(bare, return_objects=True, skip_json_loads=True)
    if not isinstance(value, dict | list) or not value:
        raise ValueError("nothing found")
    return value


def _nesting(text: str) -> int:
    """The greatest possible depth, with brackets in strings counted as well."""
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
