"""Makes the shape of a schema's values, if guided filling can guarantee that a value fits.

A model writes only the leaves, so the value must fit whatever the model writes. Keywords for which
this is impossible (`not`, `contains`, a pattern without an example, ...) make a schema unfillable.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from horde_proxy.prompts.json_schema.bounds import MOST_VALUES
from horde_proxy.prompts.json_schema.inlining import as_list, inlined, property_schema
from horde_proxy.prompts.json_schema.merging import Unfillable, type_names
from horde_proxy.prompts.json_schema.shapes import (
    Array,
    Choice,
    Fixed,
    Number,
    Object,
    Shape,
    Text,
    distinct_values,
    leaf_count,
    neutral_value,
    number_bounds,
    size,
)
from horde_proxy.prompts.json_schema.string_formats import STRING_FORMATS
from horde_proxy.prompts.json_schema.unions import branches, listed_values
from horde_proxy.prompts.json_schema.validation import Schema, fits, fits_part, validator
from horde_proxy.prompts.json_schema.work import TooMuchWork, limited_work, spend

_LONGEST_PADDING = 2_000
"""The most characters with which a text may have to be filled up."""
_LARGEST_BOUND = 1e300
"""With larger bounds, floats would overflow."""

# Keywords that guided filling cannot guarantee to satisfy.
_REFUSED = {
    "not",
    "if",
    "then",
    "else",
    "contains",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "patternProperties",
    "propertyNames",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
    "extends",
    "disallow",
    "divisibleBy",
}
# The type to which a keyword applies, for schemas without `type`.
_TYPE_OF_KEYWORD = {
    "properties": "object",
    "required": "object",
    "items": "array",
    "minItems": "array",
    "minimum": "number",
    "maximum": "number",
    "multipleOf": "number",
    "minLength": "string",
    "maxLength": "string",
    "pattern": "string",
    "format": "string",
}


def read_shape(schema: Schema) -> Shape:
    """The shape of a schema's values. Raises Unfillable if a fitting value is not guaranteed."""
    try:
        with limited_work():
            return _whole_shape(schema)
    except TooMuchWork:
        raise Unfillable("It would take too long to find out what can be promised.") from None


def _whole_shape(schema: Schema) -> Shape:
    if not isinstance(schema, Mapping) or validator(schema) is None:
        raise Unfillable("The schema is broken, too large or too deep.")
    plain = inlined(schema)
    # {} allows everything, so there is nothing specific to ask a model for.
    if not plain.keys() & {"type", "enum", "const", "anyOf", "oneOf", *_TYPE_OF_KEYWORD}:
        raise Unfillable("The schema names no type.")
    whole = _shape(plain)
    if size(whole) > MOST_VALUES:
        raise Unfillable("A value would have to be too large.")
    # jsonschema decides in the end: keywords that are unknown here may refuse every value.
    if not fits(neutral_value(whole), schema):
        raise Unfillable("The schema says more than can be promised.")
    return whole


def count_leaves(schema: Schema) -> int | None:
    """The largest number of leaves for guided filling; None if the schema is unfillable.

    An array counts as three elements, or as its minItems if more, or as its maxItems if less.
    """
    try:
        return leaf_count(read_shape(schema))
    except Unfillable:
        return None


def _shape(schema: Schema) -> Shape:
    """The shape of an inlined schema."""
    spend()
    refused = schema.keys() & _REFUSED
    if refused:
        raise Unfillable(f"'{min(refused)}' cannot be promised.")
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return _first_shape(branches(schema, keyword))
    if "enum" in schema or "const" in schema:
        return _choice(schema)
    names = type_names(schema["type"]) if "type" in schema else [_implied_type(schema)]
    if len(names) > 1:
        return _first_shape([{**schema, "type": name} for name in names])
    make = _SHAPES.get(names[0] if names else None)
    if make is None:
        raise Unfillable("The schema names a type that JSON does not have.")
    return make(schema)


def _implied_type(schema: Schema) -> str:
    """The type to which other keywords apply; a string if there are none and anything may come."""
    return next((name for word, name in _TYPE_OF_KEYWORD.items() if word in schema), "string")


def _first_shape(schemas: Iterable[Schema]) -> Shape:
    """The shape of the first fillable schema."""
    reasons = []
    for schema in schemas:
        try:
            return _shape(schema)
        except Unfillable as exc:
            reasons.append(exc)
    raise reasons[0] if reasons else Unfillable("No branch of the schema can be promised.")


