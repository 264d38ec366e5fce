"""`anyOf` and `oneOf`: finds branches whose values surely fit the whole schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from horde_proxy.prompts.json_schema.inlining import is_null
from horde_proxy.prompts.json_schema.merging import ANNOTATIONS, Unfillable, merged, type_names
from horde_proxy.prompts.json_schema.validation import Schema, fits_part, fitting_values

NUMERIC = {"integer", "number"}


def branches(schema: Schema, keyword: str) -> Iterator[dict[str, Any]]:
    """The schema merged with a branch of `keyword`, for each branch that can be used.

    A branch of oneOf cannot be used if a value of it could fit another branch as well.
    """
    rest = {word: value for word, value in schema.items() if word != keyword}
    options = schema[keyword]
    named = [_named_values(option) for option in options if not is_null(option)]
    values = [value for option_values in named if option_values for value in option_values]
    # {"oneOf": [{"const": "a"}, {"const": "b"}]} means the same as an enum.
    alone = keyword == "anyOf" or len(set(map(_key, values))) == len(values)
    if values and all(named) and alone:
        options = [{"enum": values}]
    for option in options:
        try:
            whole = merged(rest, option)
        except Unfillable:
            continue
        others = [other for other in options if other is not option]
        if keyword == "anyOf" or all(_disjoint(whole, other) for other in others):
            yield whole


def _named_values(schema: Schema) -> list[Any] | None:
    """The values of a branch that only lists values, such as {"const": "a"}; else None."""
    if schema.keys() - ANNOTATIONS <= {"type", "enum", "const"}:
        return listed_values(schema) or None
    return None


def _key(value: Any) -> Any:
    """Something that is equal for equal values, and can be in a set."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def _disjoint(first: Schema, second: Schema) -> bool:
    """Whether surely no value fits both, by type, by value, or by a property that both require."""
    for one, other in ((first, second), (second, first)):
        values = [one["const"]] if "const" in one else one.get("enum")
        # Formats do not count, because the client's validator may ignore them.
        if values and not fitting_values(values, other, formats=False):
            return True
    # A schema without a type has the type None here. Integers are numbers.
    mine, theirs = set(type_names(first.get("type"))), set(type_names(second.get("type")))
    if None not in mine | theirs and not mine & theirs and len((mine | theirs) & NUMERIC) < 2:
        return True
    # A discriminator: {"kind": {"const": "cat"}} in one branch, {"const": "dog"} in the other.
    shared = set(first.get("required", ())) & set(second.get("required", ()))
    known = shared & first.get("properties", {}).keys() & second.get("properties", {}).keys()
    return mine == {"object"} and any(
        _disjoint(first["properties"][name], second["properties"][name]) for name in known
    )


def listed_values(schema: Schema) -> list[Any]:
    """The values of const or enum that the other keywords allow."""
    if "const" in schema:
        return [schema["const"]] if fits_part(schema["const"], schema) else []
    rest = {word: value for word, value in schema.items() if word != "enum"}
    return fitting_values(schema.get("enum", []), rest)
