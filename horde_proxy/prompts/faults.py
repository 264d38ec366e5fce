"""What is wrong with a generated text that no reader would want: empty, tags, endless repetition.

Pure.
"""

from __future__ import annotations

import re
from typing import Literal

from horde_proxy.prompts.answer import read_answer
from horde_proxy.prompts.formats import Format

Fault = Literal["empty", "tags", "loop"]
_TAGS = re.compile(r"\s*\{\{\[(?:INPUT|OUTPUT|SYSTEM)(?:_END)?\]\}\}")
_LEAST_LOOP = 300
_LONGEST_UNIT = 60
_LEAST_ROUNDS = 12


def fault_of(text: str, format: Format, *, is_first: bool) -> Fault | None:
    """What is wrong with a generation; None when nothing is.

    `is_first`: nothing has been generated before; later on nothing more to say is no fault.
    """
    if is_first and _TAGS.match(text):
        return "tags"
    if is_first:
        answer = read_answer(text, format, max_length=10**6)
        if not answer.content.strip() and not answer.reasoning.strip():
            return "empty"
    return "loop" if loops(text) else None


def loops(text: str) -> bool:
    """Whether a text ends in one short unit of words, over and over."""
    tail = text.rstrip()[-_LEAST_LOOP * 4:]
    for size in range(1, _LONGEST_UNIT + 1):
        unit = tail[-size:]
        length = max(_LEAST_LOOP, size * _LEAST_ROUNDS)
        if len(tail) < length or not any(map(str.isalnum, unit)):
            continue
        if tail.endswith((unit * (length // size + 1))[-length:]):
            return True
    return False
