"""Changes one value in a JSON text with comments; every other character stays. Pure.

It must not format or reorder: the text is a configuration that its user wrote by hand.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

_INDENT = "  "
"""The indentation of what is added, whatever the rest of the file has."""
_BLANK = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
"""White space and comments, as in "  // mine" or "/* two\nlines */"."""
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
"""A string of RFC 8259 (section 7) with its quotes, as in "a \\" quote". A control character ends
the match, so that a missing quote is noticed on its line; json.loads checks the escapes."""
_SCALAR = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
"""A number or a word, as in "-1.5e3" or "true". It also matches "01", which json.loads refuses."""
_DEEPEST = 100
"""Deeper nesting than this is refused: each level takes two calls, and Python allows 1000."""


class JsoncError(ValueError):
    """The text is not JSON, or the value to change is not in an object."""


@dataclass
class Node:
    """A value and its position in the text.

    `members` are those of an object by key; of equal keys the last one counts. `last_end` is the
    end of its last member.
    """

    start: int
    end: int
    value: Any
    members: dict[str, Node] = field(default_factory=dict)
    last_end: int | None = None
    trailing_comma: bool = False


def parse(text: str) -> Node:
    """The root of a text. Raises JsoncError with line and column."""
    reader = _Reader(text)
    root = reader.value(0)
    reader.skip()
    if reader.position != len(text):
        raise reader.error("one value only")
    return root


def set_value(text: str, path: tuple[str, ...], value: Any) -> str:
    """The text with a value at a path of keys; missing objects on the way are added.

    An equal value keeps its formatting. Raises JsoncError.
    """
    node = parse(text)
    for depth, key in enumerate(path):
        if not isinstance(node.value, dict):
            raise JsoncError(f"{'.'.join(path[:depth]) or 'the whole'} is not an object")
        if key not in node.members:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _with_member(text, node, depth, key, value)
        node = node.members[key]
    # Compared as JSON, because in Python 0 equals false and 1 equals true.
    if json.dumps(node.value, sort_keys=True) == json.dumps(value, sort_keys=True):
        return text
    return text[: node.start] + _to_json(value, len(path)) + text[node.end :]


def _with_member(text: str, node: Node, depth: int, key: str, value: Any) -> str:
    """The text with a new member at the end of an object, after its last comment."""
    indent = _INDENT * (depth + 1)
    member = f"\n{indent}{json.dumps(key)}: {_to_json(value, depth + 1)}\n{_INDENT * depth}"
    brace = node.end - 1
    # An empty object may still hold comments, which stay before the new member.
    if node.last_end is None:
        return text[:brace].rstrip() + member + text[brace:]
    # The comma belongs directly behind the last member, even if a comment follows: in
    # `{"a": 1 // one` it must not become part of the comment.
    comma = "" if node.trailing_comma else ","
    rest = text[node.last_end : brace].rstrip()
    return text[: node.last_end] + comma + rest + member + text[brace:]


def _to_json(value: Any, depth: int) -> str:
    text = json.dumps(value, indent=_INDENT, ensure_ascii=False)
    return text.replace("\n", "\n" + _INDENT * depth)


class _Reader:
    """Reads a text from left to right."""

    def __init__(self, text: str) -> None:
        # Editors on Windows begin a file with a byte order mark.
        self.text, self.position = text, int(text.startswith("\ufeff"))

    def error(self, expected: str) -> JsoncError:
        before = self.text[: self.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return JsoncError(f"not valid JSON in line {line}, column {column}: expected {expected}")

    def skip(self) -> None:
        match = _BLANK.match(self.text, self.position)
        self.position = match.end() if match else self.position

    def accept(self, character: str) -> bool:
        self.skip()
        is_next = self.text.startswith(character, self.position)
        self.position += is_next
        return is_next

    def value(self, depth: int) -> Node:
        self.skip()
        start = self.position
        if depth > _DEEPEST:
            raise self.error("less nesting")
        if self.accept("{"):
            return self._object(start, depth)
        if self.accept("["):
            return self._array(start, depth)
        match = _STRING.match(self.text, start) or _SCALAR.match(self.text, start)
        if not match:
            raise self.error("a value")
        self.position = match.end()
        return Node(start, match.end(), self._decoded(match.group()))

    def _decoded(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as exc:  # for example "\\x" or 01
            raise self.error("a valid string or number") from exc

    def _object(self, start: int, depth: int) -> Node:
        node = Node(start, start, {})
        while not self.accept("}"):
            key = self.value(depth + 1)
            if not isinstance(key.value, str) or not self.accept(":"):
                raise self.error('"key": value')
            member = self.value(depth + 1)
            node.members[key.value], node.value[key.value] = member, member.value
            node.last_end = member.end
            # JSONC, unlike JSON, allows a comma after the last member.
            node.trailing_comma = self.accept(",")
            if not node.trailing_comma and not self.text.startswith("}", self.position):
                raise self.error("a comma or }")
        node.end = self.position
        return node

    def _array(self, start: int, depth: int) -> Node:
        items = []
        while not self.accept("]"):
            items.append(self.value(depth + 1).value)
            if not self.accept(",") and not self.text.startswith("]", self.position):
                raise self.error("a comma or ]")
        return Node(start, self.position, items)
