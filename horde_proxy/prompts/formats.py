"""Chat formats: the table of them, texts without their tags, and prompts made of turns.

format_table    each family's tags         neutral_texts    tags in messages, broken up
rendering       turns --> prompt
"""

from __future__ import annotations

from horde_proxy.prompts.format_table import FORMATS, PLACEHOLDERS, RAW, Format, Role, Turn
from horde_proxy.prompts.neutral_texts import (
    neutralise,
    restore,
    unfinished_tag,
    with_neutral_stops,
)
from horde_proxy.prompts.rendering import render

__all__ = [
    "FORMATS",
    "PLACEHOLDERS",
    "RAW",
    "Format",
    "Role",
    "Turn",
    "neutralise",
    "render",
    "restore",
    "unfinished_tag",
    "with_neutral_stops",
]
