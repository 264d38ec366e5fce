"""Guided filling: we write the structure of a JSON value, and a model writes only its leaves.

Each leaf is one short completion that continues the JSON so far and ends at a stop string:

    {"city": "        stops at " or a line break, the model writes   Oslo
    {"city": "Oslo", "days":   stops at , or }, the model writes     3

Whatever the model writes, the value fits its schema. Pure: a generator yields the prompts, and the
caller sends it the completions.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from horde_proxy.prompts.json_schema.fillable import read_shape
from horde_proxy.prompts.json_schema.merging import Unfillable
from horde_proxy.prompts.json_schema.shapes import (
    Array,
    Choice,
    Fixed,
    Number,
    Object,
    Shape,
    Text,
    distinct_values,
    neutral_value,
)
from horde_proxy.prompts.json_schema.validation import fits
from horde_proxy.prompts.leaf_texts import (
    TEXT_STOPS,
    VALUE_STOPS,
    closest_choice,
    fitting_text,
    read_choice,
    read_number,
    read_text,
    without_echoed_quote,
)

__all__ = ["TEXT_STOPS", "LeafPrompt", "Unfillable", "guided_fill"]

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


@dataclass(frozen=True)
class LeafPrompt:
    """One completion to request: `prefill` begins the turn, `stops` end it; `max_length` in tokens.

    `choices` are the only texts that may follow the prefill; without any, every text may.
    """

    prefill: str
    stops: tuple[str, ...]
    max_length: int
    choices: tuple[str, ...] = ()


def guided_fill(
    schema: Mapping[str, Any], *, begun: str = "", most_leaves: int = 12, most_elements: int = 8
) -> Generator[LeafPrompt, str, Any]:
    """A generator that yields prompts, is sent the completions, and returns the filled value.

    Optional properties and further elements are requested as long as `most_leaves` allows. A
    prefill is `begun` and the beginning of json.dumps(value, ensure_ascii=False), except that a
    repeated element of a unique array is dropped later. Raises Unfillable immediately, before the
    first prompt.
    """
    whole = read_shape(schema)
    _refuse_long_arrays(whole, most_elements)
    spare = most_leaves - _cost(whole)
    if spare < 0:
        raise Unfillable(f"The schema requires more than {most_leaves} leaves.")
    return _filled(whole, schema, _Filling(begun, spare, most_elements))


def _filled(
    whole: Shape, schema: Mapping[str, Any], filling: _Filling
) -> Generator[LeafPrompt, str, Any]:
    value = yield from filling.value(whole, "")
    return value if fits(value, schema) else neutral_value(whole)


def _refuse_long_arrays(shape: Shape, most: int) -> None:
    match shape:
        case Array() if shape.least > most:
            raise Unfillable(f"An array requires more than {most} elements.")
        case Array():
            _refuse_long_arrays(shape.item, most)
        case Object():
            for _, inner, _ in shape.properties:
                _refuse_long_arrays(inner, most)


def _cost(shape: Shape) -> int:
    """The number of required leaves; an array that may be empty counts as one element."""
    match shape:
        case Fixed():
            return 0
        case Array():
            return max(1, max(1, shape.least) * _cost(shape.item))
        case Object():
            return sum(_cost(inner) for _, inner, required in shape.properties if required)
        case _:
            return 1


class _Filling:
    """The filling of one value. `spare` leaves may be requested besides the required ones."""

    def __init__(self, begun: str, spare: int, most_elements: int) -> None:
        self._begun = begun
        self._spare = spare
        self._most_elements = most_elements

    def value(
        self, shape: Shape, text: str, used: Sequence[Any] = ()
    ) -> Generator[LeafPrompt, str, Any]:
        """The value of a shape. `text` is the JSON before it; `used` values are not allowed."""
        match shape:
            case Fixed():
                return shape.value
            case Choice():
                return (yield from self._choice(shape, text, used))
            case Text():
                return (yield from self._text(shape, text))
            case Number():
                return (yield from self._number(shape, text))
            case Array():
                return (yield from self._array(shape, text))
            case Object():
                return (yield from self._object(shape, text))

    def _prompt(
        self, text: str, stops: tuple[str, ...], max_length: int, choices: tuple[str, ...] = ()
    ) -> LeafPrompt:
        return LeafPrompt(self._begun + text, stops, max_length, choices)

    def _object(self, shape: Object, text: str) -> Generator[LeafPrompt, str, dict[str, Any]]:
        filled: dict[str, Any] = {}
        needed = sum(required for _, _, required in shape.properties)
        room = len(shape.properties) if shape.most is None else shape.most - needed
        for name, inner, required in shape.properties:
            if not required and (room < 1 or not self._spend(_cost(inner))):
                continue
            room -= not required
            before = text + _unclosed(filled) + f"{_json(name)}: "
            filled[name] = yield from self.value(inner, before)
        return filled

    def _spend(self, cost: int) -> bool:
        """Take leaves from the spare ones. False if there are not enough."""
        if cost > self._spare:
            return False
        self._spare -= cost
        return True

    def _array(self, shape: Array, text: str) -> Generator[LeafPrompt, str, list[Any]]:
        filled: list[Any] = []
        most = self._most_elements if shape.most is None else min(shape.most, self._most_elements)
        # A unique array cannot have more elements than there are choices.
        if shape.unique and isinstance(shape.item, Choice):
            most = min(most, len(shape.item.values))
        while len(filled) < most:
            so_far = text + _unclosed(filled)
            if len(filled) >= shape.least and not (yield from self._another(shape, text, filled)):
                break
            value = yield from self.value(shape.item, so_far, filled if shape.unique else ())
            if shape.unique and not _is_unique([*filled, value]):
                if len(filled) >= shape.least:
                    break
                others = distinct_values(shape.item)
                value = next(other for other in others if _is_unique([*filled, other]))
            filled.append(value)
        return filled

    def _another(
        self, shape: Array, text: str, filled: Sequence[Any]
    ) -> Generator[LeafPrompt, str, bool]:
        """Whether another element follows: there is room, and the model continues the array."""
        cost = _cost(shape.item)
        if filled and cost > self._spare:
            return False
        opening = _opening(shape.item)
        stops = ("]", "\n", opening) if filled and opening else ("]", "\n")
        before = text + _unclosed(filled).removesuffix(", ")
        # The model continues `["a"`. A comma, or the first character of an element, means yes.
        completion = (yield self._prompt(before, stops, _NEXT)).strip()
        if not filled:
            return bool(completion) and completion[0] not in "]}"
        goes_on = completion.startswith(",") and not completion[1:].lstrip().startswith(("]", "}"))
        further = bool(opening) and completion.startswith(opening)
        return (goes_on or further) and self._spend(cost)

    def _choice(
        self, shape: Choice, text: str, used: Sequence[Any]
    ) -> Generator[LeafPrompt, str, Any]:
        unused = [value for value in shape.values if _is_unique([*used, value])]
        values = unused or [*shape.values]
        quoted = _is_quoted(shape)
        texts = [_json(value)[1:-1] if quoted else _json(value) for value in values]
        stops, opening = (TEXT_STOPS, '"') if quoted else (VALUE_STOPS, "")
        length = min(_MOST_TEXT, max(_SHORT, max(map(len, texts))))
        completion = yield self._prompt(text + opening, stops, length, tuple(texts))
        default = next((i for i, value in enumerate(values) if value is shape.fallback), 0)
        return values[closest_choice(read_choice(completion, stops), texts, default)]

    def _number(self, shape: Number, text: str) -> Generator[LeafPrompt, str, float]:
        for _ in range(_TRIES):
            completion = yield self._prompt(text, VALUE_STOPS, _SHORT)
            number = read_number(completion)
            if number is not None:
                return shape.nearest(number)
        return shape.fallback

    def _text(self, shape: Text, text: str) -> Generator[LeafPrompt, str, str]:
        length = _MOST_TEXT if shape.most is None else min(_MOST_TEXT, max(_LEAST_TEXT, shape.most))
        prompt = self._prompt(text + '"', TEXT_STOPS, length if shape.plain else _LEAST_TEXT)
        value = ""
        for _ in range(_TRIES_WITH_PATTERN if shape.pattern else _TRIES):
            value, unfinished = read_text(without_echoed_quote((yield prompt)))
            if unfinished and shape.plain:
                value = yield from self._continued(value, shape, text, prompt)
                break
            fitting = fitting_text(shape, value)
            if fitting:
                return fitting
        if not value or not shape.plain:
            return shape.fallback
        # A text that is too short for its minLength is filled up with dots.
        return shape.shortened(value).ljust(shape.least, ".")

    def _continued(
        self, value: str, shape: Text, text: str, prompt: LeafPrompt
    ) -> Generator[LeafPrompt, str, str]:
        """The complete text, after it stopped at an escaped quote."""
        unfinished = True
        for _ in range(_CONTINUATIONS):
            if not unfinished or (shape.most is not None and len(value) >= shape.most):
                break
            value += '"'
            so_far = text + _json(value)[:-1]
            more, unfinished = read_text(
                (yield self._prompt(so_far, prompt.stops, prompt.max_length))
            )
            value += more
        return value.rstrip()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _unclosed(value: Any) -> str:
    """The JSON text of an array or object without its end, ready for another element."""
    return _json(value)[:-1] + (", " if value else "")


def _is_unique(values: list[Any]) -> bool:
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
