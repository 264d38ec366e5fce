"""Endless repetitions: whether a model writes the same words again and again. Pure.

What repeats on purpose is no loop: zeros, hex dumps and base64 never, rows of tables and code only
after many more rounds than prose.
"""

from __future__ import annotations

import re

# How long a repetition is before it is a loop: tables and refrains repeat as well.
_LEAST_LOOP = 300
_SHORT_UNIT, _LONGEST_UNIT = 60, 600
_SHORT_ROUNDS, _LONG_ROUNDS = 12, 8
_DATA_ROUNDS, _LONGEST_DATA_UNIT = 100, 200
"""Rounds of a table's row or a line of code, with up to so many characters, that are a loop."""
_WORD = re.compile(r"\w+")
# "00", "0x1f", "x1f", "7f3a", "FF": the words of a hex dump or a column of numbers. "AAAA": zeros
# in base64. "10px", "1fr": lengths in CSS.
_NUMBER = re.compile(
    r"(?:0?x)?(?:[0-9a-fA-F_]*[0-9][0-9a-fA-F_]*|(?:ff)+|[AF]+)|\d+(?:px|r?em|fr|v[hw]|m?s)"
)
# "| a | b |", "margin: 0;", "a,b,c", "<td>", "x = 1", "0 0 #fff": signs that prose does not have.
_DATA = re.compile(r"[|;{}<>=#\\/\t_&@$%^~]|,\S|:\S|\w\(")
_BASE64 = re.compile(r"[A-Za-z0-9+/=\n-]{4,}")
_NO_WORD = re.compile(r"[A-Z0-9+/]")
"""Signs of which a word such as "Haha" has one at most, but "AQEB" in base64 has more."""


def loops(text: str) -> bool:
    """Whether a text ends with many repetitions of a word, a sentence or a whole paragraph.

    Up to 60 characters must be repeated twelve times, up to 600 characters eight times.
    """
    bare = text.rstrip()
    tail = bare[-_LONGEST_UNIT * _LONG_ROUNDS :]
    # Longer units cannot be in the text often enough. Most texts are short, so this saves time.
    longest = min(_LONGEST_UNIT, len(tail) // _LONG_ROUNDS)
    sizes = (size for size in range(1, longest + 1) if _repeats(tail, size))
    # The shortest unit tells what is repeated: all longer ones consist of it.
    size = next(sizes, None)
    return size is not None and _is_endless(bare, size)


def _repeats(tail: str, size: int) -> bool:
    """Whether the text ends with repetitions of a unit of this size.

    The unit must contain a letter or digit: a line of dashes is not a loop.
    """
    rounds = _SHORT_ROUNDS if size <= _SHORT_UNIT else _LONG_ROUNDS
    length = max(_LEAST_LOOP, size * rounds)
    loop = tail[-length:]
    return (
        len(loop) == length and loop[size:] == loop[:-size] and any(map(str.isalnum, loop[-size:]))
    )


def _is_endless(text: str, size: int) -> bool:
    """Whether a repetition of a unit of this size at the end of a text has no purpose."""
    # Two units: a number may begin in the middle of one.
    unit = text[-2 * size :]
    if all(map(_NUMBER.fullmatch, _WORD.findall(unit))):
        return False
    if _BASE64.fullmatch(unit) and len(_NO_WORD.findall(unit[:size])) > 1:
        return False
    if size > _LONGEST_DATA_UNIT or not _DATA.search(unit):
        return True
    loop = text[-size * _DATA_ROUNDS :]
    return len(loop) == size * _DATA_ROUNDS and loop[size:] == loop[:-size]
