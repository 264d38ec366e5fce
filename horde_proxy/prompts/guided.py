"""Guided filling: we write the structure of a JSON value, and a model writes only its leaves.

Each leaf is one short completion that continues the JSON so far and ends at a stop string:

    {"city": "        stops at " or a line break, the model writes   Oslo
    {"city": "Oslo", "days":   stops at , or }, the model writes     3

The value fits its schema, and nothing in it is made up: what the model does not say, even when it
is requested again, is null or the schema's default where these fit. Else there is no value at all.
Pure: a generator yields the prompts, and the caller sends it the completions.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from horde_proxy.prompts.json_schema.fillable import read_shape
from horde_proxy.prompts.json_schema.inlining import inlined, property_schema
from horde_proxy.prompts.json_schema.merging import Unfillable
from horde_proxy.prompts.json_schema.shapes import (
    Array,
    Choice,
    Fixed,
    Number,
    Object,
    Shape,
    Text,
)
from horde_proxy.prompts.json_schema.validation import Schema, fits, fits_part
from horde_proxy.prompts.json_schema.work import TooMuchWork, limited_work
from horde_proxy.prompts.leaf_prompts import (
    Filling,
    LeafPrompt,
    Unsaid,
    another_element,
    as_json,
    choice_leaf,
    is_unique,
    number_leaf,
    text_leaf,
)

__all__ = ["NOTHING", "LeafPrompt", "Unfillable", "Unsaid", "guided_fill"]

NOTHING: Any = object()
"""Stands for a value of which nothing is known. None would be JSON's null."""


def guided_fill(
    schema: Mapping[str, Any],
    *,
    known: Any = NOTHING,
    begun: str = "",
    most_leaves: int = 12,
    most_elements: int = 8,
) -> Filling:
    """A generator that yields prompts, is sent the completions, and returns the filled value.

    The fitting parts of `known`, a value that does not fit as a whole, are kept, and only the rest
    is requested. If nothing is known, optional properties and further elements are requested as
    long as `most_leaves` allows. A prefill is `begun` and the beginning of json.dumps(value,
    ensure_ascii=False), except that a repeated element of a unique array is dropped later. Raises
    Unfillable immediately, before the first prompt, and Unsaid later.
    """
    whole = read_shape(schema)
    _refuse_long_arrays(whole, most_elements)
    spare = most_leaves - _bounded_cost(whole, inlined(schema), known)
    if spare < 0:
        raise Unfillable(f"The schema requires more than {most_leaves} leaves.")
    return _filled(whole, schema, begun, known, _Structure(spare, most_elements))


def _filled(whole: Shape, schema: Schema, begun: str, known: Any, structure: _Structure) -> Filling:
    value = yield from structure.value(whole, inlined(schema), begun, known)
    if not fits(value, schema):
        raise Unsaid
    return value


def _refuse_long_arrays(shape: Shape, most: int) -> None:
    match shape:
        case Array() if shape.least > most:
            raise Unfillable(f"An array requires more than {most} elements.")
        case Array():
            _refuse_long_arrays(shape.item, most)
        case Object():
            for _, inner, _ in shape.properties:
                _refuse_long_arrays(inner, most)


def _bounded_cost(whole: Shape, schema: Schema, known: Any) -> int:
    """As _cost. What it checks within its budget, the filling checks once more."""
    try:
        with limited_work():
            return _cost(whole, schema, known)
    except TooMuchWork:
        raise Unfillable("It would take too long to find out what is missing.") from None


def _cost(shape: Shape, schema: Schema, known: Any = NOTHING) -> int:
    """The number of leaves to request; an array that may be empty counts as one element."""
    if known is not NOTHING and fits_part(known, schema):
        return 0
    match shape:
        case Fixed():
            return 0
        case Array():
            items = _items(shape)
            if not isinstance(known, list):
                return max(1, max(1, shape.least) * _cost(shape.item, items))
            missing = max(0, shape.least - len(known)) * _cost(shape.item, items)
            return missing + sum(_cost(shape.item, items, element) for element in known)
        case Object():
            values = known if isinstance(known, dict) else {}
            return sum(
                _cost(inner, property_schema(shape.schema, name), values.get(name, NOTHING))
                for name, inner, required in shape.properties
                if required or name in values
            )
        case _:
            return 1


def _items(shape: Array) -> Schema:
    return dict(shape.schema.get("items", {}))


