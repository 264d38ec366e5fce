"""The shapes of values in guided filling: leaves (Fixed, Choice, Text, Number), Array, Object.

A leaf that a model writes has a `fallback`, a value that shows that there is one. It is never given
to a client.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from horde_proxy.prompts.json_schema.patterns import pattern_matches
from horde_proxy.prompts.json_schema.string_formats import has_format
from horde_proxy.prompts.json_schema.validation import Schema, fits_part

_USUAL_ELEMENTS = 3
"""The assumed number of elements of an array if its schema has no number."""


@dataclass(frozen=True)
class Fixed:
    """The only possible value, for which no model is needed."""

    value: Any


@dataclass(frozen=True)
class Choice:
    """One of several values; `fallback` is one of them."""

    values: tuple[Any, ...]
    fallback: Any


@dataclass(frozen=True)
class Text:
    """A string of `least` to `most` characters; `fallback` fits."""

    least: int
    most: int | None
    format: str | None
    pattern: str | None
    fallback: str = ""

    @property
    def plain(self) -> bool:
        """Whether every text of the right length fits."""
        return self.format is None and self.pattern is None

    def takes(self, text: str) -> bool:
        """Whether a text fits. With a pattern that could take too long, no text fits."""
        return (
            self.least <= len(text)
            and (self.most is None or len(text) <= self.most)
            and (self.format is None or has_format(self.format, text))
            and (self.pattern is None or pattern_matches(self.pattern, text) is True)
        )

    def shortened(self, text: str) -> str:
        """The first `most` characters, without whitespace at the end if it is long enough then."""
        # A length in JSON Schema is in characters, as Python's is.
        cut = text[: self.most]
        return cut.rstrip() if len(cut.rstrip()) >= self.least else cut


@dataclass(frozen=True)
class Number:
    """A number; `rules` has the keywords that limit it. `fallback` fits."""

    rules: Schema
    fallback: float = 0

    def takes(self, number: float) -> bool:
        """Whether a number fits."""
        return math.isfinite(number) and fits_part(number, self.rules)

    def nearest(self, number: float) -> float | None:
        """A number that fits, near the given one; None if there is none."""
        return next((near for near in self.near(number) if self.takes(near)), None)

    def near(self, number: float) -> Iterator[float]:
        """Numbers that may fit: the nearest first, and numbers with few digits before others."""
        low, high = number_bounds(self.rules)
        clamped = min(max(number, low), high)
        for near in (
            number,
            clamped,
            *_multiples(clamped, self.rules.get("multipleOf")),
            *_beside(clamped),
            # Between close bounds, only the middle may fit.
            *([(low + high) / 2] if math.isfinite(low + high) else []),
        ):
            if self.rules["type"] == "integer" and math.isfinite(near):
                yield from (math.floor(near), math.ceil(near))
            else:
                yield near


@dataclass(frozen=True)
class Array:
    """`least` to `most` elements of one shape. `schema`: the inlined one."""

    item: Shape
    least: int
    most: int | None
    unique: bool
    schema: Schema = field(repr=False, compare=False)


@dataclass(frozen=True)
class Object:
    """Properties in order, each with its name, its shape and whether it is required.

    `schema`: the inlined one. It may list optional properties that have no shape.
    """

    properties: tuple[tuple[str, Shape, bool], ...]
    most: int | None
    schema: Schema = field(repr=False, compare=False)


Shape: TypeAlias = Fixed | Choice | Text | Number | Array | Object


def neutral_value(shape: Shape) -> Any:
    """The smallest value that fits."""
    match shape:
        case Fixed():
            return shape.value
        case Array():
            several = (
                distinct_values(shape.item)
                if shape.unique
                else itertools.repeat(neutral_value(shape.item))
            )
            return list(itertools.islice(several, shape.least))
        case Object():
            return {
                name: neutral_value(inner) for name, inner, needed in shape.properties if needed
            }
        case _:
            return shape.fallback


def distinct_values(shape: Shape) -> Iterator[Any]:
    """Different values that fit, for an array whose elements must be unique."""
    match shape:
        case Choice():
            yield from shape.values
        case Text():
            # ".1", "..1" and so on, as many as any array may need.
            numbered = (str(number).rjust(shape.least, ".") for number in range(1, 101))
            yield shape.fallback
            yield from (text for text in numbered if text != shape.fallback and shape.takes(text))
        case Number():
            others = (shape.fallback + sign * step for step in range(1, 101) for sign in (1, -1))
            yield shape.fallback
            yield from (number for number in others if shape.takes(number))
        case _:
            yield neutral_value(shape)


def leaf_count(shape: Shape) -> int:
    """The largest number of leaves that a model writes; see `count_leaves` for arrays."""
    match shape:
        case Fixed():
            return 0
        case Array():
            counted = max(shape.least, _USUAL_ELEMENTS)
            return min(counted, shape.most or counted) * leaf_count(shape.item)
        case Object():
            return sum(leaf_count(inner) for _, inner, _ in shape.properties)
        case _:
            return 1


def size(shape: Shape) -> int:
    """The number of values in the neutral value."""
    match shape:
        case Array():
            return 1 + shape.least * size(shape.item)
        case Object():
            return 1 + sum(size(inner) for _, inner, needed in shape.properties if needed)
        case _:
            return 1


def number_bounds(rules: Schema) -> tuple[float, float]:
    """(lowest, highest), infinite without a bound; exclusive bounds count as inclusive."""
    low = max(rules.get("minimum", -math.inf), rules.get("exclusiveMinimum", -math.inf))
    high = min(rules.get("maximum", math.inf), rules.get("exclusiveMaximum", math.inf))
    return low, high


def _multiples(number: float, step: float | None) -> list[float]:
    """The multiples of `step` around a number, the nearest first."""
    if step is None or not math.isfinite(number // step):
        return []
    # Several on both sides, because the nearest ones may be outside of exclusive bounds.
    around = [(number // step + count) * step for count in range(-4, 6)]
    return sorted([*around, 0], key=lambda multiple: abs(multiple - number))


def _beside(number: float) -> list[float]:
    """Numbers that are slightly higher or lower, for exclusive bounds."""
    # 1 is for integers. Tenths and thousandths have few digits. Last comes the next float.
    steps = [number + sign * step for step in (1, 0.1, 0.001) for sign in (1, -1)]
    return [*steps, math.nextafter(number, math.inf), math.nextafter(number, -math.inf)]
