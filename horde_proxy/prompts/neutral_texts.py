"""Texts in which nothing is a tag of a chat format any more, and back.

Whoever wrote a message must not open a turn by it: what would be a tag gets a mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from horde_proxy.prompts.format_table import FORMATS, Format
from horde_proxy.prompts.tags import Tags, split_tags
from horde_proxy.prompts.tool_calls.markers import OPENINGS


@cache
def _tags() -> Tags:
    """The tags of all formats: a merged model may know the control tokens of several families.

    With the markers of calls: a call that a model quotes from a page must not be made.
    """
    markers = [marker for marker in OPENINGS if marker.startswith(("<", "[", "]"))]
    return Tags([*(string for format in FORMATS.values() for string in format.strings), *markers])


@cache
def _markers(format: Format | None) -> tuple[str, ...]:
    """The tags of a format that are plain text, such as "USER:"; without a format, of all."""
    formats = FORMATS.values() if format is None else [format]
    return tuple(split_tags(string for format in formats for string in format.strings)[1])


def neutralise(text: str, format: Format | None = None) -> str:
    """The text with a mark in all that would be a tag in a prompt of this format, or of any."""
    return text if format and format.is_literal else _tags().neutralise(text, _markers(format))


def with_neutral_stops(stops: Sequence[str], format: Format) -> tuple[str, ...]:
    """A client's stop strings, each also in the form in which a model repeats it from a message.

    Agents that describe their own calls in a prompt stop at "</tool_call>", for example.
    """
    return tuple(dict.fromkeys([*stops, *(neutralise(stop, format) for stop in stops)]))


def restore(text: str, format: Format | None = None) -> str:
    """What the model means with a text, in which it may repeat what was neutralised."""
    return text if format and format.is_literal else _tags().restore(text)


def unfinished_tag(text: str) -> int:
    """The number of characters at the end that `restore` may change once the text goes on."""
    return _tags().unfinished(text)