class _Structure:
    """Writes the structure of one value. `spare` leaves may be requested besides the required."""

    def __init__(self, spare: int, most_elements: int) -> None:
        self._spare = spare
        self._most_elements = most_elements

    def value(
        self,
        shape: Shape,
        schema: Schema,
        text: str,
        known: Any = NOTHING,
        used: Sequence[Any] = (),
    ) -> Filling:
        """The value of a shape: the known one if it fits, else what the model says. Raises Unsaid.

        `text` is what is written before it; `used` values are not allowed.
        """
        if known is not NOTHING and fits_part(known, schema):
            return known
        try:
            return (yield from self._requested(shape, text, known, used))
        except Unsaid:
            # The client's own words for a value that is not given.
            for absent in (schema.get("default", NOTHING), None):
                if absent is not NOTHING and fits_part(absent, schema):
                    return absent
            raise

    def _requested(self, shape: Shape, text: str, known: Any, used: Sequence[Any]) -> Filling:
        match shape:
            case Fixed():
                return shape.value
            case Choice():
                return (yield from choice_leaf(shape, text, used))
            case Text():
                return (yield from text_leaf(shape, text))
            case Number():
                return (yield from number_leaf(shape, text))
            case Array():
                return (yield from self._array(shape, text, known))
            case Object():
                return (yield from self._object(shape, text, known))

    def _object(self, shape: Object, text: str, known: Any) -> Filling:
        # What is kept comes first, so that the model sees all of it.
        filled = _kept(shape, known)
        for name, inner, required in shape.properties:
            part, given = property_schema(shape.schema, name), _given(known, name)
            if name in filled or not (required or self._is_wanted(shape, filled, known, name)):
                continue
            if not required and not self._spend(_cost(inner, part, given)):
                continue
            before = text + _unclosed(filled) + f"{as_json(name)}: "
            try:
                filled[name] = yield from self.value(inner, part, before, given)
            except Unsaid as exc:
                if required:
                    raise Unsaid((name, *exc.path)) from None
        return filled

    def _is_wanted(self, shape: Object, filled: Mapping[str, Any], known: Any, name: str) -> bool:
        """Whether an optional property is requested: there is room, and the model wants it."""
        needed = {name for name, _, required in shape.properties if required}
        has_room = shape.most is None or len(filled.keys() | needed) < shape.most
        # What the model left out of its own object, it does not want.
        return has_room and (not isinstance(known, dict) or name in known)

    def _spend(self, cost: int) -> bool:
        """Take leaves from the spare ones. False if there are not enough."""
        if cost > self._spare:
            return False
        self._spare -= cost
        return True

    def _array(self, shape: Array, text: str, known: Any) -> Filling:
        filled = []
        if isinstance(known, list):
            filled = yield from self._known_elements(shape, text, known)
        most = self._most_elements if shape.most is None else min(shape.most, self._most_elements)
        # A unique array cannot have more elements than there are choices.
        if shape.unique and isinstance(shape.item, Choice):
            most = min(most, len(shape.item.values))
        while len(filled) < most:
            is_enough = len(filled) >= shape.least
            if is_enough and (
                isinstance(known, list) or not (yield from self._another(shape, text, filled))
            ):
                break
            try:
                filled.append((yield from self._element(shape, text, filled)))
            except Unsaid:
                if is_enough:
                    break
                raise
        return filled

    def _known_elements(
        self, shape: Array, text: str, known: Sequence[Any]
    ) -> Generator[LeafPrompt, str, list[Any]]:
        """The known elements, with what does not fit in them requested; without unsaid ones."""
        filled: list[Any] = []
        for element in known[: shape.most]:
            try:
                filled.append((yield from self._element(shape, text, filled, element)))
            except Unsaid:
                continue
        return filled

    def _element(
        self, shape: Array, text: str, filled: Sequence[Any], known: Any = NOTHING
    ) -> Filling:
        """The next element. Raises Unsaid, also for a repetition in an array of unique ones."""
        items = _items(shape)
        if known is not NOTHING and fits_part(known, items):
            value = known
        else:
            used = filled if shape.unique else ()
            before = text + _unclosed(filled)
            value = yield from self.value(shape.item, items, before, known, used)
        if shape.unique and not is_unique([*filled, value]):
            raise Unsaid
        return value

    def _another(
        self, shape: Array, text: str, filled: Sequence[Any]
    ) -> Generator[LeafPrompt, str, bool]:
        """Whether another element follows: leaves are left, and the model continues the array."""
        cost = _cost(shape.item, _items(shape))
        if filled and cost > self._spare:
            return False
        before = text + _unclosed(filled).removesuffix(", ")
        goes_on = yield from another_element(shape.item, before, is_first=not filled)
        # The first element is among the required leaves already.
        return goes_on and (not filled or self._spend(cost))


def _kept(shape: Object, known: Any) -> dict[str, Any]:
    """The known properties that fit, as many as an object may have besides the required ones."""
    if not isinstance(known, dict):
        return {}
    fitting = {
        name: value
        for name, value in known.items()
        if fits_part(value, property_schema(shape.schema, name))
    }
    if shape.most is None:
        return fitting
    needed = [name for name, _, required in shape.properties if required]
    others = [name for name in fitting if name not in needed][: shape.most - len(needed)]
    return {name: value for name, value in fitting.items() if name in (*needed, *others)}


def _given(known: Any, name: str) -> Any:
    return known.get(name, NOTHING) if isinstance(known, dict) else NOTHING


def _unclosed(value: Any) -> str:
    """The JSON text of an array or object without its end, ready for another element."""
    return as_json(value)[:-1] + (", " if value else "")
