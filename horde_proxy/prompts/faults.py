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
_SHORT_UNIT, _LONGEST_UNIT = 60, 600
_SHORT_ROUNDS, _LONG_ROUNDS = 12, 8


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
    """Whether a text ends in one unit over and over: a word, a sentence or a whole paragraph.

    Twelve times, or eight where the unit has more than 60 characters; at most 600 are seen.
    """
    tail = text.rstrip()[-_LONGEST_UNIT * _LONG_ROUNDS :]
    return any(_repeats(tail, size) for size in range(1, _LONGEST_UNIT + 1))


def _repeats(tail: str, size: int) -> bool:
    rounds = _SHORT_ROUNDS if size <= _SHORT_UNIT else _LONG_ROUNDS
    length = max(_LEAST_LOOP, size * rounds)
    loop = tail[-length:]
    return (
        len(loop) == length and loop[size:] == loop[:-size] and any(map(str.isalnum, loop[-size:]))
    )
