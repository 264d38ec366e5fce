"""Texts of foreign JSON, made of whole characters. Pure.

JSON may hold half of a surrogate pair (`"\\ud83d"`), which is no character and cannot be encoded.
Servers that cut a stream by tokens send the two halves of an emoji in two deltas.
"""

from __future__ import annotations

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def whole_characters(text: str) -> str:
    """The text with its surrogate pairs joined. A half without its other half becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class HalfPairs:
    """Joins the halves of surrogate pairs that come in two pieces of one text."""

    def __init__(self) -> None:
        self._half = ""

    def add(self, piece: str) -> str:
        """The whole characters so far; a first half at the end waits for the next piece."""
        text = self._half + piece
        self._half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return whole_characters(text[:-1] if self._half else text)

    def rest(self) -> str:
        """What stands for a half that still waits at the end of the text."""
        half, self._half = self._half, ""
        return _REPLACEMENT if half else ""
