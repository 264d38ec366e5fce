"""Texts in pieces, as backends without a server of their own make them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from horde_proxy.prompts.end_tokens import cut, held_back

# "Hello", " world", and the whitespace at the end.
_WORD = re.compile(r"\s*\S+|\s+\Z")


def words(text: str) -> list[str]:
    """The words of a text with the whitespace before them; joined, they are the text."""
    return _WORD.findall(text)


def before_stop(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The pieces up to the first stop string. What may be the beginning of one is held back."""
    text, sent = "", 0
    for piece in pieces:
        text += piece
        body, stop = cut(text, stops)
        end = len(body) if stop else len(text) - held_back(text, stops)
        if end > sent:
            yield text[sent:end]
            sent = end
        if stop:
            return
    if len(text) > sent:
        yield text[sent:]
