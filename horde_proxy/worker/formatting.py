"""KoboldAI's formatting of a finished text, which the horde's jobs may ask for. Pure.

KoboldAI does it in its server. Other servers know nothing of it, so the worker does it for all;
a second time changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

# "one.\n\n\ntwo"
_BLANK_LINES = re.compile(r"\n{2,}")
# The characters that KoboldAI's API documents for frmtrmspch.
_SPECIAL = re.compile(r"[#/@%{}+=~|\\^<>]")
# The end of a sentence, with the quotation mark or bracket after it: 'He said "no."'
_SENTENCE_END = re.compile(r"""[.!?…][")'”’*]*""")


def formatted(text: str, payload: Mapping[str, Any]) -> str:
    """The text, with those changes that the payload asks for."""
    for name, change in _CHANGES.items():
        if payload.get(name) is True:
            text = change(text)
    return text


def is_formatted(payload: Mapping[str, Any]) -> bool:
    """Whether a payload asks for changes of the finished text."""
    return any(payload.get(name) is True for name in _CHANGES)


def _without_incomplete_sentence(text: str) -> str:
    """Up to the end of the last whole sentence; all of it where no sentence ends."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


def _first_line(text: str) -> str:
    """The first line that is not empty."""
    return text.lstrip("\n").partition("\n")[0]


_CHANGES: Mapping[str, Callable[[str], str]] = {
    "frmttriminc": _without_incomplete_sentence,
    "frmtrmblln": lambda text: _BLANK_LINES.sub("\n", text),
    "frmtrmspch": lambda text: _SPECIAL.sub("", text),
    "singleline": _first_line,
}
