"""Estimates of token counts: each model of the horde has its own tokenizer, so none is loaded.

The weights are fitted to a byte-level BPE of 49,000 tokens on English prose and source code. There
the estimates are right to about 3 %; in other languages they are rougher. Pure.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter
from functools import lru_cache

_LONGEST_READ = 400_000
"""Characters: more than any context holds, so a longer text is estimated by its two ends."""
_LONG_PIECE = 40
"""A piece of this many characters is not cached, because it will hardly ever come again."""
_DIVISIBLE = ("digits", "symbols", "space", "other")
# The pieces into which a byte-level BPE splits a text before it merges: " word", "Word", "HTTP",
# " 2024", "  \n", " ==", "äö". A piece of the kinds in _DIVISIBLE may be cut between its tokens.
_PIECE = re.compile(
    r"(?P<word> ?(?:[A-Z]+(?![a-z])|[A-Z]?[a-z]+))"
    r"|(?P<digits> ?[0-9]+)"
    r"|(?P<space>\s+(?!\S)|\s+)"
    r"|(?P<symbols> ?[!-/:-@\[-`{-~]+)"
    r"|(?P<other>[^\x00-\x7f]+|.)",
    re.DOTALL,
)
# The same without groups: then findall returns whole pieces, and fast.
_PIECES = re.compile(re.sub(r"\?P<\w+>", "?:", _PIECE.pattern), re.DOTALL)


def estimate(text: str) -> int:
    """The estimated number of tokens in a text."""
    if len(text) > _LONGEST_READ:
        ends = text[: _LONGEST_READ // 2] + text[-_LONGEST_READ // 2 :]
        return round(estimate(ends) * len(text) / len(ends))
    counts = Counter(_PIECES.findall(text))
    total = sum(
        count * (_cached_weight_of if len(piece) < _LONG_PIECE else _weight_of)(piece)
        for piece, count in counts.items()
    )
    return max(round(total), 1) if text else 0


def truncate(text: str, tokens: int) -> str:
    """The beginning of a text, estimated at `tokens` at most, but at least one piece.

    It ends between words. Runs of digits, symbols, spaces or other scripts may be cut.
    """
    total = 0.0
    for match in _PIECE.finditer(text):
        kind, piece = match.lastgroup, match.group()
        weight = _weight(kind, piece)
        if total + weight > tokens:
            size = _fitting(kind, piece, tokens - total) if kind in _DIVISIBLE else 0
            return text[: match.start() + size] or piece[: 1 if kind in _DIVISIBLE else None]
        total += weight
    return text


def exceeds(text: str, tokens: int) -> bool:
    """Whether a text is longer than so many tokens for whatever tokenizer a model has.

    True only where even the coarsest one needs more, so that it never holds for the text of a
    worker that kept within a max_length, however high our estimate of that text is.
    """
    if estimate(text) <= tokens:
        return False
    total = 0.0
    for match in _PIECE.finditer(text):
        total += _least_weight(match.lastgroup, match.group())
        # A worker may send megabytes.
        if total > tokens:
            return True
    return False


def count_within(text: str, tokens: int) -> int:
    """The estimated tokens of a text for which so many were requested.

    No more than those, unless the text certainly has more.
    """
    written = estimate(text)
    return written if exceeds(text, tokens) else min(written, tokens)


def _least_weight(kind: str | None, piece: str) -> float:
    """About the tokens of a piece in the coarsest of today's tokenizers.

    Those of GPT-4o and Gemma 3 have up to 262,000 tokens: three digits, a run of 128 signs, a short
    camelCase name (four pieces here), two CJK characters, or a run of spaces are one token.
    """
    if kind == "word":
        return max(0.7, len(piece) / 20)
    if kind == "digits":
        return len(piece.strip()) / 3
    if kind == "space":
        return 0.25
    if kind == "symbols":
        return 0.4 + len(piece.strip()) / 128
    return 0.3 * len(piece)


def _fitting(kind: str | None, piece: str, tokens: float) -> int:
    """How many of a piece's first characters fit into `tokens`."""
    # The small addition is for rounding errors: a sum of tenths may be a little too large.
    return bisect(
        range(1, len(piece)), tokens + 1e-6, key=lambda length: _weight(kind, piece[:length])
    )


def _weight_of(piece: str) -> float:
    match = _PIECE.match(piece)
    assert match
    return _weight(match.lastgroup, piece)


_cached_weight_of = lru_cache(maxsize=32_768)(_weight_of)


def _weight(kind: str | None, piece: str) -> float:
    """The average number of tokens in a piece. All numbers below are fitted, not derived."""
    if kind == "word":
        return _word(piece)
    if kind == "digits":
        return len(piece.strip()) + (0.75 if piece[0] == " " else 0)
    if kind == "space":
        return 0.5 if piece.count("\n") < 2 else 0.15 + 0.05 * len(piece)
    if kind == "symbols":
        return 1.1 + 0.07 * (len(piece.strip()) - 1)
    return sum(map(_foreign, piece))


def _word(piece: str) -> float:
    """The tokens of a word. Lower-case words with a space are one token; capitals need more."""
    letters = piece.lstrip()
    if len(letters) > 1 and letters.isupper():
        return 1.4 + 0.2 * (len(letters) - 2)
    if piece[0] == " " and letters.islower():
        return 1.02 + 0.1 * max(0, len(letters) - 6)
    return 0.91 + 0.12 * max(0, len(letters) - 4)


def _foreign(character: str) -> float:
    """The tokens of a character: accented Latin, punctuation (– “), alphabets, CJK, emoji."""
    code = ord(character)
    if code < 0x250:
        return 1.0
    if 0x2010 <= code <= 0x203A:
        return 0.5
    if code < 0x2E80:
        return 0.8
    return 1.3 if code < 0x10000 else 2.0
