"""Requests one leaf of a value from a model: what the prompt is, and how often it is tried.

A completion is read by leaf_texts. One that means no value of the leaf is requested again, and then
the leaf is unsaid: a value is never made up here. Pure: generators yield the prompts, are sent the
completions, and return the value.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from horde_proxy.prompts.json_schema.merging import Unfillable
from horde_proxy.prompts.json_schema.shapes import Array, Choice, Number, Object, Shape, Text
from horde_proxy.prompts.json_schema.validation import fits
from horde_proxy.prompts.leaf_texts import (
    TEXT_STOPS,
    VALUE_STOPS,
    closes_at_once,
    closest_choice,
    fitting_text,
    read_choice,
    read_number,
    read_text,
    without_echoed_quote,
)

_SHORT = 24
"""Tokens for a number or a short choice: enough for 18 digits and an exponent."""
_NEXT = 16
"""Tokens to see whether another element follows: the horde's minimum."""
_LEAST_TEXT, _MOST_TEXT = 64, 200
"""Tokens for a text. Each leaf costs kudos by its length."""
_TRIES = 2
_TRIES_WITH_PATTERN = 3
"""Completions for one leaf. Each is a request to the horde, and waits in its queue."""
_CONTINUATIONS = 2
"""Further completions of a text that stopped at an escaped quote."""


class Unsaid(Unfillable):
    """The model said nothing that can be the value of a leaf. `path`: the leaf's place."""

    def __init__(self, path: tuple[str, ...] = ()) -> None:
        place = f" for '{'.'.join(path)}'" if path else ""
        super().__init__(f"The model gave no value{place}.")
        self.path = path


@dataclass(frozen=True)
class LeafPrompt:
    """One completion to request: `prefill` begins the turn, `stops` end it; `max_length` in tokens.

    `choices` are the only texts that may follow the prefill; without any, every text may.
    `is_again`: a completion of the same prompt could not be used.
    """

    prefill: str
    stops: tuple[str, ...]
    max_length: int
    choices: tuple[str, ...] = ()
    is_again: bool = False


Filling = Generator[LeafPrompt, str, Any]
"""Yields prompts, is sent the completions, and returns a value."""


def choice_leaf(shape: Choice, text: str, used: Sequence[Any]) -> Filling:
    """The one of several values that the model means, but none of `used`. Raises Unsaid."""
    unused = [value for value in shape.values if is_unique([*used, value])]
    values = unused or [*shape.values]
    if len(values) == 1:
        return values[0]
    quoted = _is_quoted(shape)
    texts = tuple(as_json(value)[1:-1] if quoted else as_json(value) for value in values)
    stops, opening = (TEXT_STOPS, '"') if quoted else (VALUE_STOPS, "")
    length = min(_MOST_TEXT, max(_SHORT, max(map(len, texts))))
    for prompt in _tries(_TRIES, LeafPrompt(text + opening, stops, length, texts)):
        meant = closest_choice(read_choice((yield prompt), stops), texts)
        if meant is not None:
            return values[meant]
    raise Unsaid


def number_leaf(shape: Number, text: str) -> Filling:
    """The number that the model says, brought within its bounds. Raises Unsaid."""
    for prompt in _tries(_TRIES, LeafPrompt(text, VALUE_STOPS, _SHORT)):
        said = read_number((yield prompt))
        number = None if said is None else shape.nearest(said)
        if number is not None:
            return number
    raise Unsaid


def text_leaf(shape: Text, text: str) -> Filling:
    """The text that the model says, cut to its length. Raises Unsaid."""
    length = _MOST_TEXT if shape.most is None else min(_MOST_TEXT, max(_LEAST_TEXT, shape.most))
    prompt = LeafPrompt(text + '"', TEXT_STOPS, length if shape.plain else _LEAST_TEXT)
    is_empty = False
    for attempt in _tries(_TRIES_WITH_PATTERN if shape.pattern else _TRIES, prompt):
        completion = yield attempt
        value, unfinished = read_text(without_echoed_quote(completion))
        if unfinished and shape.plain:
            value = yield from _continued(value, shape, text, prompt)
        fitting = fitting_text(shape, value)
        if fitting:
            return fitting
        is_empty = is_empty or closes_at_once(completion)
    # Small models often close a string by mistake, so only the second time an empty one is meant.
    if is_empty and shape.takes(""):
        return ""
    raise Unsaid


def _continued(
    value: str, shape: Text, text: str, prompt: LeafPrompt
) -> Generator[LeafPrompt, str, str]:
    """The complete text, after it stopped at an escaped quote."""
    unfinished = True
    for _ in range(_CONTINUATIONS):
        if not unfinished or (shape.most is not None and len(value) >= shape.most):
            break
        value += '"'
        so_far = text + as_json(value)[:-1]
        more, unfinished = read_text((yield LeafPrompt(so_far, prompt.stops, prompt.max_length)))
        value += more
    return value.rstrip()


def another_element(
    item: Shape, before: str, *, is_first: bool
) -> Generator[LeafPrompt, str, bool]:
    """Whether the model continues an array with another element; `before` ends with `["a"`."""
    opening = _opening(item)
    stops = ("]", "\n") if is_first or not opening else ("]", "\n", opening)
    completion = (yield LeafPrompt(before, stops, _NEXT)).strip()
    if is_first:
        return bool(completion) and completion[0] not in "]}"
    # A comma, or the first character of an element, means yes.
    goes_on = completion.startswith(",") and not completion[1:].lstrip().startswith(("]", "}"))
    return goes_on or (bool(opening) and completion.startswith(opening))


def _tries(most: int, prompt: LeafPrompt) -> Iterator[LeafPrompt]:
    """The same prompt, as often as it may be tried."""
    yield prompt
    for _ in range(most - 1):
        yield replace(prompt, is_again=True)


def as_json(value: Any) -> str:
    """The JSON text of a value, as a prompt shows it."""
    return json.dumps(value, ensure_ascii=False)


def is_unique(values: list[Any]) -> bool:
    """Whether no value is in the list twice."""
    return len(values) < 2 or fits(values, {"uniqueItems": True})


def _is_quoted(shape: Choice) -> bool:
    return all(isinstance(value, str) for value in shape.values)


def _opening(shape: Shape) -> str:
    """The first character of every element of this shape; "" if it varies."""
    match shape:
        case Text():
            return '"'
        case Choice() if _is_quoted(shape):
            return '"'
        case Array():
            return "["
        case Object():
            return "{"
        case _:
            return ""
