"""Finds the JSON values that a model's text may mean: alone, in a fence, or between prose.

    prefill   text                        values
    {         "a": 1}                     {"a": 1}                the text continues the prefill
    {         Here: {"a": 1} Bye.         {"a": 1}                it starts over
              <think>So: {"a": 1}         {"a": 1}                its thought was never closed

Which of them is the answer, `schema_matching` decides. Pure.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from horde_proxy.prompts.lenient_json import dumps, loads, span
from horde_proxy.prompts.thoughts import begins_with_thought, separate_thoughts

# The first code block: ```json\n{"a": 1}\n```, even if it is cut off at the end of the text.
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)(?:```|\Z)", re.DOTALL)
_BRACKET = re.compile(r"[{\[]")
# What may follow the last value of a text: its fence, surplus brackets, </tool_call>
_CLOSERS = re.compile(r"(?:[\s`}\])]|</\w{1,20}>)*")
_MOST_STARTS = 20
"""Brackets in a text that are tried as the beginning of the JSON."""
_MOST_SCANNED = 400_000
"""Characters that are read for it in all: each bracket without an end is read to the text's end."""
_FIRST_SIGNS = {"{": "\"'}", "[": "\"'{[]-0123456789"}
"""The first characters of a text that continues an object or an array."""


def json_values(prefill: str, text: str, *, cut_off: bool = False) -> Iterator[Any]:
    """The JSON values that a text may mean, the likeliest first. It should continue the prefill.

    Models may start over instead, in a code block or after prose. Only a continuation, and a text
    that begins with a bracket, are repaired. `cut_off`: the text ended at a length limit, so
    nothing is repaired, and no part of an unfinished value is the answer.
    """
    body = without_thought(text)
    if not body.strip() and not cut_off:
        yield from _value_at_the_end(text)
        return
    yield from _strictly(prefill + body)
    yield from _strictly(_unfenced(body))
    # If the text continues an object, objects in it are not the answer: so repair comes first.
    if continues(prefill, body):
        yield from _leading(prefill + body) if cut_off else _repaired(prefill + body)
        if cut_off:
            return
    yield from (value for value, _ in _embedded(body, cut_off))
    if not cut_off:
        yield from _repaired(_unfenced(body))


def continues(prefill: str, text: str) -> bool:
    """Whether a text surely continues the prefill's object or array, and does not start over."""
    return text.lstrip()[:1] in tuple(_FIRST_SIGNS.get(prefill[-1:], ""))


def without_thought(text: str) -> str:
    """The text without the reasoning at its beginning; "" if that has no end."""
    if not begins_with_thought(text):
        return text
    return separate_thoughts(text, is_open=False, may_be_unopened=False, may_call=False).content


def _strictly(text: str) -> Iterator[Any]:
    """The value of a text that is JSON as a whole."""
    try:
        value = json.loads(text, strict=False)
        dumps(value)  # refuses NaN and Infinity, which Python reads although JSON has none
        yield value
    except (ValueError, RecursionError):
        return


def _repaired(text: str) -> Iterator[Any]:
    """The guessed value of a text that lacks a bracket or a quote."""
    try:
        yield loads(text, repair=True)
    except ValueError:
        return


def _leading(text: str) -> Iterator[Any]:
    """The complete value at the beginning of a text that goes on after it."""
    return (value for value, _ in itertools.islice(_embedded(text, cut_off=True), 1))


def _embedded(text: str, cut_off: bool) -> Iterator[tuple[Any, int]]:
    """The complete values in a text, each with the position after it.

    Brackets within a value that can be read are not tried.
    """
    position = scanned = 0
    for _ in range(_MOST_STARTS):
        bracket = _BRACKET.search(text, position)
        if bracket is None or scanned > _MOST_SCANNED:
            return
        extent = span(text, bracket.start())
        scanned += extent.end - bracket.start()
        position = bracket.end()
        if extent.state == "closed":
            try:
                value = loads(text[bracket.start() : extent.end])
            except ValueError:
                continue
            position = extent.end
            yield value, position
        elif cut_off:
            return


def _value_at_the_end(text: str) -> Iterator[Any]:
    """The value with which a text ends. Those before it were only thought of."""
    for value, end in [*_embedded(text, cut_off=False)][-1:]:
        if _CLOSERS.fullmatch(text, end):
            yield value


def _unfenced(text: str) -> str:
    """The inside of the first code block, or the whole text."""
    fence = _FENCED.search(text)
    return fence[1] if fence else text