def _choice(schema: Schema) -> Shape:
    fitting = listed_values(schema)
    # The keys are JSON texts, since 1, 1.0 and True are the same key in Python.
    different = {json.dumps(value, sort_keys=True): value for value in fitting}
    if not different:
        raise Unfillable("None of the listed values fits.")
    if len(different) == 1:
        return Fixed(next(iter(different.values())))
    return _choice_of(tuple(different.values()), schema)


def _choice_of(values: tuple[Any, ...], schema: Schema) -> Choice:
    default = {"const": schema.get("default", values[0])}
    defaults = (value for value in values if fits_part(value, default))
    return Choice(values, next(defaults, values[0]))


def _boolean(schema: Schema) -> Shape:
    return _choice_of((True, False), {"default": False, **schema})


def _null(schema: Schema) -> Shape:
    return Fixed(None)


def _text(schema: Schema) -> Shape:
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    format, pattern = schema.get("format"), schema.get("pattern")
    most = None if most is None else int(most)
    bare = Text(least, most, format if format in STRING_FORMATS else None, pattern)
    if least > _LONGEST_PADDING:
        raise Unfillable("A string would have to be too long.")
    # A model cannot write an empty text.
    if most == 0 and bare.takes(""):
        return Fixed("")
    given = [schema.get("default"), *as_list(schema.get("examples"))]
    # There is no neutral text for a pattern, so a default or an example must match it.
    usual = STRING_FORMATS[bare.format].neutral if bare.format else "." * least
    for text in (*given, usual):
        if isinstance(text, str) and bare.takes(text):
            return Text(least, most, bare.format, pattern, text)
    raise Unfillable("A string has a pattern or a length that no known text fits.")


def _number(schema: Schema) -> Shape:
    rules = _rules(schema)
    bare = Number(rules)
    low, _ = number_bounds(rules)
    given = [schema.get("default"), *as_list(schema.get("examples"))]
    numbers = [value for value in given if isinstance(value, int | float) and bare.takes(value)]
    start = low if math.isfinite(low) else 0
    for number in (*numbers, *bare.near(start)):
        if bare.takes(number):
            return Number(rules, number)
    raise Unfillable("No number is known to lie within the bounds.")


def _rules(schema: Schema) -> dict[str, Any]:
    """A number's keywords. Draft 4's exclusiveMinimum, a flag of minimum, becomes a bound."""
    words = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    rules = {word: schema[word] for word in words if word in schema}
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(rules.get(exclusive), bool):
            if rules.pop(exclusive) and bound in rules:
                rules[exclusive] = rules.pop(bound)
    if any(abs(bound) > _LARGEST_BOUND for bound in rules.values()):
        raise Unfillable("A bound is too large.")
    return {"type": "integer" if "integer" in type_names(schema.get("type")) else "number", **rules}


def _array(schema: Schema) -> Shape:
    least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
    most = None if most is None else int(most)
    if most is not None and most < max(least, 1):
        if most == least:
            return Fixed([])
        raise Unfillable("An array may have fewer elements than it must.")
    items = schema.get("items", {})
    if not isinstance(items, Mapping):
        raise Unfillable("Only arrays of one kind of element can be filled.")
    # The sizes of arrays in arrays multiply: a few keywords could fill the memory.
    array = Array(_shape(items), least, most, bool(schema.get("uniqueItems")), schema)
    if size(array) > MOST_VALUES:
        raise Unfillable("An array would have to be too large.")
    if array.unique and len(list(itertools.islice(distinct_values(array.item), least))) < least:
        raise Unfillable("An array needs more different elements than are known.")
    return array


def _object(schema: Schema) -> Shape:
    rest, required = schema.get("additionalProperties", {}), schema.get("required", [])
    named = schema.get("properties", {})
    if "properties" not in schema and not required and rest is not False:
        raise Unfillable("An object names no properties.")
    if not isinstance(required, list):
        raise Unfillable("'required' must be a list.")
    properties = []
    for name in dict.fromkeys([*named, *required]):
        try:
            properties.append((name, _shape(property_schema(schema, name)), name in required))
        except Unfillable:
            # Optional properties that cannot be filled in are left out.
            if name in required:
                raise
    least, most = schema.get("minProperties", 0), schema.get("maxProperties")
    if least > len(set(required)) or (most is not None and most < len(set(required))):
        raise Unfillable("An object must have more or fewer properties than are required.")
    return Object(tuple(properties), most, schema)


_SHAPES: dict[Any, Callable[[Schema], Shape]] = {
    "null": _null,
    "boolean": _boolean,
    "string": _text,
    "integer": _number,
    "number": _number,
    "array": _array,
    "object": _object,
}
