"""Values in a JSON file with comments; everything else in it stays. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from horde_proxy.jsonc import JsoncError, parse, set_value

_LONE_LINE_FEED = re.compile(r"(?<!\r)\n")
"""The "\\n" of a Unix file, but not the one in the "\\r\\n" of a Windows file."""


def with_values(text: str, values: Mapping[tuple[str, ...], Any]) -> str:
    """The text with a value at each path of keys. Raises JsoncError."""
    is_of_windows = "\r\n" in text and not _LONE_LINE_FEED.search(text)
    text = text if text.strip() else "{}\n"
    for path, value in values.items():
        text = set_value(text, path, value)
    return _LONE_LINE_FEED.sub("\r\n", text) if is_of_windows else text


def value_at(text: str, path: tuple[str, ...]) -> Any:
    """The value at a path of keys; None if it is not there. Raises JsoncError."""
    value = parse(text).value if text.strip() else {}
    if not isinstance(value, dict):
        raise JsoncError("the configuration is not an object")
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
