"""Merges two schemas into one, for `allOf` and for keywords beside a `$ref`.

Only simple cases can be merged. Others raise Unfillable; then the model writes the whole value,
which is validated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from typing import Any

from horde_proxy.prompts.json_schema.validation import Schema, fits_part
from horde_proxy.prompts.json_schema.work import spend

_COPIES, _TEXTS = 500, 10
"""Entries that are copied, and values that are written as JSON, for one unit of work."""


class Unfillable(ValueError):
    """Guided filling cannot guarantee a value that fits the schema."""


ANNOTATIONS = {
    "$anchor",
    "$comment",
    "$id",
    "$schema",
    "default",
    "deprecated",
    "description",
    "example",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
}
"""Keywords that do not restrict values."""


def merged(first: Schema, second: Schema) -> dict[str, Any]:
    """One schema for the values that fit both, with the first's annotations. Raises Unfillable."""
    spend(1 + (len(first) + len(second)) // _COPIES)
    both = {**first, **{word: second[word] for word in second if word not in first}}
    for keyword in (first.keys() & second.keys()) - ANNOTATIONS - {"additionalProperties"}:
        merge = _MERGES.get(keyword, _same)
        both[keyword] = merge(first[keyword], second[keyword])
    return _closed(first, second, both)


def _closed(first: Schema, second: Schema, both: dict[str, Any]) -> dict[str, Any]:
    """`both`, without the properties that the other schema's additionalProperties forbid."""
    open_by_default: tuple[Any, ...] = (True, None, {})
    # additionalProperties decides about properties that a schema does not list. Without it, all are
    # allowed.
    for one, other in ((first, second), (second, first)):
        rest = one.get("additionalProperties")
        if rest in open_by_default or "properties" not in other:
            continue
        foreign = other["properties"].keys() - one.get("properties", {}).keys()
        if rest is not False and foreign:
            raise Unfillable("Properties of one part are restricted by another.")
        both["properties"] = {
            name: value for name, value in both["properties"].items() if name not in foreign
        }
    rests = [schema.get("additionalProperties") for schema in (first, second)]
    limits: list[Any] = [rest for rest in rests if rest not in open_by_default]
    if limits:
        both["additionalProperties"] = False if False in limits else reduce(merged, limits)
    return both


def _same(first: Any, second: Any) -> Any:
    if not fits_part(second, {"const": first}):
        raise Unfillable("Two parts of the schema contradict each other.")
    return first


def type_names(names: Any) -> list[Any]:
    """The names in the keyword `type`, which holds one or a list."""
    return names if isinstance(names, list) else [names]


def _common_types(first: Any, second: Any) -> list[Any]:
    """The types in both lists; integers are numbers."""
    mine, other = type_names(first), type_names(second)
    common = [name for name in mine if name in other]
    # ["integer"] and ["number"] have no name in common, but the integers.
    if "integer" not in common and any(
        "integer" in one and "number" in two for one, two in ((mine, other), (other, mine))
    ):
        common.append("integer")
    if not common:
        raise Unfillable("Parts of the schema require different types.")
    return common


def _common_values(first: Any, second: Any) -> list[Any]:
    # They are compared as text, since True equals 1 in Python, but not in JSON.
    spend(1 + (len(first) + len(second)) // _TEXTS)
    known = {json.dumps(value, sort_keys=True) for value in second}
    common = [value for value in first if json.dumps(value, sort_keys=True) in known]
    if not common:
        raise Unfillable("Parts of the schema have no value in common.")
    return common


def _merged_properties(first: Any, second: Any) -> dict[str, Any]:
    spend(1 + (len(first) + len(second)) // _COPIES)
    shared = {name: merged(first[name], second[name]) for name in first if name in second}
    return {**first, **second, **shared}


def _all_names(first: Any, second: Any) -> list[Any]:
    spend(1 + (len(first) + len(second)) // _COPIES)
    return list(dict.fromkeys([*first, *second]))


# Of two lower bounds, the greater one counts; of two upper bounds, the smaller one.
_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "type": _common_types,
    "enum": _common_values,
    "required": _all_names,
    "properties": _merged_properties,
    "items": merged,
    "uniqueItems": lambda one, two: one or two,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}
