"""The tags of chat formats within texts: broken up in a prompt, and restored in an answer. Pure.

A tag in a message, such as <|im_start|> in a fetched page, would begin a turn. So it gets a mark,
with which the model can still read it and write it, and without which it comes out again:

    in a message          in the prompt
    <|im_start|>          <·|im_start|>
    <·|im_start|>         <··|im_start|>     so that what was restored is what was sent
    USER: (new line)      USER·:             tags of plain text, in their own format only

This module knows no format: `formats` has the tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

MARK = "·"
"""Visible, a token in most vocabularies, and the same in all Unicode normal forms."""
_LONGEST_TAG = 48
"""Characters of the longest tag: <|start_header_id|>, "GPT4 Correct Assistant:"."""
# The pieces of "<|bom|><|user|> ", "[INST] <<SYS>>" or "{{[INPUT]}}" that are tags.
_MARKUP = re.compile(r"\{\{\[\w+\]\}\}|<+[^<>\s]+>+|\[[^\[\]\s]+\]")
# What follows the "<" in control tokens of all families, of which many are in no format:
# <|fim_prefix|>, <|turn> (Gemma 4), <turn|> (its end), <｜tool▁calls▁begin｜> (DeepSeek).
_CONTROL_TOKEN = rf"\|[^\s<>|]{{1,{_LONGEST_TAG}}}\|?>|[a-z_]{{1,30}}\|>|｜[^\s<>｜]{{1,30}}｜"
# Where a marker is one: at the start of a line, of which Python's "^" knows "\n" only, and behind a
# tag: "</s>USER:".
_LINE_ENDS = r"\n\r\v\f\x85\u2028\u2029"
_LINE_START = rf"(?:\A|(?<=[{_LINE_ENDS}>]))[^\S{_LINE_ENDS}]*"


class Tags:
    """The tags in some strings of formats, such as "<|im_start|>user\\n" and "USER: "."""

    def __init__(self, strings: Iterable[str]) -> None:
        tokens, markers = split_tags(strings)
        # For each beginning of a tag, up to where its mark comes, the ends that it may have.
        ends: dict[str, list[str]] = {"<": [_CONTROL_TOKEN]}
        for tag in tokens:
            position = _mark_position(tag)
            ends.setdefault(tag[:position], []).append(re.escape(tag[position:]))
        self._token = re.compile(
            "|".join(f"{re.escape(head)}(?={'|'.join(tails)})" for head, tails in ends.items())
        )
        for tag in markers:
            position = _mark_position(tag)
            ends.setdefault(tag[:position], []).append(re.escape(tag[position:]))
        self._broken = re.compile(
            "|".join(
                f"(?<={re.escape(head)}){MARK}(?={MARK}*(?:{'|'.join(tails)}))"
                for head, tails in ends.items()
            )
        )

    def neutralise(self, text: str, markers: Sequence[str] = ()) -> str:
        """The text with a mark in each tag, and in each of the markers that begins a line."""
        if MARK in text:
            text = self._broken.sub(MARK * 2, text)
        text = self._token.sub(rf"\g<0>{MARK}", text)
        if markers:
            text = _marker_pattern(tuple(markers)).sub(rf"\g<0>{MARK}", text)
        return text

    def restore(self, text: str) -> str:
        """The text that was neutralised: each tag with one mark less."""
        return self._broken.sub("", text) if MARK in text else text

    def unfinished(self, text: str) -> int:
        """The number of characters at the end that may be a tag with a mark, but not all of it."""
        last = text.rfind(MARK)
        rest = text[last + 1 :]
        if last < 0 or len(rest) > _LONGEST_TAG + 2 or "\n" in rest:
            return 0
        start = len(text[: last + 1].rstrip(MARK))
        return 0 if self._broken.match(text, start) else len(text) - start


def split_tags(strings: Iterable[str]) -> tuple[list[str], list[str]]:
    """(control tokens and the like, markers of plain text that end with a colon)."""
    tokens: dict[str, None] = {}
    markers: dict[str, None] = {}
    for string in strings:
        text = string.strip()
        pieces = _MARKUP.findall(text) or [text]
        for piece in filter(None, pieces):
            is_marker = piece.endswith(":") and not re.search(r"[<>\[\]{}|]", piece)
            (markers if is_marker else tokens)[_without_overlap(piece)] = None
    return list(tokens), list(markers)


def _without_overlap(tag: str) -> str:
    """The tag without an end with which it could begin as well.

    "[e~[" of MiniMax: behind a text that ends with "[e~", the next tag's "[" would complete it.
    """
    for size in range(len(tag) - 1, 0, -1):
        if tag.startswith(tag[-size:]):
            return tag[:-size]
    return tag


def _mark_position(tag: str) -> int:
    """Where a tag's mark comes: before its first sign, or behind it where the tag begins with it.

    <·|im_end|>, [·INST], USER·:, GPT4· Correct User:
    """
    sign = re.search(r"[^A-Za-z0-9]", tag)
    return max(1, sign.start() if sign else 1)


@cache
def _marker_pattern(markers: tuple[str, ...]) -> re.Pattern[str]:
    """The beginnings of markers at the start of a line, up to where the mark comes."""
    parts = (
        f"{re.escape(tag[:position])}(?={re.escape(tag[position:])})"
        for tag in markers
        for position in [_mark_position(tag)]
    )
    return re.compile(rf"{_LINE_START}(?:{'|'.join(parts)})")
